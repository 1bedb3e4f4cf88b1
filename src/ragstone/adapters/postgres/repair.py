"""What a repair writes in place: things that follow from a proof and that no publish puts right."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from ragstone.adapters.postgres.copying import copy_postings, multirange
from ragstone.adapters.postgres.database import Connection, Database, fetch_one
from ragstone.adapters.postgres.maintenance import MAINTENANCE_LOCK
from ragstone.adapters.postgres.runs import OPEN, acl_id
from ragstone.core.ids import source_id
from ragstone.core.ports import Seqs
from ragstone.index.audit.records import RestoreDocument, VersionRow
from ragstone.index.postings import LexicalRow, build, pack, without

PAGE_POSTINGS = 2000
SEGMENT_ROWS_MAX = 5000

ACCESS_LIST = """
insert into acl (corpus_id, acl_id, principals) values (%(corpus)s, %(acl)s, %(principals)s)
on conflict (corpus_id, acl_id) do update set principals = excluded.principals
"""
# Without a list from the source, a document that has no row gets the one that its published version came with.
DOCUMENT = """
insert into document as d (corpus_id, document_id, source_id, key, acl_id)
select %(corpus)s, %(document)s, %(source)s, %(key)s, coalesce(%(acl)s, (
  select v.acl_id from membership m join docversion v on v.corpus_id = m.corpus_id and v.docversion_id = m.docversion_id
  where m.corpus_id = %(corpus)s and m.document_id = %(document)s and m.v_to = %(open)s limit 1), %(nobody)s)
on conflict (corpus_id, document_id) do update
set source_id = excluded.source_id, key = excluded.key, acl_id = coalesce(%(acl)s, d.acl_id)
"""
EPOCH = "update corpus set epoch = epoch + 1 where corpus_id = %(corpus)s"
VERSION = """
update version set parent = %(parent)s, kind = %(kind)s, note = %(note)s, index_id = %(index)s, merkle_root = %(root)s,
       buckets = %(buckets)s, manifest_key = %(key)s, manifest_digest = %(digest)s, statistics = %(statistics)s::jsonb
where corpus_id = %(corpus)s and v = %(v)s
"""
SETTLE = (
    """
    update membership set v_to = (select head + 1 from corpus where corpus_id = %(corpus)s)
    where corpus_id = %(corpus)s and v_to < %(open)s
      and v_to > (select head + 1 from corpus where corpus_id = %(corpus)s)
    """,
    """
    delete from live where corpus_id = %(corpus)s and index_id = %(index)s
    and v_from > (select head from corpus where corpus_id = %(corpus)s)
    """,
    """
    update live set v_to = (select head + 1 from corpus where corpus_id = %(corpus)s)
    where corpus_id = %(corpus)s and index_id = %(index)s and v_to < %(open)s
      and v_to > (select head + 1 from corpus where corpus_id = %(corpus)s)
    """,
    """
    delete from live l where l.corpus_id = %(corpus)s and l.index_id = %(index)s and l.v_to = %(open)s and exists (
      select 1 from live o where o.corpus_id = l.corpus_id and o.index_id = l.index_id and o.seq = l.seq
      and o.v_to = l.v_to and o.v_from < l.v_from)
    """,
)
SINCE = """
select count(*) filter (where m.v_from > c.v) + count(*) filter (where m.v_to > c.v and m.v_to < %(open)s)
from membership m, (select coalesce(max(v), 0) as v from version
                    where corpus_id = %(corpus)s and checkpoint_key is not null) c
where m.corpus_id = %(corpus)s
"""
PAGE = """
select p.term, p.segment_id, p.bytes from posting p
join segment s on s.corpus_id = p.corpus_id and s.index_id = p.index_id and s.segment_id = p.segment_id
where p.corpus_id = %(corpus)s and p.index_id = %(index)s and (p.term, p.segment_id) > (%(term)s, %(segment)s)
  and (%(only)s::int is null or p.segment_id = %(only)s)
order by p.term, p.segment_id limit %(limit)s
"""
NUMBER = """
update index set next_segment = next_segment + 1 where corpus_id = %(corpus)s and index_id = %(index)s
returning next_segment
"""
# What is left of a segment keeps the run and, but for the rows that were taken out, the spans it was written with.
REMAINDER = """
with old as (delete from segment where corpus_id = %(corpus)s and index_id = %(index)s and segment_id = %(old)s
             returning *, spans - %(spans)s::int4multirange as kept)
insert into segment (corpus_id, index_id, segment_id, seq_lo, seq_hi, n_rows, run_id, spans)
select corpus_id, index_id, %(new)s, lower(kept), upper(kept),
       (select sum(upper(span) - lower(span)) from unnest(kept) span), run_id, kept
from old where not isempty(kept)
"""
FRESH = """
insert into segment (corpus_id, index_id, segment_id, seq_lo, seq_hi, n_rows, run_id, spans)
select %(corpus)s, %(index)s, %(new)s, %(lo)s, %(hi)s, %(n)s, run_id, %(spans)s::int4multirange
from run where corpus_id = %(corpus)s and index_id = %(index)s and state = 'published' order by ended_at desc limit 1
"""
ORPHANS = """
delete from posting p where p.corpus_id = %(corpus)s and p.index_id = %(index)s and not exists (
  select 1 from segment s where s.corpus_id = p.corpus_id and s.index_id = p.index_id and s.segment_id = p.segment_id)
"""


class PostgresMender:
    """Implements the port Mender."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def restore_document(self, corpus_id: bytes, truth: RestoreDocument, acl: tuple[str, ...] | None) -> None:
        """Write a document's row again, and its access list when it is given."""
        names: dict[str, Any] = {
            "corpus": corpus_id, "document": truth.document_id, "source": source_id(corpus_id, truth.source),
            "key": truth.key, "acl": acl_id(acl) if acl is not None else None, "open": OPEN, "nobody": acl_id(()),
            "principals": sorted(set(acl or ())),
        }  # fmt: skip
        async with self._database.transaction("restoring a document's row") as connection:
            await connection.execute("select 1 from corpus where corpus_id = %(corpus)s for update", names)
            if acl is not None:
                await connection.execute(ACCESS_LIST, names)
            await connection.execute(DOCUMENT, names)
            await connection.execute(EPOCH, names)

    async def settle(self, corpus_id: bytes, index_id: bytes) -> None:
        """Let what counts at the head end with the next version where it ends beyond it; drop second entries."""
        names = {"corpus": corpus_id, "index": index_id, "open": OPEN}
        async with self._database.transaction("settling what is live") as connection:
            await connection.execute("select 1 from corpus where corpus_id = %(corpus)s for update", names)
            for sql in SETTLE:
                await connection.execute(sql, names)

    async def restore_version(self, corpus_id: bytes, truth: VersionRow) -> None:
        """Write a version's row again."""
        names = {
            "corpus": corpus_id, "v": truth.version, "parent": truth.parent, "kind": truth.kind, "note": truth.note,
            "index": truth.index_id, "root": truth.merkle_root, "buckets": truth.buckets, "key": truth.manifest_key,
            "digest": truth.manifest_digest, "statistics": json.dumps(msgspec.to_builtins(truth.statistics)),
        }  # fmt: skip
        async with self._database.transaction("restoring a version's row") as connection:
            await connection.execute(VERSION, names)

    async def rewrite_postings(
        self,
        corpus_id: bytes,
        index_id: bytes,
        seqs: Seqs,
        segments: frozenset[int],
        rows: AsyncIterator[Sequence[LexicalRow]],
    ) -> int:
        """Take rows out of every segment that has them and write them again in new ones. A segment that changes gets
        a new number: what a running service remembers of the old one must not be taken for it."""
        names: dict[str, Any] = {"corpus": corpus_id, "index": index_id, "limit": PAGE_POSTINGS}
        written = 0
        async with self._database.transaction("rewriting postings") as connection:
            await connection.execute("set local statement_timeout = 0")
            lock = (MAINTENANCE_LOCK, index_id.hex())
            await connection.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", lock)
            for old in sorted(segments | await _having(connection, names, seqs)):
                await _without(connection, names, old, seqs)
            waiting: list[LexicalRow] = []
            async for page in rows:
                waiting += page
                if len(waiting) >= SEGMENT_ROWS_MAX:
                    written += await _segment(connection, names, waiting)
                    waiting = []
            written += await _segment(connection, names, waiting)
            await connection.execute(ORPHANS, names)
            # What a running service has worked out from the damaged ones is of an epoch that is over.
            await connection.execute(EPOCH, names)
        return written

    async def forget(self, corpus_id: bytes, embedding_id: bytes, hashes: Sequence[bytes]) -> None:
        """Drop entries of the embedding cache."""
        async with self._database.connection("dropping cached embeddings") as connection:
            await connection.execute(
                "delete from embedding_cache where corpus_id = %s and embedding_id = %s and text_hash = any(%s)",
                (corpus_id, embedding_id, list(hashes)),
            )

    async def changes_since_checkpoint(self, corpus_id: bytes) -> int:
        """How many documents came and went since the newest checkpoint."""
        async with self._database.connection("looking for the newest checkpoint") as connection:
            row = await fetch_one(connection, SINCE, {"corpus": corpus_id, "open": OPEN})
        return int(row[0])

    async def keep_checkpoint(self, corpus_id: bytes, version: int, key: str, digest: bytes) -> None:
        """Let a version name the manifest that lists everything it holds."""
        async with self._database.connection("keeping a checkpoint") as connection:
            await connection.execute(
                "update version set checkpoint_key = %s, checkpoint_digest = %s where corpus_id = %s and v = %s",
                (key, digest, corpus_id, version),
            )


async def _pages(connection: Connection, names: dict[str, Any], only: int | None) -> AsyncIterator[list[Any]]:
    term, segment = "", -1
    while True:
        cursor = await connection.execute(PAGE, names | {"term": term, "segment": segment, "only": only})
        rows = await cursor.fetchall()
        if not rows:
            return
        yield rows
        term, segment = rows[-1][0], rows[-1][1]


async def _having(connection: Connection, names: dict[str, Any], seqs: Seqs) -> frozenset[int]:
    """The segments that have postings of one of the rows."""
    found: set[int] = set()
    async for rows in _pages(connection, names, None):
        found.update(
            segment for _, segment, packed in rows if segment not in found and without(packed, seqs) is not None
        )
    return frozenset(found)


async def _without(connection: Connection, names: dict[str, Any], old: int, seqs: Seqs) -> None:
    """Write a segment again without some rows and without what cannot be read."""
    new = int((await fetch_one(connection, NUMBER, names))[0])
    async for rows in _pages(connection, names, old):
        await copy_postings(connection, names["corpus"], names["index"], new, _kept(rows, seqs))
    spans = multirange([range(seq, seq + 1) for seq in seqs.tolist()])
    await connection.execute(REMAINDER, names | {"old": old, "new": new, "spans": spans})


def _kept(rows: list[Any], seqs: Seqs) -> Iterator[tuple[str, int, bytes]]:
    for term, _, packed in rows:
        changed = without(packed, seqs)
        if changed is None:
            yield term, len(packed) // 8, packed
        elif len(changed.seqs):
            yield term, len(changed.seqs), pack(changed)


async def _segment(connection: Connection, names: dict[str, Any], rows: Sequence[LexicalRow]) -> int:
    """One new segment of the given rows."""
    if not rows:
        return 0
    ordered = sorted(rows, key=lambda row: row.seq)
    new = int((await fetch_one(connection, NUMBER, names))[0])
    seqs = np.array([row.seq for row in ordered])
    spans = multirange([range(seq, seq + 1) for seq in seqs.tolist()])
    about = {"new": new, "lo": int(seqs[0]), "hi": int(seqs[-1]) + 1, "n": len(seqs), "spans": spans}
    await connection.execute(FRESH, names | about)
    await copy_postings(connection, names["corpus"], names["index"], new, build(ordered).packed())
    return len(ordered)
