"""How much is worked on at once: so many, and so many wait; whoever comes then is told to come back."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ragstone.core.errors import Busy, DeadlineExceeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ragstone.core.deadline import Deadline


class Gate:
    """At most `concurrency` inside and `queue` before the door. First come, first served."""

    def __init__(self, concurrency: int, queue: int) -> None:
        self._places = asyncio.Semaphore(concurrency)
        self._queue = queue
        self.inside = 0
        self.waiting = 0

    @asynccontextmanager
    async def place(self, deadline: Deadline) -> AsyncIterator[None]:
        """A place to work. Busy when too many wait; the wait is part of the caller's deadline."""
        await self._enter(deadline)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
            self._places.release()

    async def _enter(self, deadline: Deadline) -> None:
        if self._places.locked() and self.waiting >= self._queue:
            raise Busy(
                f"{self.inside} requests are worked on and {self.waiting} wait",
                doing="taking the request in",
                next_step="try again in a second; server.concurrency and server.queue set the bounds",
            )
        self.waiting += 1
        try:
            async with asyncio.timeout(deadline.left_s):
                await self._places.acquire()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the deadline of {deadline.budget_s:g} s passed in the queue",
                doing="waiting for a place",
                next_step="give it more time with deadline_ms, or try again when there is less to do",
            ) from None
        finally:
            self.waiting -= 1
