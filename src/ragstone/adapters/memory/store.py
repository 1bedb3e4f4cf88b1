"""Everything that can be kept in memory, put together around one state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragstone.adapters.memory.catalog import MemoryCatalog
from ragstone.adapters.memory.engine import MemoryEngine
from ragstone.adapters.memory.history import MemoryHistory
from ragstone.adapters.memory.inspection import MemoryInspector
from ragstone.adapters.memory.publish import MemoryPublisher
from ragstone.adapters.memory.repair import MemoryMender
from ragstone.adapters.memory.runs import MemoryRuns
from ragstone.adapters.memory.state import State
from ragstone.adapters.memory.stores import MemoryEmbeddingCache, MemoryEvidence, MemoryObjects
from ragstone.index.records import Retention

if TYPE_CHECKING:
    from collections.abc import Callable


class MemoryStore:
    """The memory adapters over one state. `new_secret` makes the Merkle key of a new corpus."""

    def __init__(
        self,
        *,
        segments_max: int = 8,
        new_secret: Callable[[], bytes] | None = None,
        retention: Retention = Retention(),  # noqa: B008 - frozen
    ) -> None:
        self.state = State(new_secret)
        self.runs = MemoryRuns(self.state)
        self.publisher = MemoryPublisher(self.state, segments_max=segments_max, retention=retention)
        self.history = MemoryHistory(self.state)
        self.engine = MemoryEngine(self.state)
        self.catalog = MemoryCatalog(self.state)
        self.objects = MemoryObjects()
        self.evidence = MemoryEvidence()
        self._caches: dict[bytes, MemoryEmbeddingCache] = {}
        self.inspector = MemoryInspector(self.state, self.cache)
        self.mender = MemoryMender(self.state, self.cache)

    def cache(self, corpus_id: bytes) -> MemoryEmbeddingCache:
        """The embedding cache of a corpus: a tenant never learns what another has embedded."""
        return self._caches.setdefault(corpus_id, MemoryEmbeddingCache())
