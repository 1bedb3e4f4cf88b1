"""The answer decided again: scores of the sentences considered, confidence, choice, and the citations made of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ragstone.core.evidence import AnswerRecord, AnswerSentence, Citation, Evidence, EvidenceText, RetrievalRecord
from ragstone.core.nouns import Passage
from ragstone.core.ports import Query
from ragstone.evaluate.replay_record import Difference
from ragstone.generate.calibration import Calibration, calibration_of
from ragstone.generate.choice import Choice, ExtractionSettings, choose
from ragstone.generate.extract import Scored, passage_gap, unit_score
from ragstone.generate.ports import Grounds
from ragstone.generate.stage import cited
from ragstone.generate.units import Unit

NO_TERMS: frozenset[str] = frozenset()
DECISION = ("abstained", "reason", "confidence", "features")
PLACE = ("chunk_id", "document_id", "source", "key", "source_version", "start", "end")
NOT_RECORDED = "the record does not hold the fitted numbers of its answerer: those of this program were taken"


def answer_again(record: Evidence, words: EvidenceText | None) -> tuple[list[Difference], str]:
    """Every difference between the recorded answer and the one decided now, and a note or ""."""
    assert record.answer is not None
    recorded, settings, note = record.answer, record.answer.settings, ""
    if "unit_intercept" not in settings:
        # The first records hold the knobs of the answerer and not its weights, which went by the embedder's name.
        fitted, _ = calibration_of(record.made_by["embedder"])
        settings, note = {**fitted.as_record(), **settings}, NOT_RECORDED
    again = ExtractionSettings.of_record(settings)
    grounds = _grounds(record.retrieval, words)
    parts = _parts(recorded, record.retrieval, grounds.cosines, again.fitted)
    choice = choose(parts, grounds, again)
    differences = [
        *_scores(recorded, parts),
        *_decision(record, choice, again),
        *_sentences(recorded, choice, grounds),
    ]
    return differences, note


def _grounds(retrieval: RetrievalRecord, words: EvidenceText | None) -> Grounds:
    context = words.context if words else {}
    passages = tuple(
        Passage(
            seq=retrieval.candidates.seq[hit.candidate],
            chunk_id=bytes.fromhex(hit.chunk_id),
            document_id=hit.document_id,
            source=hit.source,
            key=hit.key,
            title=hit.title,
            text=context.get(hit.chunk_id, ""),
            start=hit.start,
            end=hit.end,
            heading_path=tuple(hit.heading_path),
            metadata=hit.metadata,
            source_version=hit.source_version,
            indexed_at=hit.indexed_at,
        )
        for hit in retrieval.hits
    )
    cosines = tuple(retrieval.candidates.dense[hit.candidate] for hit in retrieval.hits)
    return Grounds("", Query((), np.zeros(0, dtype=np.float32)), (), passages, cosines)


def _scores(recorded: AnswerRecord, parts: list[list[Scored]]) -> Iterator[Difference]:
    table = recorded.considered
    for at, each in enumerate(scored for part in parts for scored in part):
        if each.score != table["score"][at]:
            yield Difference(f"considered[{at}].score", table["score"][at], each.score)


def _decision(record: Evidence, choice: Choice, settings: ExtractionSettings) -> Iterator[Difference]:
    recorded = record.answer
    assert recorded is not None
    for name in DECISION:
        if getattr(recorded, name) != getattr(choice, name):
            yield Difference(f"answer.{name}", getattr(recorded, name), getattr(choice, name))
    if recorded.threshold != settings.threshold:
        yield Difference("answer.threshold", recorded.threshold, settings.threshold)
    status = "abstained" if choice.abstained else "ok"
    if record.status != status:
        yield Difference("status", record.status, status)
    table = recorded.considered
    places = zip(table["part"], table["unit"], strict=True)
    for at, (old, place) in enumerate(zip(table["fate"], places, strict=True)):
        new = choice.fates.get(place, "below_margin")
        if old != new:
            yield Difference(f"considered[{at}].fate", old, new)


def _sentences(recorded: AnswerRecord, choice: Choice, grounds: Grounds) -> Iterator[Difference]:
    """The sentences and citations that the chosen units make, against those that went out."""
    chosen = () if choice.abstained else choice.chosen
    if len(recorded.sentences) != len(chosen):
        yield Difference("answer.sentences", len(recorded.sentences), len(chosen))
    for at, (old, unit) in enumerate(zip(recorded.sentences, chosen, strict=False)):
        passage = grounds.passages[unit.unit.passage]
        new = cited(_spanned(unit, old, passage), grounds)
        where = f"answer.sentences[{at}]"
        if old.support != new.support:
            yield Difference(f"{where}.support", old.support, new.support)
        if len(old.citations) != len(new.citations):
            yield Difference(f"{where}.citations", len(old.citations), len(new.citations))
        fields = (*PLACE, "quote") if passage.text else PLACE
        for number, (was, now) in enumerate(zip(old.citations, new.citations, strict=False)):
            yield from _citation(f"{where}.citations[{number}]", was, now, fields)
        if passage.text and old.text != new.text:
            yield Difference(f"{where}.text", old.text, new.text)


def _citation(where: str, was: Citation, now: Citation, fields: tuple[str, ...]) -> Iterator[Difference]:
    for name in fields:
        if getattr(was, name) != getattr(now, name):
            yield Difference(f"{where}.{name}", getattr(was, name), getattr(now, name))


def _spanned(scored: Scored, recorded: AnswerSentence, passage: Passage) -> Scored:
    """The unit with the spans of its citations: of a whole list the table of sentences keeps the first and the last
    character. Spans that go beyond them, or back, are not taken: then the citations differ from the unit."""
    if scored.unit.kind != "list":
        return scored
    spans = tuple((each.start - passage.start, each.end - passage.start) for each in recorded.citations)
    edges = [edge for span in spans for edge in span]
    if not edges or edges != sorted(edges) or (edges[0], edges[-1]) != (scored.unit.start, scored.unit.end):
        return scored
    unit = Unit(scored.unit.passage, spans, "list", "", "", NO_TERMS, NO_TERMS)
    return Scored(unit, scored.part, scored.cosine, scored.coverage, scored.number_missing, scored.score)


def _parts(
    recorded: AnswerRecord, retrieval: RetrievalRecord, cosines: tuple[float, ...], fitted: Calibration
) -> list[list[Scored]]:
    table: dict[str, list[Any]] = recorded.considered
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
