"""This system as one peer of a comparison: ingest documents, ask, get an answer and the documents behind it.

`Peer(embedder, args)` has `ingest(docs)`, `chunks()` and `query(text, k) -> (answer, [document ids])`; `embedder`
has `dim` and `embed(texts)`, `args` may have `chunk` (words a chunk), a document is {"id", "text"} and "title".
Everything is kept in memory. A query is the whole of `flow.search`: view, both legs with a filter, exact scores of
every candidate, fusion, selection, passages with reasons, and a full evidence record, encoded and written to a
spool; then a prompt and an answer that costs nothing, as the peers do. The reasons are in the record; pages and
JSON made of it for a reader are not counted.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from pathlib import Path
from typing import Any

from bench_world import CallableEmbedder, Ports, Spooled, World, incoming
from ragstone import flow
from ragstone.adapters.memory.store import MemoryStore
from ragstone.core.filters import parse_filter

PROMPT = "Answer from the context only and cite ids.\n\nContext:\n{context}\n\nQuestion: {question}\nAnswer:"
ANSWER = "The context supports the answer [1]."
# Nine documents in ten.
FILTER = "shard < 900"


class Peer:
    """The memory adapters and the real flow behind the interface of the comparison."""

    def __init__(self, embedder: Any, args: Any, evidence: Any = None) -> None:
        self._words = getattr(args, "chunk", 200)
        self.filter = parse_filter(getattr(args, "filter", FILTER))
        self.world = World(Ports.of_memory(MemoryStore()), CallableEmbedder(embedder.embed, embedder.dim))
        self.parts = self.world.parts(evidence or Spooled(Path(tempfile.mkdtemp())))
        self._threads = threading.local()

    def ingest(self, docs: list[dict[str, str]]) -> None:
        """Chunk, embed, index and publish."""
        self._run(self.ingest_async(docs))

    async def ingest_async(self, docs: list[dict[str, str]]) -> None:
        """The same for callers who are on an event loop already."""
        documents = [incoming(each["id"], each.get("title") or "", each["text"], 1, self._words) for each in docs]
        await self.world.ingest(documents)

    def chunks(self) -> int:
        """Chunks that are live."""
        return self.world.rows

    def query(self, text: str, k: int) -> tuple[str, list[str]]:
        """An answer and the documents behind it, best first. Each thread has an event loop of its own."""
        return self._run(self.answer(text, k))

    async def answer(self, text: str, k: int) -> tuple[str, list[str]]:
        """The same for callers who are on an event loop already."""
        found = await flow.search(self.parts, self.world.question(text, self.filter, k))
        prompt = PROMPT.format(context="\n".join(found.words.context.values()), question=text)
        return (ANSWER if prompt else ""), [hit.document_id for hit in found.record.retrieval.hits]

    async def ids(self, text: str, k: int) -> list[str]:
        """The documents alone."""
        return (await self.answer(text, k))[1]

    async def stages(self, text: str) -> dict[str, float]:
        """Milliseconds by stage, as the record has them."""
        return (await flow.search(self.parts, self.world.question(text, self.filter))).record.stage_ms

    def _run(self, work: Any) -> Any:
        loop = getattr(self._threads, "loop", None)
        if loop is None:
            loop = self._threads.loop = asyncio.new_event_loop()
        return loop.run_until_complete(work)
