"""What the index stage needs from outside. One adapter may be several of these."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ragstone.core.ports import Seqs
from ragstone.index.audit.records import (
    Delta,
    HeldDocument,
    OtherRow,
    PackedPostings,
    RestoreDocument,
    Subject,
    VersionRow,
)
from ragstone.index.postings import LexicalRow
from ragstone.index.records import (
    Change,
    Collected,
    LiveDocument,
    Origin,
    Outcome,
    Published,
    Retention,
    Run,
    RunStart,
    RunState,
    Sealed,
    StagedBatch,
)


class Runs(Protocol):
    """Opens and ends runs. Contract: tests/contract/test_store_contract.py."""

    async def next_order(self, tenant: str, corpus: str, source: str, clock_us: int) -> str:
        """A source order greater than every one given out for this source, and at least the clock's: a clock that
        jumped back must not make a new scan look older than what is published. 20 digits."""

    async def begin(self, start: RunStart) -> Run:
        """A new run, the only one of its scope on its source. Sweeps the rows of dead runs. Busy if another run
        holds it, CheckRefused while the corpus is held after a rollback."""

    async def documents(self, run: Run, only: Collection[str] | None = None) -> Mapping[str, LiveDocument]:
        """The live documents of the run's source, by key; `only` bounds them to some keys."""

    async def withheld(self, run: Run) -> frozenset[str]:
        """The keys of the run's source whose documents were deleted on purpose: a scan leaves them out."""

    async def end(self, run: Run, state: RunState) -> None:
        """Release the source; rows of a run that did not publish are swept.

        Whether it did is known to the store alone: a run stopped after its commit says `failed` and has published.
        """


class Staging(Protocol):
    """Writes rows that nobody sees before the publish."""

    async def reusable(self, run: Run, docversions: Sequence[bytes]) -> Mapping[bytes, int]:
        """row id -> seq of the rows of the given live document versions."""

    async def lease(self, run: Run, count: int) -> range:
        """`count` consecutive seqs that no other run gets."""

    async def stage(self, run: Run, batch: StagedBatch) -> None:
        """Write documents and rows in one transaction."""

    async def segment(self, run: Run, spans: Sequence[range], postings: Iterable[tuple[str, int, bytes]]) -> None:
        """Write one postings segment for the rows with the seqs of `spans`, which ascend."""


class Publication(Protocol):
    """A publish under way, holding the corpus lock: everything in it becomes visible at once or not at all."""

    @property
    def origin(self) -> Origin:
        """What the version comes from."""

    async def change(self) -> Change:
        """Compare the run with the head: what would change."""

    async def commit(self, sealed: Sealed) -> Published:
        """Move the head."""

    async def skip(self) -> None:
        """Nothing to publish: record faults, leave the head."""


class Publisher(Protocol):
    """Moves the head of a corpus."""

    def publishing(self, run: Run, outcome: Outcome) -> AbstractAsyncContextManager[Publication]:
        """Take the corpus lock; leaving without commit or skip changes nothing."""

    async def maintain(self, corpus_id: bytes, index_id: bytes) -> None:
        """Merge postings segments and keep the vector index in step with the rows; safe to leave out."""


class History(Protocol):
    """Moves the head without a run, and lets old versions go. Contract: tests/contract/test_history_contract.py.

    Unknown corpora, versions and documents: NotFound; an ambiguous document: UsageError naming the candidates.
    """

    def rolling_back(self, tenant: str, corpus: str, to: str, note: str) -> AbstractAsyncContextManager[Publication]:
        """A publish of what version `to` (a number or a time) held. Committing it sets the hold: until `resume`,
        runs are refused, and runs that were under way may not publish afterwards either."""

    async def resume(self, tenant: str, corpus: str) -> str:
        """Lift the hold; what it said, "" when there was none."""

    def deleting(self, tenant: str, corpus: str, document: str, note: str) -> AbstractAsyncContextManager[Publication]:
        """A publish without one document, which is suppressed in every version when it commits or skips."""

    async def restore(self, tenant: str, corpus: str, document: str) -> bool:
        """Take a deletion back: old versions show the document again, the next ingest publishes it again. False
        when it was not deleted."""

    async def collect(self, corpus_id: bytes, retention: Retention, *, force: bool) -> Collected:
        """Remove what no kept version holds: rows, vectors, postings, placements, texts. Without `force` only
        when enough versions have expired to be worth it."""


class EmbeddingCache(Protocol):
    """Vectors by (embedding id, input hash): nothing is embedded twice."""

    async def get(self, embedding_id: bytes, hashes: Sequence[bytes]) -> Mapping[bytes, npt.NDArray[np.float16]]:
        """The vectors that are known."""

    async def put(self, embedding_id: bytes, vectors: Mapping[bytes, npt.NDArray[np.float16]]) -> None:
        """Keep vectors; a known one stays as it is."""


class ObjectStore(Protocol):
    """Content that never changes, by key."""

    async def put(self, key: str, data: bytes) -> None:
        """Store durably; the same key with the same bytes is fine. ResourceExhausted when full."""

    async def get(self, key: str) -> bytes:
        """The bytes. NotFound if missing."""

    async def replace(self, key: str, data: bytes) -> None:
        """Store durably over whatever is there: the right bytes in the place of damaged ones."""


class Inspection(Protocol):
    """One moment of a corpus at one version, read only: a publish meanwhile is not seen. Everything comes in pages,
    so that memory does not grow with the corpus. Contract: tests/contract/test_audit_contract.py."""

    @property
    def subject(self) -> Subject:
        """What is inspected."""

    async def versions(self) -> Sequence[VersionRow]:
        """Every version up to the inspected one, ascending."""

    async def live(self) -> Seqs:
        """The seqs that are live in the version, one for each entry that says so. At the head, an entry that begins
        or ends at a version that does not exist yet stands twice: it is not live just once, to the end."""

    def documents(self) -> AsyncIterator[Sequence[HeldDocument]]:
        """The documents of the version with all their rows, by document id."""

    def others(self) -> AsyncIterator[Sequence[OtherRow]]:
        """The rows that other kept versions hold and this one does not, each once, by seq."""

    def postings(self) -> AsyncIterator[Sequence[PackedPostings]]:
        """The postings of every segment of the index, by term."""

    async def cached(self, hashes: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """The embedding cache's entries of the index's embedder by input hash: the bytes, half floats in little
        endian."""

    async def delta(self, version: VersionRow) -> Delta | None:
        """What came and went with a version, as its manifest lists it; None once retention has removed its rows."""


class Inspector(Protocol):
    """Opens inspections. Unknown corpus or version: NotFound."""

    def inspecting(self, tenant: str, corpus: str, as_of: str | None) -> AbstractAsyncContextManager[Inspection]:
        """The corpus at its head, or as of a version number or a time."""

    async def head(self, corpus_id: bytes) -> int:
        """The version that serves now."""


class Mender(Protocol):
    """Writes again what an audit found wrong and no publish puts right. Each call is one transaction; what it
    writes follows from something that was proven, and doing it twice changes nothing more."""

    async def restore_document(self, corpus_id: bytes, truth: RestoreDocument, acl: tuple[str, ...] | None) -> None:
        """Write a document's row again; its access list too when `acl` is given, which then counts at once."""

    async def settle(self, corpus_id: bytes, index_id: bytes) -> None:
        """Let what counts at the head end with the next version where it would end at one that does not exist yet,
        and drop second entries of a row: the publish of a repair goes on from there."""

    async def restore_version(self, corpus_id: bytes, truth: VersionRow) -> None:
        """Write a version's row again."""

    async def rewrite_postings(
        self, corpus_id: bytes, index_id: bytes, seqs: Seqs, segments: frozenset[int],
        rows: AsyncIterator[Sequence[LexicalRow]],
    ) -> int:  # fmt: skip
        """Take the postings of `seqs` out of every segment and what cannot be read out of `segments`, and write
        those of `rows` instead; a segment that changes gets a new number. Gives how many rows were written."""

    async def forget(self, corpus_id: bytes, embedding_id: bytes, hashes: Sequence[bytes]) -> None:
        """Drop entries of the embedding cache."""

    async def changes_since_checkpoint(self, corpus_id: bytes) -> int:
        """How many documents came and went since the newest checkpoint, each time counted: what an audit has to read
        beside it."""

    async def keep_checkpoint(self, corpus_id: bytes, version: int, key: str, digest: bytes) -> None:
        """Let a version name the manifest that lists everything it holds."""
