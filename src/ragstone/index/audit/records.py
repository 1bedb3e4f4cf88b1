"""What an audit passes along: facts as a store holds them, the differences found, and what would mend each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ragstone.core.nouns import Recipe
from ragstone.index.records import ChangedDocument, VersionStatistics

StoreName = Literal["source", "manifest", "catalog", "rows", "postings", "vectors", "embedding_cache"]
STORES: tuple[StoreName, ...] = (
    "source", "manifest", "catalog", "rows", "postings", "vectors", "embedding_cache",
)  # fmt: skip
# More are counted and mended, but neither kept nor shown.
FINDINGS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Redo:
    """Read, chunk and write one document again from its source."""

    source: str
    key: str


@dataclass(frozen=True, slots=True)
class IngestAgain:
    """An ordinary ingest of the source: it is ahead of the index."""

    source: str


@dataclass(frozen=True, slots=True)
class RestoreDocument:
    """Write a document's row again: its source and key as its id says, its access list as the source says."""

    document_id: bytes
    source: str
    key: str


@dataclass(frozen=True, slots=True)
class RestoreVersion:
    """Write a version's row again as its manifest says."""

    version: int


@dataclass(frozen=True, slots=True)
class Reseal:
    """Make a manifest again from the catalog; a checkpoint where that gives other bytes."""

    version: int


@dataclass(frozen=True, slots=True)
class SealCheckpoint:
    """Seal a manifest that lists everything, so that the chain is proven from there on."""


@dataclass(frozen=True, slots=True)
class RewriteRow:
    """Write the postings of one row again from its text."""

    seq: int


@dataclass(frozen=True, slots=True)
class RewriteSegment:
    """Write a segment again without what cannot be read in it."""

    segment: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop an entry of the embedding cache."""

    input_hash: bytes


@dataclass(frozen=True, slots=True)
class Recount:
    """Publish a version that closes rows which no document places."""


Remedy = (
    Redo
    | IngestAgain
    | RestoreDocument
    | RestoreVersion
    | Reseal
    | SealCheckpoint
    | RewriteRow
    | RewriteSegment
    | Forget
    | Recount
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference: in which store, what kind, of what, and what is wrong with it. `remedy` None: by hand."""

    store: StoreName
    kind: str
    name: str
    detail: str
    remedy: Remedy | None = None


@dataclass(slots=True)
class Differences:
    """Gathers findings: all are counted and mended, the first `FINDINGS_MAX` are kept. `truths` are version rows as
    their manifests say they must be, of those that are not so."""

    kept: list[Finding] = field(default_factory=list)
    totals: Counter[StoreName] = field(default_factory=Counter)
    compared: Counter[StoreName] = field(default_factory=Counter)
    remedies: dict[Remedy, None] = field(default_factory=dict)
    truths: dict[int, VersionRow] = field(default_factory=dict)
    unmendable: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, store: StoreName, kind: str, name: str, detail: str, remedy: Remedy | None = None) -> None:
        """Note one difference."""
        self.totals[store] += 1
        if len(self.kept) < FINDINGS_MAX:
            self.kept.append(Finding(store, kind, name, detail, remedy))
        if remedy is None:
            self.unmendable += 1
        else:
            self.remedies[remedy] = None

    def take(self, other: Differences) -> None:
        """Take over what was gathered elsewhere."""
        self.kept += other.kept[: FINDINGS_MAX - len(self.kept)]
        self.totals += other.totals
        self.remedies.update(other.remedies)
        self.truths.update(other.truths)
        self.unmendable += other.unmendable


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A source as the catalog knows it."""

    source_id: bytes
    name: str
    location: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What is audited: one corpus at one version. `quarantine` is (source id, key) to the object version at fault,
    `withheld` the ids of documents deleted on purpose, `oldest` the oldest version that is kept, `size` one more
    than the greatest seq given out, `postings` how many lists of postings there are."""

    corpus_id: bytes
    index_id: bytes
    secret: bytes = field(repr=False)
    recipe: Recipe
    version: int
    head: int
    oldest: int
    size: int
    postings: int
    hold: str | None
    sources: Mapping[bytes, SourceLine]
    quarantine: Mapping[tuple[bytes, str], str]
    withheld: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version as the catalog holds it. `buckets` is empty once retention has removed its rows."""

    version: int
    parent: int
    kind: str
    note: str
    index_id: bytes
    merkle_root: bytes
    buckets: bytes
    manifest_key: str
    manifest_digest: bytes
    statistics: VersionStatistics
    collected: bool
    checkpoint_key: str = ""
    checkpoint_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class StoredRow:
    """An engine row as stored. `text` and `vector` are None where they are missing, `vector_hash` is empty in a
    row that was written before hashes were kept."""

    row_id: bytes
    chunk_id: bytes
    text_hash: bytes
    joined_terms: int
    title_terms: int
    vector_hash: bytes
    text: str | None
    vector: npt.NDArray[np.float16] | None = field(hash=False, compare=False)


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """A placement of a document version with the row that it names; `stored` None when there is none."""

    seq: int
    ordinal: int
    start: int
    end: int
    heading_path: tuple[str, ...]
    stored: StoredRow | None


@dataclass(frozen=True, slots=True)
class HeldVersion:
    """A document version as the catalog holds it; its rows in order."""

    document_id: bytes
    object_version: str
    title: str
    metadata: Mapping[str, Any] = field(hash=False)
    leaf: bytes
    rows: tuple[PlacedRow, ...]


@dataclass(frozen=True, slots=True)
class HeldDocument:
    """A document that a version holds. `source_id` None: it has no row in the catalog; `acl_id` empty: the store
    keeps access lists without ids; `principals` None: no access list has that id; `version` None: the document
    version is missing; `ends`: the membership ends at a version that does not exist yet."""

    document_id: bytes
    source_id: bytes | None
    key: str
    acl_id: bytes
    principals: frozenset[str] | None
    version: HeldVersion | None
    ends: bool = False


@dataclass(frozen=True, slots=True)
class OtherRow:
    """A row that another kept version holds and the audited one does not."""

    seq: int
    source: str
    key: str
    title: str
    metadata: Mapping[str, Any] = field(hash=False)
    heading_path: tuple[str, ...]
    row_id: bytes
    chunk_id: bytes
    text_hash: bytes
    text: str | None


@dataclass(frozen=True, slots=True)
class PackedPostings:
    """The postings of one term in one segment as stored; `rows` is the count kept beside them."""

    term: str
    segment: int
    rows: int
    packed: bytes


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object as its source lists it; `acl` None means everybody."""

    object_version: str
    acl: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Listing:
    """A source as it is now. `faulty` are keys that it holds and that cannot be used; `complete` is False when
    some record's key could not be read: then nothing counts as vanished. `unopened` says why there is no listing."""

    objects: Mapping[str, ListedObject] = field(default_factory=dict)
    faulty: frozenset[str] = frozenset()
    complete: bool = True
    unopened: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """What the catalog knows of how one version came about: enough to try its manifest's bytes again. Of source and
    source order it may know several that could be."""

    version: VersionRow
    sources: tuple[str, ...]
    orders: tuple[str, ...]
    added: tuple[ChangedDocument, ...]
    removed: tuple[ChangedDocument, ...]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found: per store how much was compared and what differs, and what was not compared and why."""

    corpus: str
    version: int
    head: int
    merkle_root: bytes
    compared: Mapping[StoreName, int]
    totals: Mapping[StoreName, int]
    findings: Sequence[Finding]
    remedies: Sequence[Remedy]
    truths: Mapping[int, VersionRow]
    unmendable: int
    notes: Sequence[str]

    @property
    def clean(self) -> bool:
        """Whether nothing differs."""
        return not any(self.totals.values())


@dataclass(slots=True)
class Mended:
    """What was done: documents and rows written again, embeddings made, postings rewritten, entries dropped, rows of
    the catalog and manifests restored; `left` says what could not be done and the next step."""

    documents: int = 0
    rows: int = 0
    embedded: int = 0
    postings: int = 0
    forgotten: int = 0
    restored: int = 0
    manifests: int = 0
    checkpoint: str = ""
    versions: list[int] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
