"""Runs ingests in processes that end, or strike the database, at one exact step of the real flow.

An order is a line of JSON on stdin; each is done in a fork, so that what was imported is not imported again. The
ports are wrapped by a decorator that notes each awaited call, before and after it, and does the deed at the step
that was ordered. Nothing in the program itself knows of it.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import random
import signal
import sys
import traceback
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from ragstone import flow
from ragstone.adapters.postgres import embedding_cache, library, publish, runs  # noqa: F401 - imported once, not in every fork
from ragstone.adapters.postgres.embedded_lock import pid_in
from ragstone.adapters.postgres.embedded_paths import home_of
from ragstone.bootstrap import System
from ragstone.core.errors import RagstoneError
from ragstone.settings import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SOURCE = "documents"
LOCKER = """
select l.pid from pg_locks l where l.locktype = 'advisory' and l.objsubid = 1 and l.granted and l.pid <> pg_backend_pid()
"""
CLIENTS = "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"


class Watch:
    """Notes each step on a file that outlives the process, and does the deed at one of them."""

    def __init__(self, order: dict[str, Any], notes: int) -> None:
        self._order = order
        self._notes = notes
        self._seen: Counter[str] = Counter()
        self.conninfo = ""

    async def __call__(self, call: str, moment: str) -> None:
        self._seen[f"{call} {moment}"] += 1
        step = f"{call} {self._seen[f'{call} {moment}']} {moment}"
        note(self._notes, {"step": step})
        if step == self._order.get("at"):
            await self._strike(self._order["deed"])

    async def _strike(self, deed: str) -> None:
        if deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif deed == "database":
            pid = pid_in(home_of(Path(os.environ["RAGSTONE_HOME"])) / "data" / "postmaster.pid")
            assert pid
            os.kill(pid, signal.SIGKILL)
        else:
            with psycopg.connect(self.conninfo, autocommit=True) as mine:
                if deed == "backend":
                    clients = [row[0] for row in mine.execute(CLIENTS)]
                    os.kill(random.Random(self._order["seed"]).choice(clients), signal.SIGKILL)
                else:
                    mine.execute(f"select pg_terminate_backend(pid) from ({LOCKER}) as locker")
            if deed == "takeover":
                await self._other_run()

    async def _other_run(self) -> None:
        """Another ingest of the same source, from its beginning to its end."""
        words = ["ingest", self._order["folder"], "--corpus", self._order["corpus"], "--source", SOURCE]
        command = str(Path(sys.executable).parent / "ragstone")
        other = await asyncio.create_subprocess_exec(
            command, *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, said = await other.communicate()
        note(self._notes, {"other": other.returncode, "said": said.decode()})


class Watched:
    """Any part, its awaited calls watched."""

    def __init__(self, part: Any, name: str, watch: Watch) -> None:
        self._part = part
        self._name = name
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **more: Any) -> Any:
            await self._watch(f"{self._name}.{name}", "before")
            result = await found(*args, **more)
            await self._watch(f"{self._name}.{name}", "after")
            return result

        return call


class WatchedPublisher(Watched):
    """The publisher: taking its lock and leaving, which commits, are steps too."""

    @asynccontextmanager
    async def publishing(self, *args: Any) -> AsyncIterator[Watched]:
        await self._watch("publisher.enter", "before")
        async with self._part.publishing(*args) as publication:
            await self._watch("publisher.enter", "after")
            yield Watched(publication, "publication", self._watch)
            await self._watch("publisher.leave", "before")
        await self._watch("publisher.leave", "after")


class WatchedSource(Watched):
    """The source: its scan is a step; reading each document is not."""

    async def read(self, listed: Any) -> bytes:
        return await self._part.read(listed)


def watched(parts: flow.IngestParts, watch: Watch) -> flow.IngestParts:
    """The parts of an ingest, each call of a port a step."""
    return replace(
        parts,
        runs=Watched(parts.runs, "runs", watch),
        staging=Watched(parts.staging, "staging", watch),
        publisher=WatchedPublisher(parts.publisher, "publisher", watch),
        embeddings=lambda corpus: Watched(parts.embeddings(corpus), "cache", watch),
        objects=Watched(parts.objects, "objects", watch),
    )


async def ingest(order: dict[str, Any], notes: int) -> None:
    """One ingest as the command line does it, watched."""
    watch = Watch(order, notes)
    async with System(load(None, os.environ)[0], os.environ) as system:
        parts = await system.ingest_parts()
        watch.conninfo = (await system.database()).conninfo
        reader = WatchedSource(system.source(order["folder"]), "source", watch)
        request = flow.IngestRequest(reader, "default", order["corpus"], SOURCE, "folder", allow_delete=True)
        report = await flow.ingest(watched(parts, watch), request)
    made = {"embedded": report.tally.embedded, "version": report.published and report.published.version}
    note(notes, {"ended": made})


def note(notes: int, what: dict[str, Any]) -> None:
    os.write(notes, json.dumps(what).encode() + b"\n")


def child(order: dict[str, Any], notes: int) -> int:
    try:
        asyncio.run(asyncio.wait_for(ingest(order, notes), 60))
    except RagstoneError as error:
        note(notes, {"error": type(error).__name__, "text": str(error)})
        return error.exit_code
    except BaseException:  # noqa: BLE001 - it is what the test wants to know
        note(notes, {"error": "fault", "text": traceback.format_exc()})
        return 99
    return 0


def main() -> None:
    # A database that is away is what the tests are about; the pool tells of every attempt to reach it.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    for line in sys.stdin:
        order = json.loads(line)
        place = Path(order["notes"])
        pid = os.fork()
        if pid == 0:
            os._exit(child(order, os.open(place, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND)))
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
