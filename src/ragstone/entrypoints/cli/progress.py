"""Progress of long work: a bar on a terminal, a line now and then elsewhere; always on stderr."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import click

LINE_EVERY_S = 2.0


class Shown:
    """Implements the callback Progress."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._stage = ""
        self._said = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` are through `stage`."""
        if self._terminal:
            self._draw(stage, done, total)
        elif done == total or stage != self._stage or time.monotonic() - self._said > LINE_EVERY_S:
            self._said = time.monotonic()
            click.echo(f"{stage}: {done}/{total} {self._unit}", err=True)
        self._stage = stage

    def _draw(self, stage: str, done: int, total: int) -> None:
        from tqdm import tqdm  # noqa: PLC0415 - only a terminal needs it

        if stage != self._stage:
            self.close()
            # A terminal that does not know its size says 0, and tqdm would draw nothing on it.
            ncols, nrows = (None, None) if os.get_terminal_size(sys.stderr.fileno()).columns else (80, 24)
            shown = {"desc": stage, "unit": self._unit, "leave": False, "ncols": ncols, "nrows": nrows}
            self._bar = tqdm(total=total, file=sys.stderr, **shown)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
