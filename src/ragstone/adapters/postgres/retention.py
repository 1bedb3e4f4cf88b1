"""Retention: what no kept version holds is removed from live, membership, rows, vectors, placements and texts.

Safe beside readers and runs: rows go only below the oldest kept version, and below the version that any run
under way began with; texts go only when no run is under way, since a run may count on one it has seen.
Postings of removed rows stay, masked, until `maintenance` rewrites their segment.
"""

from __future__ import annotations

from typing import Any

from ragstone.adapters.postgres.database import Connection, Database, fetch_one
from ragstone.adapters.postgres.runs import lock_key, sweep
from ragstone.index.records import Collected, Retention

UNDER_WAY = """
select r.run_id, r.source_id, r.scope, r.base_v from run r where r.corpus_id = %(corpus)s and r.state = 'running'
"""
# Rows that were never live belong to documents that lost against a newer version in their own publish.
DEAD = """
create temp table dead on commit drop as
select c.index_id, c.seq, c.text_hash from chunk c join run r on r.corpus_id = c.corpus_id and r.run_id = c.run_id
where c.corpus_id = %(corpus)s and r.state <> 'running'
  and not exists (select 1 from live l where l.corpus_id = c.corpus_id and l.index_id = c.index_id and l.seq = c.seq
                  and l.v_to > %(oldest)s)
"""
UNHELD = """
create temp table unheld on commit drop as
select d.docversion_id from docversion d join run r on r.corpus_id = d.corpus_id and r.run_id = d.run_id
where d.corpus_id = %(corpus)s and r.state <> 'running'
  and not exists (select 1 from membership m where m.corpus_id = d.corpus_id and m.docversion_id = d.docversion_id)
"""
ROWS = (
    "delete from live where corpus_id = %(corpus)s and v_to <= %(oldest)s",
    "delete from membership where corpus_id = %(corpus)s and v_to <= %(oldest)s",
    DEAD,
    "delete from vector v using dead d where v.corpus_id = %(corpus)s and v.index_id = d.index_id and v.seq = d.seq",
    "delete from chunk c using dead d where c.corpus_id = %(corpus)s and c.index_id = d.index_id and c.seq = d.seq",
    UNHELD,
    "delete from placement p using unheld u where p.corpus_id = %(corpus)s and p.docversion_id = u.docversion_id",
    "delete from docversion d using unheld u where d.corpus_id = %(corpus)s and d.docversion_id = u.docversion_id",
)
TEXTS = """
with gone as (
  delete from text t where t.corpus_id = %(corpus)s
    and not exists (select 1 from chunk c where c.corpus_id = t.corpus_id and c.text_hash = t.text_hash)
  returning 1
) select count(*) from gone
"""
EXPIRED = """
with gone as (
  update version set collected_at = now(), buckets = ''::bytea
  where corpus_id = %(corpus)s and v < %(oldest)s and collected_at is null returning 1
) select count(*) from gone
"""


async def collect(database: Database, corpus: bytes, retention: Retention, *, force: bool) -> Collected:
    """Remove what no kept version holds; without `force` only when enough versions have expired."""
    async with database.transaction("removing expired versions") as connection:
        row = await fetch_one(
            connection,
            "select c.head, coalesce((select min(v) from version"
            " where corpus_id = c.corpus_id and collected_at is null), 1)"
            " from corpus c where c.corpus_id = %s for no key update",
            (corpus,),
        )
        head, held = int(row[0]), int(row[1])
        if not force and not retention.due(head, held):
            return Collected(held)
        await connection.execute("set local statement_timeout = 0")
        running = await _under_way(connection, corpus)
        names: dict[str, Any] = {"corpus": corpus, "oldest": min([retention.oldest(head), *running])}
        if not force and names["oldest"] - held < retention.batch:
            return Collected(held)
        for sql in ROWS:
            await connection.execute(sql, names)
        rows = await fetch_one(connection, "select count(*) from dead")
        documents = await fetch_one(connection, "select count(*) from unheld")
        texts = (0,) if running else await fetch_one(connection, TEXTS, names)
        versions = await fetch_one(connection, EXPIRED, names)
    return Collected(max(held, names["oldest"]), int(versions[0]), int(rows[0]), int(documents[0]), int(texts[0]))


async def _under_way(connection: Connection, corpus: bytes) -> list[int]:
    """The versions that runs under way began with. A run whose lock is free is dead: it is swept here, or the
    remains of a source that is never ingested again would stay for ever."""
    began = []
    cursor = await connection.execute(UNDER_WAY, {"corpus": corpus})
    for run_id, source, scope, base in await cursor.fetchall():
        free = await fetch_one(connection, "select pg_try_advisory_xact_lock(%s)", (lock_key(bytes(source), scope),))
        if free[0]:
            # Waits for a write of it that is under way; every later one is refused.
            await connection.execute(
                "select 1 from run where corpus_id = %s and run_id = %s for update", (corpus, run_id)
            )
            await sweep(connection, corpus, run_id, "dead")
        else:
            began.append(int(base))
    return began
