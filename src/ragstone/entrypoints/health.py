"""Checks of every part that the configuration names, for `doctor` and `/readyz`: each is really used."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ragstone.bootstrap import System
from ragstone.core.errors import RagstoneError

State = Literal["ok", "warning", "failed"]
DISK_FREE_MIN = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Check:
    """One part: does it work, and if not, what to do."""

    name: str
    state: State
    detail: str
    next_step: str = ""


async def examine(system: System) -> list[Check]:
    """Every part in turn; one that fails does not keep the others from being checked."""
    checks = [_state(system.home), _disk(system.home)]
    for name, probe in PROBES:
        try:
            checks.append(await probe(system))
        except RagstoneError as error:
            checks.append(Check(name, "failed", error.what, error.next_step))
    return checks


def _state(home: Path) -> Check:
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=home):
            pass
    except OSError as error:
        step = "set RAGSTONE_HOME to a folder that is"
        return Check("state", "failed", f"{home} is not writable: {error.strerror}", step)
    return Check("state", "ok", str(home))


def _disk(home: Path) -> Check:
    place = home
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    state: State = "ok" if free > DISK_FREE_MIN else "warning"
    return Check("disk", state, f"{free / 1e9:.1f} GB free", "" if state == "ok" else "free some space")


async def _database(system: System) -> Check:
    database = await system.database()
    async with database.connection("checking the database") as connection:
        await connection.execute("select 1")
    version = ".".join(map(str, database.pgvector))
    if not database.hnsw_safe:
        step = "upgrade pgvector to 0.8.4 or later; until then every vector is compared exactly"
        return Check("database", "warning", f"pgvector {version} has faults in HNSW", step)
    kind = "DATABASE_URL" if system.settings.database.url else "embedded"
    return Check("database", "ok", f"{kind}, pgvector {version}")


async def _held(system: System) -> Check:
    holds = await (await system.history()).holds()
    if not holds:
        return Check("ingest", "ok", "no corpus is held after a rollback")
    said = "; ".join(f"{corpus}: {hold}" for corpus, hold in holds)
    step = "mend the source, then: ragstone versions resume --corpus NAME"
    return Check("ingest", "warning", f"ingests are refused after a rollback: {said}", step)


async def _embedder(system: System) -> Check:
    name = system.settings.embedder.model
    embedder = await system.embedder(name)
    vector = await embedder.embed_query("Is anybody there?")
    return Check("embedder", "ok", f"{name}, {len(vector)} dimensions, digests verified")


async def _evidence(system: System) -> Check:
    waiting = sum(1 for _ in system.spool.pending())
    shipped = await system.ship()
    aside = system.spool.rejected()
    if aside:
        step = "read them with the release of ragstone that wrote them, or delete them"
        return Check("evidence", "warning", f"records set aside: {', '.join(map(str, aside))}", step)
    return Check("evidence", "ok", f"spool of process {os.getpid()}: {waiting} records waited, {shipped} shipped")


PROBES = (("database", _database), ("ingest", _held), ("embedder", _embedder), ("evidence", _evidence))
