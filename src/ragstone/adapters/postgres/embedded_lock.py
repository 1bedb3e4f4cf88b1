"""Who is alive: file locks that the kernel drops with their holder, and the processes of a data folder.

A pid in a file proves nothing: after a restart it may name any process. So the server itself holds a
file lock (inherited from whoever started it, kept by every PostgreSQL process, across containers), and a
pid counts only when the process behind it is PostgreSQL and works on our data folder.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.01

_PROC = Path("/proc")


class FileLock:
    """One open file on which `flock` is taken; closing it, or dying, gives the lock back.

    Raises OSError when the file cannot be opened. A lock file is never removed: whoever waits on a
    removed file and whoever opens a new one would both believe that they are alone.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    @property
    def fd(self) -> int:
        """The descriptor, to be inherited by a process that shall hold the lock as well."""
        return self._fd

    def _try(self, operation: int) -> bool:
        try:
            fcntl.flock(self._fd, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def shared(self) -> bool:
        """Take the lock beside other sharers; False when somebody has it alone."""
        return self._try(fcntl.LOCK_SH)

    def exclusive(self) -> bool:
        """Take the lock alone; False when anybody else holds it (then a shared hold is gone too)."""
        return self._try(fcntl.LOCK_EX)

    def wait_exclusive(self, timeout_s: float) -> bool:
        """As `exclusive`, trying for `timeout_s` seconds."""
        end = time.monotonic() + timeout_s
        while not self.exclusive():
            if time.monotonic() >= end:
                return False
            time.sleep(POLL_S)
        return True

    def unlock(self) -> None:
        """Give the lock back and keep the file open."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file. A process that inherited the descriptor keeps the lock. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What a live server says of itself in `postmaster.pid`."""

    pid: int
    sockets: Path | None
    status: str
    """`starting`, `ready` or `stopping`; empty before the first."""

    @classmethod
    def of(cls, data: Path, cluster_name: str) -> Postmaster | None:
        """Return the server that works on `data`; None when the file is absent, stale or names a stranger."""
        lines = _lines(data / "postmaster.pid")
        pid = _pid(lines)
        if pid is None or not works_on(pid, data, cluster_name):
            return None
        # The eight lines appear one after the other; before the fifth nobody can connect anyway.
        padded = [*lines, *[""] * 8]
        sockets = Path(padded[4]) if padded[4] else None
        return cls(pid=pid, sockets=sockets, status=padded[7].strip())


def pid_in(path: Path) -> int | None:
    """Read the pid on the first line of a PostgreSQL lock file; None when absent, empty or not a pid."""
    return _pid(_lines(path))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _pid(lines: list[str]) -> int | None:
    first = lines[0].strip() if lines else ""
    return int(first) if first.isascii() and first.isdigit() and int(first) > 0 else None


def is_alive(pid: int) -> bool:
    """Tell whether a process, or one that ended and was not waited for, has this pid."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def is_postgres(pid: int) -> bool:
    """Tell whether the process behind `pid` runs PostgreSQL, on whatever data."""
    return _is_postgres(_command_line(pid))


def works_on(pid: int, data: Path, cluster_name: str) -> bool:
    """Tell whether `pid` is PostgreSQL on this data folder: its server or one of its backends."""
    command_line = _command_line(pid)
    if not _is_postgres(command_line):
        return False
    try:
        return (_PROC / str(pid) / "cwd").samefile(data)
    except OSError:
        # Root in a container has no CAP_SYS_PTRACE and may not look; other systems have no /proc.
        # The server's arguments name its data, the backends' titles its cluster.
        return os.fsencode(data) in command_line or os.fsencode(cluster_name) in command_line


def lost_its_data(pid: int) -> bool:
    """Tell whether the process is PostgreSQL and the folder it works in was removed under it."""
    try:
        return is_postgres(pid) and str((_PROC / str(pid) / "cwd").readlink()).endswith(" (deleted)")
    except OSError:
        return False


def leftovers(data: Path, cluster_name: str) -> list[int]:
    """List the backends on `data` that outlived their server; empty while a server lives or starts.

    Only backends carry the title `postgres: ...`. Empty as well where there is no /proc.
    """
    pids = [int(entry.name) for entry in _PROC.glob("[0-9]*")]
    ours = [pid for pid in pids if works_on(pid, data, cluster_name)]
    backends = [pid for pid in ours if _command_line(pid).startswith(b"postgres:")]
    return backends if backends == ours else []


def _is_postgres(command_line: bytes) -> bool:
    program = command_line.split(b"\0", 1)[0]
    return program.startswith(b"postgres:") or program.rsplit(b"/", 1)[-1] == b"postgres"


def _command_line(pid: int) -> bytes:
    """Read the arguments of a process, separated by NUL; empty for one that is gone or a zombie."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b"" if (_PROC / "self").exists() else _ask_ps(pid)


def _ask_ps(pid: int) -> bytes:
    try:
        shown = subprocess.run(  # noqa: S603 - a pid is the only variable
            ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False, timeout=5
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return b""
    program, _, rest = shown.partition(b" -D ")
    return program + b"\0" + rest
