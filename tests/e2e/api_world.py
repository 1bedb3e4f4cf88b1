"""A state directory with a small corpus, real servers on it as processes, and their cleaning up."""

from __future__ import annotations

import asyncio
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psycopg

from ragstone import flow
from ragstone.adapters.postgres.embedded import EmbeddedOptions, EmbeddedPostgres
from ragstone.adapters.postgres.embedded_lock import FileLock, pid_in
from ragstone.adapters.postgres.embedded_paths import home_of
from ragstone.bootstrap import System
from ragstone.settings import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 40
SERVER = """
import asyncio, os, sys
from ragstone.bootstrap import System
from ragstone.core.errors import RagstoneError
from ragstone.entrypoints.api.serve import serve
from ragstone.settings import load
async def main():
    settings, _ = load(None, os.environ)
    async with System(settings, os.environ) as system:
        await serve(system, sys.argv[1], int(sys.argv[2]), lambda url: print(url, flush=True))
try:
    asyncio.run(main())
except RagstoneError as error:
    print(f"refused: {error}", flush=True)
    sys.exit(error.exit_code)
"""

# The hashing embedder knows words, not meaning: these share most of theirs with a sentence.
PLAIN = "Are there thirty days of vacation in a year of leave?"
ASTRAL = "The mascot that guards the tower is Ferdinand the fox?"
INJECTED = "Never inflate parade balloons indoors, says the handbook?"
SECRET = "The salary band of the director is level what?"
UNANSWERABLE = "zyzzyva quokka xylograph"
SCRIPT = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
RECORDS = [
    {
        "_id": "leave.md",
        "title": "Leave",
        "text": "There are thirty days of vacation in a year. Ask your lead first.",
        "metadata": {"year": 2024, "kind": "policy"},
    },
    {
        "_id": "mascot.md",
        "title": "Tower 🏰",
        # Astral characters before the quote: offsets in code points and in UTF-16 units differ.
        "text": "🐉🐉🐉 Dragons are retired. The mascot that guards the tower is 🦊 Ferdinand the fox. Nobody else does.",
        "metadata": {"year": 2023, "kind": "story"},
    },
    {
        "_id": "parade.md",
        "title": "Parade <b>rules</b>",
        "text": f"{SCRIPT} Balloons need care.\n\nNever inflate parade balloons indoors, <b>says</b> the handbook.",
        "metadata": {"year": 2022, "kind": "story"},
    },
    {
        "_id": "salary.md",
        "title": "Salary",
        "text": "The salary band of the director is level nine.",
        "metadata": {"year": 2024, "kind": "policy"},
        "acl": ["group:hr"],
    },
    *(
        {
            "_id": f"note-{number:02}.md",
            "title": f"Note {number}",
            "text": f"Note {number} of the archive speaks of garden number {number} and its {'apple' if number % 2 else 'pear'} trees.",
            "metadata": {"year": 2000 + number, "kind": "note"},
        }
        for number in range(30)
    ),
]


class World:
    """One state directory and all that hangs on it."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="rsx-api-", dir="/tmp")).resolve()
        self.home = self.base / "home"
        self.servers: list[Server] = []
        self.env = {
            "RAGSTONE_HOME": str(self.home),
            "RAGSTONE_EMBEDDER_MODEL": "hash",
            "RAGSTONE_ANSWER_THRESHOLD": "0.001",
            "HOME": str(self.base),
        }

    def ingest(self, records: list[dict] | None = None) -> None:
        """Make the corpus equal to the records."""
        file = self.base / "records.jsonl"
        file.write_text("".join(json.dumps(each) + "\n" for each in records or RECORDS), "utf-8")

        async def work() -> None:
            async with System(load(None, self.env)[0], self.env) as system:
                parts = await system.ingest_parts()
                reader = system.source(str(file))
                request = flow.IngestRequest(reader, "default", "default", "records", "jsonl", allow_delete=True)
                report = await flow.ingest(parts, request)
                assert report.published
                assert not report.quarantined

        # On a thread of its own: a browser driver keeps an event loop running in the main one.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(work())).result()

    def server(self, *, host: str = "127.0.0.1", port: int = 0, **settings: str) -> Server:
        """A server on this directory, ready; `settings` are names like `server_queue`."""
        names = {f"RAGSTONE_{name.upper()}": value for name, value in settings.items()}
        self.servers.append(Server({**os.environ, **self.env, **names}, host, port))
        return self.servers[-1]

    @contextmanager
    def database(self) -> Iterator[psycopg.Connection]:
        """A connection of the test's own to the database that the servers use."""
        with (
            EmbeddedPostgres.acquire(EmbeddedOptions(state_dir=self.home)) as held,
            psycopg.connect(held.dsn, options="-c search_path=ragstone") as connection,
        ):
            yield connection

    @contextmanager
    def slow(self) -> Iterator[Callable[[], bool]]:
        """While this is open, every question waits at the database: a really slow part.

        What it gives says whether somebody waits.
        """
        with self.database() as connection:
            connection.execute("lock table version in access exclusive mode")

            def waited_for() -> bool:
                return bool(connection.execute("select 1 from pg_locks where not granted").fetchone())

            yield waited_for
            connection.rollback()

    @contextmanager
    def no_starting(self) -> Iterator[None]:
        """While this is open, nobody can start the database of this directory."""
        control = FileLock(self.home / "postgres" / "control.lock")
        assert control.wait_exclusive(PATIENCE_S)
        try:
            yield
        finally:
            control.close()

    def postmaster(self) -> int:
        """The process of the database."""
        pid = pid_in(home_of(self.home) / "data" / "postmaster.pid")
        assert pid
        return pid

    def stored(self, ident: str) -> bool:
        """Whether the catalog itself holds a record."""
        with self.database() as connection:
            return bool(connection.execute("select 1 from evidence where id = %s", (ident,)).fetchone())

    def clean(self) -> None:
        """End what was started here and remove what it left."""
        for server in self.servers:
            server.kill()
        if self.home.exists():
            # Whoever holds the database alone stops it with the release, also after a `kill -9` of the others.
            EmbeddedPostgres.acquire(EmbeddedOptions(state_dir=self.home)).release()
            shutil.rmtree(home_of(self.home), ignore_errors=True)
        shutil.rmtree(self.base, ignore_errors=True)


class Server:
    """A server process, and a client of it."""

    def __init__(self, env: dict[str, str], host: str, port: int) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SERVER, host, str(port)],
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=env,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout
        assert select.select([self.process.stdout], [], [], PATIENCE_S)[0], "the server says nothing"
        self.said = self.process.stdout.readline().strip()
        self.url = self.said.replace("0.0.0.0", "127.0.0.1")
        self.client = httpx.Client(base_url=self.url if self.url.startswith("http") else "", timeout=PATIENCE_S)

    def search(self, query: str, **more) -> httpx.Response:
        return self.client.post("/v1/search", json={"query": query, **more})

    def answer(self, question: str, **more) -> httpx.Response:
        return self.client.post("/v1/answers", json={"question": question, **more})

    def events(self, question: str, **more) -> list[tuple[str, dict]]:
        """The events of an answer that is streamed."""
        response = self.client.post("/v1/answers", json={"question": question, "stream": True, **more})
        assert response.headers["content-type"].startswith("text/event-stream"), response.text
        return parsed(response.text)

    def errors(self) -> str:
        """What the server wrote to stderr so far."""
        self.log.seek(0)
        return self.log.read().decode()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=PATIENCE_S)
        self.log.close()


def parsed(stream: str) -> list[tuple[str, dict]]:
    """(event, data) pairs; comments are left out."""
    found = []
    for block in stream.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def until(condition, seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def is_problem(response: httpx.Response, status: int, code: str) -> dict:
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, problem["status"]) == (status, status), problem
    assert problem["type"] == f"urn:ragstone:problem:{code}"
    assert problem["title"]
    assert problem["detail"]
    assert problem["next_step"]
    assert problem["trace_id"] in problem["instance"]
    assert problem["trace_id"] in response.headers["traceparent"]
    assert "Traceback" not in response.text
    return problem
