"""The one bounded executor for CPU work longer than a millisecond: as many threads as cores."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

Args = TypeVarTuple("Args")
Result = TypeVar("Result")


def cores() -> int:
    """The cores this process may use."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class Compute:
    """Runs pure functions on a bounded thread pool; what is cancelled before it starts never runs."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or cores()
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="ragstone-compute")

    async def run(self, work: Callable[[*Args], Result], *args: *Args) -> Result:
        """`work(*args)` on a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    def close(self) -> None:
        """Drop what has not started and let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
