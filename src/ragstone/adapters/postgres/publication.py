"""What every publish shares: one transaction under the corpus lock that compares with the head and moves it.

Which documents come (`fresh`) and go (`gone`) is up to the kind of version: what a run staged (publish.py), what
an old version held, what a person deletes (history.py). All else follows from these two tables.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from ragstone.adapters.postgres.database import Connection
from ragstone.adapters.postgres.runs import OPEN
from ragstone.index.merkle import BUCKETS, bucket_of
from ragstone.index.records import Change, ChangedDocument, Origin, Published, Sealed, VersionStatistics
from ragstone.index.rows import placed_digest

OPENED = """
create temp table opened on commit drop as
select distinct p.seq from fresh f
join placement p on p.corpus_id = %(corpus)s and p.docversion_id = f.docversion_id and p.index_id = %(index)s
where not exists (select 1 from live l where l.corpus_id = %(corpus)s and l.index_id = %(index)s and l.seq = p.seq
                  and l.v_to = %(open)s)
"""
CLOSED = """
create temp table closed on commit drop as
select p.seq from placement p
join (select old from fresh where old is not null union all select old from gone) o on o.old = p.docversion_id
where p.corpus_id = %(corpus)s and p.index_id = %(index)s
except select p.seq from placement p join fresh f on f.docversion_id = p.docversion_id
where p.corpus_id = %(corpus)s and p.index_id = %(index)s
"""
# What a repair closes beside: open rows that no open document places, which no publish leaves behind.
STRAY = """
insert into closed
select l.seq from live l where l.corpus_id = %(corpus)s and l.index_id = %(index)s and l.v_to = %(open)s
and not exists (select 1 from placement p
                join membership m on m.corpus_id = p.corpus_id and m.docversion_id = p.docversion_id
                     and m.v_to = %(open)s
                where p.corpus_id = %(corpus)s and p.index_id = %(index)s and p.seq = l.seq)
and not exists (select 1 from placement p join fresh f on f.docversion_id = p.docversion_id
                where p.corpus_id = %(corpus)s and p.index_id = %(index)s and p.seq = l.seq)
except select seq from closed
"""
# A repair closes only what is open, and nothing that a document which stays places: what it replaces may be damaged.
KEPT = """
delete from closed c
where not exists (select 1 from live l where l.corpus_id = %(corpus)s and l.index_id = %(index)s and l.seq = c.seq
                  and l.v_to = %(open)s)
   or exists (select 1 from placement p
              join membership m on m.corpus_id = p.corpus_id and m.docversion_id = p.docversion_id
                   and m.v_to = %(open)s
              where p.corpus_id = %(corpus)s and p.index_id = %(index)s and p.seq = c.seq
                and m.document_id not in (select document_id from fresh union all select document_id from gone))
"""
DELTA = """
select count(*), coalesce(sum(c.joined_terms), 0), coalesce(sum(c.title_terms), 0)
from {table} t left join chunk c on c.corpus_id = %(corpus)s and c.index_id = %(index)s and c.seq = t.seq
"""
COUNTED = """
select (select count(*) from membership where corpus_id = %(corpus)s and v_to = %(open)s), count(*),
       coalesce(sum(c.joined_terms), 0), coalesce(sum(c.title_terms), 0)
from live l left join chunk c on c.corpus_id = l.corpus_id and c.index_id = l.index_id and c.seq = l.seq
where l.corpus_id = %(corpus)s and l.index_id = %(index)s and l.v_to = %(open)s
"""
# A bucket is a range of document ids: read through the index of what is open, not by looking at every document.
LEAVES = """
select m.document_id, dv.leaf from unnest(%(lows)s::bytea[], %(highs)s::bytea[]) bucket(low, high)
join membership m on m.corpus_id = %(corpus)s and m.v_to = %(open)s
     and m.document_id >= bucket.low and m.document_id < bucket.high
join docversion dv on dv.corpus_id = m.corpus_id and dv.docversion_id = m.docversion_id
where not exists (select 1 from fresh f where f.document_id = m.document_id)
  and not exists (select 1 from gone g where g.document_id = m.document_id)
union all
select document_id, leaf from fresh
"""
MANIFEST_LINES = """
select f.document_id, f.key, f.object_version, f.leaf, r.row_ids, r.chunk_ids, r.starts, r.ends, r.hashes
from {table} f left join lateral (
  select array_agg(c.row_id order by p.ordinal) as row_ids, array_agg(c.chunk_id order by p.ordinal) as chunk_ids,
         array_agg(p.span_start order by p.ordinal) as starts, array_agg(p.span_end order by p.ordinal) as ends,
         array_agg(coalesce(c.vector_hash, ''::bytea) order by p.ordinal) as hashes
  from placement p join chunk c on c.corpus_id = p.corpus_id and c.index_id = p.index_id and c.seq = p.seq
  where p.corpus_id = %(corpus)s and p.docversion_id = f.{docversion} and p.index_id = %(index)s
) r on true order by f.key
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

update corpus set head = %(v)s, index_id = %(index)s where corpus_id = %(corpus)s
"""
# The clock may jump back: "the version that served at" must stay the newest one published by then.
VERSION = """
insert into version (corpus_id, v, parent, kind, index_id, run_id, merkle_root, buckets, manifest_key,
                     manifest_digest, statistics, note, published_at)
values (%(corpus)s, %(v)s, %(parent)s, %(kind)s, %(index)s, %(run)s, %(root)s, %(all_buckets)s, %(manifest)s,
        %(digest)s, %(statistics)s::jsonb, %(note)s,
        greatest(clock_timestamp(), (select max(published_at) + interval '1 microsecond' from version
                                     where corpus_id = %(corpus)s)))
"""

HIGHEST = b"\xff" * 17  # above every document id
# A tenth of the rows is new: what the planner knows is out of date.
GROWN = 10
WRITTEN = ("live", "membership")


class PostgresPublication(ABC):
    """Implements the port Publication on one connection inside one transaction that holds the corpus row."""

    def __init__(self, connection: Connection, origin: Origin, head: int, *, recount: bool = False) -> None:
        self._connection = connection
        self._recount = recount
        self._change: Change | None = None
        self._head = head
        self.origin = origin
        self.decided = False
        self._names: dict[str, Any] = {
            "corpus": origin.corpus_id, "index": origin.index_id, "open": OPEN, "run": None,
            "order": origin.source_order,
        }  # fmt: skip

    async def _run_sql(self, sql: str) -> list[Any]:
        cursor = await self._connection.execute(sql, self._names)
        return await cursor.fetchall() if cursor.description else []

    @abstractmethod
    async def _choose(self) -> tuple[str, ...]:
        """Make the tables `fresh` and `gone`; the keys of documents that stay out as they are not newer."""

    @abstractmethod
    async def _finish(self) -> None:
        """What else this kind of version writes, whether there is something to publish or not."""

    async def _norms(self) -> tuple[float, float] | None:
        """BM25 norms to take over from another version."""
        return None

    async def change(self) -> Change:
        """Compare with the head: what would change. IntegrityError when rows are missing."""
        stale = await self._choose()
        # Temporary tables have no statistics of their own accord, and every statement from here on joins them.
        await self._run_sql("analyze fresh, gone")
        for sql in (OPENED, CLOSED, STRAY, KEPT) if self._recount else (OPENED, CLOSED):
            await self._run_sql(sql)
        await self._run_sql("analyze opened, closed")
        opened = (await self._run_sql(DELTA.format(table="opened")))[0]
        closed = (await self._run_sql(DELTA.format(table="closed")))[0]
        before, buckets_before = await self._before()
        delta = await self._run_sql(
            "select (select count(*) from fresh where old is null) - (select count(*) from gone)"
        )
        added = await self._lines("fresh", "docversion_id")
        removed = await self._lines("gone", "old")
        touched = {bucket_of(each.document_id) for each in (*added, *removed)}
        self._change = Change(
            version=self._head + 1,
            parent=self._head,
            added=added,
            removed=removed,
            stale=stale,
            buckets_before=b"" if self._recount else buckets_before,
            leaves=await self._leaves(set(range(BUCKETS)) if self._recount else touched),
            statistics_before=before,
            rows_opened=int(opened[0]),
            rows_closed=int(closed[0]),
            joined_delta=int(opened[1]) - int(closed[1]),
            title_delta=int(opened[2]) - int(closed[2]),
            documents_after=before.documents + int(delta[0][0]),
            norms=await self._norms(),
        )
        return self._change

    async def _before(self) -> tuple[VersionStatistics, bytes]:
        rows = await self._run_sql(
            "select statistics, buckets from version where corpus_id = %(corpus)s order by v desc limit 1"
        )
        if not rows:
            return VersionStatistics(), b""
        before = msgspec.convert(rows[0][0], VersionStatistics)
        if self._recount:
            documents, live, joined, title = map(int, (await self._run_sql(COUNTED))[0])
            before = replace(before, documents=documents, rows=live, joined_terms=joined, title_terms=title)
        return before, bytes(rows[0][1])

    async def _leaves(self, buckets: set[int]) -> Mapping[int, tuple[bytes, ...]]:
        self._names["lows"] = [bytes([bucket]) for bucket in sorted(buckets)]
        self._names["highs"] = [bytes([bucket + 1]) if bucket + 1 < BUCKETS else HIGHEST for bucket in sorted(buckets)]
        grouped: dict[int, list[bytes]] = {bucket: [] for bucket in buckets}
        for document, leaf in await self._run_sql(LEAVES):
            grouped[bucket_of(document)].append(bytes(leaf))
        return {bucket: tuple(leaves) for bucket, leaves in grouped.items()}

    async def _lines(self, table: str, docversion: str) -> tuple[ChangedDocument, ...]:
        return tuple(
            _line(row) for row in await self._run_sql(MANIFEST_LINES.format(table=table, docversion=docversion))
        )

    async def commit(self, sealed: Sealed) -> Published:
        """Move the head."""
        assert self._change is not None
        change = self._change
        self._names |= {
            "v": change.version, "parent": change.parent, "kind": self.origin.kind, "note": self.origin.note,
            "root": sealed.merkle_root, "all_buckets": sealed.buckets, "manifest": sealed.manifest_key,
            "digest": sealed.manifest_digest, "statistics": json.dumps(msgspec.to_builtins(sealed.statistics)),
        }  # fmt: skip
        for sql in (*MOVE.split(";\n"), VERSION):
            await self._run_sql(sql)
        await self._finish()
        # Autovacuum is minutes away, and plans made for empty tables are bad ones: a process killed right after
        # its commit left 300 documents whose passages took more than 100 s to read. So this commits as well.
        if change.rows_opened * GROWN >= sealed.statistics.rows:
            for table in WRITTEN:
                await self._connection.execute(f"analyze {table}")
        self.decided = True
        return change.published(sealed)

    async def skip(self) -> None:
        """Nothing to publish: leave the head, write the rest."""
        await self._finish()
        self.decided = True


def _line(row: Any) -> ChangedDocument:
    rows, starts, ends, hashes = (row[at] or () for at in (4, 6, 7, 8))
    placed = placed_digest(
        (bytes(one), start, end, bytes(digest))
        for one, start, end, digest in zip(rows, starts, ends, hashes, strict=True)
    )
    chunks = tuple(bytes(each) for each in row[5] or ())
    return ChangedDocument(bytes(row[0]), row[1], row[2], bytes(row[3]), chunks, placed)
