"""The contract of the evidence store, run by every backend."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import pytest
from contract_stacks import fresh, ident

from ragstone.core import evidence as ev
from ragstone.core.errors import IntegrityError, NotFound
from ragstone.core.ids import uuid7

pytestmark = pytest.mark.asyncio(loop_scope="session")
DAY_MS = 86_400_000
MOMENT = 1_800_000_000_000


@dataclass
class Asked:
    """Makes envelopes of one corpus."""

    corpus: str

    def envelope(self, question: str = "what is oak?", at_ms: int = MOMENT, **other) -> ev.EvidenceEnvelope:
        fields = {
            "id": str(uuid7(at_ms)), "kind": "search", "at": "2027-01-15T08:00:00+00:00", "corpus": self.corpus,
            "corpus_id": ident(self.corpus).hex(), "tenant": "tenant", "asker": ["public"], "index_id": "00" * 16,
            "release": "r", "corpus_version": 3, "trace_id": "t", "status": "ok", "retrieval": retrieval(),
            "answer": None, "degraded": [ev.Degraded("slow", "dense", "it took long")], "stage_ms": {"dense": 1.5},
            "tokens": {"query": 4}, "cost_microusd": 12, "made_by": {"code": "1"}, "profile": {"depth": 100},
        }  # fmt: skip
        record = ev.Evidence(**{**fields, **other})
        words = ev.EvidenceText(question, None, {"00": "an oak is a tree"})
        return ev.EvidenceEnvelope(record, words, [["embed", "token", 4, 1], ["embed", "call", 1, 0]])


def retrieval() -> ev.RetrievalRecord:
    fusion = ev.FusionRecord("z", {"bm25": 1.0}, 1, {"bm25": 0.5}, {"bm25": 0.0}, {"bm25": 0.5}, {"bm25": 0.5}, 60)
    columns = ev.CandidateColumns([4], ["00"], [0.5], [1], [0.0], [0.1], [0], [0.0], [0.0], ["returned"], [-1])
    leg = ev.LegRecord("bm25", "postings", 100, 1, 1, 0)
    return ev.RetrievalRecord([["oak", 1, 0.3]], "", None, [leg], fusion, columns, [], 0, 10)


@pytest.fixture
def asked() -> Asked:
    return Asked(fresh())


async def test_a_record_comes_back_whole(stack, asked):
    """What was appended is read back field by field, with its words."""
    envelope = asked.envelope()
    await stack.evidence.append([envelope])
    for corpus in (None, ident(asked.corpus)):
        record, words = await stack.evidence.get(corpus, uuid.UUID(envelope.record.id))
        assert record == envelope.record
        assert words == envelope.text


async def test_appending_twice_is_once(stack, asked):
    """A record that is shipped again stays as it was, and is counted once."""
    envelope = asked.envelope()
    await stack.evidence.append([envelope, envelope])
    changed = asked.envelope("another?", id=envelope.record.id, status="failed")
    await stack.evidence.append([changed])
    await stack.evidence.append([])
    record, words = await stack.evidence.get(None, uuid.UUID(envelope.record.id))
    assert (record.status, words.question) == ("ok", "what is oak?")
    assert len(await stack.evidence.recent(ident(asked.corpus), 10)) == 1


async def test_recent_is_newest_first_and_limited(stack, asked):
    """The newest records of one corpus come first, over days, at most `limit`."""
    made = [asked.envelope(f"question {n}", MOMENT + n * DAY_MS // 2) for n in range(6)]
    await stack.evidence.append(made[::-1])
    await stack.evidence.append([Asked(fresh()).envelope("not mine")])
    lines = await stack.evidence.recent(ident(asked.corpus), 4)
    assert [line["question"] for line in lines] == [f"question {n}" for n in (5, 4, 3, 2)]
    assert lines[0] == {
        "id": made[5].record.id, "at": "2027-01-17T20:00:00+00:00", "kind": "search", "status": "ok",
        "corpus_version": 3, "question": "question 5",
    }  # fmt: skip


async def test_an_unknown_record(stack, asked):
    """An id that was never written, or is another corpus's, is NotFound and says which."""
    envelope = asked.envelope()
    await stack.evidence.append([envelope])
    missing = uuid7(MOMENT)
    with pytest.raises(NotFound, match=str(missing)):
        await stack.evidence.get(None, missing)
    with pytest.raises(NotFound):
        await stack.evidence.get(ident(fresh()), uuid.UUID(envelope.record.id))


@pytest.mark.parametrize("text", ["null \x00 byte", "\U0001faa8 \u202e", "", "x" * 10_000])
async def test_any_words_can_be_kept(stack, asked, text):
    """Odd characters in a question, an answer or a passage never lose a record."""
    envelope = asked.envelope(text)
    envelope.text = ev.EvidenceText(text, text, {"00": text})
    await stack.evidence.append([envelope])
    _, words = await stack.evidence.get(None, uuid.UUID(envelope.record.id))
    kept = text.replace("\x00", "")
    assert (words.question, words.answer, words.context) == (kept, kept, {"00": kept})


async def test_an_unknown_schema(stack, asked):
    """A record of a schema that this program does not know is refused, not misread."""
    envelope = asked.envelope(schema=99)
    await stack.evidence.append([envelope])
    with pytest.raises(IntegrityError, match="evidence schema 99 is not one of 1 to 1"):
        await stack.evidence.get(None, uuid.UUID(envelope.record.id))


async def test_unknown_fields_are_ignored(asked):
    """A record written by a newer program of the same schema can be read; one without a schema cannot."""
    record = asked.envelope().record
    body = ev.encode(record)
    assert ev.decode(body[:-1] + b',"later":{"a":1}}') == record
    with pytest.raises(IntegrityError, match="schema None"):
        ev.decode(b"{}")
