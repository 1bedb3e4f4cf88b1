"""The small stores in memory: embeddings, objects and evidence."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ragstone.core import evidence as ev
from ragstone.core.errors import IntegrityError, NotFound
from ragstone.core.ids import uuid7_unix_ms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class MemoryEmbeddingCache:
    """Implements the port EmbeddingCache for one corpus."""

    def __init__(self) -> None:
        self._vectors: dict[tuple[bytes, bytes], npt.NDArray[np.float16]] = {}

    async def get(self, embedding_id: bytes, hashes: Sequence[bytes]) -> Mapping[bytes, npt.NDArray[np.float16]]:
        """The vectors that are known."""
        places = {each: (embedding_id, each) for each in hashes}
        return {each: self._vectors[place] for each, place in places.items() if place in self._vectors}

    async def put(self, embedding_id: bytes, vectors: Mapping[bytes, npt.NDArray[np.float16]]) -> None:
        """Keep vectors; a known one stays as it is."""
        for each, vector in vectors.items():
            self._vectors.setdefault((embedding_id, each), vector.astype(np.float16))

    def forget(self, embedding_id: bytes, hashes: Sequence[bytes]) -> None:
        """Drop entries."""
        for each in hashes:
            self._vectors.pop((embedding_id, each), None)


class MemoryObjects:
    """Implements the port ObjectStore."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}

    async def put(self, key: str, data: bytes) -> None:
        """Keep bytes; other bytes under a known key are a fault."""
        if self._held.setdefault(key, data) != data:
            raise IntegrityError(f"object {key!r} is already there with other bytes", doing="storing an object")

    async def get(self, key: str) -> bytes:
        """The bytes. NotFound if missing."""
        if key not in self._held:
            raise NotFound(f"no object {key!r}", doing="reading an object")
        return self._held[key]

    async def replace(self, key: str, data: bytes) -> None:
        """Keep bytes in the place of damaged ones."""
        self._held[key] = data


class MemoryEvidence:
    """Implements the port EvidenceStore; records are kept as the bytes that a database would hold."""

    def __init__(self) -> None:
        self._records: dict[uuid.UUID, tuple[bytes, bytes, ev.EvidenceText]] = {}
        self.ledger: dict[tuple[uuid.UUID, str, str], tuple[int, int]] = {}

    async def append(self, envelopes: Sequence[ev.EvidenceEnvelope]) -> None:
        """Write records that may have been written before."""
        for envelope in envelopes:
            ident = uuid.UUID(envelope.record.id)
            corpus = bytes.fromhex(envelope.record.corpus_id)
            self._records.setdefault(ident, (corpus, ev.encode(envelope.record), ev.storable(envelope.text)))
            for stage, unit, quantity, cost in envelope.ledger:
                self.ledger.setdefault((ident, stage, unit), (quantity, cost))

    async def get(self, tenant_corpora: bytes | None, ident: uuid.UUID) -> tuple[ev.Evidence, ev.EvidenceText | None]:
        """A record by its id, with its words. NotFound."""
        held = self._records.get(ident)
        if held is None or tenant_corpora not in {None, held[0]}:
            raise NotFound(
                f"no evidence with id {ident}",
                doing="reading evidence",
                next_step="the id is printed by ask and search (`id` in --json)",
            )
        return ev.decode(held[1], held[2]), held[2]

    async def recent(self, corpus: bytes, limit: int) -> list[dict[str, Any]]:
        """The newest records, a line each."""
        mine = [(ident, held) for ident, held in self._records.items() if held[0] == corpus]
        mine.sort(key=lambda one: (uuid7_unix_ms(one[0]), one[0].bytes), reverse=True)
        return [_line(ident, ev.decode(held[1]), held[2]) for ident, held in mine[:limit]]


def _line(ident: uuid.UUID, record: ev.Evidence, words: ev.EvidenceText) -> dict[str, Any]:
    return {
        "id": str(ident),
        "at": datetime.fromtimestamp(uuid7_unix_ms(ident) / 1000, UTC).isoformat(),
        "kind": record.kind,
        "status": record.status,
        "corpus_version": record.corpus_version,
        "question": words.question,
    }
