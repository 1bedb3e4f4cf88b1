"""Packed postings: for one term in one segment, columns side by side in one byte string.

Layout, little endian, n rows, 8 bytes a row: seq u32[n], tf u8[n], title tf u8[n], length code u8[n],
title length code u8[n]. A count above 255 is stored as 255 (BM25 is flat there).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ragstone.index.lengths import encode

ROW_BYTES = 8
COUNT_MAX = 255


@dataclass(frozen=True, slots=True)
class Postings:
    """Decoded postings of one term in one segment; arrays are views of the stored bytes."""

    seqs: npt.NDArray[np.uint32]
    tf: npt.NDArray[np.uint8]
    title_tf: npt.NDArray[np.uint8]
    length: npt.NDArray[np.uint8]
    title_length: npt.NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return len(self.seqs) * ROW_BYTES


@dataclass(frozen=True, slots=True)
class LexicalRow:
    """What a row adds to the postings: counts in the joined text and in the title, and both lengths."""

    seq: int
    joined: Counter[str]
    title: Counter[str]


def unpack(packed: bytes | memoryview) -> Postings:
    """Postings from their bytes. ValueError if the length is no multiple of a row."""
    size = len(packed)
    if size % ROW_BYTES:
        raise ValueError(f"packed postings of {size} bytes")
    n = size // ROW_BYTES
    raw = np.frombuffer(packed, dtype=np.uint8)
    columns = raw[4 * n :].reshape(4, n)
    return Postings(raw[: 4 * n].view("<u4"), columns[0], columns[1], columns[2], columns[3])


def pack(postings: Postings) -> bytes:
    """The bytes of postings."""
    columns = (postings.tf, postings.title_tf, postings.length, postings.title_length)
    return postings.seqs.astype("<u4").tobytes() + b"".join(column.astype(np.uint8).tobytes() for column in columns)


def merge(pieces: Sequence[Postings], keep: npt.NDArray[np.bool_] | None = None) -> Postings:
    """Postings of one term from several segments, in order of seq; `keep[seq]` False drops a row."""
    seqs = np.concatenate([piece.seqs for piece in pieces])
    order = np.argsort(seqs, kind="stable")
    if keep is not None:
        order = order[keep[seqs[order]]]
    return Postings(
        seqs[order],
        np.concatenate([piece.tf for piece in pieces])[order],
        np.concatenate([piece.title_tf for piece in pieces])[order],
        np.concatenate([piece.length for piece in pieces])[order],
        np.concatenate([piece.title_length for piece in pieces])[order],
    )


def without(packed: bytes | memoryview, seqs: npt.NDArray[np.int64]) -> Postings | None:
    """Postings that hold some rows, without them; without any where the bytes cannot be read. None when there is
    nothing to take out."""
    if len(packed) % ROW_BYTES:
        return unpack(b"")
    postings = unpack(packed)
    keep = ~np.isin(postings.seqs, seqs)
    if keep.all():
        return None
    columns = (postings.tf, postings.title_tf, postings.length, postings.title_length)
    return Postings(postings.seqs[keep], *(column[keep] for column in columns))


@dataclass(slots=True)
class SegmentBuilder:
    """Gathers rows in ascending seq and packs them term by term."""

    rows: int = 0
    postings: int = 0
    _terms: dict[str, list[tuple[int, int, int, int, int]]] = field(default_factory=dict)

    def add(self, row: LexicalRow) -> None:
        """Add one row; seqs must ascend."""
        length, title_length = encode(row.joined.total()), encode(row.title.total())
        for term, count in row.joined.items():
            title_count = row.title[term]
            entry = (row.seq, min(count, COUNT_MAX), min(title_count, COUNT_MAX), length, title_length)
            self._terms.setdefault(term, []).append(entry)
        self.rows += 1
        self.postings += len(row.joined)

    def packed(self) -> Iterator[tuple[str, int, bytes]]:
        """(term, n, bytes) of every term, in code point order."""
        for term in sorted(self._terms):
            table = np.array(self._terms[term], dtype=np.int64)
            columns = [table[:, column].astype(np.uint8) for column in range(1, 5)]
            yield term, len(table), pack(Postings(table[:, 0].astype(np.uint32), *columns))


def build(rows: Iterable[LexicalRow]) -> SegmentBuilder:
    """A builder with the rows in it."""
    builder = SegmentBuilder()
    for row in rows:
        builder.add(row)
    return builder
