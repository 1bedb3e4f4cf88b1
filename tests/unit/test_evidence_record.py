"""Schema 1 of the evidence is for ever: a record written then is opened, shown and written back now."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from ragstone.core.errors import RagstoneError
from ragstone.core.evidence import SCHEMA, EvidenceText, decode, encode
from ragstone.evaluate.replay import ERASED, replay
from ragstone.evaluate.replay_answer import NOT_RECORDED
from ragstone.observe.page import answer_page, search_page, trace_page

# Committed once; a change of the code that cannot read it is a change of the schema and needs an upcaster.
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "evidence-1.json").read_text("utf-8"))
BODY = json.dumps(GOLDEN["record"])
WORDS = msgspec.convert(GOLDEN["words"], EvidenceText)


def test_a_golden_record_is_written_back_as_it_was():
    """Every field of the golden record survives being read and written; fields that came later are added."""
    again = json.loads(encode(decode(BODY)))
    assert GOLDEN["record"]["schema"] == 1
    assert again["schema"] == SCHEMA
    assert {name: again[name] for name in GOLDEN["record"]} == GOLDEN["record"]


def test_the_words_are_apart_and_come_back():
    """The record alone holds no word of question, answer or passages; with its words the quotes are whole again."""
    bare = decode(BODY)
    assert [sentence.text for sentence in bare.answer.sentences] == [""]
    for word in ("vacation in a year", "Parents stay", "ninety euros"):
        assert word not in BODY
    whole = decode(BODY, WORDS)
    citation = whole.answer.sentences[0].citations[0]
    assert citation.quote == whole.answer.sentences[0].text == "Everybody has thirty days of vacation in a year."
    assert encode(whole) == encode(bare)


def test_fields_of_a_newer_program_are_ignored():
    """Unknown fields of the same schema, on every level, change nothing."""

    def grown(value):
        if isinstance(value, list):
            return [grown(each) for each in value]
        if not isinstance(value, dict):
            return value
        return {name: grown(each) for name, each in value.items()} | (
            {"later": [1]} if "seq" in value or "legs" in value else {}
        )

    more = grown(GOLDEN["record"]) | {"later": {"a": 1}}
    more["retrieval"]["hits"][0] |= {"later": "x"}
    assert decode(json.dumps(more)) == decode(BODY)


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, "1", None, 1.5, True, False])
def test_an_unknown_schema_is_refused(schema):
    """A schema that this program does not know is refused with a next step, never misread."""
    with pytest.raises(RagstoneError, match=r"evidence schema .* is not one of 1 to") as refused:
        decode(json.dumps(GOLDEN["record"] | {"schema": schema}))
    assert refused.value.next_step


def test_a_golden_record_is_decided_again():
    """The golden record is decided again bit for bit, with its words and without; that the first records do not hold
    the fitted numbers of the answerer is said."""
    for again, more in ((replay(decode(BODY, WORDS), WORDS), ()), (replay(decode(BODY)), (ERASED,))):
        assert again.decided == ("legs", "fusion", "selection", "context", "answer")
        assert again.differences == ()
        assert again.notes == (NOT_RECORDED, *more)


def test_a_golden_record_as_a_page():
    """`trace show` of the golden record says what a person wants: question, asker, versions, stages, legs, candidates
    with their fate, the answer with its quote, what was considered, cost."""
    page = trace_page(decode(BODY, WORDS), WORDS)
    for part in (
        GOLDEN["record"]["id"], "How many days of vacation are there in a year?", "asked by   public, user:ann",
        "filter {'equals': {'key': 'source', 'value': 'docs'}}", "corpus 'default' version 1", "profile default/1",
        "embedder hash", "stages (ms)", "passages", "vacat×1 (idf 1.03)", "bm25: postings, 2 rows could match",
        "fusion     z over 6 candidates", "6 fused, 5 returned", "duplicate of #1", "returned leave-copy.md",
        "Everybody has thirty days of vacation in a year. [1]", "characters 22–70", "sentences considered: 7",
        "below_margin", "tokens     query_embedding 10, sentence_embedding 72", "cost       0.000000 USD",
    ):  # fmt: skip
        assert part in page, part


def test_pages_of_a_record_whose_words_were_erased():
    """Without its words the record is still shown, and says that they were erased."""
    page = trace_page(decode(BODY), None)
    assert "question   (the words were erased)" in page
    assert "thirty days" not in page
    assert "6 fused, 5 returned" in page


def test_other_pages_read_the_same_record():
    """The pages of ask and search are made from the record as well: every hit with its reasons."""
    record = decode(BODY, WORDS)
    answered, found = answer_page(record, WORDS, why=True), search_page(record, WORDS, "next")
    for hit in GOLDEN["record"]["retrieval"]["hits"]:
        line = f"  {hit['rank']}. {hit['document_id']}  ("
        assert line in answered
        assert line in found
    assert "stands for 1 more with the same text" in found
    assert "next page: --cursor next" in found
