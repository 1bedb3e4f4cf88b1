"""The explicit deadline that goes through every port."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ragstone.core.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock by which the work must be done."""

    at: float
    budget_s: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The deadline `seconds` from now."""
        return cls(at=time.monotonic() + seconds, budget_s=seconds)

    @property
    def left_s(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.at - time.monotonic())

    def check(self, doing: str) -> None:
        """Raise DeadlineExceeded when no time is left."""
        if time.monotonic() >= self.at:
            raise DeadlineExceeded(
                f"the deadline of {self.budget_s:g} s has passed",
                doing=doing,
                next_step="give it more time with --deadline-ms",
            )
