"""The processes of the embedded server and what they are run with: initdb, postgres, the log."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ragstone.adapters.postgres.embedded_storage import full_disk, storage, storage_error, sync
from ragstone.core.errors import RagstoneError, Unavailable

if TYPE_CHECKING:
    from ragstone.adapters.postgres.embedded_lock import FileLock
    from ragstone.adapters.postgres.embedded_paths import Layout

SUPERUSER = "postgres"

LOG_BYTES_MAX = 8 << 20
LOG_BYTES_KEPT = 256 << 10
# Containers get 64 MB of /dev/shm by default, and a parallel index build wants all its memory there.
DEV_SHM_BYTES_MIN = 1 << 30


@dataclass(frozen=True)
class EmbeddedOptions:
    """What the embedded server is started with; a server that already runs keeps its own settings."""

    state_dir: Path
    """The state directory; the database is in it, or a pointer to the database."""
    start_timeout_s: float = 60.0
    """How long to wait for others who are starting, and then for the server to answer."""
    max_connections: int = 100
    """Connections the server accepts."""
    shared_buffers: str = "128MB"
    """PostgreSQL's page cache."""
    maintenance_work_mem: str = "512MB"
    """Memory of one index build; HNSW builds slow down greatly when the graph does not fit."""


def initialise(layout: Layout, timeout_s: float) -> None:
    """`initdb` beside the final place, then one rename: a killed attempt leaves no half database."""
    home, account = layout.home, layout.account
    with storage(home, "creating the embedded database"):
        for old in home.glob("init-*"):
            shutil.rmtree(old, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix="init-", dir=home))
        try:
            if account.switch:
                os.chown(fresh, account.uid, account.gid)
            _initdb(layout, fresh, timeout_s)
            fresh.rename(layout.data)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        sync(home)


def _initdb(layout: Layout, folder: Path, timeout_s: float) -> None:
    # The builtin provider: one order of strings on every machine, whatever its C library.
    arguments = [
        f"--username={SUPERUSER}",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-instructions",
    ]
    account = layout.account
    try:
        done = subprocess.run(  # noqa: S603 - our own binaries and arguments
            [layout.binaries / "bin" / "initdb", "-D", folder, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_environment(),
            start_new_session=True,
            user=account.uid if account.switch else None,
            group=account.gid if account.switch else None,
            extra_groups=[] if account.switch else None,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise does_not_start(layout, f"initdb has not ended after {error.timeout:g} s", "") from error
    except OSError as error:
        raise _not_runnable(layout, error) from error
    if done.returncode != 0:
        printed = done.stdout.decode(errors="replace").strip().splitlines()[-20:]
        raise does_not_start(layout, f"initdb ended with exit code {done.returncode}", "\n".join(printed))


def spawn(layout: Layout, options: EmbeddedOptions, lock: FileLock) -> subprocess.Popen[bytes]:
    """Run `postgres` with `lock` held by all its processes; does not wait until it answers."""
    account = layout.account
    with storage(layout.log, "opening the server's log"):
        log = os.open(layout.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603 - our own binaries and arguments
            [layout.binaries / "bin" / "postgres", "-D", layout.data, *_arguments(layout, options)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=_environment(),
            pass_fds=(lock.fd,),
            start_new_session=True,  # Ctrl-C in a terminal is for the command, not for the server
            umask=0o077,
            user=account.uid if account.switch else None,
            group=account.gid if account.switch else None,
            extra_groups=[] if account.switch else None,
        )
    except OSError as error:
        raise _not_runnable(layout, error) from error
    finally:
        os.close(log)


def _arguments(layout: Layout, options: EmbeddedOptions) -> list[str]:
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(layout.sockets),
        "unix_socket_permissions": "0700",
        "port": "5432",
        "cluster_name": layout.cluster_name,
        "max_connections": str(options.max_connections),
        "shared_buffers": options.shared_buffers,
        "maintenance_work_mem": options.maintenance_work_mem,
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "logging_collector": "off",
        "log_line_prefix": "%m [%p] ",
    }
    dev_shm = Path("/dev/shm")  # noqa: S108 - asked for its size only
    if dev_shm.is_dir() and shutil.disk_usage(dev_shm).total < DEV_SHM_BYTES_MIN:
        settings["dynamic_shared_memory_type"] = "sysv"
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


def does_not_start(layout: Layout, what: str, printed: str) -> RagstoneError:
    """Say that the server or initdb ended, with what it printed."""
    doing = "starting the embedded database"
    full = [line for line in printed.splitlines() if "No space left on device" in line]
    if any("shared memory" not in line for line in full):
        return full_disk(layout.home, doing)
    said = f"; it printed:\n{printed}\n" if printed else ""
    return Unavailable(
        f"the embedded PostgreSQL in {layout.home} does not start: {what}{said}",
        doing=doing,
        next_step=f"read {layout.log} (ragstone doctor shows its end), or set DATABASE_URL",
    )


def _not_runnable(layout: Layout, error: OSError) -> RagstoneError:
    return storage_error(error, layout.binaries / "bin", "running the PostgreSQL binaries")


def _environment() -> dict[str, str]:
    """Nothing of the caller's: a broken LANG or a stray PGDATA must not change the server."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


def bound_log(log: Path) -> None:
    """Cut a long log down to its end, also under a server that is writing to it."""
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        # Both sides append, so that a line written in between is moved and not overwritten.
        with log.open("a+b") as file:
            file.seek(-LOG_BYTES_KEPT, os.SEEK_END)
            kept = file.read(LOG_BYTES_KEPT)
            file.truncate(0)
            file.write(kept)


def tail(log: Path, lines: int, start: int = 0) -> str:
    """Return the last lines of a log from `start` on; empty when it cannot be read."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - LOG_BYTES_KEPT))
            return "\n".join(file.read(LOG_BYTES_KEPT).decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
