"""What the index stage needs from outside. One adapter may be several of these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ragstone.index.records import (
    Change,
    LiveDocument,
    Outcome,
    Published,
    Run,
    RunStart,
    RunState,
    Sealed,
    StagedBatch,
)


class Runs(Protocol):
    """Opens and ends runs. Contract: tests/contract/test_store_contract.py."""

    async def begin(self, start: RunStart) -> Run:
        """A new run that alone writes its source. Sweeps the rows of dead runs. Busy if another run holds it."""

    async def documents(self, run: Run) -> Mapping[str, LiveDocument]:
        """The live documents of the run's source, by key."""

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

    async def segment(self, run: Run, span: range, postings: Iterable[tuple[str, int, bytes]]) -> None:
        """Write one postings segment covering the seqs of `span`."""


class Publication(Protocol):
    """A publish under way, holding the corpus lock: everything in it becomes visible at once or not at all."""

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
