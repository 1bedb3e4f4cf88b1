"""What the stages returned becomes one evidence record and its ledger lines. Pure but for the new id."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ragstone.core.errors import RagstoneError
from ragstone.core.evidence import (
    AnswerRecord,
    CandidateColumns,
    Degraded,
    Evidence,
    EvidenceText,
    FusionRecord,
    RetrievalRecord,
)
from ragstone.core.ids import corpus_id, uuid7, uuid7_unix_ms
from ragstone.core.nouns import EmbeddingSpec
from ragstone.core.ports import View
from ragstone.generate.calibration import calibration_of
from ragstone.generate.ports import Usage
from ragstone.retrieve.profile import Profile
from ragstone.retrieve.stage import Retrieved


@dataclass(frozen=True, slots=True)
class Made:
    """What an answer is made by and for, beside what the stages returned."""

    kind: str
    tenant: str
    corpus: str
    trace_id: str | None
    made_by: Mapping[str, str]
    answerer: Mapping[str, float]


def release_id(index_id: bytes, profile: Profile, answerer: Mapping[str, float], prompt: str) -> str:
    """The content address of {index, corpus policy, profile, prompt, route}: SHA-256 over JSON with sorted keys."""
    content = {
        "index": index_id.hex(),
        "corpus_policy": "latest",
        "profile": profile.as_record(),
        "prompt": prompt,
        "route": {"answerer": "extractive", **answerer},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def evidence_of(
    made: Made,
    view: View,
    embedding: EmbeddingSpec,
    profile: Profile,
    question: str,
    found: Retrieved,
    answer: AnswerRecord | None,
    usage: Usage,
    stage_ms: Mapping[str, float],
) -> tuple[Evidence, EvidenceText, list[list[Any]]]:
    """The record, its words, and the ledger lines (stage, unit, quantity, micro-USD)."""
    ident = uuid7()
    at = datetime.fromtimestamp(uuid7_unix_ms(ident) / 1000, UTC)
    tokens = {"query_embedding": found.query_tokens, **usage.tokens}
    record = Evidence(
        id=str(ident),
        kind=made.kind,
        at=at.isoformat(),
        corpus=made.corpus,
        corpus_id=view.corpus_id.hex(),
        tenant=made.tenant,
        asker=sorted(view.asker.principals),
        index_id=view.index_id.hex(),
        release=release_id(view.index_id, profile, made.answerer, answer.prompt if answer else ""),
        corpus_version=view.version,
        trace_id=made.trace_id or os.urandom(16).hex(),
        status="abstained" if answer and answer.abstained else "ok",
        retrieval=found.record,
        answer=answer,
        degraded=[*found.degraded, *_uncalibrated(answer, embedding)],
        stage_ms=dict(stage_ms),
        tokens=tokens,
        cost_microusd=usage.cost_microusd,
        made_by={**made.made_by, "embedder": embedding.model, "embedder_digest": embedding.digest},
        profile=profile.as_record(),
        epoch=view.epoch,
    )
    words = EvidenceText(
        question=question,
        answer=" ".join(sentence.text for sentence in answer.sentences) if answer else None,
        context={passage.chunk_id.hex(): passage.text for passage in found.passages},
        sentences=[sentence.text for sentence in answer.sentences] if answer else [],
        quotes=[[each.quote for each in sentence.citations] for sentence in answer.sentences] if answer else [],
    )
    ledger = [["embed", "tokens", found.query_tokens, 0]]
    ledger += [["answer", unit, count, 0] for unit, count in usage.tokens.items()]
    return record, words, ledger


def _uncalibrated(answer: AnswerRecord | None, embedding: EmbeddingSpec) -> list[Degraded]:
    if answer is None or calibration_of(embedding.model)[1]:
        return []
    detail = f"no numbers were fitted to {embedding.model}: confidence and support are guesses"
    return [Degraded("uncalibrated_confidence", "answer", detail)]


def failure_of(
    made: Made, asker: list[str], question: str, error: RagstoneError, stage_ms: Mapping[str, float]
) -> tuple[Evidence, EvidenceText]:
    """The record of a question that failed: what was asked, how far it came, and the error."""
    ident = uuid7()
    record = Evidence(
        id=str(ident),
        kind=made.kind,
        at=datetime.fromtimestamp(uuid7_unix_ms(ident) / 1000, UTC).isoformat(),
        corpus=made.corpus,
        corpus_id=corpus_id(made.tenant, made.corpus).hex(),
        tenant=made.tenant,
        asker=asker,
        index_id="",
        release="",
        corpus_version=0,
        trace_id=made.trace_id or os.urandom(16).hex(),
        status="error",
        retrieval=_nothing_retrieved(),
        answer=None,
        degraded=[],
        stage_ms=dict(stage_ms),
        tokens={},
        cost_microusd=0,
        made_by=dict(made.made_by),
        profile={},
        error={"code": error.code, "what": error.what, "doing": error.doing, "next_step": error.next_step},
    )
    return record, EvidenceText(question=question, answer=None, context={})


def _nothing_retrieved() -> RetrievalRecord:
    columns = CandidateColumns([], [], [], [], [], [], [], [], [], [], [])
    return RetrievalRecord([], "", None, [], FusionRecord("", {}, 0, {}, {}, {}, {}, 0), columns, [], 0, 0)
