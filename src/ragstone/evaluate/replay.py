"""`replay`: fusion, selection, context and answer are decided again from the recorded candidates, by the very
functions that decided them, and must come out equal to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ragstone.core.evidence import AnswerRecord, CandidateColumns, Evidence, RetrievalRecord
from ragstone.core.ports import Query, RowScores
from ragstone.generate.calibration import Calibration
from ragstone.generate.choice import Choice, ExtractionSettings, choose
from ragstone.generate.extract import Scored, passage_gap, unit_score
from ragstone.generate.ports import Grounds
from ragstone.generate.units import Unit
from ragstone.retrieve.fusion import fuse
from ragstone.retrieve.profile import Profile
from ragstone.retrieve.selection import Selected, select

NO_TERMS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that came out otherwise: where, what was recorded, what was decided now."""

    where: str
    recorded: Any
    replayed: Any


@dataclass(frozen=True, slots=True)
class Replay:
    """What was decided again, and every difference; equal when there is none."""

    decided: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def equal(self) -> bool:
        """Whether every decision came out the same."""
        return not self.differences


def replay(record: Evidence) -> Replay:
    """Decide a record again. A record of a failure has nothing to decide."""
    if record.error is not None:
        return Replay((), ())
    differences = [*_fusion(record.retrieval, record.profile)]
    decided = ["fusion", "selection", "context"]
    if record.answer is not None:
        decided.append("answer")
        differences += _answer(record.answer, record.retrieval)
    return Replay(tuple(decided), tuple(differences))


def _fusion(recorded: RetrievalRecord, profile: dict[str, Any]) -> Iterator[Difference]:
    columns = recorded.candidates
    again = _selected(recorded, profile)
    for name in CandidateColumns.__struct_fields__:
        for at, (old, new) in enumerate(zip(getattr(columns, name), getattr(again.columns, name), strict=True)):
            if old != new:
                yield Difference(f"candidates[{at}].{name}", old, new)
    for name in type(recorded.fusion).__struct_fields__:
        old, new = getattr(recorded.fusion, name), getattr(again.fusion, name)
        if old != new:
            yield Difference(f"fusion.{name}", old, new)
    context = [hit.candidate for hit in recorded.hits]
    if context != list(again.returned):
        yield Difference("context", context, list(again.returned))


def _selected(recorded: RetrievalRecord, profile: dict[str, Any]) -> Selected:
    columns = recorded.candidates
    chunk_ids = tuple(bytes.fromhex(each) for each in columns.chunk_id)
    # Equal texts are known by whom they stand for: the record keeps no hash of a text.
    group = [original if original >= 0 else at for at, original in enumerate(columns.duplicate_of)]
    scores = RowScores(
        bm25=np.array(columns.bm25, dtype=np.float64),
        dense=np.array(columns.dense, dtype=np.float64),
        terms=np.zeros((0, len(chunk_ids))),
        idf=np.zeros(0),
        chunk_ids=chunk_ids,
        text_hashes=tuple(str(each).encode() for each in group),
    )
    ranks = {
        "bm25": np.array(columns.bm25_rank, dtype=np.int64),
        "dense": np.array(columns.dense_rank, dtype=np.int64),
    }
    chosen = Profile(**profile)
    fused = fuse({"bm25": scores.bm25, "dense": scores.dense}, ranks, chunk_ids, chosen)
    seqs = np.array(columns.seq, dtype=np.int64)
    return select(seqs, scores, ranks, fused, recorded.offset, recorded.limit, collapse=chosen.collapse_duplicates)


def _answer(recorded: AnswerRecord, retrieval: RetrievalRecord) -> Iterator[Difference]:
    cosines = tuple(retrieval.candidates.dense[hit.candidate] for hit in retrieval.hits)
    settings = ExtractionSettings.of_record(recorded.settings)
    parts = _parts(recorded, retrieval, cosines, settings.fitted)
    table = recorded.considered
    for at, each in enumerate(scored for part in parts for scored in part):
        if each.score != table["score"][at]:
            yield Difference(f"considered[{at}].score", table["score"][at], each.score)
    grounds = Grounds("", Query((), np.zeros(0, dtype=np.float32)), (), (), cosines)
    choice = choose(parts, grounds, settings)
    for name in ("abstained", "reason", "confidence", "features"):
        if getattr(recorded, name) != getattr(choice, name):
            yield Difference(f"answer.{name}", getattr(recorded, name), getattr(choice, name))
    fates = _fates(choice, table)
    if fates != table["fate"]:
        yield Difference("answer.fates", table["fate"], fates)


def _fates(choice: Choice, table: dict[str, list[Any]]) -> list[str]:
    places = zip(table["part"], table["unit"], strict=True)
    return [choice.fates.get(place, "below_margin") for place in places]


def _parts(
    recorded: AnswerRecord, retrieval: RetrievalRecord, cosines: tuple[float, ...], fitted: Calibration
) -> list[list[Scored]]:
    table = recorded.considered
    passage_of = {hit.chunk_id: at for at, hit in enumerate(retrieval.hits)}
    parts: list[list[Scored]] = [[] for _ in range(max(table["part"], default=-1) + 1)]
    for at, part in enumerate(table["part"]):
        passage = passage_of[table["chunk_id"][at]]
        span = (table["start"][at], table["end"][at])
        unit = Unit(passage, (span,), table["kind"][at], "", "", NO_TERMS, NO_TERMS)
        missing = table["number_missing"][at]
        gap = passage_gap(passage, cosines)
        score = unit_score(
            fitted, table["cosine"][at], table["coverage"][at], table["words"][at], gap, number_missing=missing
        )
        parts[part].append(Scored(unit, part, table["cosine"][at], table["coverage"][at], missing, score))
    return parts
