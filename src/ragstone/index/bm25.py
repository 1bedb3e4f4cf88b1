"""BM25 over packed postings (Robertson & Zaragoza 2009; idf and length coding as in Lucene 10).

score = sum over fields of w * sum over terms of qtf * idf(t, v) * tf / (tf + k1 * (1 - b + b * q(dl) / L)),
idf = ln(1 + (N - df + .5) / (df + .5)). Two fields: title and text joined (w 1) and the title again (w .25)
with its own df. N and df are exact for the version: rows that are not live do not count. L is the version's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ragstone.core.nouns import LexicalSpec
from ragstone.index.lengths import LENGTHS
from ragstone.index.postings import Postings

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What BM25 needs to know of a version: live rows and the two mean field lengths (joined, title)."""

    rows: int
    norms: tuple[float, float]


@dataclass(frozen=True, slots=True)
class TermPostings:
    """One term of the question: its count there and its postings in every segment."""

    term: str
    count: int
    pieces: tuple[Postings, ...]


def idf(rows: int, df: int) -> float:
    """Inverse document frequency, never negative."""
    return math.log(1.0 + (rows - df + 0.5) / (df + 0.5))


class Scorer:
    """Scores rows of one version for one question; postings of dead rows are masked out once.

    Contributions are float64, added field by field and term by term in the order of the question, so that
    every engine gets the same bits.
    """

    def __init__(self, terms: Sequence[TermPostings], live: Mask, stats: Statistics, spec: LexicalSpec) -> None:
        self._spec = spec
        self._size = len(live)
        joined, title = (spec.k1 * (1.0 - spec.b + spec.b * LENGTHS / max(norm, 1e-9)) for norm in stats.norms)
        self.terms: list[str] = []
        self._seqs: list[npt.NDArray[np.int64]] = []
        self._parts: list[npt.NDArray[np.float64]] = []
        self._rows = stats.rows
        for term in terms:
            seqs, part = self._contributions(term, live, stats.rows, joined, title)
            self.terms.append(term.term)
            self._seqs.append(seqs)
            self._parts.append(part)

    def _contributions(
        self, term: TermPostings, live: Mask, rows: int, joined: npt.NDArray[np.float64], title: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        kept = [_alive(piece, live) for piece in term.pieces]
        seqs = np.concatenate([piece.seqs for piece in kept]).astype(np.int64) if kept else np.zeros(0, np.int64)
        if not len(seqs):
            return seqs, np.zeros(0)
        tf = np.concatenate([piece.tf for piece in kept]).astype(np.float64)
        title_tf = np.concatenate([piece.title_tf for piece in kept]).astype(np.float64)
        code = np.concatenate([piece.length for piece in kept])
        title_code = np.concatenate([piece.title_length for piece in kept])
        weight = term.count * idf(rows, len(seqs))
        part = weight * (tf / (tf + joined[code]))
        title_df = int(np.count_nonzero(title_tf))
        if title_df and self._spec.title_weight:
            title_weight = self._spec.title_weight * term.count * idf(rows, title_df)
            part = part + title_weight * (title_tf / (title_tf + title[title_code]))
        return seqs, part

    def totals(self) -> npt.NDArray[np.float64]:
        """The score of every seq of the mask, zero where nothing matches."""
        totals = np.zeros(self._size)
        for seqs, part in zip(self._seqs, self._parts, strict=True):
            totals[seqs] += part
        return totals

    def idf(self) -> npt.NDArray[np.float64]:
        """The idf of each term in the joined text."""
        return np.array([idf(self._rows, len(seqs)) for seqs in self._seqs], dtype=np.float64)

    def by_term(self, seqs: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """What each term adds to each of the given seqs: shape (terms, seqs)."""
        table = np.zeros((len(self.terms), len(seqs)))
        if not len(seqs):
            return table
        where = np.full(self._size, -1, dtype=np.int64)
        where[seqs] = np.arange(len(seqs))
        for row, (own, part) in enumerate(zip(self._seqs, self._parts, strict=True)):
            column = where[own]
            hit = column >= 0
            table[row, column[hit]] = part[hit]
        return table


def summed(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The score of each row of `by_term`, in the order of addition that `totals` has: equal to the last bit."""
    total = np.zeros(table.shape[1])
    for part in table:
        total += part
    return total


def _alive(piece: Postings, live: Mask) -> Postings:
    # Seqs ascend: rows of runs that are still writing lie beyond the mask.
    if len(piece.seqs) and piece.seqs[-1] >= len(live):
        alive = np.zeros(len(piece.seqs), dtype=np.bool_)
        known = int(np.searchsorted(piece.seqs, len(live)))
        alive[:known] = live[piece.seqs[:known]]
    else:
        alive = live[piece.seqs]
    if alive.all():
        return piece
    return Postings(
        piece.seqs[alive], piece.tf[alive], piece.title_tf[alive], piece.length[alive], piece.title_length[alive]
    )


def best(scores: npt.NDArray[np.float64], depth: int) -> npt.NDArray[np.int64]:
    """Positions of the `depth` greatest positive scores, greatest first, ties by position."""
    positive = np.flatnonzero(scores > 0)
    return positive[top(scores[positive], depth)]


def top(scores: npt.NDArray[np.float64], depth: int) -> npt.NDArray[np.int64]:
    """Positions of the `depth` greatest scores, greatest first, ties by position."""
    if len(scores) > depth:
        cut = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        kept = np.flatnonzero(scores >= cut)
    else:
        kept = np.arange(len(scores))
    # A stable sort on the negated score keeps ascending positions among equals.
    return kept[np.argsort(-scores[kept], kind="stable")][:depth]
