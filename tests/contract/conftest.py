"""The backends that every contract suite runs on."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio
from contract_stacks import Stack

from ragstone.adapters.memory.engine import MemoryEngine
from ragstone.adapters.memory.store import MemoryStore
from ragstone.adapters.memory.stores import MemoryObjects
from ragstone.adapters.postgres.catalog import PostgresCatalog
from ragstone.adapters.postgres.database import Database
from ragstone.adapters.postgres.embedding_cache import PostgresEmbeddingCache
from ragstone.adapters.postgres.engine import EngineLimits, PostgresEngine
from ragstone.adapters.postgres.evidence_store import PostgresEvidence
from ragstone.adapters.postgres.history import PostgresHistory
from ragstone.adapters.postgres.library import PostgresLibrary
from ragstone.adapters.postgres.publish import PostgresPublisher
from ragstone.adapters.postgres.runs import PostgresRuns
from ragstone.index.postings import unpack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ragstone.index.records import Run


class PostgresProbe:
    """What a test must see and do beside the ports."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.runs = PostgresRuns(database)

    async def kill(self, run: Run) -> None:
        await self.runs._locks.pop(run.run_id).close()

    async def sql(self, query: str, *params: Any) -> list[Any]:
        async with self.database.connection("testing") as connection:
            cursor = await connection.execute(query, params)
            return await cursor.fetchall() if cursor.description else []

    async def suppress(self, corpus: bytes, document: bytes) -> None:
        await self.sql(
            "update document set suppressed_at = now() where corpus_id = %s and document_id = %s",
            corpus,
            document,
        )
        await self.sql("update corpus set epoch = epoch + 1 where corpus_id = %s", corpus)

    async def quarantine(self, corpus: bytes) -> list[tuple[Any, ...]]:
        return await self.sql(
            "select key, object_version, reason from quarantine where corpus_id = %s order by key", corpus
        )

    async def rows(self, corpus: bytes) -> int:
        return (await self.sql("select count(*) from chunk where corpus_id = %s", corpus))[0][0]

    async def statistics(self, corpus: bytes, version: int) -> dict[str, Any]:
        return (await self.sql("select statistics from version where corpus_id = %s and v = %s", corpus, version))[0][0]

    async def segments(self, corpus: bytes) -> int:
        return (await self.sql("select count(*) from segment where corpus_id = %s", corpus))[0][0]

    async def set_secret(self, corpus: bytes, secret: bytes) -> None:
        await self.sql("update corpus set secret = %s where corpus_id = %s", secret, corpus)

    async def posted(self, corpus: bytes) -> set[int]:
        packed = await self.sql("select bytes from posting where corpus_id = %s", corpus)
        return {seq for (each,) in packed for seq in unpack(each).seqs.tolist()}

    async def postdate(self, corpus: bytes, version: int) -> None:
        later = "update version set published_at = published_at + interval '1 day' where corpus_id = %s and v = %s"
        await self.sql(later, corpus, version)


def postgres_stack(database: Database) -> Stack:
    probe = PostgresProbe(database)
    return Stack(
        name="postgres",
        runs=probe.runs,
        publisher=PostgresPublisher(database),
        history=PostgresHistory(database),
        objects=MemoryObjects(),
        engine=PostgresEngine(database),
        new_engine=lambda size=1 << 26: PostgresEngine(database, EngineLimits(cache_bytes=size)),
        catalog=PostgresCatalog(database),
        evidence=PostgresEvidence(database),
        cache=lambda corpus: PostgresEmbeddingCache(database, corpus),
        kill=probe.kill,
        suppress=probe.suppress,
        quarantine=probe.quarantine,
        rows=probe.rows,
        statistics=probe.statistics,
        set_secret=probe.set_secret,
        segments=probe.segments,
        posted=probe.posted,
        postdate=probe.postdate,
    )


def memory_stack(store: MemoryStore) -> Stack:
    async def kill(run: Run) -> None:
        store.runs.abandon(run)

    async def suppress(corpus: bytes, document: bytes) -> None:
        store.state.corpus(corpus).suppress(document)

    async def quarantine(corpus: bytes) -> list[tuple[Any, ...]]:
        held = [fault.entry for fault in store.state.corpus(corpus).quarantine.values()]
        return sorted((entry.key, entry.object_version, entry.reason) for entry in held)

    async def rows(corpus: bytes) -> int:
        return sum(len(index.rows) for index in store.state.corpus(corpus).indexes.values())

    async def statistics(corpus: bytes, version: int) -> dict[str, Any]:
        return msgspec.to_builtins(store.state.corpus(corpus).versions[version - 1].sealed.statistics)

    async def set_secret(corpus: bytes, secret: bytes) -> None:
        store.state.corpus(corpus).secret = secret

    async def segments(corpus: bytes) -> int:
        return sum(len(index.segments) for index in store.state.corpus(corpus).indexes.values())

    async def posted(corpus: bytes) -> set[int]:
        held = [one for index in store.state.corpus(corpus).indexes.values() for one in index.segments.values()]
        return {seq for one in held for piece in one.terms.values() for seq in piece.seqs.tolist()}

    async def postdate(corpus: bytes, version: int) -> None:
        store.state.corpus(corpus).versions[version - 1].published_at += timedelta(days=1)

    return Stack(
        name="memory",
        runs=store.runs,
        publisher=store.publisher,
        history=store.history,
        objects=store.objects,
        engine=store.engine,
        new_engine=lambda size=1 << 26: MemoryEngine(store.state, size),
        catalog=store.catalog,
        evidence=store.evidence,
        cache=store.cache,
        kill=kill,
        suppress=suppress,
        quarantine=quarantine,
        rows=rows,
        statistics=statistics,
        set_secret=set_secret,
        segments=segments,
        posted=posted,
        postdate=postdate,
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def database(dsn: str) -> AsyncIterator[Database]:
    opened = Database(dsn)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def postgres(database: Database) -> Stack:
    return postgres_stack(database)


@pytest.fixture(scope="session")
def library(database: Database) -> PostgresLibrary:
    return PostgresLibrary(database)


@pytest.fixture(scope="session")
def memory() -> Stack:
    return memory_stack(MemoryStore())


@pytest.fixture(scope="session", params=["memory", "postgres"])
def stack(request: pytest.FixtureRequest) -> Stack:
    """One backend; the suite runs once on each."""
    return request.getfixturevalue(request.param)
