"""Exact listings of what a corpus holds, for people: documents, versions, quarantine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ragstone.core.nouns import Asker, Metadata


@dataclass(frozen=True, slots=True)
class DocumentLine:
    """A document in a version. `state` is live, stale (live, but its newest object is in quarantine) or
    quarantined (never published)."""

    document_id: str
    source: str
    key: str
    title: str
    state: str
    object_version: str
    indexed_at: str
    chunks: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ChunkLine:
    """A chunk of a document."""

    chunk_id: str
    ordinal: int
    start: int
    end: int
    heading_path: tuple[str, ...]
    tokens: int
    text: str


@dataclass(frozen=True, slots=True)
class DocumentDetail:
    """A document with its metadata, chunks and the versions that held it."""

    line: DocumentLine
    metadata: Metadata = field(hash=False)
    chunks: tuple[ChunkLine, ...]
    versions: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class QuarantineLine:
    """A quarantine entry as listed."""

    document_id: str
    source: str
    key: str
    object_version: str
    reason: str
    message: str
    field: str
    next_step: str
    at: str


@dataclass(frozen=True, slots=True)
class VersionLine:
    """A corpus version as listed. `kept` is False once retention has removed its rows: it can no longer be read."""

    version: int
    parent: int
    kind: str
    published_at: str
    documents: int
    rows: int
    merkle_root: str
    source: str
    head: bool
    note: str = ""
    kept: bool = True


@dataclass(frozen=True, slots=True)
class DiffLine:
    """A document that two versions hold differently: `change` is added, removed or changed, read from the first to
    the second; object versions are empty where a version does not hold it."""

    document_id: str
    source: str
    key: str
    change: str
    before: str
    after: str
    chunks_before: int
    chunks_after: int
    chunks_shared: int


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """What changed between two versions, as far as the asker may read the documents."""

    before: int
    after: int
    added: int
    removed: int
    changed: int
    items: Sequence[DiffLine]


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, with the exact total and what to ask for next."""

    items: Sequence[Any]
    total: int
    next_cursor: str | None


class Library(Protocol):
    """Listings from the catalog. Unknown corpus, document or version: NotFound; ambiguous document: UsageError
    naming the candidates."""

    async def documents(
        self, tenant: str, corpus: str, asker: Asker, as_of: str | None, after: str, limit: int
    ) -> Page:
        """Documents by key, after the cursor."""

    async def document(
        self, tenant: str, corpus: str, asker: Asker, as_of: str | None, document: str
    ) -> DocumentDetail:
        """One document by its id, or `SOURCE:ID`."""

    async def diff(
        self, tenant: str, corpus: str, asker: Asker, before: str, after: str | None, limit: int
    ) -> VersionDiff:
        """What changed from version `before` to `after` (None is the head): exact counts, the first `limit` by key."""

    async def quarantine(self, tenant: str, corpus: str, after: str, limit: int) -> Page:
        """What is in quarantine."""

    async def versions(self, tenant: str, corpus: str, before: int, limit: int) -> Page:
        """Versions, newest first."""
