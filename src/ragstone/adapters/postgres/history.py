"""What moves the head without a run: going back to an old version, taking one document out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from ragstone.adapters.postgres.catalog import kept_version
from ragstone.adapters.postgres.database import Connection, Database, fetch_one
from ragstone.adapters.postgres.publication import PostgresPublication
from ragstone.adapters.postgres.retention import collect
from ragstone.core.errors import NotFound, UsageError, ambiguous_document, unknown_document
from ragstone.core.ids import corpus_id
from ragstone.index.records import DELETED, Collected, Origin, Retention

# What the old version held and the head does not, and the other way round. Suppressed documents stay away.
OLD_FRESH = """
create temp table fresh on commit drop as
select t.docversion_id, t.document_id, d.key, dv.object_version, dv.leaf, m.docversion_id as old
from membership t
join document d on d.corpus_id = t.corpus_id and d.document_id = t.document_id and d.suppressed_at is null
join docversion dv on dv.corpus_id = t.corpus_id and dv.docversion_id = t.docversion_id
left join membership m on m.corpus_id = t.corpus_id and m.document_id = t.document_id and m.v_to = %(open)s
where t.corpus_id = %(corpus)s and t.v_from <= %(to)s and t.v_to > %(to)s
  and m.docversion_id is distinct from t.docversion_id
"""
OLD_GONE = """
create temp table gone on commit drop as
select m.document_id, m.docversion_id as old, d.key, dv.object_version, dv.leaf
from membership m
join document d on d.corpus_id = m.corpus_id and d.document_id = m.document_id
join docversion dv on dv.corpus_id = m.corpus_id and dv.docversion_id = m.docversion_id
where m.corpus_id = %(corpus)s and m.v_to = %(open)s
  and not exists (select 1 from membership t where t.corpus_id = m.corpus_id and t.document_id = m.document_id
                  and t.v_from <= %(to)s and t.v_to > %(to)s)
"""
NONE_FRESH = """
create temp table fresh (docversion_id bytea, document_id bytea, key text, object_version text, leaf bytea, old bytea)
on commit drop
"""
ONE_GONE = """
create temp table gone on commit drop as
select m.document_id, m.docversion_id as old, d.key, dv.object_version, dv.leaf
from membership m
join document d on d.corpus_id = m.corpus_id and d.document_id = m.document_id
join docversion dv on dv.corpus_id = m.corpus_id and dv.docversion_id = m.docversion_id
where m.corpus_id = %(corpus)s and m.document_id = %(document)s and m.v_to = %(open)s
"""
SUPPRESS = """
with hidden as (
  update document set suppressed_at = now() where corpus_id = %(corpus)s and document_id = %(document)s
    and suppressed_at is null returning 1
)
update corpus set epoch = epoch + (select count(*) from hidden) where corpus_id = %(corpus)s
"""
RESTORE = """
with shown as (
  update document set suppressed_at = null where corpus_id = %(corpus)s and document_id = %(document)s
    and suppressed_at is not null returning 1
), moved as (
  update corpus set epoch = epoch + (select count(*) from shown) where corpus_id = %(corpus)s
)
select count(*) from shown
"""
NAMED = """
select d.document_id, s.name, d.key from document d
join source s on s.corpus_id = d.corpus_id and s.source_id = d.source_id
where d.corpus_id = %(corpus)s and d.key = any(%(keys)s) and %(name)s in (d.key, s.name || ':' || d.key)
  and (d.suppressed_at is not null
       or exists (select 1 from membership m where m.corpus_id = d.corpus_id and m.document_id = d.document_id))
"""


@dataclass(frozen=True, slots=True)
class Serving:
    """The serving row of a corpus, locked."""

    head: int
    index_id: bytes
    secret: bytes


class PostgresHistory:
    """Implements the port History."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def rolling_back(self, tenant: str, corpus: str, to: str, note: str) -> AsyncIterator[PostgresPublication]:
        """A publish of what version `to` held; it sets the hold."""
        ident = corpus_id(tenant, corpus)
        async with self._database.transaction("rolling back") as connection:
            serving = await _lock(connection, ident, corpus)
            version, index_id = await kept_version(connection, ident, serving.head, to)
            if index_id != serving.index_id:
                raise UsageError(
                    f"version {version} was served by another index than the one that serves now",
                    doing="rolling back",
                    next_step="read it with --as-of instead",
                )
            said = note or f"rolled back to version {version}"
            origin = Origin("rollback", ident, serving.index_id, serving.secret, note=said)
            publication = Rollback(connection, origin, serving.head, version)
            yield publication
            if not publication.decided:
                raise psycopg.Rollback

    async def resume(self, tenant: str, corpus: str) -> str:
        """Lift the hold; what it said, "" when there was none."""
        ident = corpus_id(tenant, corpus)
        async with self._database.transaction("lifting the hold") as connection:
            await _lock(connection, ident, corpus)
            row = await fetch_one(connection, "select coalesce(hold, '') from corpus where corpus_id = %s", (ident,))
            await connection.execute("update corpus set hold = null where corpus_id = %s", (ident,))
        return str(row[0])

    async def holds(self) -> list[tuple[str, str]]:
        """The corpora that are held after a rollback, and what each hold says."""
        async with self._database.connection("reading holds") as connection:
            cursor = await connection.execute("select name, hold from corpus where hold is not null order by name")
            return [(row[0], row[1]) for row in await cursor.fetchall()]

    @asynccontextmanager
    async def deleting(self, tenant: str, corpus: str, document: str, note: str) -> AsyncIterator[PostgresPublication]:
        """A publish without one document, which is suppressed in every version."""
        ident = corpus_id(tenant, corpus)
        async with self._database.transaction("deleting a document") as connection:
            serving = await _lock(connection, ident, corpus)
            found = await _document(connection, ident, document, corpus)
            origin = Origin("delete", ident, serving.index_id, serving.secret, note=note or DELETED)
            publication = Deletion(connection, origin, serving.head, found)
            yield publication
            if not publication.decided:
                raise psycopg.Rollback

    async def restore(self, tenant: str, corpus: str, document: str) -> bool:
        """Take a deletion back; False when the document was not deleted."""
        ident = corpus_id(tenant, corpus)
        async with self._database.transaction("taking a deletion back") as connection:
            await _lock(connection, ident, corpus)
            found = await _document(connection, ident, document, corpus)
            row = await fetch_one(connection, RESTORE, {"corpus": ident, "document": found})
        return bool(row[0])

    async def collect(self, corpus_id: bytes, retention: Retention, *, force: bool) -> Collected:
        """Remove what no kept version holds."""
        return await collect(self._database, corpus_id, retention, force=force)


class Rollback(PostgresPublication):
    """What an old version held, as a new one. Access lists stay today's: a right that was withdrawn since then
    does not come back."""

    def __init__(self, connection: Connection, origin: Origin, head: int, to: int) -> None:
        super().__init__(connection, origin, head)
        self._names["to"] = to

    async def _choose(self) -> tuple[str, ...]:
        await self._run_sql(OLD_FRESH)
        await self._run_sql(OLD_GONE)
        return ()

    async def _norms(self) -> tuple[float, float] | None:
        rows = await self._run_sql(
            "select statistics->'norms' from version where corpus_id = %(corpus)s and v = %(to)s"
        )
        joined, title = rows[0][0]
        return float(joined), float(title)

    async def _finish(self) -> None:
        if self._change is not None and not self._change.empty:
            self._names["hold"] = f"{self.origin.note} (as version {self._change.version})"
            await self._run_sql("update corpus set hold = %(hold)s where corpus_id = %(corpus)s")


class Deletion(PostgresPublication):
    """The head without one document."""

    def __init__(self, connection: Connection, origin: Origin, head: int, document: bytes) -> None:
        super().__init__(connection, origin, head)
        self._names["document"] = document

    async def _choose(self) -> tuple[str, ...]:
        await self._run_sql(NONE_FRESH)
        await self._run_sql(ONE_GONE)
        return ()

    async def _finish(self) -> None:
        await self._run_sql(SUPPRESS)


async def _lock(connection: Connection, ident: bytes, corpus: str) -> Serving:
    cursor = await connection.execute(
        "select head, index_id, secret from corpus where corpus_id = %s for no key update", (ident,)
    )
    row = await cursor.fetchone()
    if row is None or row[0] == 0:
        raise NotFound(
            f"corpus {corpus!r} has no documents" if row else f"unknown corpus {corpus!r}",
            doing="reading the serving version",
            next_step="ingest something first: ragstone ingest FOLDER",
        )
    return Serving(int(row[0]), bytes(row[1]), bytes(row[2]))


async def _document(connection: Connection, ident: bytes, document: str, corpus: str) -> bytes:
    """The id of a document that some version holds or held, or that was deleted."""
    parts = document.split(":")
    names: dict[str, Any] = {
        "corpus": ident, "name": document, "keys": [":".join(parts[at:]) for at in range(len(parts))],
    }  # fmt: skip
    rows = await (await connection.execute(NAMED, names)).fetchall()
    if not rows:
        raise unknown_document(document, corpus)
    if len(rows) > 1:
        raise ambiguous_document(document, (f"{row[1]}:{row[2]}" for row in rows))
    return bytes(rows[0][0])
