"""Progress of long work: a callback that every stage may call and every front end may show."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told about once a batch; must be cheap and must not raise."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` units of `stage`; a total of 0 is unknown."""


def silent(stage: str, done: int, total: int) -> None:
    """Shows nothing."""
