"""Replay: what was decided once is decided alike from the stored record, and whatever is changed in it is noticed."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio
from answering import parts
from contract_stacks import TENANT, Ingest, Stack, document, fresh, questions, random_documents, soon

from ragstone.core.errors import IntegrityError
from ragstone.core.evidence import CandidateColumns, Evidence, EvidenceText, FusionRecord
from ragstone.core.nouns import Asker
from ragstone.evaluate.replay import ERASED, replay
from ragstone.flow import Question, ask, search
from ragstone.retrieve.profile import METHODS, Profile

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.asyncio(loop_scope="session")

LIST = document(
    "list", "What the quarry yard needs, as the wright says:\n\n- a stone hammer\n- a salt lamp\n- an iron bell\n"
)
LIST_QUESTION = "What does the quarry yard need, as the wright says: a stone hammer, a salt lamp, an iron bell?"


async def stored(
    stack: Stack, profile: Profile, threshold: float, asked: list[str] | None = None
) -> list[tuple[Evidence, EvidenceText]]:
    """Questions of one and of two parts, and one that a list answers, asked and read back from the store."""
    corpus = fresh("replay")
    await Ingest(corpus, [*random_documents(seed=5, count=60), LIST]).into(stack)
    texts = asked or [*questions(seed=6, count=6), LIST_QUESTION]
    texts.append(f"{texts[0]}, and which {texts[-1]}")
    found = []
    for text in texts:
        question = Question(text, TENANT, corpus, Asker(), None, None, soon())
        outcome = await ask(parts(stack, profile, threshold), question)
        found.append(await stack.evidence.get(None, uuid.UUID(outcome.record.id)))
    return found


@pytest.mark.parametrize("method", METHODS)
async def test_a_stored_record_is_decided_alike(stack, method):
    """Lists, fusion, selection, context and answer come out equal bit for bit, with every fusion method, with the
    words and when they were erased."""
    kept = await stored(stack, Profile(fusion=method, depth=30), threshold=0.0)
    answers = [record.answer for record, _ in kept]
    assert any(max(answer.considered["part"]) > 0 for answer in answers)
    assert any(len(sentence.citations) > 1 for answer in answers for sentence in answer.sentences)
    for record, words in kept:
        bare = msgspec.convert(msgspec.to_builtins(record), Evidence)
        for sentence in bare.answer.sentences:
            sentence.text = ""
            for citation in sentence.citations:
                citation.quote = ""
        for again, notes in ((replay(record, words), ()), (replay(bare), (ERASED,))):
            assert again.decided == ("legs", "fusion", "selection", "context", "answer")
            assert again.differences == ()
            assert again.notes == notes


async def test_an_abstention_is_decided_alike(stack):
    """An abstention is a decision too."""
    for record, words in await stored(stack, Profile(depth=30), threshold=1.0):
        assert record.answer.abstained
        assert replay(record, words).equal


async def test_a_search_is_decided_alike(stack):
    """A search has no answer to decide; a second page and a page beyond the end are decided as the first is."""
    corpus = fresh("replay")
    await Ingest(corpus, random_documents(seed=5, count=20)).into(stack)
    for offset in (0, 7, 1000):
        question = Question("stone lamp quarry", TENANT, corpus, Asker(), None, None, soon(), limit=7, offset=offset)
        record = (await search(parts(stack, Profile(depth=30), 0.0), question)).record
        assert replay(record).decided == ("legs", "fusion", "selection", "context")
        assert replay(record).differences == ()


COLUMNS = [name for name in CandidateColumns.__struct_fields__ if name != "seq"]
STATISTICS = [name for name in FusionRecord.__struct_fields__ if name != "weights"]


def other(value: Any) -> Any:
    """Another value of the same type, as near as can be."""
    if isinstance(value, str):
        return ("0" if value[-1] != "0" else "1") if len(value) == 1 else value[:-1] + other(value[-1])
    return not value if isinstance(value, bool) else value + (1e-12 if isinstance(value, float) else 1)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sample(memory) -> tuple[bytes, EvidenceText]:
    """A record with a list in its answer, as bytes, so that every test alters its own."""
    record, words = (await stored(memory, Profile(depth=30), 0.0, [LIST_QUESTION]))[0]
    assert len(record.answer.sentences[0].citations) == 4
    assert replay(record, words).equal
    return msgspec.json.encode(record), words


def altered(sample: tuple[bytes, EvidenceText], alter: Callable[[Evidence], Any]) -> set[str]:
    """Where a replay of the record sees differences after it was altered."""
    record = msgspec.json.decode(sample[0], type=Evidence)
    alter(record)
    return {each.where for each in replay(record, sample[1]).differences}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("at", [0, 3])
async def test_one_altered_candidate_is_seen(sample, column, at):
    """One value of one column of the candidates, changed as little as can be, is a difference; a changed reason or
    result is named by its place."""

    def alter(record: Evidence) -> None:
        values = getattr(record.retrieval.candidates, column)
        values[at] = other(values[at])

    where = altered(sample, alter)
    assert where
    if column not in {"bm25", "dense", "chunk_id", "duplicate_of"}:
        assert f"candidates[{at}].{column}" in where


@pytest.mark.parametrize("statistic", STATISTICS)
async def test_one_altered_statistic_is_seen(sample, statistic):
    """Each statistic of the fusion is decided again: method, n, mean, deviation, minimum, maximum, constant."""

    def alter(record: Evidence) -> None:
        value = getattr(record.retrieval.fusion, statistic)
        if isinstance(value, dict):
            value["dense"] = other(value["dense"])
        else:
            setattr(record.retrieval.fusion, statistic, other(value))

    assert altered(sample, alter) == {f"fusion.{statistic}"}


def _swap_context(record: Evidence) -> None:
    hits = record.retrieval.hits
    hits[0], hits[1] = hits[1], hits[0]


def _other_fate(record: Evidence) -> None:
    record.answer.considered["fate"][0] = "beyond_limit"


def _cut(record: Evidence) -> None:
    record.answer.sentences.pop()


def _inner_span(record: Evidence) -> None:
    record.answer.sentences[0].citations[1].end -= 1


def _outer_span(record: Evidence) -> None:
    record.answer.sentences[0].citations[0].start += 1


CITATION = "answer.sentences[0].citations"
ALTERATIONS: list[tuple[Any, set[str]]] = [
    (_swap_context, {"context", "hits[0].rank", "hits[1].rank"}),
    (_other_fate, {"considered[0].fate"}),
    (_cut, {"answer.sentences"}),
    (_inner_span, {f"{CITATION}[1].quote", "answer.sentences[0].text"}),
    (_outer_span, {CITATION, f"{CITATION}[0].start", f"{CITATION}[0].end", f"{CITATION}[0].quote"}),
    (lambda r: setattr(r.retrieval.hits[2], "rank", 9), {"hits[2].rank"}),
    (lambda r: r.retrieval.hits[0].terms.popitem(), {"hits[0].terms"}),
    (lambda r: setattr(r.retrieval.legs[0], "returned", 1), {"legs.bm25.returned"}),
    (lambda r: setattr(r.retrieval.legs[1], "depth", 31), {"legs.dense.depth"}),
    (lambda r: r.retrieval.fusion.weights.update(dense=2.0), {"fusion.weights"}),
    (lambda r: setattr(r.retrieval, "limit", 7), {"context", "candidates[7].fate"}),
    (lambda r: setattr(r.answer, "confidence", other(r.answer.confidence)), {"answer.confidence"}),
    (lambda r: setattr(r.answer, "reason", "no_passages"), {"answer.reason"}),
    (lambda r: setattr(r.answer, "threshold", 0.1), {"answer.threshold"}),
    (lambda r: r.answer.features.update(unit_cosine=0.5), {"answer.features"}),
    (lambda r: setattr(r, "status", "abstained"), {"status"}),
    (lambda r: setattr(r.answer.sentences[0], "support", 0.5), {"answer.sentences[0].support"}),
    (lambda r: setattr(r.answer.sentences[0], "text", "Invented."), {"answer.sentences[0].text"}),
    *(
        (lambda r, name=name: setattr(r.answer.sentences[0].citations[0], name, "else"), {f"{CITATION}[0].{name}"})
        for name in ("document_id", "source", "key", "source_version", "quote")
    ),
]


@pytest.mark.parametrize(("alter", "expected"), ALTERATIONS)
async def test_one_altered_decision_is_seen(sample, alter, expected):
    """Page, ranks, words, lists, answer, sentences, citations, spans: each changed by itself is a difference there."""
    assert expected <= altered(sample, alter)


@pytest.mark.parametrize("column", ["cosine", "coverage", "score", "words", "number_missing", "start", "fate", "unit"])
async def test_one_altered_sentence_is_seen(sample, column):
    """What a chosen sentence was judged by is held to the decision as well."""

    def alter(record: Evidence) -> None:
        table = record.answer.considered
        at = table["fate"].index("chosen")
        table[column][at] = other(table[column][at])

    assert altered(sample, alter)


async def test_an_altered_threshold_is_seen(sample):
    """Raising the threshold in the record turns its answer into an abstention, and that is a difference."""
    assert "answer.abstained" in altered(sample, lambda record: record.answer.settings.update(threshold=1.1))


def _unequal_columns(record: Evidence) -> None:
    record.retrieval.candidates.score.pop()


@pytest.mark.parametrize(
    "damage",
    [
        _unequal_columns,
        lambda r: r.profile.pop("depth"),
        lambda r: r.profile.update(unheard_of=1),
        lambda r: r.retrieval.legs.pop(),
        lambda r: r.retrieval.hits.pop(0),
        lambda r: r.answer.considered.pop("kind"),
        lambda r: r.answer.considered["unit"].pop(),
        lambda r: r.answer.settings.pop("margin"),
        lambda r: setattr(r.retrieval.hits[0], "candidate", 999),
        lambda r: r.retrieval.candidates.chunk_id.__setitem__(0, "no hex"),
    ],
)
async def test_a_record_that_is_not_whole(sample, damage):
    """A record with columns of unequal length, or without what a decision is made from, is an error that says so."""
    record = msgspec.json.decode(sample[0], type=Evidence)
    damage(record)
    with pytest.raises(IntegrityError, match="is not whole") as refused:
        replay(record, sample[1])
    assert refused.value.next_step
