"""Retrieval in order: view, both legs, exact scores, fusion, selection, passages. Returns what it decided."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ragstone.core.deadline import Deadline
from ragstone.core.evidence import Degraded, HitRecord, LegRecord, RetrievalRecord
from ragstone.core.filters import Filter, check_fields, to_json
from ragstone.core.nouns import Passage
from ragstone.core.ports import Embedder, Engine, LegHits, Query, RowScores, Vector, View
from ragstone.core.tokens import query_terms
from ragstone.retrieve.fusion import fuse
from ragstone.retrieve.ports import Catalog
from ragstone.retrieve.profile import Profile
from ragstone.retrieve.selection import Selected, select

NO_VECTOR: Vector = np.zeros(0, dtype=np.float32)


class Clock:
    """Milliseconds by stage, gathered while the stages run."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    def stage(self, name: str) -> Stage:
        """Time a block; a stage entered twice adds up."""
        return Stage(self.ms, name)


class Stage:
    """One timed block. A class, as a context manager made of a generator takes three times as long."""

    __slots__ = ("_began", "_ms", "_name")

    def __init__(self, ms: dict[str, float], name: str) -> None:
        self._ms, self._name, self._began = ms, name, 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        spent = (time.perf_counter() - self._began) * 1e3
        self._ms[self._name] = round(self._ms.get(self._name, 0.0) + spent, 3)


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to one view."""

    question: str
    filters: Filter | None
    limit: int
    offset: int
    deadline: Deadline


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The record of what was decided, and the passages behind the returned hits, in rank order."""

    record: RetrievalRecord
    passages: tuple[Passage, ...]
    query: Query
    degraded: tuple[Degraded, ...]
    query_tokens: int
    has_more: bool
    selected: Selected = field(repr=False)


class Retriever:
    """Runs a profile over an engine."""

    def __init__(self, catalog: Catalog, engine: Engine, embedder: Embedder, profile: Profile) -> None:
        self._catalog = catalog
        self._engine = engine
        self._embedder = embedder
        self.profile = profile

    async def retrieve(self, view: View, ask: Ask, clock: Clock) -> Retrieved:
        """The best passages for a question, with reasons for each and for what was cut."""
        if ask.filters is not None:
            check_fields(ask.filters, view.fields)
        terms = query_terms(ask.question)
        query, dense, bm25 = await self._legs(view, ask, terms, clock)
        hits = {"bm25": bm25, "dense": dense}
        seqs = _union(bm25.seqs, dense.seqs)
        with clock.stage("score"):
            scores = await self._engine.score(view, query, seqs, ask.deadline)
        with clock.stage("fuse"):
            selected = decide(seqs, scores, hits, self.profile, ask.offset, ask.limit)
        with clock.stage("passages"):
            chosen = [selected.columns.seq[at] for at in selected.returned]
            found = await self._catalog.passages(view, chosen, ask.deadline)
        return self._record(ask, query, hits, scores, seqs, selected, [found[seq] for seq in chosen if seq in found])

    async def _legs(
        self, view: View, ask: Ask, terms: tuple[tuple[str, int], ...], clock: Clock
    ) -> tuple[Query, LegHits, LegHits]:
        """Both legs side by side: one in a task, the other here. When one fails the other is not left running."""
        bm25 = asyncio.create_task(self._bm25(view, ask, terms, clock))
        try:
            query, dense = await self._dense(view, ask, terms, clock)
        except BaseException:
            bm25.cancel()
            await asyncio.wait([bm25])
            raise
        return query, dense, await bm25

    async def _bm25(self, view: View, ask: Ask, terms: tuple[tuple[str, int], ...], clock: Clock) -> LegHits:
        with clock.stage("bm25"):
            query = Query(terms, NO_VECTOR)
            return await self._engine.search(view, "bm25", query, ask.filters, self.profile.depth, ask.deadline)

    async def _dense(
        self, view: View, ask: Ask, terms: tuple[tuple[str, int], ...], clock: Clock
    ) -> tuple[Query, LegHits]:
        with clock.stage("embed"):
            vector = await self._embedder.embed_query(ask.question)
        # Half precision, as the stored vectors are: evidence keeps exactly what was searched with.
        query = Query(terms, vector.astype(np.float16).astype(np.float32))
        with clock.stage("dense"):
            hits = await self._engine.search(view, "dense", query, ask.filters, self.profile.depth, ask.deadline)
        return query, hits

    def _record(
        self,
        ask: Ask,
        query: Query,
        hits: dict[str, LegHits],
        scores: RowScores,
        seqs: np.ndarray,
        selected: Selected,
        passages: list[Passage],
    ) -> Retrieved:
        legs = [
            LegRecord(name, leg.path, self.profile.depth, leg.matching, len(leg.seqs), leg.shortfall)
            for name, leg in hits.items()
        ]
        by_seq = {passage.seq: passage for passage in passages}
        chosen = [selected.columns.seq[at] for at in selected.returned]
        places = np.searchsorted(seqs, chosen).tolist()
        records = [
            _hit(rank, at, by_seq[seq], query, scores, place)
            for rank, (at, seq, place) in enumerate(zip(selected.returned, chosen, places, strict=True), ask.offset + 1)
            if seq in by_seq
        ]
        record = RetrievalRecord(
            terms=[[*term, weight] for term, weight in zip(query.terms, scores.idf.tolist(), strict=True)],
            query_vector=base64.b64encode(query.vector.astype("<f2").tobytes()).decode(),
            filter=to_json(ask.filters) if ask.filters else None,
            legs=legs,
            fusion=selected.fusion,
            candidates=selected.columns,
            hits=records,
            offset=ask.offset,
            limit=ask.limit,
        )
        degraded = tuple(
            Degraded("filter_shortfall", leg.name, f"{leg.shortfall} of {leg.depth} rows not found by {leg.path}")
            for leg in legs
            if leg.shortfall > 0
        )
        tokens = self._embedder.count_tokens(ask.question)
        return Retrieved(record, tuple(passages), query, degraded, tokens, selected.has_more, selected)


def decide(
    seqs: np.ndarray, scores: RowScores, hits: Mapping[str, LegHits], profile: Profile, offset: int, limit: int
) -> Selected:
    """Fuse and select the candidates: `seqs` ascending, the rows of both legs' lists, `scores` parallel to them."""
    legs = {"bm25": scores.bm25, "dense": scores.dense}
    ranks = {name: _ranks(seqs, leg.seqs) for name, leg in hits.items()}
    fused = fuse(legs, ranks, scores.chunk_ids, profile)
    return select(seqs, scores, ranks, fused, offset, limit, collapse=profile.collapse_duplicates)


def _union(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The distinct values of both, ascending. Sorting a few hundred is cheaper than np.union1d's hashing."""
    both = np.sort(np.concatenate([one, other]))
    first = np.ones(len(both), dtype=np.bool_)
    first[1:] = both[1:] != both[:-1]
    return both[first]


def _ranks(seqs: np.ndarray, leg: np.ndarray) -> np.ndarray:
    ranks = np.zeros(len(seqs), dtype=np.int64)
    ranks[np.searchsorted(seqs, leg)] = np.arange(1, len(leg) + 1)
    return ranks


def _hit(rank: int, candidate: int, passage: Passage, query: Query, scores: RowScores, at: int) -> HitRecord:
    column = scores.terms[:, at].tolist()
    terms = {term: added for (term, _), added in zip(query.terms, column, strict=True) if added}
    return HitRecord(
        candidate=candidate,
        rank=rank,
        source=passage.source,
        key=passage.key,
        document_id=passage.document_id,
        chunk_id=passage.chunk_id.hex(),
        title=passage.title,
        start=passage.start,
        end=passage.end,
        heading_path=list(passage.heading_path),
        metadata=dict(passage.metadata),
        source_version=passage.source_version,
        indexed_at=passage.indexed_at,
        terms=terms,
    )
