"""`ragstone up --workers N` under a closed loop of clients, alone and with an ingest beside it. JSON on stdout.

    python benchmarks/bench_concurrency.py [--model NAME] [--workers 2] [--clients 1 8 32] [--seconds 10]

Each client asks again as soon as it is answered: three searches, then an answer. `refused` are 503 with Retry-After,
which is what overload shall look like; whatever else goes wrong is in `errors`. The ingest changes a tenth of the
documents and publishes, again and again. Clients, workers, database and ingest share the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psycopg

from common import machine, percentiles
from ragstone.adapters.postgres.embedded import EmbeddedOptions, EmbeddedPostgres
from ragstone.adapters.postgres.embedded_paths import home_of

if TYPE_CHECKING:
    from asyncio.subprocess import Process

RAGSTONE = str(Path(sys.executable).with_name("ragstone"))
QUESTIONS = (
    "How many months should I expect the background investigation to take?",
    "When is the health unit open?",
    "Who approves travel to a conference?",
    "What do I do when my laptop is stolen?",
    "How do I ask for leave after a birth?",
    "Which tools may hold personal information?",
    "Where do I find the holiday calendar?",
)
CONNECTIONS = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
BUSY = 503
TIMEOUT_S = 60.0


@dataclass
class Seen:
    """What the clients met."""

    times: dict[str, list[float]] = field(default_factory=lambda: {"search": [], "answer": []})
    refused_ms: list[float] = field(default_factory=list)
    closed: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def document(self, seconds: float) -> dict:
        """The numbers of a measurement of so many seconds."""
        answered = sum(map(len, self.times.values()))
        table = percentiles([{kind: value} for kind, values in self.times.items() for value in values])
        return {
            "answered": answered,
            "per_second": round(answered / seconds, 1),
            "ms": table,
            "refused": len(self.refused_ms),
            "refused_ms_max": round(max(self.refused_ms, default=0.0), 1),
            "errors": dict(self.errors),
        }


async def client(url: str, seen: Seen, over: asyncio.Event, number: int) -> None:
    """One client, on a connection that it keeps."""
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as http:
        while not over.is_set():
            question = QUESTIONS[number % len(QUESTIONS)]
            kind = "answer" if number % 4 == 3 else "search"
            body = {"question" if kind == "answer" else "query": question}
            began = time.perf_counter()
            try:
                response = await http.post("/v1/answers" if kind == "answer" else "/v1/search", json=body)
            except httpx.ConnectError:
                seen.closed += 1  # nobody listens: what a stopped server looks like, no answer that was lost
                await asyncio.sleep(0.02)
                continue
            except httpx.HTTPError as error:
                seen.errors[type(error).__name__] += 1
                continue
            number += 1
            took = (time.perf_counter() - began) * 1000
            if response.status_code == BUSY and "retry-after" in response.headers:
                seen.refused_ms.append(took)
                await asyncio.sleep(float(response.headers["retry-after"]))
            elif response.is_success:
                seen.times[kind].append(took)
            else:
                seen.errors[str(response.status_code)] += 1


async def connections(dsn: str, over: asyncio.Event) -> int:
    """The most connections that the database had until it is over."""
    most = 0
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as mine:
        while not over.is_set():
            row = await (await mine.execute(CONNECTIONS)).fetchone()
            most = max(most, int(row[0]) if row else 0)
            await asyncio.sleep(0.02)
    return most


async def publishes(environment: dict[str, str], folder: Path, over: asyncio.Event) -> int:
    """Change a tenth of the documents and ingest, until it is over, at least once; how often it published."""
    pages = sorted(folder.rglob("*.md"))
    count = 0
    while count == 0 or not over.is_set():
        for page in pages[count % 10 :: 10]:
            text = await asyncio.to_thread(page.read_text, "utf-8")
            await asyncio.to_thread(page.write_text, f"{text}\nChanged for the {count + 1}. time.\n", "utf-8")
        await ingest(environment, folder)
        count += 1
    return count


async def ingest(environment: dict[str, str], folder: Path) -> None:
    """One run of the command; RuntimeError when it fails."""
    process = await asyncio.create_subprocess_exec(
        RAGSTONE,
        "ingest",
        str(folder),
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    if process.returncode not in {0, 5}:  # 5: some page is in quarantine
        raise RuntimeError(said.decode())


async def measured(url: str, clients: int, seconds: float, dsn: str, beside: tuple | None) -> dict:
    """Throughput and times of so many clients for so many seconds, with an ingest `beside` or without."""
    seen, over = Seen(), asyncio.Event()
    work = [asyncio.create_task(client(url, seen, over, n * 4)) for n in range(clients)]
    most = asyncio.create_task(connections(dsn, over))
    publishing = asyncio.create_task(publishes(*beside, over)) if beside else None
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    over.set()
    await asyncio.gather(*work)
    found = seen.document(time.perf_counter() - began)
    found["connections_max"] = await most
    return {"clients": clients, "publishes": await publishing if publishing else 0, **found}


async def started(environment: dict[str, str], workers: int) -> tuple[Process, str, asyncio.Task]:
    """The server, its URL, and the task that empties its stderr and returns what it said."""
    process = await asyncio.create_subprocess_exec(
        RAGSTONE, "up", "--port", "0", "--workers", str(workers), env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    said = b""
    while b"ragstone is up" not in said:
        line = await process.stderr.readline()
        if not line:
            raise RuntimeError(said.decode())
        said += line
    url = said.decode().rpartition("ragstone is up: ")[2].split()[0]
    return process, url, asyncio.create_task(process.stderr.read())


async def drained(process: Process, url: str, clients: int, said: asyncio.Task) -> dict:
    """SIGTERM under load: how long until the server has ended, and how many requests it took in and did not answer."""
    seen, over = Seen(), asyncio.Event()
    work = [asyncio.create_task(client(url, seen, over, n * 4)) for n in range(clients)]
    await asyncio.sleep(1.0)
    began = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    code = await process.wait()
    took = time.perf_counter() - began
    over.set()
    await asyncio.gather(*work)
    printed = (await said).decode().splitlines()
    return {
        "clients": clients,
        "seconds": round(took, 2),
        "exit_code": code,
        "answered": sum(map(len, seen.times.values())),
        "lost": sum(seen.errors.values()),
        "errors": dict(seen.errors),
        "server_said": printed[:20],
    }


async def run(args: argparse.Namespace) -> dict:
    work = Path(tempfile.mkdtemp(prefix="ragstone-bench-"))
    environment = {**os.environ, "RAGSTONE_HOME": str(work / "state"), "RAGSTONE_EMBEDDER_MODEL": args.model}
    folder = work / "source"
    await asyncio.to_thread(shutil.copytree, args.source, folder)
    process = None
    server = await asyncio.to_thread(EmbeddedPostgres.acquire, EmbeddedOptions(state_dir=work / "state"))
    try:
        await ingest(environment, folder)
        process, url, said = await started(environment, args.workers)
        await measured(url, max(args.clients), min(2.0, args.seconds), server.dsn, None)  # warm
        rounds = [
            await measured(url, clients, args.seconds, server.dsn, (environment, folder) if beside else None)
            for beside in (False, True)
            for clients in args.clients
        ]
        drain = await drained(process, url, max(args.clients), said)
    finally:
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await asyncio.to_thread(server.release)
        for each in (home_of(work / "state"), work):  # for root the data is not below the state directory
            await asyncio.to_thread(shutil.rmtree, each, ignore_errors=True)
    return {
        "benchmark": "concurrency",
        "machine": machine(),
        "model": args.model,
        "workers": args.workers,
        "seconds": args.seconds,
        "rounds": rounds,
        "drain": drain,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="examples/handbook")
    parser.add_argument("--model", default="bge-small-en-v1.5-int8")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=10.0)
    print(json.dumps(asyncio.run(run(parser.parse_args())), indent=2))
