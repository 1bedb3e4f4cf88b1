"""The engine's rows as columns: arrays by seq that grow by doubling, postings by segment, what is live when.

Rows are added and swept, never changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ragstone.core.ids import ID_BYTES
from ragstone.index.bm25 import Mask, TermPostings
from ragstone.index.postings import Postings, merge, unpack
from ragstone.index.vectors import vector_hash

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ragstone.core.nouns import Recipe
    from ragstone.core.ports import Seqs
    from ragstone.index.records import StagedRow

OPEN = 2_147_483_647  # v_to of what is live at the head
CAPACITY_MIN = 1024
# Segments are rewritten without their dead rows when these are more than a fifth.
DEAD_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of a row beside its numbers."""

    row_id: bytes
    chunk_id: bytes
    text_hash: bytes
    vector_hash: bytes
    run_id: bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """The postings that one run wrote at once, or that a merge made of several."""

    run_id: bytes
    spans: tuple[range, ...]
    terms: dict[str, Postings]

    @property
    def rows(self) -> int:
        """How many rows it was written for."""
        return sum(map(len, self.spans))


@dataclass(slots=True)
class Index:
    """The rows of one index of one corpus."""

    recipe: Recipe
    next_seq: int = 0
    next_segment: int = 0
    rows: dict[int, Row] = field(default_factory=dict)
    segments: dict[int, Segment] = field(default_factory=dict)
    # seq -> the document versions that place it.
    placed_in: dict[int, list[bytes]] = field(default_factory=dict)
    vectors: npt.NDArray[np.float32] = field(init=False)
    lengths: npt.NDArray[np.float32] = field(init=False)
    terms: npt.NDArray[np.int64] = field(init=False)
    # Chunk id and text hash of each row, side by side.
    ids: npt.NDArray[np.uint8] = field(init=False)
    live_seq: Seqs = field(default_factory=lambda: np.zeros(0, np.int64))
    live_from: Seqs = field(default_factory=lambda: np.zeros(0, np.int64))
    live_to: Seqs = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        self.vectors = np.zeros((0, self.recipe.embedding.dimensions), np.float32)
        self.lengths = np.zeros(0, np.float32)
        self.terms = np.zeros((0, 2), np.int64)
        self.ids = np.zeros((0, 2 * ID_BYTES), np.uint8)

    def add(self, rows: Iterable[StagedRow], run_id: bytes) -> None:
        """Keep rows under their leased seqs; vectors in half precision, widened once."""
        self._reserve(self.next_seq)
        for row in rows:
            wide = row.vector.astype(np.float16).astype(np.float32)
            self.vectors[row.seq] = wide
            self.lengths[row.seq] = np.linalg.norm(wide)
            self.terms[row.seq] = (row.joined.total(), row.title.total())
            self.ids[row.seq] = np.frombuffer(row.chunk_id + row.text_hash, np.uint8)
            self.rows[row.seq] = Row(row.row_id, row.chunk_id, row.text_hash, vector_hash(row.vector), run_id)

    def _reserve(self, size: int) -> None:
        if size <= len(self.vectors):
            return
        grown = max(CAPACITY_MIN, 2 * len(self.vectors), size) - len(self.vectors)
        self.vectors = np.concatenate([self.vectors, np.zeros((grown, self.vectors.shape[1]), np.float32)])
        self.lengths = np.concatenate([self.lengths, np.zeros(grown, np.float32)])
        self.terms = np.concatenate([self.terms, np.zeros((grown, 2), np.int64)])
        self.ids = np.concatenate([self.ids, np.zeros((grown, 2 * ID_BYTES), np.uint8)])

    def add_segment(self, run_id: bytes, spans: Iterable[range], postings: Iterable[tuple[str, int, bytes]]) -> None:
        """Keep one segment of packed postings."""
        self.next_segment += 1
        terms = {term: unpack(packed) for term, _, packed in postings}
        self.segments[self.next_segment] = Segment(run_id, tuple(spans), terms)

    def sweep(self, run_id: bytes) -> None:
        """Drop the rows and postings of a run that did not publish."""
        self.rows = {seq: row for seq, row in self.rows.items() if row.run_id != run_id}
        self.segments = {key: one for key, one in self.segments.items() if one.run_id != run_id}

    def merge_segments(self, published: frozenset[bytes], segments_max: int) -> None:
        """Merge the smallest segments of published runs when there are more than `segments_max`, and rewrite every
        one that has many dead rows."""
        mine = sorted((one.rows, key) for key, one in self.segments.items() if one.run_id in published)
        chosen = {key for rows, key in mine if rows - self._alive(key) > DEAD_SHARE * rows}
        if len(mine) > segments_max:
            chosen |= {key for _, key in mine[: len(mine) - segments_max // 2]}
        if not chosen:
            return
        merged = [self.segments.pop(key) for key in sorted(chosen)]
        gathered: dict[str, list[Postings]] = {}
        for segment in merged:
            for term, piece in segment.terms.items():
                gathered.setdefault(term, []).append(piece)
        alive = mask_of(np.fromiter(self.rows, np.int64, len(self.rows)), self.next_seq)
        terms = {term: merge(pieces, alive) for term, pieces in gathered.items()}
        seqs = sorted(seq for one in merged for span in one.spans for seq in span if seq in self.rows)
        if seqs:
            self.next_segment += 1
            self.segments[self.next_segment] = Segment(
                max(one.run_id for one in merged),
                tuple(range(seq, seq + 1) for seq in seqs),
                {term: piece for term, piece in terms.items() if len(piece.seqs)},
            )

    def _alive(self, segment: int) -> int:
        return sum(seq in self.rows for span in self.segments[segment].spans for seq in span)

    def collect(self, oldest: int, running: frozenset[bytes]) -> tuple[int, ...]:
        """Remove rows that no version from `oldest` on holds, but for those of runs under way; which went."""
        held = self.live_to > oldest
        self.live_seq, self.live_from, self.live_to = self.live_seq[held], self.live_from[held], self.live_to[held]
        kept = set(self.live_seq.tolist())
        gone = tuple(seq for seq, row in self.rows.items() if seq not in kept and row.run_id not in running)
        for seq in gone:
            del self.rows[seq]
        return gone

    def postings(self, terms: Iterable[tuple[str, int]]) -> tuple[TermPostings, ...]:
        """The postings of a question's terms, in the order of the segments."""
        segments = [self.segments[key].terms for key in sorted(self.segments)]
        return tuple(
            TermPostings(term, count, tuple(held[term] for held in segments if term in held)) for term, count in terms
        )

    def open_seqs(self) -> Seqs:
        """The seqs that are live at the head."""
        seqs: Seqs = self.live_seq[self.live_to == OPEN]
        return seqs

    def move(self, version: int, opened: Seqs, closed: Seqs) -> None:
        """Open and close rows with a version."""
        ends = (self.live_to == OPEN) & np.isin(self.live_seq, closed)
        # New arrays: a reader of an older version may still hold the present ones.
        self.live_to = np.concatenate([np.where(ends, version, self.live_to), np.full(len(opened), OPEN)])
        self.live_seq = np.concatenate([self.live_seq, opened])
        self.live_from = np.concatenate([self.live_from, np.full(len(opened), version)])

    def live(self, version: int) -> Mask:
        """`mask[seq]`: whether the row is live in a version."""
        seqs = self.live_seq[(self.live_from <= version) & (self.live_to > version)]
        return mask_of(seqs, int(seqs.max()) + 1 if len(seqs) else 0)


def mask_of(seqs: Seqs, size: int) -> Mask:
    """A mask of `size` that is true at the given seqs."""
    mask = np.zeros(size, dtype=np.bool_)
    mask[seqs] = True
    return mask
