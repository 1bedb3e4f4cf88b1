"""The retrieval profile: the versioned configuration of legs, depths, fusion and selection."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from ragstone.core.errors import UsageError

FusionMethod = Literal["z", "rrf", "minmax", "bm25", "dense"]
METHODS: tuple[FusionMethod, ...] = ("z", "rrf", "minmax", "bm25", "dense")


@dataclass(frozen=True, slots=True)
class Profile:
    """How a question is answered from an index; its name and number are in every record.

    `depth` candidates are taken from each leg, whatever the page size. `fusion` is z (sum of z-scores over the
    candidates), rrf (reciprocal ranks, Cormack 2009), minmax, or one leg alone (bm25, dense).
    """

    name: str = "default"
    number: int = 1
    depth: int = 100
    fusion: FusionMethod = "z"
    bm25_weight: float = 1.0
    dense_weight: float = 1.0
    rank_constant: int = 60
    collapse_duplicates: bool = True

    def as_record(self) -> dict[str, Any]:
        """For the evidence."""
        return {name: getattr(self, name) for name in FIELDS}

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each leg."""
        return {"bm25": self.bm25_weight, "dense": self.dense_weight}


FIELDS = tuple(each.name for each in fields(Profile))


def checked_method(name: str) -> FusionMethod:
    """A fusion method by name, or UsageError."""
    for known in METHODS:
        if name == known:
            return known
    raise UsageError(
        f"unknown fusion method {name!r}", doing="reading the profile", next_step=f"use one of: {', '.join(METHODS)}"
    )
