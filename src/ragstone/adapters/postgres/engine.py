"""The search engine on PostgreSQL: BM25 over packed postings, vectors exactly or through HNSW.

Route of the dense leg by the number of rows that may be seen: up to `exact_rows_max` every one is compared;
beyond that the HNSW index is walked with iterative scan, joined with `live`. The path taken is in the hits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ragstone.adapters.postgres.arrays import Int4Array
from ragstone.adapters.postgres.database import Connection, Database, fetch_one
from ragstone.adapters.postgres.postings_store import PostingsStore, Selection, place_of
from ragstone.core.deadline import Deadline
from ragstone.core.filters import Filter
from ragstone.core.nouns import LexicalSpec
from ragstone.core.ports import LegHits, LegName, Query, RowScores, Scores, Seqs, Vector, View
from ragstone.index.bm25 import Scorer, best, summed, top
from ragstone.index.caches import ByteCache
from ragstone.index.near import NOTHING_NEAR, Near
from ragstone.index.vectors import cosines

# More than asked for, as PostgreSQL and NumPy may order near-equal distances differently.
SPARE = 16
# What the dense leg found serves `score` of the same request: a few kilobytes for each that is under way.
NEAR_BYTES = 1_000_000

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
HNSW_SOME = "and v.seq = any(%(seqs)s::int[])"
# The vectors of the new ones alone: those of the dense list were read with it.
ROWS = """
select c.seq, c.chunk_id, c.text_hash, halfvec_send(v.embedding) from chunk c
left join vector v on v.corpus_id = c.corpus_id and v.index_id = c.index_id and v.seq = c.seq
     and v.seq = any(%(new)s::int[])
where c.corpus_id = %(corpus)s and c.index_id = %(index)s and c.seq = any(%(seqs)s::int[])
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
        self._near: ByteCache[tuple[Any, ...], Near] = ByteCache(NEAR_BYTES)
        self._indexes: dict[tuple[bytes, bytes], tuple[LexicalSpec, int]] = {}
        self._walked: set[tuple[bytes, bytes]] = set()

    async def search(
        self, view: View, leg: LegName, query: Query, filters: Filter | None, depth: int, deadline: Deadline
    ) -> LegHits:
        """The best `depth` rows of one leg among those that pass the filter."""
        doing = f"searching the {leg} leg"
        deadline.check(doing)
        selection = self._store.held_selection(view, filters)
        if selection is None:
            async with self._database.reading(doing, deadline.left_s) as connection:
                selection = await self._store.selection(connection, view, filters)
        if leg == "dense":
            return await self._dense(view, query.vector, selection, depth, deadline)
        totals = (await self._scorer(view, query, deadline)).totals()
        if not selection.everything:
            totals *= selection.mask
        seqs = best(totals, depth)
        return LegHits(seqs, totals[seqs], "postings", int(np.count_nonzero(totals)))

    async def _scorer(self, view: View, query: Query, deadline: Deadline) -> Scorer:
        """From memory, where each term's scores are there already: then no connection is taken."""
        scorer = self._store.held_scorer(view, query.terms)
        if scorer is None:
            async with self._database.reading("reading postings", deadline.left_s) as connection:
                spec, _ = await self._index(connection, view)
                scorer = await self._store.scorer(connection, view, query.terms, spec)
        return scorer

    async def _dense(self, view: View, vector: Vector, selection: Selection, depth: int, deadline: Deadline) -> LegHits:
        names: dict[str, Any] = {
            "corpus": view.corpus_id, "index": view.index_id, "v": view.version,
            "vector": _literal(vector), "limit": depth + SPARE,
        }  # fmt: skip
        ef_search = min(self._limits.ef_search_max, max(40, 2 * depth))
        settings = {"hnsw.ef_search": str(ef_search)}
        async with self._database.reading("searching the dense leg", deadline.left_s, settings) as connection:
            walk = selection.count > self._limits.exact_rows_max and await self._ann(connection, view)
            if not selection.everything:
                names["seqs"] = Int4Array(selection.seqs())
            if walk:
                _, dimensions = await self._index(connection, view)
                ids = {"corpus": view.corpus_id.hex(), "index": view.index_id.hex()}
                some = "" if selection.everything else HNSW_SOME
                sql, path = HNSW.format(**ids, dimensions=dimensions, some=some), f"hnsw(ef={ef_search},relaxed_order)"
                names["limit"] = depth
            elif selection.everything:
                sql, path = EXACT_ALL, "exact"
            else:
                sql, path = EXACT_SOME, "exact(filtered)"
            # Not prepared for a walk: a plan for any vector and limit is not the one for these.
            cursor = await connection.execute(sql, names, prepare=False if walk else None, binary=True)
            rows = await cursor.fetchall()
        near = _exactly(rows, vector)
        self._near.put((place_of(view), vector.tobytes()), near, near.nbytes + vector.nbytes)
        order = top(near.cosines, depth)
        shortfall = min(depth, selection.count) - len(order)
        return LegHits(near.seqs[order], near.cosines[order], path, selection.count, shortfall)

    async def score(self, view: View, query: Query, seqs: Seqs, deadline: Deadline) -> RowScores:
        """Exact scores of the given rows in both legs; a row that may not be seen has none, nor an id."""
        doing = "scoring candidates"
        deadline.check(doing)
        near = self._near.get((place_of(view), query.vector.tobytes())) or NOTHING_NEAR
        async with self._database.reading(doing, deadline.left_s) as connection:
            selection = self._store.held_selection(view, None)
            if selection is None:
                selection = await self._store.selection(connection, view, None)
            seen = selection.holds(seqs)
            _, new = near.known(seqs)
            names: dict[str, Any] = {"corpus": view.corpus_id, "index": view.index_id}
            names |= {"seqs": Int4Array(seqs[seen]), "new": Int4Array(seqs[new])}
            rows = await (await connection.execute(ROWS, names, binary=True)).fetchall()
        scorer = await self._scorer(view, query, deadline)
        by_seq = {row[0]: row for row in rows}
        ordered = [by_seq.get(seq) for seq in seqs.tolist()]
        # Rows may be collected between two statements: a row that is gone is like one that was never seen.
        seen &= np.array([row is not None for row in ordered], dtype=np.bool_)
        terms, dense = np.zeros((len(query.terms), len(seqs))), np.zeros(len(seqs))
        terms[:, seen] = scorer.by_term(seqs[seen])
        dense[seen] = _cosines(near, seqs[seen], by_seq, query.vector)
        return RowScores(
            bm25=summed(terms),
            dense=dense,
            terms=terms,
            idf=scorer.idf(),
            chunk_ids=tuple([row[1] if row else b"" for row in ordered]),
            text_hashes=tuple([row[2] if row else b"" for row in ordered]),
        )

    async def _index(self, connection: Connection, view: View) -> tuple[LexicalSpec, int]:
        """The lexical recipe of an index and the dimensions of its vectors."""
        key = (view.corpus_id, view.index_id)
        known = self._indexes.get(key)
        if known is None:
            sql = (
                "select recipe->'lexical', recipe->'embedding'->'dimensions' from index"
                " where corpus_id = %s and index_id = %s"
            )
            row = await fetch_one(connection, sql, key)
            known = self._indexes[key] = (msgspec.convert(row[0], LexicalSpec), int(row[1]))
        return known

    async def _ann(self, connection: Connection, view: View) -> bool:
        """Whether the HNSW index is there; once it is, it stays."""
        key = (view.corpus_id, view.index_id)
        if key not in self._walked:
            row = await fetch_one(connection, "select ann from index where corpus_id = %s and index_id = %s", key)
            if row[0]:
                self._walked.add(key)
        return key in self._walked


def _literal(vector: Vector) -> str:
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def _vectors(packed: list[bytes], dimensions: int) -> npt.NDArray[np.float32]:
    raw = np.frombuffer(b"".join(packed), dtype=">f2").reshape(len(packed), dimensions + 2)
    return raw[:, 2:].astype(np.float32)


def _exactly(rows: list[Any], vector: Vector) -> Near:
    """Rows of (seq, vector) by ascending seq with their exact cosines."""
    if not rows:
        return NOTHING_NEAR
    rows.sort(key=lambda row: row[0])
    seqs = np.array([row[0] for row in rows], dtype=np.int64)
    return Near(seqs, cosines(_vectors([row[1] for row in rows], len(vector)), vector))


def _cosines(near: Near, seqs: Seqs, rows: Mapping[int, Any], vector: Vector) -> Scores:
    """The cosines of rows: those that the dense leg has scored, and the others by the vectors that were read."""
    found, new = near.known(seqs)
    found[new] = cosines(_vectors([rows[seq][3] for seq in seqs[new].tolist()], len(vector)), vector)
    return found
