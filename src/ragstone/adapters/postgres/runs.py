"""Runs: the lock of a source, the sweep of dead runs, the staging of rows that nobody sees yet."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import msgspec
import numpy as np
import psycopg

from ragstone.adapters.postgres.copying import copy_postings, halfvec_bytes, multirange
from ragstone.adapters.postgres.database import Connection, Database, fetch_one
from ragstone.core.errors import Busy, UsageError
from ragstone.core.ids import corpus_id, make_id, source_id
from ragstone.index.records import (
    LiveDocument,
    Run,
    RunScope,
    RunStart,
    RunState,
    StagedBatch,
    StagedDocument,
    StagedRow,
    refuse_held,
    refuse_other_recipe,
)
from ragstone.index.vectors import vector_hash

OPEN = 2147483647  # v_to of what is live at the head
BIGINT_MAX = 2**63 - 1
LEASE_S = 3600

SWEEP = """
with dead as (select seq, index_id from chunk where corpus_id = %(corpus)s and run_id = %(run)s),
     gone as (delete from vector v using dead where v.corpus_id = %(corpus)s and v.index_id = dead.index_id
              and v.seq = dead.seq)
delete from chunk where corpus_id = %(corpus)s and run_id = %(run)s
"""
SWEEP_PLACEMENT = """
delete from placement p using docversion d where p.corpus_id = %(corpus)s and d.corpus_id = %(corpus)s
and d.run_id = %(run)s and d.state = 'staged' and p.docversion_id = d.docversion_id
"""
SWEEP_DOCVERSION = "delete from docversion where corpus_id = %(corpus)s and run_id = %(run)s and state = 'staged'"
SWEEP_POSTING = """
delete from posting p using segment s where p.corpus_id = %(corpus)s and s.corpus_id = %(corpus)s
and s.run_id = %(run)s and p.index_id = s.index_id and p.segment_id = s.segment_id
"""
SWEEP_SEGMENT = "delete from segment where corpus_id = %(corpus)s and run_id = %(run)s"


def acl_id(principals: Iterable[str]) -> bytes:
    """The id of an access list: its principals, in no order."""
    return make_id("acl", *sorted(set(principals)))


def lock_key(source: bytes, scope: RunScope = "scan") -> int:
    """The advisory lock of a source for a scope, a signed 64-bit number."""
    return int.from_bytes(source[:8] if scope == "scan" else source[8:], "big", signed=True)


class PostgresRuns:
    """Implements the ports Runs and Staging."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._locks: dict[bytes, Connection] = {}

    async def next_order(self, tenant: str, corpus: str, source: str, clock_us: int) -> str:
        """A source order greater than every one given out for this source, and at least the clock's."""
        ident = corpus_id(tenant, corpus)
        async with self._database.connection("reading the clock of a source") as connection:
            cursor = await connection.execute(
                "update source set last_order = greatest(last_order + 1, %s) where corpus_id = %s and source_id = %s"
                " returning last_order",
                (clock_us, ident, source_id(ident, source)),
            )
            row = await cursor.fetchone()
        return f"{int(row[0]) if row else clock_us:020d}"

    async def begin(self, start: RunStart) -> Run:
        """Lock the source for the scope, make sure corpus, source and index exist, sweep what dead runs left."""
        corpus = corpus_id(start.tenant, start.corpus)
        source = source_id(corpus, start.source)
        lock = await self._database.dedicated()
        try:
            await self._lock(lock, source, start)
            async with self._database.transaction("opening a run") as connection:
                secret, index, base = await self._corpus(connection, corpus, start)
                await self._source(connection, corpus, source, start)
                run_id = make_id("run", corpus, source, start.source_order, os.urandom(16))
                await self._sweep_dead(connection, corpus, source, start.scope)
                await connection.execute(
                    "insert into run (corpus_id, run_id, source_id, index_id, base_v, lease_until, state, scope,"
                    " source_order) values (%s, %s, %s, %s, %s, now() + make_interval(secs => %s), 'running', %s, %s)",
                    (corpus, run_id, source, index, base, LEASE_S, start.scope, start.source_order),
                )
        except BaseException:
            await _release(lock)
            raise
        self._locks[run_id] = lock
        order, scope = start.source_order, start.scope
        return Run(
            run_id, corpus, source, index, base, secret, start.recipe, order, start.source, scope, start.version_kind
        )

    async def _lock(self, lock: Connection, source: bytes, start: RunStart) -> None:
        got = await fetch_one(lock, "select pg_try_advisory_lock(%s)", (lock_key(source, start.scope),))
        if not got[0]:
            raise Busy(
                f"source {start.source!r} of corpus {start.corpus!r} is being ingested by another run",
                doing="opening a run",
                next_step="wait for it to end, then run the same command again",
            )

    async def _corpus(self, connection: Connection, corpus: bytes, start: RunStart) -> tuple[bytes, bytes, int]:
        index = start.recipe.index_id
        await connection.execute(
            "insert into corpus (corpus_id, tenant, name, secret) values (%s, %s, %s, %s) on conflict do nothing",
            (corpus, start.tenant, start.corpus, os.urandom(32)),
        )
        row = await fetch_one(
            connection,
            "select secret, index_id, head, hold from corpus where corpus_id = %s for no key update",
            (corpus,),
        )
        refuse_other_recipe(row[1], index)
        refuse_held(row[3])
        recipe = json.loads(msgspec.json.encode(start.recipe))
        await connection.execute(
            "insert into index (corpus_id, index_id, recipe) values (%s, %s, %s::jsonb) on conflict do nothing",
            (corpus, index, json.dumps(recipe)),
        )
        return bytes(row[0]), index, int(row[2])

    async def _source(self, connection: Connection, corpus: bytes, source: bytes, start: RunStart) -> None:
        await connection.execute(
            "insert into source (corpus_id, source_id, name, location, kind) values (%s, %s, %s, %s, %s)"
            " on conflict do nothing",
            (corpus, source, start.source, start.location, start.kind),
        )
        # A name is not taken by a run that published nothing, such as one on an empty folder.
        await connection.execute(
            "update source s set location = %s, kind = %s where s.corpus_id = %s and s.source_id = %s"
            " and s.location <> %s and not exists (select 1 from document d join membership m"
            " on m.corpus_id = d.corpus_id and m.document_id = d.document_id"
            " where d.corpus_id = s.corpus_id and d.source_id = s.source_id)"
            " and not exists (select 1 from document d where d.corpus_id = s.corpus_id and d.source_id = s.source_id"
            " and d.suppressed_at is not null)",
            (start.location, start.kind, corpus, source, start.location),
        )
        if start.source_order.isdecimal():
            await connection.execute(
                "update source set last_order = greatest(last_order, %s) where corpus_id = %s and source_id = %s",
                (min(int(start.source_order), BIGINT_MAX), corpus, source),
            )
        row = await fetch_one(
            connection, "select location from source where corpus_id = %s and source_id = %s", (corpus, source)
        )
        if row[0] != start.location:
            raise UsageError(
                f"source {start.source!r} is {row[0]}, not {start.location}",
                doing="opening a run",
                next_step="give the other place a name of its own: --source NAME",
            )

    async def _sweep_dead(self, connection: Connection, corpus: bytes, source: bytes, scope: RunScope) -> None:
        # We hold the source's lock: whatever still says `running` belongs to a process that is gone. The row lock
        # waits for a write of it that is under way; every later one is refused.
        cursor = await connection.execute(
            "select run_id from run where corpus_id = %s and source_id = %s and scope = %s and state = 'running'"
            " for update",
            (corpus, source, scope),
        )
        for (run_id,) in await cursor.fetchall():
            await sweep(connection, corpus, run_id, "dead")

    async def documents(self, run: Run, only: Collection[str] | None = None) -> Mapping[str, LiveDocument]:
        """The live documents of the run's source, by key; `only` bounds them.

        After a rollback a document may have an access list that its version did not come with. It then has no object
        version, and so counts as changed: or a source that went back with it would never set it right.
        """
        sql = """
            select d.key, d.document_id, v.docversion_id,
                   case when d.acl_id = v.acl_id then v.object_version else '' end, v.source_order
            from document d
            join membership m on m.corpus_id = d.corpus_id and m.document_id = d.document_id and m.v_to = %s
            join docversion v on v.corpus_id = d.corpus_id and v.docversion_id = m.docversion_id
            where d.corpus_id = %s and d.source_id = %s
        """
        values: list[Any] = [OPEN, run.corpus_id, run.source_id]
        if only is not None:
            sql += " and d.key = any(%s)"
            values.append(list(only))
        async with self._database.connection("reading the published documents") as connection:
            cursor = await connection.execute(sql, values)
            return {row[0]: LiveDocument(row[1], row[2], row[0], row[3], row[4]) for row in await cursor.fetchall()}

    async def withheld(self, run: Run) -> frozenset[str]:
        """The keys of the run's source whose documents were deleted on purpose."""
        async with self._database.connection("reading deleted documents") as connection:
            cursor = await connection.execute(
                "select key from document where corpus_id = %s and source_id = %s and suppressed_at is not null",
                (run.corpus_id, run.source_id),
            )
            return frozenset(row[0] for row in await cursor.fetchall())

    async def end(self, run: Run, state: RunState) -> None:
        """Release the source; rows of a run that did not publish are swept."""
        lock = self._locks.pop(run.run_id, None)
        try:
            if state != "published":
                async with self._database.transaction("closing a run") as connection:
                    # Stopped between commit and end, a run has published whatever its process believes.
                    running = await connection.execute(
                        "select 1 from run where corpus_id = %s and run_id = %s and state = 'running' for update",
                        (run.corpus_id, run.run_id),
                    )
                    if await running.fetchone():
                        await sweep(connection, run.corpus_id, run.run_id, state)
        finally:
            if lock is not None:
                await _release(lock)

    async def reusable(self, run: Run, docversions: Sequence[bytes]) -> Mapping[bytes, int]:
        """row id -> seq of the rows of the given live document versions."""
        sql = """
            select c.row_id, c.seq from placement p
            join chunk c on c.corpus_id = p.corpus_id and c.index_id = p.index_id and c.seq = p.seq
            where p.corpus_id = %s and p.index_id = %s and p.docversion_id = any(%s)
        """
        if not docversions:
            return {}
        async with self._database.connection("looking up unchanged rows") as connection:
            cursor = await connection.execute(sql, (run.corpus_id, run.index_id, list(docversions)))
            return {bytes(row[0]): int(row[1]) for row in await cursor.fetchall()}

    async def lease(self, run: Run, count: int) -> range:
        """`count` consecutive seqs that no other run gets."""
        async with self._database.transaction("leasing sequence numbers") as connection:
            await _alive(connection, run, "update")
            row = await fetch_one(
                connection,
                "update index set next_seq = next_seq + %s where corpus_id = %s and index_id = %s returning next_seq",
                (count, run.corpus_id, run.index_id),
            )
            end = int(row[0])
            await connection.execute(
                "update run set seq_lo = coalesce(seq_lo, %s), seq_hi = %s where corpus_id = %s and run_id = %s",
                (end - count, end, run.corpus_id, run.run_id),
            )
        return range(end - count, end)

    async def stage(self, run: Run, batch: StagedBatch) -> None:
        """Write documents and rows in one transaction."""
        async with self._database.transaction("writing chunks") as connection:
            await _alive(connection, run)
            if batch.rows:
                await self._write_rows(connection, run, batch.rows)
            if batch.documents:
                await self._write_documents(connection, run, batch.documents)

    async def _write_rows(self, connection: Connection, run: Run, rows: Sequence[StagedRow]) -> None:
        await connection.execute(
            # A text is what its hash names: one that was damaged in place is put right by the next that has it.
            "insert into text as t (corpus_id, text_hash, body, tokens)"
            " select distinct on (h) %s, h, b, n from unnest(%s::bytea[], %s::text[], %s::int[]) w(h, b, n) order by h"
            " on conflict (corpus_id, text_hash) do update set body = excluded.body, tokens = excluded.tokens"
            " where (t.body, t.tokens) is distinct from (excluded.body, excluded.tokens)",
            (run.corpus_id, [r.text_hash for r in rows], [r.text for r in rows], [r.tokens for r in rows]),
        )
        columns = (
            "corpus_id, index_id, seq, row_id, chunk_id, text_hash, joined_terms, title_terms, run_id, vector_hash"
        )
        kinds = ["bytea", "bytea", "int4", "bytea", "bytea", "bytea", "int4", "int4", "bytea", "bytea"]
        async with connection.cursor().copy(f"copy chunk ({columns}) from stdin (format binary)") as copy:
            copy.set_types(kinds)
            for r in rows:
                lengths = (r.joined.total(), r.title.total())
                ids = (r.row_id, r.chunk_id, r.text_hash)
                digest = vector_hash(r.vector)
                await copy.write_row((run.corpus_id, run.index_id, r.seq, *ids, *lengths, run.run_id, digest))
        packed = halfvec_bytes(np.stack([r.vector for r in rows]))
        target = "copy vector (corpus_id, index_id, seq, embedding) from stdin (format binary)"
        async with connection.cursor().copy(target) as copy:
            copy.set_types(["bytea", "bytea", "int4", "bytea"])
            for r, vector in zip(rows, packed, strict=True):
                await copy.write_row((run.corpus_id, run.index_id, r.seq, vector))

    async def _write_documents(self, connection: Connection, run: Run, documents: Sequence[StagedDocument]) -> None:
        lists = {acl_id(d.acl): sorted(set(d.acl)) for d in documents}
        for key, principals in sorted(lists.items()):  # one order for all, or two runs deadlock
            await connection.execute(
                "insert into acl (corpus_id, acl_id, principals) values (%s, %s, %s) on conflict do nothing",
                (run.corpus_id, key, principals),
            )
        async with connection.cursor() as cursor:
            await cursor.executemany(
                "insert into document (corpus_id, document_id, source_id, key, acl_id) values (%s, %s, %s, %s, %s)"
                " on conflict do nothing",
                [(run.corpus_id, d.document_id, run.source_id, d.key, acl_id(d.acl)) for d in documents],
            )
            await cursor.executemany(
                "insert into docversion (corpus_id, docversion_id, document_id, object_version, source_order, title,"
                " metadata, acl_id, leaf, run_id) values (%s, %s, %s, %s, %s, %s, %s::jsonb, %s, %s, %s)",
                [
                    (
                        run.corpus_id,
                        d.docversion_id,
                        d.document_id,
                        d.object_version,
                        d.source_order,
                        d.title,
                        json.dumps(dict(d.metadata), ensure_ascii=False),
                        acl_id(d.acl),
                        d.leaf,
                        run.run_id,
                    )
                    for d in documents
                ],
            )
        columns = "corpus_id, docversion_id, index_id, seq, ordinal, span_start, span_end, heading_path"
        async with connection.cursor().copy(f"copy placement ({columns}) from stdin (format binary)") as copy:
            copy.set_types(["bytea", "bytea", "bytea", "int4", "int4", "int4", "int4", "text[]"])
            for d in documents:
                for p in d.placements:
                    where = (p.seq, p.ordinal, p.start, p.end, list(p.heading_path))
                    await copy.write_row((run.corpus_id, d.docversion_id, run.index_id, *where))

    async def segment(self, run: Run, spans: Sequence[range], postings: Iterable[tuple[str, int, bytes]]) -> None:
        """Write one postings segment for the rows with the seqs of `spans`."""
        async with self._database.transaction("writing postings") as connection:
            await _alive(connection, run)
            row = await fetch_one(
                connection,
                "update index set next_segment = next_segment + 1 where corpus_id = %s and index_id = %s"
                " returning next_segment",
                (run.corpus_id, run.index_id),
            )
            await connection.execute(
                "insert into segment (corpus_id, index_id, segment_id, seq_lo, seq_hi, n_rows, run_id, spans)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s::int4multirange)",
                (run.corpus_id, run.index_id, row[0], spans[0].start, spans[-1].stop, sum(map(len, spans)),
                 run.run_id, multirange(spans)),
            )  # fmt: skip
            await copy_postings(connection, run.corpus_id, run.index_id, row[0], postings)


async def sweep(connection: Connection, corpus: bytes, run_id: bytes, state: RunState) -> None:
    """Remove what a run that did not publish has staged, and close it."""
    names = {"corpus": corpus, "run": run_id}
    for sql in (SWEEP, SWEEP_PLACEMENT, SWEEP_DOCVERSION, SWEEP_POSTING, SWEEP_SEGMENT):
        await connection.execute(sql, names)
    await connection.execute(
        "update run set state = %s, ended_at = clock_timestamp() where corpus_id = %s and run_id = %s",
        (state, corpus, run_id),
    )


async def _release(lock: Connection) -> None:
    # The server drops the locks of a closed connection when it notices, and the next run may be sooner. A
    # connection that is lost has no lock to give back.
    try:
        with suppress(psycopg.Error):
            await lock.execute("select pg_advisory_unlock_all()")
    finally:
        await lock.close()


async def _alive(connection: Connection, run: Run, lock: Literal["share", "update"] = "share") -> None:
    """Busy when another run has taken the source over, as happens when our lock's connection was lost."""
    cursor = await connection.execute(
        f"select 1 from run where corpus_id = %s and run_id = %s and state = 'running' for {lock}",
        (run.corpus_id, run.run_id),
    )
    if await cursor.fetchone() is None:
        raise Busy("another run took this source over", doing="writing rows", next_step="run the same command again")
