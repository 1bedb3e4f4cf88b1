"""The publish: one transaction under the corpus lock that compares a run with the head and moves it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import psycopg

from ragstone.adapters.postgres.database import Connection, Database, fetch_one
from ragstone.adapters.postgres.maintenance import maintain
from ragstone.adapters.postgres.runs import OPEN
from ragstone.core.errors import Busy, IntegrityError
from ragstone.index.merkle import bucket_of
from ragstone.index.records import (
    Change,
    ChangedDocument,
    Outcome,
    Published,
    Run,
    Sealed,
    VersionStatistics,
    refuse_other_recipe,
)

FRESH = """
create temp table fresh on commit drop as
select dv.docversion_id, dv.document_id, d.key, dv.object_version, dv.leaf, m.docversion_id as old,
       (old.docversion_id is null or old.source_order < dv.source_order) as newer
from docversion dv
join document d on d.corpus_id = dv.corpus_id and d.document_id = dv.document_id
left join membership m on m.corpus_id = dv.corpus_id and m.document_id = dv.document_id and m.v_to = %(open)s
left join docversion old on old.corpus_id = m.corpus_id and old.docversion_id = m.docversion_id
where dv.corpus_id = %(corpus)s and dv.run_id = %(run)s and dv.state = 'staged'
"""
GONE = """
create temp table gone on commit drop as
select m.document_id, m.docversion_id as old, d.key, dv.object_version, dv.leaf
from membership m
join document d on d.corpus_id = m.corpus_id and d.document_id = m.document_id
join docversion dv on dv.corpus_id = m.corpus_id and dv.docversion_id = m.docversion_id
where m.corpus_id = %(corpus)s and m.document_id = any(%(deleted)s) and m.v_to = %(open)s
  and dv.source_order < %(order)s
"""
OPENED = """
create temp table opened on commit drop as
select distinct p.seq from placement p join fresh f on f.docversion_id = p.docversion_id
where p.corpus_id = %(corpus)s and p.index_id = %(index)s
except select seq from live where corpus_id = %(corpus)s and index_id = %(index)s and v_to = %(open)s
"""
CLOSED = """
create temp table closed on commit drop as
select p.seq from placement p
join (select old from fresh where old is not null union all select old from gone) o on o.old = p.docversion_id
where p.corpus_id = %(corpus)s and p.index_id = %(index)s
except select p.seq from placement p join fresh f on f.docversion_id = p.docversion_id
where p.corpus_id = %(corpus)s and p.index_id = %(index)s
"""
DELTA = """
select count(*), coalesce(sum(c.joined_terms), 0), coalesce(sum(c.title_terms), 0)
from {table} t join chunk c on c.corpus_id = %(corpus)s and c.index_id = %(index)s and c.seq = t.seq
"""
LEAVES = """
select m.document_id, dv.leaf from membership m
join docversion dv on dv.corpus_id = m.corpus_id and dv.docversion_id = m.docversion_id
where m.corpus_id = %(corpus)s and m.v_to = %(open)s and get_byte(m.document_id, 0) = any(%(buckets)s)
  and not exists (select 1 from fresh f where f.document_id = m.document_id)
  and not exists (select 1 from gone g where g.document_id = m.document_id)
union all
select document_id, leaf from fresh where get_byte(document_id, 0) = any(%(buckets)s)
"""
MANIFEST_LINES = """
select f.document_id, f.key, f.object_version, f.leaf,
       array(select c.chunk_id from placement p
             join chunk c on c.corpus_id = p.corpus_id and c.index_id = p.index_id and c.seq = p.seq
             where p.corpus_id = %(corpus)s and p.docversion_id = f.{docversion} and p.index_id = %(index)s
             order by p.ordinal)
from {table} f order by f.key
"""
MOVE = """
update membership m set v_to = %(v)s
from (select document_id from fresh where old is not null union all select document_id from gone) o
where m.corpus_id = %(corpus)s and m.document_id = o.document_id and m.v_to = %(open)s;

insert into membership (corpus_id, document_id, docversion_id, v_from)
select %(corpus)s, document_id, docversion_id, %(v)s from fresh;

update live l set v_to = %(v)s from closed c
where l.corpus_id = %(corpus)s and l.index_id = %(index)s and l.seq = c.seq and l.v_to = %(open)s;

insert into live (corpus_id, index_id, seq, v_from) select %(corpus)s, %(index)s, seq, %(v)s from opened;

update docversion dv set state = 'published' from fresh f
where dv.corpus_id = %(corpus)s and dv.docversion_id = f.docversion_id;

with moved as (
  update document d set acl_id = dv.acl_id from docversion dv join fresh f on f.docversion_id = dv.docversion_id
  where d.corpus_id = %(corpus)s and dv.corpus_id = %(corpus)s and d.document_id = dv.document_id
    and d.acl_id <> dv.acl_id returning 1
)
update corpus set epoch = epoch + (select count(*) from moved) where corpus_id = %(corpus)s;

update corpus set head = %(v)s, index_id = %(index)s where corpus_id = %(corpus)s;

update index set state = 'serving' where corpus_id = %(corpus)s and index_id = %(index)s;

update run set state = 'published', ended_at = clock_timestamp() where corpus_id = %(corpus)s and run_id = %(run)s
"""

# A tenth of the rows is new: what the planner knows is out of date.
GROWN = 10
ANALYZED = (
    "live", "membership", "document", "docversion", "placement", "chunk", "text (corpus_id, text_hash)",
    "acl", "source",
)  # fmt: skip


class PostgresPublisher:
    """Implements the port Publisher."""

    def __init__(self, database: Database, *, segments_max: int = 8, ann_rows_min: int = 10_000) -> None:
        self._database = database
        self._segments_max = segments_max
        self._ann_rows_min = ann_rows_min

    @asynccontextmanager
    async def publishing(self, run: Run, outcome: Outcome) -> AsyncIterator[PostgresPublication]:
        """Take the corpus lock; leaving without commit or skip changes nothing."""
        async with self._database.transaction("publishing") as connection:
            publication = PostgresPublication(connection, run, outcome)
            await publication.lock()
            yield publication
            if not publication.decided:
                raise psycopg.Rollback

    async def maintain(self, corpus_id: bytes, index_id: bytes) -> None:
        """Merge postings segments and build the HNSW index when the rows have grown enough for one."""
        await maintain(self._database, corpus_id, index_id, self._segments_max, self._ann_rows_min)


class PostgresPublication:
    """Implements the port Publication on one connection inside one transaction."""

    def __init__(self, connection: Connection, run: Run, outcome: Outcome) -> None:
        self._connection = connection
        self._run = run
        self._outcome = outcome
        self._head = 0
        self._change: Change | None = None
        self.decided = False
        self._names: dict[str, Any] = {
            "corpus": run.corpus_id, "index": run.index_id, "run": run.run_id, "open": OPEN,
            "deleted": list(outcome.deleted), "order": run.source_order,
        }  # fmt: skip

    async def _run_sql(self, sql: str) -> list[Any]:
        cursor = await self._connection.execute(sql, self._names)
        return await cursor.fetchall() if cursor.description else []

    async def lock(self) -> None:
        """Lock the corpus row and make sure that this run is still the one that may publish."""
        row = await fetch_one(
            self._connection, "select head, index_id from corpus where corpus_id = %(corpus)s for update", self._names
        )
        self._head = int(row[0])
        refuse_other_recipe(row[1], self._run.index_id)
        state = await self._run_sql("select state from run where corpus_id = %(corpus)s and run_id = %(run)s")
        if not state or state[0][0] != "running":
            raise Busy(
                "another run took this source over",
                doing="publishing",
                next_step="run the same command again",
            )

    async def change(self) -> Change:
        """Compare the run with the head: what would change. IntegrityError when rows are missing."""
        await self._count()
        await self._run_sql(FRESH)
        stale = await self._run_sql("delete from fresh where not newer returning key")
        for sql in (GONE, OPENED, CLOSED):
            await self._run_sql(sql)
        opened = (await self._run_sql(DELTA.format(table="opened")))[0]
        closed = (await self._run_sql(DELTA.format(table="closed")))[0]
        before, buckets_before, documents = await self._before()
        added = await self._lines("fresh", "docversion_id")
        removed = await self._lines("gone", "old")
        self._change = Change(
            version=self._head + 1,
            parent=self._head,
            added=added,
            removed=removed,
            stale=tuple(row[0] for row in stale),
            buckets_before=buckets_before,
            leaves=await self._leaves({bucket_of(d.document_id) for d in (*added, *removed)}),
            statistics_before=before,
            rows_opened=int(opened[0]),
            rows_closed=int(closed[0]),
            joined_delta=int(opened[1]) - int(closed[1]),
            title_delta=int(opened[2]) - int(closed[2]),
            documents_after=documents,
        )
        return self._change

    async def _count(self) -> None:
        rows = (await self._run_sql("select count(*) from chunk where corpus_id = %(corpus)s and run_id = %(run)s"))[0]
        documents = await self._run_sql(
            "select count(*) from docversion where corpus_id = %(corpus)s and run_id = %(run)s and state = 'staged'"
        )
        found = (int(documents[0][0]), int(rows[0]))
        planned = (self._outcome.documents, self._outcome.rows)
        if found != planned:
            raise IntegrityError(
                f"the run wrote {planned[0]} documents and {planned[1]} rows,"
                f" the database holds {found[0]} and {found[1]}",
                doing="publishing",
                next_step="run the same command again; nothing was published",
            )

    async def _before(self) -> tuple[VersionStatistics, bytes, int]:
        rows = await self._run_sql(
            "select statistics, buckets from version where corpus_id = %(corpus)s order by v desc limit 1"
        )
        count = await self._run_sql(
            "select (select count(*) from fresh where old is null) - (select count(*) from gone)"
        )
        if not rows:
            return VersionStatistics(), b"", int(count[0][0])
        before = msgspec.convert(rows[0][0], VersionStatistics)
        return before, bytes(rows[0][1]), before.documents + int(count[0][0])

    async def _leaves(self, buckets: set[int]) -> Mapping[int, tuple[bytes, ...]]:
        self._names["buckets"] = sorted(buckets)
        grouped: dict[int, list[bytes]] = {bucket: [] for bucket in buckets}
        for document, leaf in await self._run_sql(LEAVES):
            grouped[bucket_of(document)].append(bytes(leaf))
        return {bucket: tuple(leaves) for bucket, leaves in grouped.items()}

    async def _lines(self, table: str, docversion: str) -> tuple[ChangedDocument, ...]:
        rows = await self._run_sql(MANIFEST_LINES.format(table=table, docversion=docversion))
        return tuple(
            ChangedDocument(bytes(r[0]), r[1], r[2], bytes(r[3]), tuple(bytes(chunk) for chunk in r[4])) for r in rows
        )

    async def commit(self, sealed: Sealed) -> Published:
        """Move the head."""
        assert self._change is not None
        change = self._change
        self._names["v"] = change.version
        for sql in MOVE.split(";\n"):
            await self._run_sql(sql)
        await self._connection.execute(
            "insert into version (corpus_id, v, parent, kind, index_id, run_id, merkle_root, buckets, manifest_key,"
            " manifest_digest, statistics) values (%s, %s, %s, 'ingest', %s, %s, %s, %s, %s, %s, %s::jsonb)",
            (self._run.corpus_id, change.version, change.parent, self._run.index_id, self._run.run_id,
             sealed.merkle_root, sealed.buckets, sealed.manifest_key, sealed.manifest_digest,
             json.dumps(msgspec.to_builtins(sealed.statistics))),
        )  # fmt: skip
        await self._quarantine()
        # Autovacuum is minutes away, and plans made for empty tables are bad ones: a process killed right after
        # its commit left 300 documents whose passages took more than 100 s to read. So this commits as well.
        if change.rows_opened * GROWN >= sealed.statistics.rows:
            for table in ANALYZED:
                await self._connection.execute(f"analyze {table}")
        self.decided = True
        return Published(
            version=change.version,
            added=len(change.added),
            removed=len(change.removed),
            stale=change.stale,
            rows=sealed.statistics.rows,
            rows_opened=change.rows_opened,
            rows_closed=change.rows_closed,
            merkle_root=sealed.merkle_root,
        )

    async def skip(self) -> None:
        """Nothing to publish: record faults, leave the head."""
        await self._quarantine()
        self.decided = True

    async def _quarantine(self) -> None:
        keys = [entry.key for entry in self._outcome.quarantine]
        if self._outcome.replaces_quarantine:
            await self._connection.execute(
                "delete from quarantine where corpus_id = %s and source_id = %s and not key = any(%s)",
                (self._run.corpus_id, self._run.source_id, keys),
            )
        async with self._connection.cursor() as cursor:
            await cursor.executemany(
                "insert into quarantine as q (corpus_id, source_id, key, object_version, reason, message, field,"
                " next_step) values (%s, %s, %s, %s, %s, %s, %s, %s) on conflict (corpus_id, source_id, key) do update"
                " set object_version = excluded.object_version, reason = excluded.reason, message = excluded.message,"
                " field = excluded.field, next_step = excluded.next_step, at = now(),"
                " dismissed_at = case when q.object_version = excluded.object_version then q.dismissed_at end"
                " where (q.object_version, q.reason, q.message)"
                " is distinct from (excluded.object_version, excluded.reason, excluded.message)",
                [
                    (
                        self._run.corpus_id,
                        self._run.source_id,
                        e.key,
                        e.object_version,
                        e.reason,
                        e.message,
                        e.field,
                        e.next_step,
                    )
                    for e in self._outcome.quarantine
                ],
            )
