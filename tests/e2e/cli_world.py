"""A state directory, sources in a folder, and the real command line on them as processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from ragstone.adapters.postgres.embedded import EmbeddedOptions, EmbeddedPostgres
from ragstone.adapters.postgres.embedded_lock import pid_in
from ragstone.adapters.postgres.embedded_paths import home_of

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = str(Path(sys.executable).parent / "ragstone")
PATIENCE_S = 40
HANDBOOK = {
    "leave.md": "# Leave\n\n## Vacation\n\nEverybody has thirty days of vacation in a year.\n\n"
    "## Parental leave\n\nParents stay at home for fourteen weeks after a birth, on full pay.\n",
    "travel.md": "# Travel\n\nBook trains before planes. A hotel may cost ninety euros a night.\n",
    "security.md": "# Security\n\nLock the screen of your laptop whenever you walk away from it.\n",
    "notes/coffee.txt": "The coffee machine on the second floor is cleaned on Mondays.\n",
    "notes/printer.html": "<html><head><title>Printer</title></head><body><h1>Printer</h1>"
    "<p>The printer jams when the paper is damp.</p></body></html>",
}
RECORDS: list[dict[str, Any]] = [
    {
        "_id": f"note-{number}",
        "title": f"Note {number}",
        "text": f"Garden report {number}: the {'apple' if number % 2 else 'pear'} trees of plot {number} bear fruit.",
        "metadata": {"year": 2000 + number, "lang": "en" if number % 3 else "de", "tags": ["garden"]},
    }
    for number in range(12)
]
RECORDS.append({"_id": "salary", "title": "Salary", "text": "The band of the director is nine.", "acl": ["group:hr"]})


@dataclass(frozen=True)
class Ran:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as exactly one JSON document."""
        return json.loads(self.out)


class World:
    """One state directory and all that hangs on it; its database is held up between the commands."""

    def __init__(self, *, held: bool = True, **settings: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="rsx-cli-", dir="/tmp")).resolve()
        self.base.chmod(0o755)
        self.home = self.base / "home"
        self.docs = self.base / "docs"
        self.processes: list[subprocess.Popen[str]] = []
        self.env = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.base),
            "LANG": "C.UTF-8",
            "RAGSTONE_HOME": str(self.home),
            "RAGSTONE_EMBEDDER_MODEL": "hash",
            "RAGSTONE_ANSWER_THRESHOLD": "0.001",
            **settings,
        }
        self._held = EmbeddedPostgres.acquire(EmbeddedOptions(state_dir=self.home)) if held else None

    def write(self, files: dict[str, str], folder: Path | None = None) -> Path:
        """Files below a folder (the handbook's when none is named)."""
        root = folder or self.docs
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        return root

    def records(self, records: list[dict[str, Any]], name: str = "records.jsonl") -> Path:
        """A JSONL source."""
        path = self.base / name
        path.write_text("".join(json.dumps(each) + "\n" for each in records), "utf-8")
        return path

    def run(self, *words: str | Path, code: int | None = 0, cwd: Path | None = None, **env: str) -> Ran:
        """A command to its end. It must end with `code` (None: any) and never with a traceback."""
        process = self.spawn(*words, cwd=cwd, **env)
        out, err = process.communicate(timeout=PATIENCE_S)
        ran = Ran(process.returncode, out, err)
        assert "Traceback" not in err, err
        assert code in {None, ran.code}, (words, ran)
        return ran

    def json(self, *words: str | Path, code: int = 0, **env: str) -> Any:
        """A command with --json, and its document."""
        return self.run(*words, "--json", code=code, **env).json

    def spawn(self, *words: str | Path, cwd: Path | None = None, **env: str) -> subprocess.Popen[str]:
        """A command, running."""
        process = subprocess.Popen(
            [COMMAND, *map(str, words)], env=self.env | env, cwd=cwd or self.base, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def top(self, question: str, *words: str, **env: str) -> str:
        """The document of the best hit."""
        return self.json("search", question, *words, **env)["hits"][0]["document_id"]

    @contextmanager
    def database(self) -> Iterator[psycopg.Connection]:
        """A connection of the test's own."""
        with (
            EmbeddedPostgres.acquire(EmbeddedOptions(state_dir=self.home)) as held,
            psycopg.connect(held.dsn, options="-c search_path=ragstone", autocommit=True) as connection,
        ):
            yield connection

    @property
    def dsn(self) -> str:
        """The address of the database that is held."""
        assert self._held
        return self._held.dsn

    def postmaster(self) -> int:
        """The process of the database."""
        pid = pid_in(home_of(self.home) / "data" / "postmaster.pid")
        assert pid
        return pid

    def clean(self) -> None:
        """End what was started here and remove what it left."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=PATIENCE_S)
        if self._held is not None:
            self._held.release()
        if self.home.exists():
            # Whoever holds the database alone stops it with the release, also after a `kill -9` of the others.
            EmbeddedPostgres.acquire(EmbeddedOptions(state_dir=self.home)).release()
            shutil.rmtree(home_of(self.home), ignore_errors=True)
        shutil.rmtree(self.base, ignore_errors=True)


@contextmanager
def world(*, held: bool = True, **settings: str) -> Iterator[World]:
    """A world that is cleaned up."""
    made = World(held=held, **settings)
    try:
        yield made
    finally:
        made.clean()


@contextmanager
def handbook() -> Iterator[World]:
    """A world with the handbook and a JSONL source in the default corpus: two versions."""
    with world() as made:
        made.run("ingest", made.write(HANDBOOK))
        made.run("ingest", made.records(RECORDS))
        yield made


def line_of(process: subprocess.Popen[str], word: str) -> str:
    """The first line on stderr that holds a word."""
    assert process.stderr
    alarm = threading.Timer(PATIENCE_S, process.kill)
    alarm.start()
    try:
        for line in process.stderr:
            if word in line:
                return line
    finally:
        alarm.cancel()
    raise AssertionError(f"it ended without saying {word!r}")


def interrupt(process: subprocess.Popen[str]) -> Ran:
    """Ctrl-C, and the end of it."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    return Ran(process.returncode, out, err)


def closed_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


def until(condition, seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
