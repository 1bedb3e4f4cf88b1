"""The engine's rows as columns: arrays by seq that grow by doubling, postings by segment, what is live when.

Rows are added and swept, never changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ragstone.index.bm25 import Mask, TermPostings
from ragstone.index.postings import Postings, merge, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ragstone.core.nouns import Recipe
    from ragstone.core.ports import Seqs
    from ragstone.index.records import StagedRow

OPEN = 2_147_483_647  # v_to of what is live at the head
CAPACITY_MIN = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of a row beside its numbers."""

    row_id: bytes
    chunk_id: bytes
    text_hash: bytes
    run_id: bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """The postings that one run wrote at once, or that a merge made of several."""

    run_id: bytes
    rows: int
    terms: dict[str, Postings]


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
    live_seq: Seqs = field(default_factory=lambda: np.zeros(0, np.int64))
    live_from: Seqs = field(default_factory=lambda: np.zeros(0, np.int64))
    live_to: Seqs = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        self.vectors = np.zeros((0, self.recipe.embedding.dimensions), np.float32)
        self.lengths = np.zeros(0, np.float32)
        self.terms = np.zeros((0, 2), np.int64)

    def add(self, rows: Iterable[StagedRow], run_id: bytes) -> None:
        """Keep rows under their leased seqs; vectors in half precision, widened once."""
        self._reserve(self.next_seq)
        for row in rows:
            wide = row.vector.astype(np.float16).astype(np.float32)
            self.vectors[row.seq] = wide
            self.lengths[row.seq] = np.linalg.norm(wide)
            self.terms[row.seq] = (row.joined.total(), row.title.total())
            self.rows[row.seq] = Row(row.row_id, row.chunk_id, row.text_hash, run_id)

    def _reserve(self, size: int) -> None:
        if size <= len(self.vectors):
            return
        grown = max(CAPACITY_MIN, 2 * len(self.vectors), size) - len(self.vectors)
        self.vectors = np.concatenate([self.vectors, np.zeros((grown, self.vectors.shape[1]), np.float32)])
        self.lengths = np.concatenate([self.lengths, np.zeros(grown, np.float32)])
        self.terms = np.concatenate([self.terms, np.zeros((grown, 2), np.int64)])

    def add_segment(self, run_id: bytes, rows: int, postings: Iterable[tuple[str, int, bytes]]) -> None:
        """Keep one segment of packed postings."""
        self.next_segment += 1
        terms = {term: unpack(packed) for term, _, packed in postings}
        self.segments[self.next_segment] = Segment(run_id, rows, terms)

    def sweep(self, run_id: bytes) -> None:
        """Drop the rows and postings of a run that did not publish."""
        self.rows = {seq: row for seq, row in self.rows.items() if row.run_id != run_id}
        self.segments = {key: one for key, one in self.segments.items() if one.run_id != run_id}

    def merge_segments(self, published: frozenset[bytes], segments_max: int) -> None:
        """Merge the smallest segments of published runs when there are more than `segments_max`."""
        mine = [(one.rows, key) for key, one in self.segments.items() if one.run_id in published]
        if len(mine) <= segments_max:
            return
        chosen = [self.segments.pop(key) for _, key in sorted(mine)[: len(mine) - segments_max // 2]]
        gathered: dict[str, list[Postings]] = {}
        for segment in chosen:
            for term, piece in segment.terms.items():
                gathered.setdefault(term, []).append(piece)
        self.next_segment += 1
        self.segments[self.next_segment] = Segment(
            max(one.run_id for one in chosen),
            sum(one.rows for one in chosen),
            {term: merge(pieces) for term, pieces in gathered.items()},
        )

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
