"""The evidence record: what was decided for one question and why. Reasons are codes and numbers in columns;
prose is made when a person reads. Schema numbers are for ever: old records are lifted by `upcast`.

The words of a question, its answer and the passages are kept apart (`EvidenceText`), so that an erasure
deletes rows and the record itself can stay.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ragstone.core.errors import IntegrityError

SCHEMA = 1


class LegRecord(msgspec.Struct, omit_defaults=False):
    """How one leg was searched: path taken, rows that could match, rows returned, rows missing."""

    name: str
    path: str
    depth: int
    matching: int
    returned: int
    shortfall: int


class FusionRecord(msgspec.Struct):
    """How leg scores became one: per leg weight, mean, deviation, minimum and maximum over n candidates."""

    method: str
    weights: dict[str, float]
    n: int
    mean: dict[str, float]
    deviation: dict[str, float]
    minimum: dict[str, float]
    maximum: dict[str, float]
    rank_constant: int


class CandidateColumns(msgspec.Struct):
    """Every candidate in fused order, one column a property. A rank of 0 is: not in that leg's list.

    `fate` is `returned`, `duplicate` (of the candidate at `duplicate_of`, else -1) or `beyond_page`.
    """

    seq: list[int]
    chunk_id: list[str]
    bm25: list[float]
    bm25_rank: list[int]
    bm25_contribution: list[float]
    dense: list[float]
    dense_rank: list[int]
    dense_contribution: list[float]
    score: list[float]
    fate: list[str]
    duplicate_of: list[int]


class HitRecord(msgspec.Struct):
    """A passage that was returned: the candidate it is, where it stands, what each question term gave it."""

    candidate: int
    rank: int
    source: str
    key: str
    document_id: str
    chunk_id: str
    title: str
    start: int
    end: int
    heading_path: list[str]
    metadata: dict[str, Any]
    source_version: str
    indexed_at: str
    terms: dict[str, float]


class RetrievalRecord(msgspec.Struct):
    """What retrieval decided."""

    terms: list[list[Any]]
    query_vector: str
    filter: dict[str, Any] | None
    legs: list[LegRecord]
    fusion: FusionRecord
    candidates: CandidateColumns
    hits: list[HitRecord]
    offset: int
    limit: int


class Citation(msgspec.Struct):
    """A verbatim quote: `document text[start:end] == quote`, code points."""

    chunk_id: str
    document_id: str
    source: str
    key: str
    source_version: str
    start: int
    end: int
    quote: str


class AnswerSentence(msgspec.Struct):
    """One sentence of the answer, the quotes behind it, and how strongly they support it (0 to 1)."""

    text: str
    citations: list[Citation]
    support: float


class AnswerRecord(msgspec.Struct):
    """What the answerer decided. `features` are what the decision to answer was made from; sentences that
    lost are columns: score, rank of their passage, and why they were cut."""

    abstained: bool
    reason: str
    confidence: float
    threshold: float
    features: dict[str, float]
    sentences: list[AnswerSentence]
    considered: dict[str, list[Any]]
    model: str
    prompt: str
    settings: dict[str, float] = {}


class Degraded(msgspec.Struct):
    """Something that was cut short."""

    code: str
    stage: str
    detail: str


class Evidence(msgspec.Struct, omit_defaults=False):
    """The record behind one answer or one search. `epoch` is the corpus's count of changes of access and
    suppression when it was read: as long as it stands, the asker may see the same rows."""

    id: str
    kind: str
    at: str
    corpus: str
    corpus_id: str
    tenant: str
    asker: list[str]
    index_id: str
    release: str
    corpus_version: int
    trace_id: str
    status: str
    retrieval: RetrievalRecord
    answer: AnswerRecord | None
    degraded: list[Degraded]
    stage_ms: dict[str, float]
    tokens: dict[str, int]
    cost_microusd: int
    made_by: dict[str, str]
    profile: dict[str, Any]
    error: dict[str, str] | None = None
    epoch: int | None = None
    schema: int = SCHEMA


class EvidenceText(msgspec.Struct):
    """The words: question, answer, each returned passage by chunk id, and every citation's quote by sentence."""

    question: str
    answer: str | None
    context: dict[str, str]
    sentences: list[str] = []
    quotes: list[list[str]] = []


class EvidenceEnvelope(msgspec.Struct):
    """What goes through the spool: the record as JSON bytes, its words, and what the ledger gets."""

    record: Evidence
    text: EvidenceText
    ledger: list[list[Any]]


def encode(record: Evidence) -> bytes:
    """The record's bytes, without the answer's words: those are kept apart, so that they can be erased."""
    if record.answer is None:
        return msgspec.json.encode(record)
    bare = [
        msgspec.structs.replace(
            sentence, text="", citations=[msgspec.structs.replace(each, quote="") for each in sentence.citations]
        )
        for sentence in record.answer.sentences
    ]
    answer = msgspec.structs.replace(record.answer, sentences=bare)
    return msgspec.json.encode(msgspec.structs.replace(record, answer=answer))


def storable(words: EvidenceText) -> EvidenceText:
    """The words without NUL characters: databases keep none, and a record must not be lost for one."""
    return msgspec.json.decode(msgspec.json.encode(words).replace(b"\\u0000", b""), type=EvidenceText)


def decode(body: bytes | str, words: EvidenceText | None = None) -> Evidence:
    """A record of any schema ever written, as the current one, with its words put back where they are still
    kept. Unknown fields are ignored."""
    record = msgspec.convert(upcast(msgspec.json.decode(body)), Evidence)
    if words is not None and record.answer is not None:
        for sentence, text, quotes in zip(record.answer.sentences, words.sentences, words.quotes, strict=False):
            sentence.text = text
            for citation, quote in zip(sentence.citations, quotes, strict=False):
                citation.quote = quote
    return record


def upcast(raw: dict[str, Any]) -> dict[str, Any]:
    """Lift a record to the current schema, one step at a time."""
    schema = raw.get("schema")
    # A boolean is an int in Python, and no schema.
    if isinstance(schema, bool) or not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
        raise IntegrityError(
            f"evidence schema {schema!r} is not one of 1 to {SCHEMA}",
            doing="reading evidence",
            next_step="read it with the version of ragstone that wrote it, or a later one",
        )
    while raw["schema"] < SCHEMA:
        raw = UPCASTERS[raw["schema"]](raw)
    return raw


UPCASTERS: dict[int, Any] = {}
