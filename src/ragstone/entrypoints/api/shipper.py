"""The background task that moves evidence from the spool into the catalog, about once a second.

When the database is away it says so once, lets the records wait in the spool, starts the embedded server
again if that is the one that died, and says when it is back.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ragstone.core.errors import RagstoneError
from ragstone.entrypoints.api.endpoints import ping

if TYPE_CHECKING:
    from ragstone.bootstrap import System

EVERY_S = 1.0
PING_WITHIN_S = 3.0
SHIP_WITHIN_S = 30.0
LAST_WITHIN_S = 5.0

logger = logging.getLogger("ragstone.api")


class Shipper:
    """Runs until it is cancelled; `finish` ships what is left."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._trouble = ""

    async def run(self) -> None:
        """Ship, look whether the database answers, rest; whatever happens, go on."""
        while True:
            await self._turn()
            await asyncio.sleep(EVERY_S)

    async def finish(self) -> None:
        """Ship once more at the end; what cannot be shipped waits in the spool for the next start."""
        try:
            async with asyncio.timeout(LAST_WITHIN_S):
                await self._system.ship()
        except (RagstoneError, TimeoutError) as error:
            logger.warning("evidence waits in %s for the next start: %s", self._system.home / "spool", _first(error))

    async def _turn(self) -> None:
        try:
            # Asked first and apart: a pool that has lost its server waits longer than this for another connection.
            async with asyncio.timeout(PING_WITHIN_S):
                await ping(self._system)
            async with asyncio.timeout(SHIP_WITHIN_S):
                await self._system.ship()
        except (RagstoneError, TimeoutError) as error:
            self._say(_first(error))
            await self._revive()
        except Exception as error:
            # A record that cannot be stored must not end the task: those behind it would never be shipped.
            if self._say(repr(error)):
                logger.exception("shipping evidence met a fault in the program")
        else:
            if self._trouble:
                logger.warning("the database is back; evidence is shipped again")
            self._trouble = ""

    async def _revive(self) -> None:
        try:
            await self._system.revive()
        except RagstoneError as error:
            logger.warning("the embedded database does not start again: %s", _first(error))

    def _say(self, trouble: str) -> bool:
        """Log a trouble when it begins; it is news only once."""
        new = not self._trouble
        if new:
            logger.warning("the database is away; evidence waits in the spool: %s", trouble)
        self._trouble = trouble
        return new


def _first(error: BaseException) -> str:
    return error.what if isinstance(error, RagstoneError) else "it does not answer in time"
