"""Packed postings against the texts they were made from, in one pass and in memory that grows with rows alone.

Per row one 64-bit sum over its (term, counts, lengths), each mixed with a key that only this audit knows: postings
stand by term and texts by row, and a sum has no order. What a sum finds is then named by looking at those rows
alone (`Named`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ragstone.core.ports import Seqs
from ragstone.index.audit.records import Differences, PackedPostings, RewriteRow, RewriteSegment
from ragstone.index.lengths import encode
from ragstone.index.postings import COUNT_MAX, LexicalRow, Postings, unpack

Sums = npt.NDArray[np.uint64]
TERMS_KEPT = 200_000
# Rows whose differences are named term by term; further ones are named as rows.
NAMED_MAX = 500
TERMS_NAMED_MAX = 5
# The finalizer of SplitMix64 (Steele, Lea & Flood 2014): every bit of its input moves half of its output.
GOLDEN, FIRST, SECOND = (np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class PostingSums:
    """What texts say and what postings say of every row, as sums; `size` is one more than the greatest seq."""

    def __init__(self, size: int, key: bytes | None = None) -> None:
        self.expected: Sums = np.zeros(size, np.uint64)
        self.found: Sums = np.zeros(size, np.uint64)
        self.known: npt.NDArray[np.bool_] = np.zeros(size, np.bool_)
        self.dead = 0
        secret = key or os.urandom(16)

        def hashed(term: str) -> int:
            digest = hashlib.blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8, key=secret).digest()
            return int.from_bytes(digest, "little")

        # An audit hashes the frequent terms once.
        self._hash = lru_cache(maxsize=TERMS_KEPT)(hashed)

    def expect(self, rows: Iterable[LexicalRow]) -> None:
        """Take in what the texts of rows say."""
        for row in rows:
            terms = np.fromiter((self._hash(term) for term in row.joined), np.uint64, len(row.joined))
            packed = np.fromiter(_packed_counts(row), np.uint64, len(row.joined))
            self.expected[row.seq] = _mixed(terms, packed).sum(dtype=np.uint64)
            self.known[row.seq] = True

    def find(self, piece: PackedPostings, out: Differences) -> None:
        """Take in postings as stored; what cannot be read is named at once."""
        name = f"term {piece.term!r} in segment {piece.segment}"
        try:
            postings = unpack(piece.packed)
        except ValueError as error:
            out.add("postings", "damaged", name, str(error), RewriteSegment(piece.segment))
            return
        if piece.rows != len(postings.seqs):
            detail = f"it says {piece.rows} rows and holds {len(postings.seqs)}"
            out.add("postings", "changed", name, detail, RewriteSegment(piece.segment))
        seqs = postings.seqs.astype(np.int64)
        inside = seqs < len(self.found)
        term = np.full(len(seqs), self._hash(piece.term), np.uint64)
        mixed = _mixed(term, _columns(postings))
        # add.at: a damaged list may name a row twice, and both must count.
        np.add.at(self.found, seqs[inside], mixed[inside])
        self.dead += len(seqs) - int(np.count_nonzero(self.known[seqs[inside]]))

    def differing(self) -> Seqs:
        """The rows of which postings say something else than their texts."""
        seqs: Seqs = np.flatnonzero(self.known & (self.expected != self.found)).astype(np.int64)
        return seqs


@dataclass(slots=True)
class Named:
    """The differing rows once more, to say which terms are wrong; all are to be written again."""

    seqs: Seqs
    names: dict[int, str] = field(default_factory=dict)
    _expected: dict[int, dict[str, int]] = field(default_factory=dict)
    _found: dict[int, dict[str, int]] = field(default_factory=dict)

    def expect(self, seq: int, name: str, row: LexicalRow) -> None:
        """Take in a differing row's text."""
        self.names[seq] = name
        if len(self._expected) < NAMED_MAX:
            self._expected[seq] = dict(zip(row.joined, _packed_counts(row), strict=True))

    def find(self, piece: PackedPostings) -> None:
        """Take in postings that may be of a differing row."""
        try:
            postings = unpack(piece.packed)
        except ValueError:
            return
        mask = np.isin(postings.seqs, self.seqs)
        if not mask.any():
            return
        columns = _columns(postings)
        for seq, packed in zip(postings.seqs[mask].tolist(), columns[mask].tolist(), strict=True):
            if seq in self._expected:
                terms = self._found.setdefault(seq, {})
                # A second entry of one term can never be right.
                terms[piece.term] = -1 if piece.term in terms else packed

    def into(self, out: Differences) -> None:
        """Name every differing row."""
        for seq in self.seqs.tolist():
            name = self.names.get(seq, f"row {seq}")
            detail = f"its postings differ from its text (row {seq})"
            if seq in self._expected:
                detail = _terms(self._expected[seq], self._found.get(seq, {})) + f" (row {seq})"
            out.add("postings", "changed", name, detail, RewriteRow(seq))


def _packed_counts(row: LexicalRow) -> list[int]:
    """(tf, title tf, length, title length) of each term of a row, a byte each."""
    lengths = encode(row.joined.total()) << 16 | encode(row.title.total()) << 24
    return [
        min(count, COUNT_MAX) | min(row.title[term], COUNT_MAX) << 8 | lengths for term, count in row.joined.items()
    ]


def _columns(postings: Postings) -> Sums:
    """The same of postings as stored."""
    columns = (postings.tf, postings.title_tf, postings.length, postings.title_length)
    tf, title_tf, length, title_length = (column.astype(np.uint64) for column in columns)
    packed: Sums = tf | title_tf << np.uint64(8) | length << np.uint64(16) | title_length << np.uint64(24)
    return packed


def _mixed(terms: Sums, packed: Sums) -> Sums:
    with np.errstate(over="ignore"):
        z = terms + packed * GOLDEN
        z = (z ^ (z >> np.uint64(30))) * FIRST
        z = (z ^ (z >> np.uint64(27))) * SECOND
        mixed: Sums = z ^ (z >> np.uint64(31))
    return mixed


def _terms(expected: Mapping[str, int], found: Mapping[str, int]) -> str:
    missing = [term for term in expected if term not in found]
    extra = [term for term in found if term not in expected]
    wrong = [term for term in expected if term in found and found[term] != expected[term]]
    parts = []
    for what, terms in (("without the terms", missing), ("with terms that it has not", extra), ("wrong in", wrong)):
        if terms:
            parts.append(f"{what} {_some(terms)}")
    return "its postings are " + "; ".join(parts) if parts else "its postings differ"


def _some(terms: Sequence[str]) -> str:
    shown = ", ".join(repr(term) for term in terms[:TERMS_NAMED_MAX])
    return shown if len(terms) <= TERMS_NAMED_MAX else f"{shown} and {len(terms) - TERMS_NAMED_MAX} more"
