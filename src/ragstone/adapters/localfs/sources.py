"""Which source a location means."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ragstone.adapters.localfs.folder import MEDIA_TYPES, FolderSource, missing, unreadable_place
from ragstone.adapters.localfs.jsonl import JsonlSource
from ragstone.core.errors import UsageError

if TYPE_CHECKING:
    from ragstone.ingest.parse import ParseLimits
    from ragstone.ingest.ports import SourceReader

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_DOING = "opening a source"


def open_source(location: str, limits: ParseLimits) -> SourceReader:
    """A folder, a `.jsonl` file, or one `.md`, `.txt` or `.html` file; anything else is a UsageError."""
    _refuse_remote(location)
    path = Path(location)
    try:
        path.stat()
    except FileNotFoundError:
        raise missing(path) from None
    except (OSError, ValueError) as fault:
        raise (
            unreadable_place(path, fault)
            if isinstance(fault, OSError)
            else UsageError(f"{location!r} is no path: {fault}", doing=_DOING, next_step="check the path")
        ) from None
    if path.is_dir():
        return FolderSource(path, limits)
    if path.suffix.lower() == ".jsonl":
        return JsonlSource(path, limits)
    if path.suffix.lower() in MEDIA_TYPES:
        absolute = Path(os.path.abspath(path))  # noqa: PTH100 - links in the given path keep their names
        return FolderSource(absolute.parent, limits, only=absolute.name)
    raise UsageError(
        f"{location} is neither a folder nor a .jsonl, .md, .txt or .html file",
        doing=_DOING,
        next_step="convert it to one of these, or name the folder it is in",
    )


def _refuse_remote(location: str) -> None:
    if not location.strip():
        raise UsageError("the source's path is empty", doing=_DOING, next_step="name a folder: ragstone ingest ./docs")
    found = _SCHEME.match(location)
    if found is None:
        return
    kind = found.group(1).lower()
    said = "S3 sources come in a later release" if kind == "s3" else f"{kind}:// is no kind of source"
    raise UsageError(
        f"{location}: {said}",
        doing=_DOING,
        next_step="copy it into a folder and name that: aws s3 sync s3://bucket/prefix ./docs"
        if kind == "s3"
        else "name a folder, a .jsonl file, or a single .md, .txt or .html file",
    )
