"""What the file system refuses, said in our errors: full, not ours, or broken."""

from __future__ import annotations

import errno
import os
import pwd
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ragstone.core.errors import RagstoneError, ResourceExhausted, Unavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_OURS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}


@contextmanager
def storage(path: Path, doing: str) -> Iterator[None]:
    """Turn an OSError inside the block into ours, naming the path.

    Raises ResourceExhausted (full), UsageError (may not be used by this user), Unavailable (all else).
    """
    try:
        yield
    except OSError as error:
        raise storage_error(error, path, doing) from error


def storage_error(error: OSError, path: Path, doing: str) -> RagstoneError:
    """Say what is wrong with a path, and what to do."""
    if error.errno in _FULL:
        return full_disk(path, doing)
    if error.errno in _NOT_OURS:
        return UsageError(
            f"{path} cannot be used by {user_name(os.geteuid())}: {error.strerror}{_owner_of(path)}",
            doing=doing,
            next_step="choose a folder that you can write to with RAGSTONE_HOME, or set DATABASE_URL",
        )
    return Unavailable(f"{path} failed: {error}", doing=doing, next_step="look at the file system, or set DATABASE_URL")


def full_disk(path: Path, doing: str) -> ResourceExhausted:
    """Say that a file system has no space left."""
    return ResourceExhausted(
        f"no space is left for {path}",
        doing=doing,
        next_step=f"free space (df -h {path.parent}), or choose another place with RAGSTONE_HOME",
    )


def user_name(uid: int) -> str:
    """Name a user, or give the number where it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _owner_of(path: Path) -> str:
    for place in (path, *path.parents):
        with suppress(OSError):
            return f" ({place} belongs to {user_name(place.stat().st_uid)})"
    return ""


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
