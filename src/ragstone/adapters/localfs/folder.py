"""A folder as a source: every text file below it, by its path; whatever cannot be used is named as a fault.

Nothing outside the folder is ever read, hidden files and folders are not looked at, and a file above the
limit is never opened.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ragstone.core.errors import DocumentRejected, UsageError
from ragstone.core.ids import content_version
from ragstone.ingest.records import Fault, MediaType, Scan, SourceObject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragstone.ingest.parse import ParseLimits

MEDIA_TYPES: dict[str, MediaType] = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".txt": "text/plain",
    ".text": "text/plain",
    ".html": "text/html",
    ".htm": "text/html",
}


def scan_order() -> str:
    """The source order of a scan that starts now; a file's own time would go back with a restored backup."""
    return f"{time.time_ns() // 1000:020d}"


@dataclass(slots=True)
class _Listing:
    """What a scan has found so far."""

    order: str
    objects: list[SourceObject] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    paths: dict[str, Path] = field(default_factory=dict)


class FolderSource:
    """SourceReader over a folder, or over one file of it (`only`)."""

    def __init__(self, path: Path, limits: ParseLimits, *, only: str | None = None) -> None:
        self._root = Path(os.path.abspath(path))  # noqa: PTH100 - links in the given path keep their names
        self._limits = limits
        self._only = only
        self._paths: dict[str, Path] = {}

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._only or self._root.name or "root"

    @property
    def location(self) -> str:
        """The absolute path."""
        return str(self._root / self._only if self._only else self._root)

    async def scan(self, order: str | None = None) -> Scan:
        """Every usable file, hashed, and every one that is not usable, with the reason."""
        listing = await asyncio.to_thread(self._scan, order)
        self._paths = listing.paths
        objects = sorted(listing.objects, key=lambda found: found.key)
        faults = sorted(listing.faults, key=lambda fault: (fault.key, fault.reason))
        return Scan(tuple(objects), tuple(faults), listing.order)

    async def read(self, listed: SourceObject) -> bytes:
        """The bytes that were listed, or DocumentRejected `changed_during_run`."""
        return await asyncio.to_thread(self._read, listed)

    def _read(self, listed: SourceObject) -> bytes:
        path = self._paths.get(listed.key) or self._find(listed.key)
        if path is None:
            raise changed(listed)
        return _read_unchanged(path, listed, self._limits.bytes_max)

    def _find(self, key: str) -> Path | None:
        """Where a key of another instance's scan is; walked for when a name on disk is not the key's NFC."""
        direct = self._root / key
        if direct.exists() and direct.resolve().is_relative_to(self._root.resolve()):
            return direct
        try:
            found = self._entries(_Listing(""))
            return next((path for path in found if _shown(path, self._root) == key), None)
        except UsageError:
            return None

    def _scan(self, order: str | None = None) -> _Listing:
        listing = _Listing(order or scan_order())
        for entry in self._entries(listing):
            _list_file(entry, self._root, listing, self._limits.bytes_max)
        return listing

    def _entries(self, listing: _Listing) -> Iterator[Path]:
        if self._only is not None:
            path = self._root / self._only
            if not path.exists():
                raise missing(path)
            yield path
            return
        yield from _walk(self._root, listing)


def missing(path: Path) -> UsageError:
    """The error for a place that is not there."""
    return UsageError(
        f"{path} does not exist",
        doing="scanning a source",
        next_step="check the path; a source may also be a .jsonl file or a single .md, .txt or .html file",
    )


def unreadable_place(path: Path, fault: OSError) -> UsageError:
    """The error for a source that may not be read at all."""
    return UsageError(
        f"{path} cannot be read: {fault.strerror}",
        doing="scanning a source",
        next_step=f"give this user the right to read it: ls -ld {str(path)!r}",
    )


def _walk(root: Path, listing: _Listing) -> Iterator[Path]:
    """The visible entries that are no folders, without recursion: a folder may be deeper than the stack."""
    real_root = root.resolve()
    waiting = [root]
    seen = {str(real_root)}
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as fault:
            if folder == root:
                raise (
                    missing(root) if isinstance(fault, FileNotFoundError) else unreadable_place(root, fault)
                ) from None
            # What is below is unknown: the run must not take it for deleted.
            listing.faults.append(_fault(folder, root, "unreadable", _said(fault), folder=True))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            if entry.is_symlink() and not _follow(path, real_root, root, listing):
                continue
            if not entry.is_dir():
                yield path
            elif (real := os.path.realpath(path)) not in seen:
                seen.add(real)
                waiting.append(path)


def _follow(link: Path, real_root: Path, root: Path, listing: _Listing) -> bool:
    """Whether a link is read: only where it leads to something in the folder that is not listed itself.

    Kubernetes mounts a volume as links into a hidden folder; other links inside would list a document twice.
    """
    try:
        inside = link.resolve(strict=True).relative_to(real_root)
    except ValueError:
        listing.faults.append(_fault(link, root, "symlink", "is a link that leads out of the source"))
        return False
    except (OSError, RuntimeError):
        listing.faults.append(_fault(link, root, "symlink", "is a link that leads nowhere"))
        return False
    return any(part.startswith(".") for part in inside.parts)


def _list_file(path: Path, root: Path, listing: _Listing, bytes_max: int) -> None:
    """One entry: an object or a fault."""
    try:
        key = _key(path, root)
    except UnicodeEncodeError:
        listing.faults.append(_fault(path, root, "invalid_name", "has a name that is not valid UTF-8"))
        return
    media_type = MEDIA_TYPES.get(PurePosixPath(key).suffix.lower())
    if media_type is None:
        listing.faults.append(_fault(path, root, "unsupported_type", "is no .md, .txt or .html file"))
        return
    if key in listing.paths:
        other = f"has the same name in Unicode NFC as {_shown(listing.paths[key], root)}"
        listing.faults.append(_fault(path, root, "duplicate_id", other))
        return
    try:
        data = _read(path, bytes_max)
    except _UnusableError as fault:
        listing.faults.append(_fault(path, root, fault.reason, str(fault)))
        return
    except OSError as fault:
        reason = "vanished" if isinstance(fault, FileNotFoundError) else "unreadable"
        listing.faults.append(_fault(path, root, reason, _said(fault)))
        return
    listing.paths[key] = path
    version = content_version(data)
    listing.objects.append(SourceObject(key, version, listing.order, len(data), media_type, key))


class _UnusableError(Exception):
    def __init__(self, reason: str, said: str) -> None:
        super().__init__(said)
        self.reason = reason


def _read(path: Path, bytes_max: int) -> bytes:
    """The file's bytes; looked at before it is opened: a pipe would block, a large file fill memory."""
    seen = path.stat()
    if not stat.S_ISREG(seen.st_mode):
        raise _UnusableError("unsupported_type", "is no regular file")
    if seen.st_size > bytes_max:
        raise _UnusableError("too_large", f"has {seen.st_size} bytes, more than {bytes_max}")
    with path.open("rb") as file:
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise _UnusableError("too_large", f"grew above {bytes_max} bytes while it was read")
    return data


def _read_unchanged(path: Path, listed: SourceObject, bytes_max: int) -> bytes:
    try:
        data: bytes | None = _read(path, bytes_max)
    except (OSError, _UnusableError):
        data = None
    if data is None or content_version(data) != listed.object_version:
        raise changed(listed)
    return data


def changed(listed: SourceObject) -> DocumentRejected:
    """The error for an object that is not any more what was listed."""
    return DocumentRejected(
        f"{listed.place} changed or vanished after it was listed",
        reason="changed_during_run",
        next_step="ingest again when the source is at rest",
    )


def _key(path: Path, root: Path) -> str:
    key = unicodedata.normalize("NFC", path.relative_to(root).as_posix())
    key.encode("utf-8")  # a name that is not UTF-8 carries lone surrogates
    return key


def _shown(path: Path, root: Path) -> str:
    shown = os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", shown)


def _said(fault: OSError) -> str:
    return f"cannot be read: {fault.strerror}"


_STEPS = {
    "symlink": "copy what the link leads to into the source, or remove the link",
    "unsupported_type": "convert it to Markdown, HTML or text, or move it out of the source",
    "duplicate_id": "rename one of the two",
    "invalid_name": "rename it (ls -b shows the bytes), then ingest again",
    "too_large": "split it into several documents, then ingest again",
    "unreadable": "give this user the right to read it, then ingest again",
    "vanished": "ingest again when the source is at rest",
}


def _fault(path: Path, root: Path, reason: str, said: str, *, folder: bool = False) -> Fault:
    key = _shown(path, root) + ("/" if folder else "")
    try:
        seen = path.lstat()
        version = f"stat:{seen.st_size}:{seen.st_mtime_ns}"
    except OSError:
        version = ""
    return Fault(key, version, reason, f"{key} {said}", _STEPS[reason], identified=not folder)
