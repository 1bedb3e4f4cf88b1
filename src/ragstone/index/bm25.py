"""BM25 over packed postings (Robertson & Zaragoza 2009; idf and length coding as in Lucene 10).

score = sum over fields of w * sum over terms of qtf * idf(t, v) * tf / (tf + k1 * (1 - b + b * q(dl) / L)),
idf = ln(1 + (N - df + .5) / (df + .5)). Two fields: title and text joined (w 1) and the title again (w .25)
with its own df. N and df are exact for the version: rows that are not live do not count. L is the version's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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


@dataclass(frozen=True, slots=True)
class TermScores:
    """What one term of a question adds in one version: parallel seqs (as the segments hold them) and scores.

    It depends on the version, the term and its count alone, so that engines may keep it.
    """

    seqs: npt.NDArray[np.int64]
    part: npt.NDArray[np.float64]
    idf: float

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.seqs.nbytes + self.part.nbytes)


def term_scores(term: TermPostings, live: Mask, stats: Statistics, spec: LexicalSpec) -> TermScores:
    """Score the rows that hold a term; postings of dead rows are masked out."""
    kept = [_alive(piece, live) for piece in term.pieces]
    seqs = np.concatenate([piece.seqs for piece in kept]).astype(np.int64) if kept else np.zeros(0, np.int64)
    rarity = idf(stats.rows, len(seqs))
    if not len(seqs):
        return TermScores(seqs, np.zeros(0), rarity)
    joined, title = _norms(stats, spec)
    tf = np.concatenate([piece.tf for piece in kept]).astype(np.float64)
    title_tf = np.concatenate([piece.title_tf for piece in kept]).astype(np.float64)
    code = np.concatenate([piece.length for piece in kept])
    title_code = np.concatenate([piece.title_length for piece in kept])
    part = term.count * rarity * (tf / (tf + joined[code]))
    title_df = int(np.count_nonzero(title_tf))
    if title_df and spec.title_weight:
        title_weight = spec.title_weight * term.count * idf(stats.rows, title_df)
        part = part + title_weight * (title_tf / (title_tf + title[title_code]))
    return TermScores(seqs, part, rarity)


@lru_cache(maxsize=64)
def _norms(stats: Statistics, spec: LexicalSpec) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """k1 * (1 - b + b * length / mean) of every length code, in the joined text and in the title."""
    joined, title = (spec.k1 * (1.0 - spec.b + spec.b * LENGTHS / max(norm, 1e-9)) for norm in stats.norms)
    return joined, title


class Scorer:
    """Scores the rows of one version for one question: the scores of its terms, added up in its order.

    Contributions are float64, added field by field and term by term in the order of the question, so that
    every engine gets the same bits. `size` is one more than the greatest seq of the version.
    """

    def __init__(self, terms: Sequence[TermScores], size: int) -> None:
        self._size = size
        self._terms = len(terms)
        self._idf = np.array([term.idf for term in terms], dtype=np.float64)
        # One array of all postings: a question has some twenty terms, and a call of NumPy costs more than a
        # hundred postings do.
        self._seqs = np.concatenate([term.seqs for term in terms]) if terms else np.zeros(0, np.int64)
        self._parts = np.concatenate([term.part for term in terms]) if terms else np.zeros(0)
        self._term = np.repeat(np.arange(len(terms)), [len(term.seqs) for term in terms])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self._seqs.nbytes + self._parts.nbytes + self._term.nbytes)

    def totals(self) -> npt.NDArray[np.float64]:
        """The score of every seq of the version, zero where nothing matches."""
        # It adds in the order of its input: term by term, as `summed` does.
        return np.asarray(np.bincount(self._seqs, weights=self._parts, minlength=self._size), dtype=np.float64)

    def idf(self) -> npt.NDArray[np.float64]:
        """The idf of each term in the joined text."""
        return self._idf

    def by_term(self, seqs: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """What each term adds to each of the given seqs: shape (terms, seqs)."""
        table = np.zeros((self._terms, len(seqs)))
        where = np.full(self._size, -1, dtype=np.int32)
        where[seqs] = np.arange(len(seqs))
        column = where[self._seqs]
        hit = np.flatnonzero(column >= 0)
        table[self._term[hit], column[hit]] = self._parts[hit]
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
