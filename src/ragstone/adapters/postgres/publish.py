"""The publish of a run: what it staged becomes the next version, if the run may still publish."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict

import psycopg

from ragstone.adapters.postgres.database import Connection, Database
from ragstone.adapters.postgres.maintenance import maintain
from ragstone.adapters.postgres.publication import GROWN, PostgresPublication
from ragstone.adapters.postgres.retention import collect
from ragstone.core.errors import Busy, IntegrityError
from ragstone.index.records import Outcome, Retention, Run, refuse_held, refuse_other_recipe

FRESH = """
create temp table fresh on commit drop as
select dv.docversion_id, dv.document_id, d.key, dv.object_version, dv.leaf, m.docversion_id as old,
       greatest(d.seen_order, s.scanned_order) <= %(order)s
       and (old.docversion_id is null or old.source_order < dv.source_order) as newer
from docversion dv
join document d on d.corpus_id = dv.corpus_id and d.document_id = dv.document_id and d.suppressed_at is null
join source s on s.corpus_id = d.corpus_id and s.source_id = d.source_id
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
  and not exists (select 1 from source s where s.corpus_id = d.corpus_id and s.source_id = d.source_id
                  and greatest(d.seen_order, s.scanned_order) > %(order)s)
"""
# What a run looked at is as new as the run: also what it found unchanged, and what it deleted. A slower run that read
# before must neither replace it nor bring it back.
SEEN = """
update document set seen_order = %(order)s where corpus_id = %(corpus)s and source_id = %(source)s
and key = any(%(examined)s) and seen_order < %(order)s
"""
SCANNED = """
update source set scanned_order = %(order)s where corpus_id = %(corpus)s and source_id = %(source)s
and scanned_order < %(order)s
"""
PUBLISHED = """
update docversion dv set state = 'published' from fresh f
where dv.corpus_id = %(corpus)s and dv.docversion_id = f.docversion_id
"""
ACCESS = """
with moved as (
  update document d set acl_id = dv.acl_id from docversion dv join fresh f on f.docversion_id = dv.docversion_id
  where d.corpus_id = %(corpus)s and dv.corpus_id = %(corpus)s and d.document_id = dv.document_id
    and d.acl_id <> dv.acl_id returning 1
)
update corpus set epoch = epoch + (select count(*) from moved) where corpus_id = %(corpus)s
"""
STAGED = ("document", "docversion", "placement", "chunk", "text (corpus_id, text_hash)", "acl", "source")
# An entry that a newer scan made is neither taken away nor replaced by an older one.
UNFAULTED = """
delete from quarantine where corpus_id = %(corpus)s and source_id = %(source)s and not key = any(%(faulty)s)
and (%(everything)s or key = any(%(examined)s)) and source_order <= %(order)s
"""
FAULTED = """
insert into quarantine as q (corpus_id, source_id, key, object_version, reason, message, field, next_step, source_order)
select %(corpus)s, %(source)s, %(key)s, %(object_version)s, %(reason)s, %(message)s, %(field)s, %(next_step)s, %(order)s
where not exists (
  select 1 from document d
  join membership m on m.corpus_id = d.corpus_id and m.document_id = d.document_id and m.v_to = %(open)s
  join docversion v on v.corpus_id = m.corpus_id and v.docversion_id = m.docversion_id
  where d.corpus_id = %(corpus)s and d.source_id = %(source)s and d.key = %(key)s and v.source_order > %(order)s)
on conflict (corpus_id, source_id, key) do update
set object_version = excluded.object_version, reason = excluded.reason, message = excluded.message,
    field = excluded.field, next_step = excluded.next_step, source_order = excluded.source_order,
    at = case when (q.object_version, q.reason, q.message)
              is distinct from (excluded.object_version, excluded.reason, excluded.message) then now() else q.at end,
    dismissed_at = case when q.object_version = excluded.object_version then q.dismissed_at end
where q.source_order <= excluded.source_order
"""


class PostgresPublisher:
    """Implements the port Publisher."""

    def __init__(
        self,
        database: Database,
        *,
        segments_max: int = 8,
        ann_rows_min: int = 10_000,
        retention: Retention = Retention(),  # noqa: B008 - frozen
    ) -> None:
        self._database = database
        self._segments_max = segments_max
        self._ann_rows_min = ann_rows_min
        self._retention = retention

    @asynccontextmanager
    async def publishing(self, run: Run, outcome: Outcome) -> AsyncIterator[RunPublication]:
        """Take the corpus lock; leaving without commit or skip changes nothing."""
        async with self._database.transaction("publishing") as connection:
            head = await _may_publish(connection, run)
            publication = RunPublication(connection, run, outcome, head)
            yield publication
            if not publication.decided:
                raise psycopg.Rollback

    async def maintain(self, corpus_id: bytes, index_id: bytes) -> None:
        """Let expired versions go, merge postings segments, build the HNSW index when the rows have grown enough."""
        await collect(self._database, corpus_id, self._retention, force=False)
        await maintain(self._database, corpus_id, index_id, self._segments_max, self._ann_rows_min)

    async def tend(self, corpus_id: bytes) -> None:
        """Maintain every index of a corpus."""
        async with self._database.connection("reading the indexes of a corpus") as connection:
            cursor = await connection.execute("select index_id from index where corpus_id = %s", (corpus_id,))
            indexes = [bytes(row[0]) for row in await cursor.fetchall()]
        for index_id in indexes:
            await self.maintain(corpus_id, index_id)


async def _may_publish(connection: Connection, run: Run) -> int:
    """Lock the corpus row and make sure that this run is still the one that may publish; the head."""
    names = {"corpus": run.corpus_id, "run": run.run_id, "base": run.base_version}
    cursor = await connection.execute(
        "select head, index_id, hold from corpus where corpus_id = %(corpus)s for no key update", names
    )
    row = await cursor.fetchone()
    assert row is not None
    refuse_other_recipe(row[1], run.index_id)
    refuse_held(row[2])
    cursor = await connection.execute(
        "select state, exists (select 1 from version"
        " where corpus_id = %(corpus)s and kind = 'rollback' and v > %(base)s)"
        " from run where corpus_id = %(corpus)s and run_id = %(run)s",
        names,
    )
    state = await cursor.fetchone()
    if state is None or state[0] != "running":
        raise Busy("another run took this source over", doing="publishing", next_step="run the same command again")
    if state[1]:
        raise Busy(
            "the corpus was rolled back while this run was under way",
            doing="publishing; nothing was published",
            next_step="run the same command again",
        )
    return int(row[0])


class RunPublication(PostgresPublication):
    """What a run staged, as far as it is newer than what is published, and what its source no longer holds."""

    def __init__(self, connection: Connection, run: Run, outcome: Outcome, head: int) -> None:
        super().__init__(connection, run.origin, head, recount=outcome.recount)
        self._run = run
        self._outcome = outcome
        self._names |= {
            "run": run.run_id, "source": run.source_id, "deleted": list(outcome.deleted),
            "examined": list(outcome.examined), "everything": outcome.replaces_quarantine,
            "faulty": [entry.key for entry in outcome.quarantine],
        }  # fmt: skip

    async def _choose(self) -> tuple[str, ...]:
        await self._count()
        await self._analyze()
        await self._run_sql(FRESH)
        stale = await self._run_sql("delete from fresh where not newer returning key")
        await self._run_sql(GONE)
        return tuple(row[0] for row in stale)

    async def _analyze(self) -> None:
        """Tell the planner of what was staged, when that is a tenth of the corpus: with what it knew of empty tables,
        the comparison of a first run of 100,000 rows took minutes instead of two seconds."""
        known = await self._run_sql(
            "select coalesce((select (statistics->>'rows')::int from version where corpus_id = %(corpus)s"
            " order by v desc limit 1), 0)"
        )
        if self._outcome.rows * GROWN >= known[0][0]:
            for table in STAGED:
                await self._connection.execute(f"analyze {table}")

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

    async def _finish(self) -> None:
        """The run is over and its access lists count: with or without a new version."""
        if self._change is not None and not self._change.empty:
            for sql in (PUBLISHED, ACCESS):
                await self._run_sql(sql)
            await self._run_sql(
                "update index set state = 'serving' where corpus_id = %(corpus)s and index_id = %(index)s"
                " and state <> 'serving'"
            )
            await self._run_sql(
                "update run set state = 'published', ended_at = clock_timestamp()"
                " where corpus_id = %(corpus)s and run_id = %(run)s"
            )
        await self._run_sql(SCANNED if self._run.scope == "scan" else SEEN)
        await self._run_sql(UNFAULTED)
        async with self._connection.cursor() as cursor:
            await cursor.executemany(FAULTED, [self._names | asdict(entry) for entry in self._outcome.quarantine])
