"""After a publish: keep postings in few segments and build the vector index once there are rows enough.

Both change how rows are found, never which rows exist; a crash in between leaves the old way in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from ragstone.adapters.postgres.copying import copy_postings, multirange
from ragstone.adapters.postgres.database import Connection, Database, fetch_one
from ragstone.index.postings import merge, pack, unpack

MAINTENANCE_LOCK = 0x7261_6773
KNOWN_SHARE = 0.9
# Segments are rewritten without their dead rows when these are more than a fifth.
DEAD_SHARE = 0.2
# So many terms are merged at a time: what is held in memory does not grow with the corpus's vocabulary.
PAGE_TERMS = 2000

# Segments of published runs, smallest first, with the rows they were written for and those that are still there.
SEGMENTS = """
select s.segment_id, s.n_rows,
       (select count(*) from unnest(s.spans) span
        join chunk c on c.corpus_id = s.corpus_id and c.index_id = s.index_id
             and c.seq >= lower(span) and c.seq < upper(span))
from segment s join run r on r.corpus_id = s.corpus_id and r.run_id = s.run_id
where s.corpus_id = %s and s.index_id = %s and r.state = 'published' order by s.n_rows, s.segment_id
"""
ALIVE = """
select max(s.seq_hi), coalesce((
  select string_agg(int4send(c.seq), ''::bytea) from segment t, unnest(t.spans) span
  join chunk c on c.corpus_id = %(corpus)s and c.index_id = %(index)s
       and c.seq >= lower(span) and c.seq < upper(span)
  where t.corpus_id = %(corpus)s and t.index_id = %(index)s and t.segment_id = any(%(chosen)s)), ''::bytea)
from segment s where s.corpus_id = %(corpus)s and s.index_id = %(index)s and s.segment_id = any(%(chosen)s)
"""
# Whole terms: a term's pieces are merged together.
PAGE = """
select term, bytes from posting
where corpus_id = %(corpus)s and index_id = %(index)s and segment_id = any(%(chosen)s)
  and term > %(after)s and term <= coalesce((
    select term from (select distinct term from posting where corpus_id = %(corpus)s and index_id = %(index)s
                      and segment_id = any(%(chosen)s) and term > %(after)s order by term limit %(limit)s) t
    order by term desc limit 1), '')
order by term, segment_id
"""
NEXT_SEGMENT = """
update index set next_segment = next_segment + 1 where corpus_id = %s and index_id = %s returning next_segment
"""
REPLACE = """
with old as (delete from segment where corpus_id = %(corpus)s and index_id = %(index)s
             and segment_id = any(%(chosen)s) returning run_id)
insert into segment (corpus_id, index_id, segment_id, seq_lo, seq_hi, n_rows, run_id, spans)
select %(corpus)s, %(index)s, %(new)s, lower(spans), upper(spans), %(n)s, (select run_id from old limit 1), spans
from (select %(spans)s::int4multirange as spans) made
"""
REMOVE = "delete from segment where corpus_id = %(corpus)s and index_id = %(index)s and segment_id = any(%(chosen)s)"


async def maintain(database: Database, corpus: bytes, index: bytes, segments_max: int, ann_rows_min: int) -> None:
    """Merge segments beyond `segments_max`; build HNSW at `ann_rows_min` rows where pgvector is safe."""
    async with database.connection("merging postings segments") as connection:
        if await _chosen(connection, corpus, index, segments_max):
            # In a transaction of its own: a lock on the index's row would hold up every run while the merge lasts.
            new = await fetch_one(connection, NEXT_SEGMENT, (corpus, index))
            async with connection.transaction():
                # One recipe gives the same index id in every corpus.
                got = await fetch_one(
                    connection,
                    "select pg_try_advisory_xact_lock(%s, hashtext(%s))",
                    (MAINTENANCE_LOCK, corpus.hex() + index.hex()),
                )
                if got[0]:
                    await _merge(connection, corpus, index, segments_max, int(new[0]))
    async with database.connection("refreshing planner statistics") as connection:
        # The tables that reading passages joins were seen to in the publish itself.
        known = await fetch_one(connection, "select reltuples from pg_class where oid = 'vector'::regclass")
        leased = await fetch_one(connection, "select coalesce(sum(next_seq), 0) from index")
        if known[0] < KNOWN_SHARE * int(leased[0]):
            await connection.execute("analyze vector")
            await connection.execute("analyze posting")
    if database.hnsw_safe:
        await _build_ann(database, corpus, index, ann_rows_min)


async def _chosen(connection: Connection, corpus: bytes, index: bytes, segments_max: int) -> list[int]:
    """The smallest segments when there are too many, and every one that has many dead rows."""
    segments = await (await connection.execute(SEGMENTS, (corpus, index))).fetchall()
    chosen = {row[0] for row in segments if row[1] - row[2] > DEAD_SHARE * row[1]}
    if len(segments) > segments_max:
        # Down to half the bound: each row is rewritten a logarithmic number of times.
        chosen |= {row[0] for row in segments[: len(segments) - segments_max // 2]}
    return sorted(chosen)


async def _merge(connection: Connection, corpus: bytes, index: bytes, segments_max: int, new: int) -> None:
    """Make one segment of the chosen ones, without the rows that are gone."""
    chosen = await _chosen(connection, corpus, index, segments_max)
    if not chosen:
        return
    names = {"corpus": corpus, "index": index, "chosen": chosen, "new": new}
    # Read once, for the postings and for what the segment says of itself: rows may go meanwhile.
    row = await fetch_one(connection, ALIVE, names)
    seqs = np.sort(np.frombuffer(row[1], dtype=">i4").astype(np.int64))
    alive = np.zeros(int(row[0]), dtype=np.bool_)
    alive[seqs] = True
    after = ""
    while page := await (await connection.execute(PAGE, names | {"after": after, "limit": PAGE_TERMS})).fetchall():
        merged = [entry for entry in _merged(page, alive) if entry[1]]
        await copy_postings(connection, corpus, index, new, merged)
        after = page[-1][0]
    await connection.execute(
        "delete from posting where corpus_id = %(corpus)s and index_id = %(index)s and segment_id = any(%(chosen)s)",
        names,
    )
    spans = _spans(seqs)
    names |= {"spans": multirange(spans), "n": len(seqs)}
    await connection.execute(REPLACE if spans else REMOVE, names)


def _spans(seqs: npt.NDArray[np.int64]) -> list[range]:
    """Ascending seqs as ranges."""
    parts = np.split(seqs, np.flatnonzero(np.diff(seqs) > 1) + 1)
    return [range(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


def _merged(rows: list[Any], alive: npt.NDArray[np.bool_]) -> Iterator[tuple[str, int, bytes]]:
    for term, group in groupby(rows, key=lambda row: row[0]):
        whole = merge([unpack(row[1]) for row in group], alive)
        yield term, len(whole.seqs), pack(whole)


def ann_name(corpus: bytes, index: bytes) -> str:
    """The name of the HNSW index of one of a corpus's indexes: neighbours of other corpora must not crowd it."""
    return f"vector_hnsw_{corpus.hex()[:20]}_{index.hex()[:20]}"


async def _build_ann(database: Database, corpus: bytes, index: bytes, rows_min: int) -> None:
    async with database.connection("building the vector index") as connection:
        row = await fetch_one(
            connection,
            "select i.ann, i.recipe->'embedding'->>'dimensions', coalesce((select v.statistics->>'rows' from version v"
            " where v.corpus_id = i.corpus_id order by v.v desc limit 1), '0')"
            " from index i where i.corpus_id = %s and i.index_id = %s",
            (corpus, index),
        )
        if row[0] or int(row[2]) < rows_min:
            return
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", (MAINTENANCE_LOCK, "ann"))
            await connection.execute("set local statement_timeout = 0")
            await connection.execute("set local maintenance_work_mem = '512MB'")
            await connection.execute(
                f"create index if not exists {ann_name(corpus, index)} on vector using hnsw"
                f" ((embedding::halfvec({int(row[1])})) halfvec_cosine_ops) with (m = 16, ef_construction = 64)"
                f" where corpus_id = '\\x{corpus.hex()}'::bytea and index_id = '\\x{index.hex()}'::bytea"
            )
            await connection.execute(
                "update index set ann = true where corpus_id = %s and index_id = %s", (corpus, index)
            )
