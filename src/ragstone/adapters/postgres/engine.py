"""The search engine on PostgreSQL: BM25 over packed postings, vectors exactly or through HNSW.

Route of the dense leg by the number of rows that may be seen: up to `exact_rows_max` every one is compared;
beyond that the HNSW index is walked with iterative scan, joined with `live`. The path taken is in the hits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ragstone.adapters.postgres.database import Connection, Database, fetch_one
from ragstone.adapters.postgres.postings_store import PostingsStore, Selection
from ragstone.core.deadline import Deadline
from ragstone.core.filters import Filter
from ragstone.core.nouns import LexicalSpec
from ragstone.core.ports import LegHits, LegName, Query, RowScores, Scores, Seqs, Vector, View
from ragstone.index.bm25 import Scorer, Statistics, best, summed, top
from ragstone.index.vectors import cosines

# More than asked for, as PostgreSQL and NumPy may order near-equal distances differently.
SPARE = 16

EXACT_ALL = """
select v.seq, halfvec_send(v.embedding) from vector v
join live l on l.corpus_id = v.corpus_id and l.index_id = v.index_id and l.seq = v.seq
     and l.v_from <= %(v)s and l.v_to > %(v)s
where v.corpus_id = %(corpus)s and v.index_id = %(index)s
order by (v.embedding <=> %(vector)s::halfvec) + 0::float8, v.seq limit %(limit)s
"""
EXACT_SOME = """
select v.seq, halfvec_send(v.embedding) from vector v
where v.corpus_id = %(corpus)s and v.index_id = %(index)s and v.seq = any(%(seqs)s::int[])
order by (v.embedding <=> %(vector)s::halfvec) + 0::float8, v.seq limit %(limit)s
"""
# Both ids stand in the text, as only constants match the partial index's condition.
HNSW = """
select v.seq, halfvec_send(v.embedding) from vector v
where v.corpus_id = '\\x{corpus}'::bytea and v.index_id = '\\x{index}'::bytea {some}
  and exists (select 1 from live l where l.corpus_id = v.corpus_id and l.index_id = v.index_id and l.seq = v.seq
              and l.v_from <= %(v)s and l.v_to > %(v)s)
order by v.embedding::halfvec({dimensions}) <=> %(vector)s::halfvec({dimensions}) limit %(limit)s
"""
WALK = """
select set_config('hnsw.ef_search', %s, true), set_config('hnsw.iterative_scan', 'relaxed_order', true),
       set_config('plan_cache_mode', 'force_custom_plan', true)
"""
HNSW_SOME = "and v.seq = any(%(seqs)s::int[])"
ROWS = """
select c.seq, c.chunk_id, c.text_hash, halfvec_send(v.embedding) from chunk c
join vector v on v.corpus_id = c.corpus_id and v.index_id = c.index_id and v.seq = c.seq
where c.corpus_id = %s and c.index_id = %s and c.seq = any(%s::int[])
"""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The engine's knobs."""

    exact_rows_max: int = 5_000
    cache_bytes: int = 256 * 1024 * 1024
    ef_search_max: int = 1000


class PostgresEngine:
    """Implements the port Engine."""

    def __init__(self, database: Database, limits: EngineLimits | None = None) -> None:
        self._database = database
        self._limits = limits or EngineLimits()
        self._store = PostingsStore(self._limits.cache_bytes)
        self._indexes: dict[tuple[bytes, bytes], tuple[LexicalSpec, int, bool]] = {}

    async def search(
        self, view: View, leg: LegName, query: Query, filters: Filter | None, depth: int, deadline: Deadline
    ) -> LegHits:
        """The best `depth` rows of one leg among those that pass the filter."""
        deadline.check(f"searching the {leg} leg")
        async with self._database.transaction(f"searching the {leg} leg") as connection:
            await _bound(connection, deadline)
            selection = await self._store.selection(connection, view, filters)
            if leg == "bm25":
                return await self._bm25(connection, view, query, selection, depth)
            return await self._dense(connection, view, query, selection, depth)

    async def _scorer(self, connection: Connection, view: View, query: Query) -> Scorer:
        live = await self._store.live(connection, view)
        terms = await self._store.terms(connection, view, query.terms)
        spec, _, _ = await self._index(connection, view)
        return Scorer(terms, live, Statistics(view.rows, view.norms), spec)

    async def _bm25(
        self, connection: Connection, view: View, query: Query, selection: Selection, depth: int
    ) -> LegHits:
        totals = (await self._scorer(connection, view, query)).totals()
        if not selection.everything:
            totals[~selection.mask] = 0.0
        seqs = best(totals, depth)
        return LegHits(seqs, totals[seqs], "postings", int(np.count_nonzero(totals)))

    async def _dense(
        self, connection: Connection, view: View, query: Query, selection: Selection, depth: int
    ) -> LegHits:
        _, dimensions, ann = await self._index(connection, view)
        names: dict[str, Any] = {
            "corpus": view.corpus_id, "index": view.index_id, "v": view.version,
            "vector": _literal(query.vector), "limit": depth + SPARE,
        }  # fmt: skip
        if selection.count > self._limits.exact_rows_max and ann:
            some = ""
            if not selection.everything:
                some, names["seqs"] = HNSW_SOME, selection.seqs().tolist()
            names["limit"] = depth
            ids = {"corpus": view.corpus_id.hex(), "index": view.index_id.hex()}
            sql = HNSW.format(**ids, dimensions=dimensions, some=some)
            ef_search = min(self._limits.ef_search_max, max(40, 2 * depth))
            await connection.execute(WALK, (str(ef_search),))
            path = f"hnsw(ef={ef_search},relaxed_order)"
        elif selection.everything:
            sql, path = EXACT_ALL, "exact"
        else:
            sql, path, names["seqs"] = EXACT_SOME, "exact(filtered)", selection.seqs().tolist()
        rows = await (await connection.execute(sql, names)).fetchall()
        seqs, scores = _rank(rows, query.vector, depth)
        return LegHits(seqs, scores, path, selection.count, min(depth, selection.count) - len(seqs))

    async def score(self, view: View, query: Query, seqs: Seqs, deadline: Deadline) -> RowScores:
        """Exact scores of the given rows in both legs; a row that may not be seen has none, nor an id."""
        deadline.check("scoring candidates")
        async with self._database.transaction("scoring candidates") as connection:
            await _bound(connection, deadline)
            seen = (await self._store.selection(connection, view, None)).holds(seqs)
            scorer = await self._scorer(connection, view, query)
            cursor = await connection.execute(ROWS, (view.corpus_id, view.index_id, seqs[seen].tolist()))
            rows = {row[0]: row for row in await cursor.fetchall()}
        ordered = [rows.get(seq) for seq in seqs.tolist()]
        terms, dense = np.zeros((len(query.terms), len(seqs))), np.zeros(len(seqs))
        terms[:, seen] = scorer.by_term(seqs[seen])
        dense[seen] = cosines(_vectors([row[3] for row in ordered if row], len(query.vector)), query.vector)
        return RowScores(
            bm25=summed(terms),
            dense=dense,
            terms=terms,
            idf=scorer.idf(),
            chunk_ids=tuple(bytes(row[1]) if row else b"" for row in ordered),
            text_hashes=tuple(bytes(row[2]) if row else b"" for row in ordered),
        )

    async def _index(self, connection: Connection, view: View) -> tuple[LexicalSpec, int, bool]:
        key = (view.corpus_id, view.index_id)
        known = self._indexes.get(key)
        if known is None or not known[2]:
            row = await fetch_one(
                connection,
                "select recipe->'lexical', recipe->'embedding'->'dimensions', ann from index"
                " where corpus_id = %s and index_id = %s",
                key,
            )
            known = self._indexes[key] = (msgspec.convert(row[0], LexicalSpec), int(row[1]), bool(row[2]))
        return known


async def _bound(connection: Connection, deadline: Deadline) -> None:
    await connection.execute(
        "select set_config('statement_timeout', %s, true)", (str(max(1, int(deadline.left_s * 1000))),)
    )


def _literal(vector: Vector) -> str:
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def _vectors(packed: list[bytes], dimensions: int) -> npt.NDArray[np.float32]:
    raw = np.frombuffer(b"".join(packed), dtype=">f2").reshape(len(packed), dimensions + 2)
    return raw[:, 2:].astype(np.float32)


def _rank(rows: list[Any], vector: Vector, depth: int) -> tuple[Seqs, Scores]:
    if not rows:
        return np.zeros(0, np.int64), np.zeros(0)
    rows.sort(key=lambda row: row[0])
    seqs = np.array([row[0] for row in rows], dtype=np.int64)
    scores = cosines(_vectors([row[1] for row in rows], len(vector)), vector)
    order = top(scores, depth)
    return seqs[order], scores[order]
