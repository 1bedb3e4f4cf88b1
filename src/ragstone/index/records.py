"""What the index stage passes along: the run, staged rows and documents, the change a publish makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ragstone.core.errors import CheckRefused, UsageError
from ragstone.core.nouns import Recipe

RunState = Literal["running", "published", "unchanged", "failed", "dead"]
# A scan sees the whole source; changes are named documents of it. One of each may be under way at once.
RunScope = Literal["scan", "changes"]
VersionKind = Literal["ingest", "rollback", "delete", "repair"]
# The note of a deletion that was given none: versions are listed to everybody, so it names nothing.
DELETED = "a document was deleted"


@dataclass(frozen=True, slots=True)
class RunStart:
    """What a run is opened with. `kind` is the source's (folder, jsonl), `version_kind` that of what it publishes."""

    tenant: str
    corpus: str
    source: str
    location: str
    kind: str
    recipe: Recipe
    source_order: str
    scope: RunScope = "scan"
    version_kind: VersionKind = "ingest"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a version comes from: what a manifest says of it beside what changed."""

    kind: VersionKind
    corpus_id: bytes
    index_id: bytes
    secret: bytes = field(repr=False)
    source: str = ""
    source_order: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """An open run: it holds the source's lock until it ends."""

    run_id: bytes
    corpus_id: bytes
    source_id: bytes
    index_id: bytes
    base_version: int
    secret: bytes = field(repr=False)
    recipe: Recipe
    source_order: str
    source: str
    scope: RunScope = "scan"
    kind: VersionKind = "ingest"

    @property
    def origin(self) -> Origin:
        """What the version that this run publishes comes from."""
        return Origin(self.kind, self.corpus_id, self.index_id, self.secret, self.source, self.source_order)


def refuse_other_recipe(serving: bytes | None, index_id: bytes) -> None:
    """UsageError when a corpus is served by an index of another recipe. Asked when a run opens, and again under
    the corpus lock: another first run may have published meanwhile."""
    if serving is not None and serving != index_id:
        raise UsageError(
            "the corpus is served by an index made with another recipe (embedder or chunking)",
            doing="opening or publishing a run",
            next_step="set [embedder] and [chunking] in ragstone.toml back, or ingest into another --corpus",
        )


def refuse_held(hold: str | None) -> None:
    """CheckRefused while a corpus is held after a rollback: an ingest would publish again what was rolled back."""
    if hold:
        raise CheckRefused(
            f"the corpus is held: {hold}",
            doing="opening or publishing a run; nothing was changed",
            next_step="mend the source, then let ingests publish again: ragstone versions resume",
        )


@dataclass(frozen=True, slots=True)
class LiveDocument:
    """A document as the head version has it."""

    document_id: bytes
    docversion_id: bytes
    key: str
    object_version: str
    source_order: str


@dataclass(frozen=True, slots=True)
class StagedRow:
    """A new engine row: one chunk under a leased seq."""

    seq: int
    row_id: bytes
    chunk_id: bytes
    text_hash: bytes
    text: str
    tokens: int
    vector: npt.NDArray[np.float16]
    joined: Counter[str]
    title: Counter[str]


@dataclass(frozen=True, slots=True)
class StagedPlacement:
    """Where a row stands in a document version."""

    seq: int
    ordinal: int
    start: int
    end: int
    heading_path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StagedDocument:
    """A document version before it is published."""

    document_id: bytes
    docversion_id: bytes
    key: str
    object_version: str
    source_order: str
    title: str
    metadata: Mapping[str, Any]
    acl: tuple[str, ...]
    leaf: bytes
    placements: tuple[StagedPlacement, ...]
    reused: int


@dataclass(frozen=True, slots=True)
class StagedBatch:
    """What is written in one transaction while a run goes on."""

    documents: tuple[StagedDocument, ...]
    rows: tuple[StagedRow, ...]


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """A document that cannot be used, kept until it is fixed or dismissed."""

    key: str
    object_version: str
    reason: str
    message: str
    field: str
    next_step: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the publish needs from the run beside the staged rows: deletions, faults, counts to hold it to.

    `replaces_quarantine` says that `quarantine` is all that is wrong with the source; else only entries of the
    `examined` keys are replaced. `recount` makes the publish believe nothing that can be counted anew: every
    Merkle bucket, the statistics, and open rows that no document places (a repair).
    """

    deleted: tuple[bytes, ...]
    quarantine: tuple[QuarantineEntry, ...]
    documents: int
    rows: int
    fields: Mapping[str, tuple[str, ...]]
    replaces_quarantine: bool = True
    examined: tuple[str, ...] = ()
    recount: bool = False


@dataclass(frozen=True, slots=True)
class ChangedDocument:
    """One line of a manifest. `placed` stands for its rows in order with their spans and vectors
    (`index.rows.placed_digest`)."""

    document_id: bytes
    key: str
    object_version: str
    leaf: bytes
    chunk_ids: tuple[bytes, ...]
    placed: bytes


@dataclass(frozen=True, slots=True)
class VersionStatistics:
    """Kept with a version: live rows and documents, summed field lengths, the BM25 norms, known fields."""

    rows: int = 0
    documents: int = 0
    joined_terms: int = 0
    title_terms: int = 0
    norms: tuple[float, float] = (0.0, 0.0)
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """What a publish is about to do, read under the corpus lock.

    `leaves` holds the leaves, after the change, of every bucket that changes; `stale` names documents whose
    staged version is not newer than what is published. `norms` are the BM25 norms to take over (a rollback ranks
    as the version it goes back to did), None to go on from those before.
    """

    version: int
    parent: int
    added: tuple[ChangedDocument, ...]
    removed: tuple[ChangedDocument, ...]
    stale: tuple[str, ...]
    buckets_before: bytes
    leaves: Mapping[int, tuple[bytes, ...]]
    statistics_before: VersionStatistics
    rows_opened: int
    rows_closed: int
    joined_delta: int
    title_delta: int
    documents_after: int
    norms: tuple[float, float] | None = None

    def published(self, sealed: Sealed) -> Published:
        """What is told of the change once it is committed."""
        return Published(
            version=self.version,
            added=len(self.added),
            removed=len(self.removed),
            stale=self.stale,
            rows=sealed.statistics.rows,
            rows_opened=self.rows_opened,
            rows_closed=self.rows_closed,
            merkle_root=sealed.merkle_root,
        )

    @property
    def empty(self) -> bool:
        """Whether there is nothing to publish."""
        return not (self.added or self.removed or self.rows_opened or self.rows_closed)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A manifest written and ready to commit."""

    manifest_key: str
    manifest_digest: bytes
    merkle_root: bytes
    buckets: bytes
    statistics: VersionStatistics


@dataclass(frozen=True, slots=True)
class Published:
    """A version that readers see."""

    version: int
    added: int
    removed: int
    stale: tuple[str, ...]
    rows: int
    rows_opened: int
    rows_closed: int
    merkle_root: bytes
    maintenance: str = ""


@dataclass(frozen=True, slots=True)
class Retention:
    """How many versions are kept, the head included; older ones cannot be read any more."""

    versions: int = 100

    def oldest(self, head: int) -> int:
        """The oldest version that is kept."""
        return max(1, head - max(1, self.versions) + 1)

    def due(self, head: int, oldest_held: int) -> bool:
        """Whether so many versions have expired that collecting them is worth it: a tenth of what is kept."""
        return self.oldest(head) - oldest_held >= self.batch

    @property
    def batch(self) -> int:
        """How many versions are let go at once, at least."""
        return max(1, self.versions // 10)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed, and the oldest version that can still be read."""

    oldest: int
    versions: int = 0
    rows: int = 0
    documents: int = 0
    texts: int = 0
    postings: int = 0
