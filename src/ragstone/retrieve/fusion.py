"""Fusion: the scores of both legs become one. Pure and deterministic; ties are broken by chunk id.

Both scores are exact for every candidate, found by that leg or not: a missing score filled with a list's
minimum costs quality. z: (score - mean) / deviation over the candidates (population), 0 where the deviation
is 0. Min-max likewise. RRF (Cormack, Clarke & Buettcher 2009): 1 / (constant + rank in the leg's own list).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ragstone.core.evidence import FusionRecord
from ragstone.retrieve.profile import Profile

LEGS = ("bm25", "dense")
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fused:
    """Candidates in fused order: positions into what was given, with what each leg contributed."""

    order: Ints
    score: Floats
    contributions: dict[str, Floats]
    record: FusionRecord


def fuse(scores: dict[str, Floats], ranks: dict[str, Ints], chunk_ids: Sequence[bytes], profile: Profile) -> Fused:
    """Fuse the candidates' leg scores; arrays are parallel to `chunk_ids`, a rank of 0 is: not in that list."""
    record = _statistics(scores, profile)
    contributions = {leg: contribution(leg, scores[leg], ranks[leg], record) for leg in LEGS}
    # One addition of two numbers is rounded once and the same in both orders, as math.fsum is for any count: a
    # tie is not broken by which leg came first. A third leg needs fsum. + 0.0 makes one zero of two.
    one, other = (contributions[leg] for leg in LEGS)
    total = one + other + 0.0
    return Fused(_order(total, chunk_ids), total, contributions, record)


def _order(total: Floats, chunk_ids: Sequence[bytes]) -> Ints:
    """Positions, greatest score first, ties by chunk id."""
    order = np.argsort(-total, kind="stable")
    ranked = total[order]
    if (ranked[1:] == ranked[:-1]).any():
        scores = total.tolist()
        return np.array(sorted(order.tolist(), key=lambda at: (-scores[at], chunk_ids[at])), dtype=np.int64)
    return order


def contribution(leg: str, score: Floats, rank: Ints, record: FusionRecord) -> Floats:
    """What a leg adds to the fused score, from its raw score or rank and the recorded statistics alone."""
    weight = record.weights[leg]
    if record.method == "rrf":
        return np.where(rank > 0, weight / (record.rank_constant + rank), 0.0)
    if record.method == "minmax":
        width = record.maximum[leg] - record.minimum[leg]
        return weight * (score - record.minimum[leg]) / width if width > 0 else np.zeros(len(score))
    if record.method == "z":
        deviation = record.deviation[leg]
        return weight * (score - record.mean[leg]) / deviation if deviation > 0 else np.zeros(len(score))
    return score * weight if record.method == leg else np.zeros(len(score))


def _statistics(scores: dict[str, Floats], profile: Profile) -> FusionRecord:
    n = len(scores[LEGS[0]])
    moments = {leg: _moments(scores[leg]) for leg in LEGS}
    return FusionRecord(
        method=profile.fusion,
        weights=profile.weights,
        n=n,
        mean={leg: moments[leg][0] for leg in LEGS},
        deviation={leg: moments[leg][1] for leg in LEGS},
        minimum={leg: float(scores[leg].min()) if n else 0.0 for leg in LEGS},
        maximum={leg: float(scores[leg].max()) if n else 0.0 for leg in LEGS},
        rank_constant=profile.rank_constant,
    )


def _moments(score: Floats) -> tuple[float, float]:
    """Mean and population deviation, the same to the last bit in whatever order the candidates come: a replay
    has them in fused order, the engine gave them by seq."""
    if not len(score):
        return 0.0, 0.0
    mean = math.fsum(score.tolist()) / len(score)
    if (score == score[0]).all():
        # Rounding gives equal scores a deviation of 1e-17, and z would blow that up.
        return mean, 0.0
    off = score - mean
    # A product, not `** 2` of Python's floats: that is rounded as the machine's C library pleases.
    return mean, math.sqrt(math.fsum((off * off).tolist()) / len(score))
