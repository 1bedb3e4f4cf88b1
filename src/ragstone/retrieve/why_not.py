"""Why is a document not in the result? Decided by the code that answers: the same retriever, legs and fusion.

What stands before the legs is looked up first (catalog, deletion, version, filter); then the question is asked and
the document is followed through both legs, fusion and selection. Ranks beyond a leg's depth are found by asking
the leg again, deeper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ragstone.core.evidence import LegRecord
from ragstone.core.filters import Comparison, Filter, check_fields, matches
from ragstone.core.ports import Engine, LegHits, LegName, RowScores, View
from ragstone.retrieve.fusion import contribution
from ragstone.retrieve.ports import Catalog, Whereabouts
from ragstone.retrieve.records import (
    ChunkLeg,
    ChunkStanding,
    Failed,
    LegReason,
    LegStanding,
    PageEnd,
    Standing,
    Twin,
    Verdict,
    WhyNot,
)
from ragstone.retrieve.stage import Ask, Clock, Retrieved, Retriever

LEGS: tuple[LegName, ...] = ("bm25", "dense")
NEAR_MAX = 5
# A leg is asked again for four times as many rows until the document is among them, at most for so many.
DEEPER = 4
RANK_MAX = 25_600
STAGES: dict[Verdict, str | None] = {
    "never_seen": "catalog",
    "quarantined": "ingest",
    "suppressed": "deletion",
    "not_in_version": "version",
    "filtered": "filter",
    "not_candidate": "legs",
    "duplicate": "selection",
    "beyond_page": "page",
    "returned": None,
}


@dataclass(frozen=True, slots=True)
class WhyNotParts:
    """What the question is answered with. `retriever` is the one that answers questions."""

    catalog: Catalog
    whereabouts: Whereabouts
    engine: Engine
    retriever: Retriever


@dataclass(frozen=True, slots=True)
class _Followed:
    """The question asked, and the document's rows in it: exact scores, and the place of those that are candidates."""

    found: Retrieved
    standing: Standing
    scores: RowScores
    place: Mapping[int, int]

    def leg(self, name: str) -> LegRecord:
        return next(each for each in self.found.record.legs if each.name == name)


async def why_not(parts: WhyNotParts, view: View, ask: Ask, document: str, chunks_max: int) -> WhyNot:
    """Where a document is in the result of a question, or which stage lost it and by how much.

    UsageError for a filter that names unknown fields, and for an id that several sources have.
    """
    if ask.filters is not None:
        check_fields(ask.filters, view.fields)
    standing = await parts.whereabouts.find(view, document)
    before = _before_the_legs(standing, view, ask.filters)
    if before is not None or standing is None:
        verdict, failed = before or ("never_seen", ())
        near = await parts.whereabouts.near(view, document, NEAR_MAX) if verdict == "never_seen" else ()
        return WhyNot(
            document=standing.document_id if standing else document,
            corpus_version=view.version,
            verdict=verdict,
            stage=STAGES[verdict],
            lost_by={},
            standing=standing,
            near=near,
            failed=failed,
        )
    found = await parts.retriever.retrieve(view, ask, Clock())
    seqs = np.array([row.seq for row in standing.rows], dtype=np.int64)
    scores = await parts.engine.score(view, found.query, seqs, ask.deadline)
    columns = found.record.candidates
    own = set(seqs.tolist())
    followed = _Followed(found, standing, scores, {seq: at for at, seq in enumerate(columns.seq) if seq in own})
    legs: dict[str, LegStanding] = {name: await _leg(parts.engine, view, ask, followed, name) for name in LEGS}
    chunks = [await _chunk(parts, view, ask, followed, at) for at in _best_first(followed)[:chunks_max]]
    return _judged(view, followed, legs, tuple(chunks))


def _before_the_legs(
    standing: Standing | None, view: View, filters: Filter | None
) -> tuple[Verdict, tuple[Failed, ...]] | None:
    """What keeps a document from every leg, None when it is searched."""
    if standing is None:
        return "never_seen", ()
    if standing.suppressed:
        return "suppressed", ()
    if not standing.in_version:
        # Older versions may have held it: what keeps it out of this one is that it could not be used.
        ahead = any(span.since > view.version for span in standing.history)
        return ("quarantined" if standing.quarantine and not ahead else "not_in_version"), ()
    if filters is not None and not matches(filters, standing.metadata):
        return "filtered", tuple(_failed(filters, standing.metadata))
    return None


def _failed(tree: Filter, metadata: Mapping[str, Any]) -> Iterator[Failed]:
    """The conditions because of which the filter as a whole is false: what holds in the tree is left out."""
    if matches(tree, metadata):
        return
    if isinstance(tree, Comparison):
        value = list(tree.value) if isinstance(tree.value, tuple) else tree.value
        yield Failed(tree.key, tree.operator, value, metadata.get(tree.key))
        return
    for part in tree.parts:
        yield from _failed(part, metadata)


async def _leg(engine: Engine, view: View, ask: Ask, followed: _Followed, name: LegName) -> LegStanding:
    """How far the document came in one leg."""
    record, columns = followed.leg(name), followed.found.record.candidates
    scores, ranks = getattr(followed.scores, name).tolist(), getattr(columns, f"{name}_rank")
    last = next((at for at, rank in enumerate(ranks) if rank == record.depth), None)
    cutoff = None if last is None else float(getattr(columns, name)[last])
    listed = {seq: ranks[at] for seq, at in followed.place.items() if ranks[at]}
    rows = followed.standing.rows
    # In the list the rank decides: a walk may have listed one chunk and passed a better one by.
    best = min(
        range(len(rows)),
        key=lambda at: (listed.get(rows[at].seq, np.inf), -scores[at], rows[at].seq),
        default=None,
    )
    path, looked, rank = record.path, record.returned, None
    if best is not None:
        rank = listed.get(rows[best].seq)
        if rank is None and record.returned == record.depth and (name == "dense" or scores[best] > 0):
            path, looked, rank = await _deeper(engine, view, ask, followed, name)
    score = scores[best] if best is not None else 0.0
    reason = _reason(name, listed=bool(listed), rows=len(rows), score=score, cutoff=cutoff, record=record)
    lost_by = cutoff - score if cutoff is not None and reason in {"below_cutoff", "no_words"} else None
    return LegStanding(
        path=path, depth=record.depth, matching=record.matching, returned=record.returned, reason=reason,
        chunk_id=rows[best].chunk_id if best is not None else "", score=score, rank=rank,
        rank_exact=not path.startswith("hnsw"), ranked=looked, cutoff=cutoff, lost_by=lost_by,
    )  # fmt: skip


def _reason(
    name: str, *, listed: bool, rows: int, score: float, cutoff: float | None, record: LegRecord
) -> LegReason:  # fmt: skip
    if listed:
        return "listed"
    if not rows:
        return "no_chunks"
    if name == "bm25" and score <= 0:
        return "no_words"
    # A path that misses no row lists everything that is better than the last one in.
    walked = record.path.startswith("hnsw")
    return "missed" if walked and (cutoff is None or score > cutoff) else "below_cutoff"


async def _deeper(
    engine: Engine, view: View, ask: Ask, followed: _Followed, name: LegName
) -> tuple[str, int, int | None]:
    """Ask a leg for more and more rows until one of the document's is among them: path, rows seen, rank."""
    own = np.array([row.seq for row in followed.standing.rows], dtype=np.int64)
    depth = followed.leg(name).depth
    while True:
        depth = min(depth * DEEPER, RANK_MAX)
        hits: LegHits = await engine.search(view, name, followed.found.query, ask.filters, depth, ask.deadline)
        at = np.flatnonzero(np.isin(hits.seqs, own))
        if len(at):
            return hits.path, len(hits.seqs), int(at[0]) + 1
        if len(hits.seqs) < depth or depth >= RANK_MAX:
            return hits.path, len(hits.seqs), None


def _best_first(followed: _Followed) -> list[int]:
    """The document's chunks: what was returned, other candidates in fused order, then the rest by the score they
    would have had."""
    rows, fates = followed.standing.rows, followed.found.record.candidates.fate

    def key(at: int) -> tuple[bool, float, float, int]:
        place = followed.place.get(rows[at].seq)
        returned = place is not None and fates[place] == "returned"
        would = sum(_contributions(followed, at).values())
        return not returned, np.inf if place is None else place, -would, rows[at].seq

    return sorted(range(len(rows)), key=key)


def _contributions(followed: _Followed, at: int) -> dict[str, float]:
    """What each leg gives a chunk, by the statistics that the candidates were fused with."""
    record, columns = followed.found.record.fusion, followed.found.record.candidates
    place = followed.place.get(followed.standing.rows[at].seq)
    given: dict[str, float] = {}
    for leg in LEGS:
        rank = getattr(columns, f"{leg}_rank")[place] if place is not None else 0
        score = getattr(followed.scores, leg)[at : at + 1]
        given[leg] = float(contribution(leg, score, np.array([rank], dtype=np.int64), record)[0])
    return given


async def _chunk(parts: WhyNotParts, view: View, ask: Ask, followed: _Followed, at: int) -> ChunkStanding:
    row, columns = followed.standing.rows[at], followed.found.record.candidates
    place, given = followed.place.get(row.seq), _contributions(followed, at)
    twin = None
    if place is not None and columns.duplicate_of[place] >= 0:
        original = columns.duplicate_of[place]
        seq = columns.seq[original]
        passage = (await parts.catalog.passages(view, [seq], ask.deadline)).get(seq)
        twin = Twin(passage.document_id if passage else "", columns.chunk_id[original], original + 1)
    ranks = {leg: getattr(columns, f"{leg}_rank")[place] if place is not None else 0 for leg in LEGS}
    return ChunkStanding(
        chunk_id=row.chunk_id,
        ordinal=row.ordinal,
        heading_path=row.heading_path,
        legs={leg: ChunkLeg(float(getattr(followed.scores, leg)[at]), given[leg], ranks[leg] or None) for leg in LEGS},
        score=columns.score[place] if place is not None else sum(given.values()),
        fused_rank=None if place is None else place + 1,
        rank=None if place is None or twin else place + 1 - columns.fate[:place].count("duplicate"),
        fate=None if place is None else columns.fate[place],
        duplicate_of=twin,
    )


def _judged(
    view: View, followed: _Followed, legs: dict[str, LegStanding], chunks: tuple[ChunkStanding, ...]
) -> WhyNot:  # fmt: skip
    """The verdict on the document: its best chunk decides, a returned one before all others."""
    columns, hits = followed.found.record.candidates, followed.found.record.hits
    end = PageEnd(
        hits=len(hits),
        score=columns.score[hits[-1].candidate] if hits else 0.0,
        candidates=len(columns.fate) - columns.fate.count("duplicate"),
    )
    best = chunks[0] if chunks else None
    verdict: Verdict = "not_candidate"
    lost_by = {name: leg.lost_by for name, leg in legs.items() if leg.lost_by is not None}
    if best is not None and best.fate is not None:
        lost_by = {}
        verdict = "returned" if best.fate == "returned" else "duplicate" if best.fate == "duplicate" else "beyond_page"
        if verdict == "beyond_page" and hits:
            lost_by = {"fused": end.score - best.score}
    present = [bool(row.any()) for row in followed.scores.terms]
    terms = followed.found.query.terms
    return WhyNot(
        document=followed.standing.document_id,
        corpus_version=view.version,
        verdict=verdict,
        stage=STAGES[verdict],
        lost_by=lost_by,
        rank=best.rank if best else None,
        standing=followed.standing,
        legs=legs,
        words_missing=tuple(term for (term, _), here in zip(terms, present, strict=True) if not here),
        chunks=chunks,
        chunks_total=len(followed.standing.rows),
        page_end=end,
    )
