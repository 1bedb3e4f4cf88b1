"""The backends that every contract suite runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from contract_stacks import Stack

from ragstone.adapters.postgres.catalog import PostgresCatalog
from ragstone.adapters.postgres.database import Database
from ragstone.adapters.postgres.embedding_cache import PostgresEmbeddingCache
from ragstone.adapters.postgres.engine import PostgresEngine
from ragstone.adapters.postgres.evidence_store import PostgresEvidence
from ragstone.adapters.postgres.publish import PostgresPublisher
from ragstone.adapters.postgres.runs import PostgresRuns
from ragstone.core.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ragstone.index.records import Run


class Objects:
    """An object store in a dict."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    async def put(self, key: str, data: bytes) -> None:
        self.held[key] = data

    async def get(self, key: str) -> bytes:
        if key not in self.held:
            raise NotFound(f"no object {key!r}")
        return self.held[key]


def postgres_stack(database: Database) -> Stack:
    runs = PostgresRuns(database)

    async def kill(run: Run) -> None:
        await runs._locks.pop(run.run_id).close()

    async def sql(query: str, *params: Any) -> list[Any]:
        async with database.connection("testing") as connection:
            cursor = await connection.execute(query, params)
            return await cursor.fetchall() if cursor.description else []

    async def suppress(corpus: bytes, document: bytes) -> None:
        await sql(
            "update document set suppressed_at = now() where corpus_id = %s and document_id = %s", corpus, document
        )
        await sql("update corpus set epoch = epoch + 1 where corpus_id = %s", corpus)

    async def quarantine(corpus: bytes) -> list[tuple[Any, ...]]:
        return await sql("select key, object_version, reason from quarantine where corpus_id = %s order by key", corpus)

    async def rows(corpus: bytes) -> int:
        return (await sql("select count(*) from chunk where corpus_id = %s", corpus))[0][0]

    async def statistics(corpus: bytes, version: int) -> dict[str, Any]:
        return (await sql("select statistics from version where corpus_id = %s and v = %s", corpus, version))[0][0]

    async def set_secret(corpus: bytes, secret: bytes) -> None:
        await sql("update corpus set secret = %s where corpus_id = %s", secret, corpus)

    return Stack(
        name="postgres",
        runs=runs,
        publisher=PostgresPublisher(database),
        objects=Objects(),
        engine=PostgresEngine(database),
        catalog=PostgresCatalog(database),
        evidence=PostgresEvidence(database),
        cache=lambda corpus: PostgresEmbeddingCache(database, corpus),
        kill=kill,
        suppress=suppress,
        quarantine=quarantine,
        rows=rows,
        statistics=statistics,
        set_secret=set_secret,
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
