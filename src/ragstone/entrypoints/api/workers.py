"""Several processes that serve one socket: the parent holds the socket and the database, and keeps the workers alive.

The workers are processes of their own (`worker.py`), each with its parts: pool, caches, spool. Their bounds are
shared out here: connections so that all pools together fit the database, and one byte budget of caches.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from ragstone.core.errors import RagstoneError, Unavailable, UsageError
from ragstone.entrypoints.api.endpoints import ping
from ragstone.entrypoints.api.serve import DRAIN_S, FAREWELL_S, listening, url_of
from ragstone.entrypoints.api.shipper import LAST_WITHIN_S, Shipper
from ragstone.entrypoints.api.worker import FirstWord

if TYPE_CHECKING:
    import socket
    from asyncio.subprocess import Process
    from collections.abc import Callable

    from ragstone.bootstrap import System
    from ragstone.settings import Settings

CONNECTIONS_KEPT_FREE = 10
CONNECTIONS_MIN = 2
START_WITHIN_S = 120.0
# Beyond the drain itself a worker ships its evidence and closes; one that hangs is killed then.
END_WITHIN_S = DRAIN_S + FAREWELL_S + LAST_WITHIN_S + 15.0
# A worker that lived so long died by accident; one that dies sooner may do so again.
STEADY_S = 60.0
PAUSE_MIN_S = 0.25
PAUSE_MAX_S = 30.0
DOING = "starting the workers"

logger = logging.getLogger("ragstone.api")


async def serve_with_workers(
    system: System, count: int, host: str, port: int, announce: Callable[[str], None], say: Callable[[str], None]
) -> None:
    """Serve with `count` processes on `host` and `port`, and `announce` the URL once all of them take questions.

    Returns after SIGTERM or SIGINT, when every worker has drained as `serve` does. A worker that dies is started
    again, later and later. UsageError when the address cannot be had or the database has too few connections for
    so many; Unavailable when the workers do not start.
    """
    with listening(host, port) as door:
        settings = shared_out(system.settings, count, await connections_max(system), say)
        address = door.getsockname()
        # The pool would tell of every attempt to reach a database that is away; the workers' shippers say it once.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        try:
            await Supervisor(settings, count, door).run(lambda: announce(url_of(address[0], address[1])))
        finally:
            # A database that was away meanwhile has left us a dead connection, which the first use finds out.
            with suppress(RagstoneError):
                await ping(system)
            # What a killed worker left in the spool: nobody else may be there to ship it.
            await Shipper(system).finish()


async def connections_max(system: System) -> int:
    """How many connections the database takes."""
    database = await system.database()
    async with database.connection("asking how many connections the database takes") as connection:
        row = await (await connection.execute("select current_setting('max_connections')::int")).fetchone()
    assert row is not None
    return int(row[0])


def shared_out(settings: Settings, count: int, connections: int, say: Callable[[str], None]) -> Settings:
    """The settings of one of `count` workers on a database that takes so many connections. UsageError."""
    wanted = settings.database.pool_size
    free = connections - CONNECTIONS_KEPT_FREE
    pool = min(wanted, free // count)
    if pool < min(wanted, CONNECTIONS_MIN):
        raise UsageError(
            f"{count} workers do not fit: the database takes {connections} connections, {CONNECTIONS_KEPT_FREE} stay"
            f" free, and a worker needs {CONNECTIONS_MIN}",
            doing=DOING,
            next_step=f"take --workers {max(1, free // CONNECTIONS_MIN)} at most, or raise max_connections",
        )
    if pool < wanted:
        say(
            f"each worker holds {pool} database connections at most, not {wanted}: the database takes {connections},"
            f" and {CONNECTIONS_KEPT_FREE} stay free"
        )
    return msgspec.structs.replace(
        settings,
        database=msgspec.structs.replace(settings.database, pool_size=pool),
        retrieval=msgspec.structs.replace(settings.retrieval, cache_mb=max(1, settings.retrieval.cache_mb // count)),
    )


class Supervisor:
    """The workers: started together, each started again when it dies, ended together."""

    def __init__(self, settings: Settings, count: int, door: socket.socket) -> None:
        # Not on the command line, which everybody can read: the settings may hold a password.
        self._line = msgspec.json.encode(settings) + b"\n"
        self._count = count
        self._door = door
        self._processes: set[Process] = set()
        self._stopping = asyncio.Event()

    async def run(self, announce: Callable[[], None]) -> None:
        """Keep the workers alive until a signal comes, then drain them. Unavailable when they do not start."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self._signalled, each)
        keepers: list[asyncio.Task[None]] = []
        try:
            processes = await self._started()
            if processes:
                announce()
                keepers = [asyncio.create_task(self._keep(each)) for each in processes]
                await self._stopping.wait()
        finally:
            self._stopping.set()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            await self._end()
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(each)

    def _signalled(self, request: signal.Signals) -> None:
        if self._stopping.is_set() and request == signal.SIGINT:
            self._send(request)  # a second Ctrl-C: do not wait for what runs
        self._stopping.set()

    def _send(self, request: signal.Signals) -> None:
        for each in self._processes:
            with suppress(ProcessLookupError):
                each.send_signal(request)

    async def _started(self) -> list[Process]:
        """All of them, taking questions; none when a signal comes first. The first trouble ends the waiting."""
        starting = [asyncio.create_task(self._start()) for _ in range(self._count)]
        stop = asyncio.create_task(self._stopping.wait())
        all_of_them = asyncio.gather(*starting)
        either: list[asyncio.Future[Any]] = [all_of_them, stop]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return await all_of_them if all_of_them.done() else []
        finally:
            for each in (*starting, stop):
                each.cancel()
            await asyncio.gather(*starting, stop, all_of_them, return_exceptions=True)

    async def _start(self) -> Process:
        """One worker that takes questions. Unavailable when it ends, or is silent too long, instead."""
        descriptor = self._door.fileno()
        # -P: a module must not come from the folder that the server happens to be started in.
        command = (sys.executable, "-P", "-m", "ragstone.entrypoints.api.worker", str(descriptor))
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(descriptor,),
            start_new_session=True,  # Ctrl-C in a terminal is for the parent, which tells the workers
        )
        self._processes.add(process)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_WITHIN_S):
                with suppress(ConnectionError):
                    process.stdin.write(self._line)
                    await process.stdin.drain()
                said = await process.stdout.readline()
        except TimeoutError:
            raise await self._failed(process, f"a worker is not ready after {START_WITHIN_S:g} s") from None
        word = msgspec.json.decode(said, type=FirstWord) if said.endswith(b"\n") else FirstWord(ready=False)
        if not word.ready:
            raise await self._failed(process, word.what, word.doing, word.next_step)
        return process

    async def _failed(self, process: Process, what: str, doing: str = "", next_step: str = "") -> Unavailable:
        """Make sure that a worker has ended, and say why it could not start."""
        if what:
            with suppress(ProcessLookupError):
                process.kill()
        code = await process.wait()
        self._processes.discard(process)
        return Unavailable(
            what or f"a worker {_how(code)} before it took questions",
            doing=doing or DOING,
            next_step=next_step or "see what it printed above; one process alone: ragstone up --workers 1",
        )

    async def _keep(self, process: Process | None) -> None:
        """Start a worker again whenever it dies, with longer pauses the sooner it does."""
        quick_deaths, why = 0, ""
        while True:
            began = time.monotonic()
            if process is not None:
                why = _how(await process.wait())
                self._processes.discard(process)
            quick_deaths = 1 if time.monotonic() - began > STEADY_S else quick_deaths + 1
            pause_s = min(PAUSE_MAX_S, PAUSE_MIN_S * 2.0 ** min(quick_deaths - 1, 20))
            logger.warning("a worker is gone: it %s; another starts in %g s", why, pause_s)
            await asyncio.sleep(pause_s)
            try:
                process = await self._start()
                logger.warning("a worker has started again (pid %d)", process.pid)
            except Unavailable as error:
                process, why = None, f"did not start: {error.what}"

    async def _end(self) -> None:
        """Close the door, let every worker drain, and kill one that does not come to an end."""
        # Ours before theirs: callers would else wait at a door that nobody opens.
        self._door.close()
        self._send(signal.SIGTERM)
        ending = [asyncio.create_task(each.wait()) for each in self._processes]
        if not ending:
            return
        _, late = await asyncio.wait(ending, timeout=END_WITHIN_S)
        if late:
            logger.error("%d workers have not ended after %g s and are killed", len(late), END_WITHIN_S)
            self._send(signal.SIGKILL)
            await asyncio.wait(late)


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
