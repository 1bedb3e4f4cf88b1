"""Content-addressed objects in a folder: written beside, synced, renamed; never changed."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import suppress
from pathlib import Path

from ragstone.core.errors import NotFound, ResourceExhausted, Unavailable


class FolderObjects:
    """Implements the port ObjectStore."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, key: str, data: bytes) -> None:
        """Store durably; the same key with the same bytes is fine."""
        await asyncio.to_thread(self._put, key, data)

    async def get(self, key: str) -> bytes:
        """The bytes. NotFound if missing."""
        try:
            return await asyncio.to_thread((self._root / key).read_bytes)
        except FileNotFoundError:
            raise NotFound(
                f"object {key} is missing from {self._root}",
                doing="reading an object",
                next_step="restore the state directory from a backup",
            ) from None
        except OSError as error:
            raise Unavailable(
                f"cannot read {self._root / key}: {error.strerror}",
                doing="reading an object",
                next_step=f"mend the rights of {self._root}, then run the same command again",
            ) from None

    async def replace(self, key: str, data: bytes) -> None:
        """Store durably over whatever is there."""
        await asyncio.to_thread(self._put, key, data)

    def _put(self, key: str, data: bytes) -> None:
        target = self._root / key
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
            _sync_names(target.parent)
        except OSError as error:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            kind = ResourceExhausted if error.errno in {errno.ENOSPC, errno.EDQUOT} else Unavailable
            raise kind(
                f"cannot write {target}: {error.strerror}",
                doing="storing an object",
                next_step=f"free space or mend the rights of {self._root}, then run the same command again",
            ) from None


def _sync_names(folder: Path) -> None:
    """A new name is durable when its folder is: the catalog is about to point to it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
