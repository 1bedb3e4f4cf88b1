"""Stacks for the contract suites: the ports of one backend side by side, and small corpora to put in them."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ragstone.adapters.localmodels.hashing import HashEmbedder
from ragstone.core.deadline import Deadline
from ragstone.core.filters import parse_filter
from ragstone.core.ids import corpus_id, document_id, source_id
from ragstone.core.nouns import Asker, ChunkingSpec, LexicalSpec, Recipe
from ragstone.core.ports import LegHits, LegName, Query, View
from ragstone.core.tokens import query_terms
from ragstone.index.records import Published, QuarantineEntry, Run, RunStart
from ragstone.index.rows import IncomingDocument, Piece
from ragstone.index.stage import Writer, publish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

TENANT = "tenant"
EMBEDDER = HashEmbedder(64)
LEGS: tuple[LegName, LegName] = ("bm25", "dense")
WORDS = [
    f"{head}{tail}"
    for head in ("stone", "river", "lamp", "oak", "iron", "salt", "wool", "bell", "moss", "kiln")
    for tail in ("", "yard", "mill", "wright", "bridge", "field", "house", "light")
]  # fmt: skip


def recipe(name: str = "") -> Recipe:
    """A recipe; another name gives another index, which no other corpus shares."""
    chunking = ChunkingSpec(parser=f"contract/{name}", tokenizer="words")
    return Recipe(chunking, LexicalSpec(), EMBEDDER.spec)


@dataclass
class Stack:
    """One backend's ports, and what the ports do not offer but a test must do."""

    name: str
    runs: Any
    publisher: Any
    history: Any
    objects: Any
    engine: Any
    catalog: Any
    evidence: Any
    cache: Callable[[bytes], Any]
    # An engine that has cached nothing, and may cache so many bytes.
    new_engine: Callable[..., Any]
    # A process dies: its locks go, its rows stay.
    kill: Callable[[Run], Awaitable[None]]
    suppress: Callable[[bytes, bytes], Awaitable[None]]
    # What the store holds: (key, object version, reason) in quarantine, engine rows, a version's statistics.
    quarantine: Callable[[bytes], Awaitable[list[tuple[Any, ...]]]]
    rows: Callable[[bytes], Awaitable[int]]
    statistics: Callable[[bytes, int], Awaitable[dict[str, Any]]]
    segments: Callable[[bytes], Awaitable[int]]
    set_secret: Callable[[bytes, bytes], Awaitable[None]]
    # Every seq that some posting names, and a version that was published a day from now.
    posted: Callable[[bytes], Awaitable[set[int]]]
    postdate: Callable[[bytes, int], Awaitable[None]]

    async def view(self, corpus: str, as_of: str | None = None, asker: str | None = None) -> View:
        found, _ = await self.catalog.view(TENANT, corpus, as_of, Asker.of(asker))
        return found


def start(corpus: str, *, source: str = "docs", order: str = "1", name: str = "") -> RunStart:
    return RunStart(TENANT, corpus, source, f"/place/{source}", "folder", recipe(name), order)


def document(
    key: str, *texts: str, title: str = "", version: str = "1", order: str = "1",
    metadata: Mapping[str, Any] | None = None, acl: tuple[str, ...] = ("public",),
) -> IncomingDocument:  # fmt: skip
    pieces, at = [], 0
    for text in texts:
        pieces.append(Piece(text, at, at + len(text), (), len(text.split())))
        at += len(text) + 1
    return IncomingDocument(key, version, order, title, metadata or {}, acl, tuple(pieces))


def random_documents(seed: int, count: int, chunks: int = 3) -> list[IncomingDocument]:
    """Documents with titles, skewed words, varied lengths, metadata and some repeated texts."""
    rng = random.Random(seed)
    weights = [1 / (place + 1) for place in range(len(WORDS))]
    documents = []
    for number in range(count):
        texts = [" ".join(rng.choices(WORDS, weights, k=rng.choice((3, 12, 40, 90)))) for _ in range(chunks)]
        if number % 10 == 0:
            texts[-1] = "the same words in many documents of the quarry"
        title = " ".join(rng.choices(WORDS, k=rng.randint(0, 4)))
        metadata = {
            "year": 2000 + number % 20,
            "lang": rng.choice(("en", "de")),
            "tags": rng.sample("abcd", 2),
        }
        documents.append(document(f"d{number:04d}", *texts, title=title, metadata=metadata))
    return documents


def questions(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    asked = [" ".join(rng.choices(WORDS, k=rng.randint(1, 7))) for _ in range(count - 2)]
    return [*asked, "quarry", f"{WORDS[0]} {WORDS[0]} {WORDS[1]} unknownword"]


async def ask(question: str) -> Query:
    vector = await EMBEDDER.embed_query(question)
    return Query(query_terms(question), vector.astype(np.float16).astype(np.float32))


async def legs(stack: Stack, view: View, query: Query, depth: int = 20, filters: Any = None) -> list[LegHits]:
    tree = parse_filter(filters)
    return [await stack.engine.search(view, leg, query, tree, depth, soon()) for leg in LEGS]


async def found(stack: Stack, view: View, question: str, filters: Any = None) -> set[str]:
    """The keys of the documents that either leg finds."""
    both = await legs(stack, view, await ask(question), 1000, filters)
    return await keys(stack, view, np.concatenate([hits.seqs for hits in both]))


async def keys(stack: Stack, view: View, seqs: Any) -> set[str]:
    passages = await stack.catalog.passages(view, seqs.tolist(), soon())
    assert len(passages) == len(set(seqs.tolist()))
    return {passage.key for passage in passages.values()}


def soon() -> Deadline:
    return Deadline.after(30)


class Unmaintained:
    """A publisher that leaves maintenance out, as it may."""

    def __init__(self, publisher: Any) -> None:
        self.publishing = publisher.publishing

    async def maintain(self, corpus_id: bytes, index_id: bytes) -> None:
        pass


@dataclass
class Ingest:
    """One run: what is written, what is deleted, what is found at fault."""

    corpus: str
    documents: Sequence[IncomingDocument] = ()
    deleted: Sequence[str] = ()
    quarantine: Sequence[QuarantineEntry] = ()
    source: str = "docs"
    order: str = "1"
    name: str = ""
    replaces_quarantine: bool = True
    maintain: bool = True
    tally: Any = field(default=None, compare=False)

    async def into(self, stack: Stack) -> Published | None:
        """Begin, stage, publish and end."""
        run = await stack.runs.begin(start(self.corpus, source=self.source, order=self.order, name=self.name))
        published = None
        try:
            writer = await staged(stack, run, self.documents)
            self.tally = writer.tally
            publisher = stack.publisher if self.maintain else Unmaintained(stack.publisher)
            published = await publish(
                run, writer.tally, publisher, stack.objects, self.deleted, self.quarantine,
                replaces_quarantine=self.replaces_quarantine,
            )  # fmt: skip
        finally:
            await stack.runs.end(run, "published" if published else "unchanged")
        return published


async def staged(stack: Stack, run: Run, documents: Sequence[IncomingDocument]) -> Writer:
    """Stage documents in batches, as an ingest does."""
    writer = Writer(run, stack.runs, EMBEDDER, stack.cache(run.corpus_id))
    live = await stack.runs.documents(run)
    try:
        for at in range(0, len(documents), 50):
            batch = documents[at : at + 50]
            await writer.add(batch, [live[one.key].docversion_id for one in batch if one.key in live])
        await writer.finish()
    except BaseException:
        await writer.abandon()  # or a write that goes on would outlive the test
        raise
    return writer


async def keyed(stack: Stack, corpus: str, secret: bytes) -> None:
    """Make a corpus whose Merkle secret is known."""
    await stack.runs.end(await stack.runs.begin(start(corpus)), "unchanged")
    await stack.set_secret(ident(corpus), secret)


def ident(corpus: str) -> bytes:
    return corpus_id(TENANT, corpus)


def document_ident(corpus: str, key: str, source: str = "docs") -> bytes:
    return document_id(source_id(ident(corpus), source), key)


def fresh(prefix: str = "corpus") -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"
