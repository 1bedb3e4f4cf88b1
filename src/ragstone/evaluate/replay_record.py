"""What a replay found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that came out otherwise: where, what was recorded, what was decided now."""

    where: str
    recorded: Any
    replayed: Any


@dataclass(frozen=True, slots=True)
class Replay:
    """What was decided again, and every difference; equal when there is none. `notes` say what the record does
    not hold and was taken from this program instead."""

    decided: tuple[str, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether every decision came out the same."""
        return not self.differences
