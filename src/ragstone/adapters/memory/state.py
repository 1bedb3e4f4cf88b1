"""What the memory adapters share: the tables of the catalog as dictionaries.

Everything runs on one event loop and changes between two awaits: a change is seen whole or not at all.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from ragstone.adapters.memory.columns import OPEN, Index
from ragstone.core.errors import NotFound
from ragstone.core.nouns import PUBLIC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ragstone.core.ports import Seqs
    from ragstone.index.records import QuarantineEntry, RunScope, RunState, Sealed, StagedDocument, VersionKind

EVERYBODY = frozenset({PUBLIC})


@dataclass(slots=True)
class Membership:
    """A document version in the corpus versions from `v_from` until before `v_to`."""

    docversion_id: bytes
    v_from: int
    v_to: int = OPEN


@dataclass(slots=True)
class Document:
    """A document: today's access list and suppression apply to every version."""

    document_id: bytes
    source_id: bytes
    key: str
    acl: frozenset[str]
    suppressed: bool = False
    # Up to which source order it was looked at by name.
    seen_order: str = ""
    memberships: list[Membership] = field(default_factory=list)

    def at(self, version: int) -> Membership | None:
        """Which of its versions a corpus version holds."""
        for one in reversed(self.memberships):
            if one.v_from <= version < one.v_to:
                return one
        return None

    @property
    def head(self) -> Membership | None:
        """The membership that is open."""
        return self.memberships[-1] if self.memberships and self.memberships[-1].v_to == OPEN else None

    def readable(self, principals: frozenset[str]) -> bool:
        """Whether one of the principals may read it now."""
        return not self.suppressed and not self.acl.isdisjoint(principals)


@dataclass(slots=True)
class Docversion:
    """A document version with its placements; `seqs` are those of the placements."""

    staged: StagedDocument
    run_id: bytes
    indexed_at: datetime
    seqs: Seqs
    published: bool = False


@dataclass(slots=True)
class RunLine:
    """A run as the catalog knows it."""

    source_id: bytes
    index_id: bytes
    scope: RunScope = "scan"
    base: int = 0
    order: str = ""
    state: RunState = "running"


@dataclass(slots=True)
class Source:
    """A source as first seen, and the greatest source order given out for it."""

    name: str
    location: str
    last_order: int = 0
    # The source order of the newest scan that was published or found nothing to publish.
    scanned_order: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """A quarantine entry, and the source order of what found it."""

    entry: QuarantineEntry
    order: str


@dataclass(slots=True)
class Version:
    """A published version; `collected` once retention has removed its rows."""

    version: int
    parent: int
    index_id: bytes
    sealed: Sealed
    published_at: datetime
    kind: VersionKind = "ingest"
    note: str = ""
    collected: bool = False
    # A manifest that lists everything the version holds, where one was sealed.
    checkpoint_key: str = ""
    checkpoint_digest: bytes = b""


@dataclass(slots=True)
class Corpus:
    """One corpus and all it owns."""

    corpus_id: bytes
    secret: bytes
    head: int = 0
    epoch: int = 0
    access: str = PUBLIC
    index_id: bytes | None = None
    hold: str = ""
    sources: dict[bytes, Source] = field(default_factory=dict)
    documents: dict[bytes, Document] = field(default_factory=dict)
    by_key: dict[str, list[Document]] = field(default_factory=dict)
    docversions: dict[bytes, Docversion] = field(default_factory=dict)
    indexes: dict[bytes, Index] = field(default_factory=dict)
    texts: dict[bytes, str] = field(default_factory=dict)
    runs: dict[bytes, RunLine] = field(default_factory=dict)
    versions: list[Version] = field(default_factory=list)
    quarantine: dict[tuple[bytes, str], Fault] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    # Whether some document is not for everybody; None until asked again after a change.
    restricted: bool | None = None

    def document(self, staged: StagedDocument, source_id: bytes) -> Document:
        """The document, made if it is new."""
        known = self.documents.get(staged.document_id)
        if known is None:
            known = Document(staged.document_id, source_id, staged.key, frozenset(staged.acl))
            self.documents[staged.document_id] = known
            self.by_key.setdefault(staged.key, []).append(known)
            self.restricted = None
        return known

    def staged_by(self, run_id: bytes) -> Iterator[tuple[bytes, Docversion]]:
        """The document versions of a run that are not published."""
        for key, one in self.docversions.items():
            if one.run_id == run_id and not one.published:
                yield key, one

    def is_restricted(self) -> bool:
        """Whether reads must check access row by row."""
        if self.restricted is None:
            self.restricted = any(one.suppressed or one.acl != EVERYBODY for one in self.documents.values())
        return self.restricted or self.access != PUBLIC

    def suppress(self, document_id: bytes, *, hidden: bool = True) -> bool:
        """Hide a document from every version at once, or show it again; whether that changed anything."""
        document = self.documents[document_id]
        changed = document.suppressed != hidden
        document.suppressed = hidden
        self.restricted = None
        self.epoch += changed
        return changed


class State:
    """All corpora, and the sources that runs hold. `new_secret` makes the Merkle key of a new corpus."""

    def __init__(self, new_secret: Callable[[], bytes] | None = None) -> None:
        self.corpora: dict[bytes, Corpus] = {}
        self.held: dict[tuple[bytes, RunScope], bytes] = {}
        self._new_secret = new_secret or (lambda: os.urandom(32))

    def corpus(self, corpus_id: bytes) -> Corpus:
        """A corpus that exists. NotFound."""
        found = self.corpora.get(corpus_id)
        if found is None:
            raise NotFound("unknown corpus", doing="reading the catalog", next_step="ingest something first")
        return found

    def serving(self, corpus_id: bytes, name: str) -> Corpus:
        """A corpus with a version. NotFound."""
        found = self.corpora.get(corpus_id)
        if found is None or not found.head:
            raise NotFound(
                f"corpus {name!r} has no documents" if found else f"unknown corpus {name!r}",
                doing="reading the serving version",
                next_step="ingest something first: ragstone ingest FOLDER",
            )
        return found

    def corpus_or_new(self, corpus_id: bytes) -> Corpus:
        """A corpus, made if it is new."""
        if corpus_id not in self.corpora:
            self.corpora[corpus_id] = Corpus(corpus_id, self._new_secret())
        return self.corpora[corpus_id]


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


def seqs_of(staged: StagedDocument) -> Seqs:
    """The seqs that a document version places, in order."""
    return np.array([one.seq for one in staged.placements], dtype=np.int64)
