"""What the ingest stage passes along: listed objects, faults, parsed documents, chunk drafts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

MediaType = Literal["text/markdown", "text/plain", "text/html"]
BlockKind = Literal["heading", "paragraph", "list", "table", "code", "quote"]


@dataclass(frozen=True, slots=True)
class SourceObject:
    """One object of a source as listed: enough to decide whether it changed.

    `key` is the path below the source (POSIX, Unicode NFC) or the `_id` of a JSONL record; `object_version`
    changes exactly when bytes, title, metadata or access list change; `source_order` sorts as text and is
    newer when it is greater; `place` is where a person finds it (`guide.md`, `records.jsonl:12`);
    `acl` None means the corpus's default.
    """

    key: str
    object_version: str
    source_order: str
    size_bytes: int
    media_type: MediaType
    place: str
    title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    acl: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in a source that cannot be used, for quarantine.

    `identified` False means that the record's own id is unknown: then the run deletes nothing.
    """

    key: str
    object_version: str
    reason: str
    message: str
    next_step: str
    field: str = ""
    identified: bool = True


@dataclass(frozen=True, slots=True)
class Scan:
    """The whole listing of a source at one moment."""

    objects: tuple[SourceObject, ...]
    faults: tuple[Fault, ...]
    source_order: str


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a parsed document that belongs together: `text[start:end]` of the document's text.

    `heading_path` holds the headings above it, outermost first. `level` is a heading's level (1 to 6), else 0.
    `parts` are the spans at which the block may be cut when it is longer than a chunk may be: list items,
    table rows, code lines, sentences; empty means words.
    """

    kind: BlockKind
    start: int
    end: int
    heading_path: tuple[str, ...] = ()
    level: int = 0
    parts: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """The document's text (what every span counts in, code points), its blocks in order, and what it says of itself."""

    text: str
    title: str | None
    blocks: tuple[Block, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class ChunkDraft:
    """A chunk before it has an id: `text == document.text[start:end]`, always."""

    text: str
    start: int
    end: int
    heading_path: tuple[str, ...]
    ordinal: int
    tokens: int
