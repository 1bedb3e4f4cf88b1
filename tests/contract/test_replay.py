"""Replay: what was decided once is decided alike from the stored record, and a changed number is noticed."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from contract_stacks import EMBEDDER, TENANT, Ingest, Stack, questions, random_documents, soon

from ragstone.core.evidence import Evidence, EvidenceEnvelope, EvidenceText
from ragstone.core.nouns import Asker
from ragstone.evaluate.replay import replay
from ragstone.flow import AnswerParts, Question, ask
from ragstone.generate.calibration import calibration_of
from ragstone.generate.choice import ExtractionSettings
from ragstone.generate.stage import ExtractiveAnswerer
from ragstone.retrieve.profile import METHODS, Profile
from ragstone.retrieve.stage import Retriever


class Kept:
    """Takes evidence straight into a stack's store."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    async def write(self, record: Evidence, words: EvidenceText, ledger: list[list[Any]]) -> None:
        await self.stack.evidence.append([EvidenceEnvelope(record, words, ledger)])


def parts(stack: Stack, profile: Profile, threshold: float) -> AnswerParts:
    async def retriever(_: Any) -> Retriever:
        return Retriever(stack.catalog, stack.engine, EMBEDDER, profile)

    async def answerer(_: Any) -> ExtractiveAnswerer:
        return ExtractiveAnswerer(EMBEDDER, ExtractionSettings(calibration_of("hash")[0], threshold))

    return AnswerParts(stack.catalog, retriever, answerer, Kept(stack), {}, 8_000, 8)


async def records(stack: Stack, profile: Profile, threshold: float) -> list[Evidence]:
    """Questions of one and of two parts, asked and read back from the store."""
    corpus = f"replay-{uuid.uuid4().hex[:8]}"
    await Ingest(corpus, random_documents(seed=5, count=60)).into(stack)
    asked = questions(seed=6, count=6)
    asked.append(f"{asked[0]}, and which {asked[1]}")
    found = []
    for text in asked:
        question = Question(text, TENANT, corpus, Asker(), None, None, soon())
        outcome = await ask(parts(stack, profile, threshold), question)
        found.append((await stack.evidence.get(None, uuid.UUID(outcome.record.id)))[0])
    return found


@pytest.mark.parametrize("method", METHODS)
async def test_a_stored_record_is_decided_alike(stack, method):
    """Fusion, selection, context and answer come out equal bit for bit, with every fusion method."""
    stored = await records(stack, Profile(fusion=method, depth=30), threshold=0.0)
    assert any(record.answer.sentences for record in stored)
    assert any(max(record.answer.considered["part"]) > 0 for record in stored)
    for record in stored:
        again = replay(record)
        assert again.decided == ("fusion", "selection", "context", "answer")
        assert again.differences == ()


async def test_an_abstention_is_decided_alike(stack):
    """An abstention is a decision too."""
    for record in await records(stack, Profile(depth=30), threshold=1.0):
        assert record.answer.abstained
        assert replay(record).equal


@pytest.mark.parametrize("column", ["bm25", "dense", "score", "bm25_contribution"])
async def test_one_altered_score_is_seen(memory, column):
    """A stored score changed by a millionth of a millionth is a difference that names the place."""
    record = (await records(memory, Profile(depth=30), threshold=0.0))[0]
    values = getattr(record.retrieval.candidates, column)
    values[3] += 1e-12
    assert any(column in each.where or "contribution" in each.where for each in replay(record).differences)


@pytest.mark.parametrize("column", ["cosine", "coverage", "score", "words"])
async def test_one_altered_sentence_is_seen(memory, column):
    """A sentence's features and score are held to the decision as well."""
    record = (await records(memory, Profile(depth=30), threshold=0.0))[0]
    record.answer.considered[column][0] += 1
    assert not replay(record).equal


async def test_an_altered_threshold_is_seen(memory):
    """Raising the threshold in the record turns its answer into an abstention, and that is a difference."""
    record = (await records(memory, Profile(depth=30), threshold=0.0))[0]
    record.answer.settings["threshold"] = 1.1
    assert "answer.abstained" in {each.where for each in replay(record).differences}
