"""One worker process of `ragstone up --workers N`: its own parts, behind a socket that it inherits.

`workers.py` starts it. Its first line on stdin is its settings; stdin then stays open as long as the parent lives,
so that a worker whose parent was killed ends as well. Its only line on stdout says that it takes questions, or why
it cannot.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from contextlib import suppress
from io import FileIO

import msgspec

from ragstone.bootstrap import System, environment
from ragstone.core.errors import RagstoneError
from ragstone.entrypoints.api.app import open_parts
from ragstone.entrypoints.api.serve import DrainingServer
from ragstone.settings import Settings


class FirstWord(msgspec.Struct, frozen=True):
    """What a worker says when it has started: ready, or what it lacks."""

    ready: bool
    what: str = ""
    doing: str = ""
    next_step: str = ""


async def work(settings: Settings, descriptor: int, lifeline: FileIO) -> None:
    """Serve on the inherited socket until a signal comes or `lifeline` ends."""
    with socket.socket(fileno=descriptor) as door:
        async with System(settings, environment()) as system:
            await open_parts(system)
            server = DrainingServer(system, door, lambda: say(FirstWord(ready=True)), shared=True)
            loop = asyncio.get_running_loop()
            # A thread: whatever stdin is, a blocking read ends when the parent does.
            threading.Thread(target=watch, args=(lifeline, loop, server), daemon=True).start()
            await server.run_until_stopped()


def watch(lifeline: FileIO, loop: asyncio.AbstractEventLoop, server: DrainingServer) -> None:
    """Stop the server when the parent is gone."""
    while lifeline.read(1):
        continue
    try:
        loop.call_soon_threadsafe(server.stop)
    except RuntimeError:
        return  # the loop is closed: the server has ended


def say(word: FirstWord) -> None:
    """The line that the parent waits for."""
    with suppress(OSError):  # a parent that is gone is noticed at the lifeline
        sys.stdout.buffer.write(msgspec.json.encode(word) + b"\n")
        sys.stdout.buffer.flush()


def main() -> int:
    """Run as a process; returns its exit code."""
    # Until the server listens to signals, one ends the process and says nothing.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    lifeline = FileIO(sys.stdin.fileno(), closefd=False)
    line = lifeline.readline()
    if not line:
        return 0  # the parent was gone before it said anything
    try:
        asyncio.run(work(msgspec.json.decode(line, type=Settings), int(sys.argv[1]), lifeline))
    except RagstoneError as error:
        say(FirstWord(ready=False, what=error.what, doing=error.doing, next_step=error.next_step))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
