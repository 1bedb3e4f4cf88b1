"""A whole system for the speed benchmarks: documents cut into windows of words, a hash embedder, any adapters.

Texts are staged and published by the real writer, questions are answered by the real flow; only parsing is left
out, so that every system that is compared holds the same chunks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ragstone.adapters.localfs.spool import Spool
from ragstone.adapters.memory.store import MemoryStore
from ragstone.core.deadline import Deadline
from ragstone.core.evidence import Evidence, EvidenceEnvelope, EvidenceText
from ragstone.core.filters import Filter
from ragstone.core.ids import content_version
from ragstone.core.nouns import Asker, ChunkingSpec, EmbeddingSpec, LexicalSpec, Recipe
from ragstone.core.ports import Embedder
from ragstone.flow import AnswerParts, Question
from ragstone.index.records import Published, RunStart
from ragstone.index.rows import IncomingDocument, Piece
from ragstone.index.stage import Writer, publish
from ragstone.retrieve.profile import Profile
from ragstone.retrieve.stage import Retriever

TENANT, CORPUS, SOURCE = "default", "bench", "docs"
BATCH = 200
SPOOL_BYTES = 4_000_000_000


class CallableEmbedder:
    """The port Embedder over a plain function from texts to unit vectors."""

    def __init__(self, embed: Callable[[Sequence[str]], Sequence[np.ndarray]], dimensions: int) -> None:
        self._embed = embed
        self.spec = EmbeddingSpec(
            "bench", f"bench:{dimensions}", dimensions, 512, "sum", precision="float32", batch_invariant=True
        )

    def count_tokens(self, text: str) -> int:
        """Words, near enough."""
        return text.count(" ") + 1

    async def embed_query(self, text: str) -> np.ndarray:
        """The vector of a question."""
        return self._embed([text])[0]

    async def embed_passages(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of passages."""
        return np.stack(self._embed(texts))


@dataclass(frozen=True)
class Ports:
    """The ports of one backend."""

    runs: Any
    publisher: Any
    objects: Any
    engine: Any
    catalog: Any
    cache: Callable[[bytes], Any]

    @classmethod
    def of_memory(cls, store: MemoryStore) -> Ports:
        """Everything in memory."""
        return cls(store.runs, store.publisher, store.objects, store.engine, store.catalog, store.cache)


class Spooled:
    """The evidence writer of the program: the record is encoded, framed and written to the spool's file."""

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder, SPOOL_BYTES)

    async def write(self, record: Evidence, words: EvidenceText, ledger: list[list[Any]]) -> None:
        """Append a record."""
        self.spool.append(EvidenceEnvelope(record, words, ledger))


@dataclass
class World:
    """A corpus in one backend and what is needed to fill it and to ask it."""

    ports: Ports
    embedder: Embedder
    corpus: str = CORPUS
    profile: Profile = field(default_factory=Profile)
    rows: int = 0
    order: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    async def ingest(self, documents: Sequence[IncomingDocument]) -> Published | None:
        """One run: stage in batches, publish, maintain. `seconds` says how long each took."""
        self.order += 1
        began = time.perf_counter()
        recipe = Recipe(ChunkingSpec(parser="bench/1", tokenizer="words"), LexicalSpec(), self.embedder.spec)
        run = await self.ports.runs.begin(
            RunStart(TENANT, self.corpus, SOURCE, "/bench", "folder", recipe, f"{self.order:08d}")
        )
        published = None
        try:
            writer = Writer(run, self.ports.runs, self.embedder, self.ports.cache(run.corpus_id))
            live = await self.ports.runs.documents(run)
            for at in range(0, len(documents), BATCH):
                batch = documents[at : at + BATCH]
                await writer.add(batch, [live[one.key].docversion_id for one in batch if one.key in live])
            await writer.finish()
            staged = time.perf_counter()
            published = await publish(
                run, writer.tally, self.ports.publisher, self.ports.objects, [], [], replaces_quarantine=True
            )
            done = time.perf_counter()
            self.seconds = {"stage_s": round(staged - began, 4), "publish_and_maintain_s": round(done - staged, 4)}
        finally:
            await self.ports.runs.end(run, "published" if published else "unchanged")
        if published:
            self.rows = published.rows
        return published

    def parts(self, evidence: Any) -> AnswerParts:
        """What questions are answered with."""
        retriever = Retriever(self.ports.catalog, self.ports.engine, self.embedder, self.profile)

        async def retriever_of(_: EmbeddingSpec) -> Retriever:
            return retriever

        async def answerer_of(_: EmbeddingSpec) -> Any:
            raise AssertionError("these benchmarks search and never answer")

        made_by = {"ragstone": "bench", "analyzer": LexicalSpec().analyzer}
        return AnswerParts(self.ports.catalog, retriever_of, answerer_of, evidence, made_by, 10_000, 8)

    def question(self, text: str, filters: Filter | None = None, limit: int = 10) -> Question:
        """A question to this corpus."""
        return Question(text, TENANT, self.corpus, Asker(), filters, None, Deadline.after(60), limit)


def windows(text: str, words: int) -> list[str]:
    """A text in windows of that many words."""
    every = text.split()
    return [text] if len(every) <= words else [" ".join(every[at : at + words]) for at in range(0, len(every), words)]


def incoming(key: str, title: str, text: str, order: int, words: int = 200) -> IncomingDocument:
    """A document of windows of words. `shard` of its metadata is one of 1,000, spread evenly by its key."""
    pieces, at = [], 0
    for window in windows(text, words):
        pieces.append(Piece(window, at, at + len(window), (), window.count(" ") + 1))
        at += len(window) + 1
    metadata: Mapping[str, Any] = {
        "shard": int(content_version(key.encode())[:8], 16) % 1000,
        "source": SOURCE,
        "path": key,
    }
    version = content_version(text.encode())
    return IncomingDocument(key, version, f"{order:08d}", title, metadata, ("public",), tuple(pieces))
