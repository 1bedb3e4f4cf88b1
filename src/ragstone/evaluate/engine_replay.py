"""`replay --engine`: the legs run again on the recorded version, for the recorded asker, with the recorded query.

A path that misses no row must give the same rows, in the same order, with the same scores; a walk through HNSW is
compared by its overlap. What the asker may not see any more is told apart: access belongs to today.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ragstone.core.deadline import Deadline
from ragstone.core.errors import IntegrityError, NotFound
from ragstone.core.evidence import Evidence, LegRecord, RetrievalRecord
from ragstone.core.filters import Filter, parse_filter
from ragstone.core.nouns import Asker, EmbeddingSpec
from ragstone.core.ports import Engine, LegHits, LegName, Query, RowScores, Vector, View
from ragstone.evaluate.replay import is_exact
from ragstone.evaluate.replay_record import Difference
from ragstone.retrieve.ports import Catalog
from ragstone.retrieve.profile import Profile
from ragstone.retrieve.stage import decide

# Scores of the same bytes on another processor: BM25 is added up in one order everywhere, a cosine is not.
DENSE_TOLERANCE = 1e-6
DOING = "running the legs again"


@dataclass(frozen=True, slots=True)
class LegReplay:
    """One leg run again. `same` of the `recorded` rows are in the list now; `came` and `went` are chunk ids.

    `comparable`: both paths miss no row, so that rows, order and scores must be the same; `agrees` says that they
    are, or that nothing can be said.
    """

    name: str
    path_recorded: str
    path_now: str
    comparable: bool
    agrees: bool
    depth: int
    recorded: int
    same: int
    came: tuple[str, ...]
    went: tuple[str, ...]
    largest_difference: float
    matching_recorded: int
    matching_now: int

    @property
    def overlap(self) -> float:
        """The share of the recorded rows that are in the list now, 0 to 1."""
        return self.same / self.recorded if self.recorded else 1.0


@dataclass(frozen=True, slots=True)
class PageReplay:
    """The page that fusion and selection make of the new lists: chunk ids that came and went."""

    recorded: int
    same: int
    same_order: bool
    came: tuple[str, ...]
    went: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EngineReplay:
    """What the engine gives now for a recorded question.

    `scored` candidates were scored again; `differences` are scores, rows and texts that are not what they were.
    `hidden` are the chunk ids of candidates that the asker may not see any more. `changed` names what is set
    otherwise now than in the record: the legs ran with what the record says.
    """

    corpus_version: int
    legs: tuple[LegReplay, ...]
    scored: int
    largest_dense_difference: float
    differences: tuple[Difference, ...]
    hidden: tuple[str, ...]
    access_changed: bool | None
    page: PageReplay
    changed: Mapping[str, tuple[Any, Any]] = field(hash=False)

    @property
    def agrees(self) -> bool:
        """Whether nothing came out otherwise that had to be the same."""
        return not self.differences and all(leg.agrees for leg in self.legs)


@dataclass(frozen=True, slots=True)
class _Again:
    """The legs' new lists and the exact scores of every row that is in a list, then or now."""

    view: View
    query: Query
    hits: dict[str, LegHits]
    seqs: tuple[int, ...]
    scores: RowScores


async def replay_on_engine(
    record: Evidence, catalog: Catalog, engine: Engine, now: Profile, deadline: Deadline
) -> EngineReplay | None:
    """Run the legs of a record again; `now` is the profile of today's settings. None for the record of a failure.

    NotFound when the corpus or the version is gone; IntegrityError when the record's query cannot be read.
    """
    if record.error is not None:
        return None
    retrieval = record.retrieval
    asker = Asker(frozenset(record.asker))
    view, embedding = await catalog.view(record.tenant, record.corpus, str(record.corpus_version), asker)
    if view.index_id.hex() != record.index_id:
        raise NotFound(
            f"corpus {record.corpus!r} has been made anew with another recipe since {record.at}",
            doing=DOING,
            next_step=f"decide again from what is recorded: ragstone replay {record.id}",
        )
    query = Query(tuple((str(term), int(count)) for term, count, _ in retrieval.terms), _vector(record, embedding))
    tree = parse_filter(retrieval.filter)
    hits = {leg.name: await _search(engine, view, leg, query, tree, deadline) for leg in retrieval.legs}
    seqs = sorted({*retrieval.candidates.seq, *(seq for leg in hits.values() for seq in leg.seqs.tolist())})
    scores = await engine.score(view, query, np.array(seqs, dtype=np.int64), deadline)
    again = _Again(view, query, hits, tuple(seqs), scores)
    return _compared(record, again, now)


async def _search(
    engine: Engine, view: View, leg: LegRecord, query: Query, tree: Filter | None, deadline: Deadline
) -> LegHits:
    name: LegName = "bm25" if leg.name == "bm25" else "dense"
    return await engine.search(view, name, query, tree, leg.depth, deadline)


def _vector(record: Evidence, embedding: EmbeddingSpec) -> Vector:
    try:
        packed = base64.b64decode(record.retrieval.query_vector, validate=True)
        vector = np.frombuffer(packed, dtype="<f2").astype(np.float32)
    except ValueError:
        vector = np.zeros(0, dtype=np.float32)
    if len(vector) != embedding.dimensions:
        raise IntegrityError(
            f"the query vector of {record.id} is not one of {embedding.dimensions} numbers",
            doing=DOING,
            next_step=f"decide again from what is recorded: ragstone replay {record.id}",
        )
    return vector


def _compared(record: Evidence, again: _Again, now: Profile) -> EngineReplay:
    retrieval = record.retrieval
    columns = retrieval.candidates
    place = {seq: at for at, seq in enumerate(again.seqs)}
    gone = {at for at, seq in enumerate(columns.seq) if not again.scores.chunk_ids[place[seq]]}
    access = None if record.epoch is None else record.epoch != again.view.epoch
    differences = list(_score_differences(retrieval, again, place, gone))
    if access is False:
        # Nobody's access has changed since: a row that is not there any more is a fault, not a secret.
        differences += [Difference(f"candidates[{at}]", columns.chunk_id[at], None) for at in sorted(gone)]
    dense = [
        abs(columns.dense[at] - float(again.scores.dense[place[seq]]))
        for at, seq in enumerate(columns.seq)
        if at not in gone
    ]
    return EngineReplay(
        corpus_version=again.view.version,
        legs=tuple(_leg(leg, retrieval, again, gone, access) for leg in retrieval.legs),
        scored=len(columns.seq) - len(gone),
        largest_dense_difference=max(dense, default=0.0),
        differences=tuple(differences),
        hidden=tuple(columns.chunk_id[at] for at in sorted(gone)) if access is not False else (),
        access_changed=access,
        page=_page(record, again),
        changed=_changed(record, again, now),
    )


def _score_differences(
    retrieval: RetrievalRecord, again: _Again, place: Mapping[int, int], gone: set[int]
) -> list[Difference]:
    """Recorded candidates whose row, words or scores are not what they were."""
    columns, scores, found = retrieval.candidates, again.scores, []
    for at, seq in enumerate(columns.seq):
        if at in gone:
            continue
        row = place[seq]
        if scores.chunk_ids[row].hex() != columns.chunk_id[at]:
            found.append(Difference(f"candidates[{at}].chunk_id", columns.chunk_id[at], scores.chunk_ids[row].hex()))
        if float(scores.bm25[row]) != columns.bm25[at]:
            found.append(Difference(f"candidates[{at}].bm25", columns.bm25[at], float(scores.bm25[row])))
        if abs(float(scores.dense[row]) - columns.dense[at]) > DENSE_TOLERANCE:
            found.append(Difference(f"candidates[{at}].dense", columns.dense[at], float(scores.dense[row])))
        original = columns.duplicate_of[at]
        if original >= 0 and original not in gone:
            twin = place[columns.seq[original]]
            if scores.text_hashes[row] != scores.text_hashes[twin]:
                found.append(Difference(f"candidates[{at}].duplicate_of", original, -1))
    for at, (term, weight) in enumerate(zip(retrieval.terms, scores.idf.tolist(), strict=True)):
        if weight != term[2]:
            found.append(Difference(f"terms[{at}].idf", term[2], weight))
    return found


def _leg(leg: LegRecord, retrieval: RetrievalRecord, again: _Again, gone: set[int], access: bool | None) -> LegReplay:
    columns, hits = retrieval.candidates, again.hits[leg.name]
    ranks: list[int] = getattr(columns, f"{leg.name}_rank")
    scores: list[float] = getattr(columns, leg.name)
    # What the asker may not see any more is not in the list, and others have moved up.
    listed = sorted((at for at, rank in enumerate(ranks) if rank > 0 and at not in gone), key=lambda at: ranks[at])
    was = [(columns.seq[at], scores[at]) for at in listed]
    now = list(zip(hits.seqs.tolist(), hits.scores.tolist(), strict=True))
    old, new = {seq for seq, _ in was}, {seq for seq, _ in now}
    chunk_of = dict(zip(again.seqs, (each.hex() for each in again.scores.chunk_ids), strict=True))
    both = dict(now)
    comparable = is_exact(leg.path) and is_exact(hits.path)
    moved = access is True or (access is None and (bool(gone) or leg.matching != hits.matching))
    # With other access another list is right: what both hold must still stand in the same order.
    kept = [pair for pair in was if pair[0] in new] if moved else was
    held = [pair for pair in now if pair[0] in old] if moved else now
    tolerance = DENSE_TOLERANCE if leg.name == "dense" else 0.0
    return LegReplay(
        name=leg.name,
        path_recorded=leg.path,
        path_now=hits.path,
        comparable=comparable,
        agrees=not comparable or _same_list(kept, held, tolerance),
        depth=leg.depth,
        recorded=len(was),
        same=len(old & new),
        came=tuple(chunk_of[seq] for seq, _ in now if seq not in old),
        went=tuple(chunk_of[seq] for seq, _ in was if seq not in new),
        largest_difference=max((abs(score - both[seq]) for seq, score in was if seq in both), default=0.0),
        matching_recorded=leg.matching,
        matching_now=hits.matching,
    )


def _same_list(was: Sequence[tuple[int, float]], now: Sequence[tuple[int, float]], tolerance: float) -> bool:
    """Whether two lists are the same rows with the same scores in the same order. With a tolerance, rows whose
    scores are that near may stand in either order, and either of them may be the last that got in."""
    if len(was) != len(now):
        return False
    if any(abs(one[1] - other[1]) > tolerance for one, other in zip(was, now, strict=True)):
        return False
    if not tolerance:
        return [seq for seq, _ in was] == [seq for seq, _ in now]
    then, cut = dict(was), was[-1][1] if was else 0.0
    return all(abs(then.get(seq, cut) - score) <= tolerance for seq, score in now)


def _page(record: Evidence, again: _Again) -> PageReplay:
    """Fuse and select what the legs give now, by the recorded profile."""
    retrieval = record.retrieval
    union = np.unique(np.concatenate([np.zeros(0, np.int64), *(leg.seqs for leg in again.hits.values())]))
    at = np.searchsorted(np.array(again.seqs, dtype=np.int64), union)
    every = again.scores
    scores = RowScores(
        bm25=every.bm25[at],
        dense=every.dense[at],
        terms=every.terms[:, at],
        idf=every.idf,
        chunk_ids=tuple(every.chunk_ids[each] for each in at.tolist()),
        text_hashes=tuple(every.text_hashes[each] for each in at.tolist()),
    )
    chosen = decide(union, scores, again.hits, Profile(**record.profile), retrieval.offset, retrieval.limit)
    now = [chosen.columns.chunk_id[place] for place in chosen.returned]
    was = [hit.chunk_id for hit in retrieval.hits]
    return PageReplay(
        recorded=len(was),
        same=len(set(was) & set(now)),
        same_order=was == now,
        came=tuple(each for each in now if each not in was),
        went=tuple(each for each in was if each not in now),
    )


def _changed(record: Evidence, again: _Again, now: Profile) -> dict[str, tuple[Any, Any]]:
    """What is set otherwise now: the profile, and the path of a leg (rows up to which all are compared)."""
    today = now.as_record()
    names = [*record.profile, *(name for name in today if name not in record.profile)]
    changed = {
        f"profile.{name}": (record.profile.get(name), today.get(name))
        for name in names
        if record.profile.get(name) != today.get(name)
    }
    for leg in record.retrieval.legs:
        path = again.hits[leg.name].path
        if leg.path != path:
            changed[f"legs.{leg.name}.path"] = (leg.path, path)
    return changed
