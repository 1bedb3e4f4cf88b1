"""A folder of documents, ingested for real into one backend, that a test may damage, audit and repair."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from contract_stacks import EMBEDDER, LEGS, TENANT, ask, soon

from ragstone.adapters.localfs.objects import FolderObjects
from ragstone.adapters.localfs.sources import open_source
from ragstone.adapters.memory.store import MemoryStore
from ragstone.adapters.postgres.embedding_cache import PostgresEmbeddingCache
from ragstone.adapters.postgres.engine import PostgresEngine
from ragstone.adapters.postgres.history import PostgresHistory
from ragstone.adapters.postgres.inspection import PostgresInspector
from ragstone.adapters.postgres.publish import PostgresPublisher
from ragstone.adapters.postgres.repair import PostgresMender
from ragstone.adapters.postgres.runs import PostgresRuns
from ragstone.core.ids import corpus_id, document_id, source_id
from ragstone.core.nouns import Asker, ChunkingSpec, LexicalSpec, Recipe
from ragstone.entrypoints.repair import RepairParts, listed, repair
from ragstone.flow import IngestParts, IngestReport, IngestRequest, ingest
from ragstone.index.audit.records import AuditReport, Mended
from ragstone.index.audit.stage import AuditParts, audit
from ragstone.index.checkpoint import seal_checkpoint
from ragstone.index.records import Retention
from ragstone.index.stage import committed
from ragstone.ingest.parse import ParseLimits

if TYPE_CHECKING:
    from pathlib import Path

    from ragstone.adapters.postgres.database import Database
    from ragstone.core.ports import View

LIMITS = ParseLimits(bytes_max=1_000_000)
PAGES = {
    "leave.md": "# Leave\n\n## Vacation\n\nEverybody has thirty days of vacation in a year, order-7781 says.\n\n"
    "## Parental leave\n\nParents stay at home for fourteen weeks after a birth, on full pay.\n",
    "travel.md": "# Travel\n\nBook trains before planes. A hotel may cost ninety euros a night.\n",
    "security.md": "# Security\n\nLock the screen of your laptop whenever you walk away from it.\n",
    "notes/coffee.txt": "The coffee machine on the second floor is cleaned on Mondays.\n",
    "notes/tee mit Öl – ☕.txt": "Der Tee steht im Schrank; the tea is in the cupboard.\n",
}


def small_recipe() -> Recipe:
    """Chunks so small that a page has several; a recipe that no other corpus shares."""
    chunking = ChunkingSpec(parser=f"audit/{uuid.uuid4().hex}", tokens_max=40, tokens_target=16, tokens_min=4)
    return Recipe(chunking, LexicalSpec(), EMBEDDER.spec)


@dataclass
class World:
    """One corpus of one backend and its folders."""

    name: str
    corpus: str
    folder: Path
    ingesting: IngestParts
    auditing: AuditParts
    mender: Any
    history: Any
    engine: Any
    catalog: Any
    store: MemoryStore | None
    database: Database | None
    places: dict[str, Path]

    @property
    def ident(self) -> bytes:
        return corpus_id(TENANT, self.corpus)

    @property
    def index(self) -> bytes:
        return self.ingesting.recipe.index_id

    def document(self, key: str, source: str = "docs") -> bytes:
        return document_id(source_id(self.ident, source), key)

    def write(self, files: dict[str, str], source: str = "docs") -> None:
        for name, text in files.items():
            path = self.places[source] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")

    async def ingest(self, source: str = "docs", **words: Any) -> IngestReport:
        reader = open_source(str(self.places[source]), LIMITS)
        return await ingest(self.ingesting, IngestRequest(reader, TENANT, self.corpus, source, "folder", **words))

    async def roll_back(self, to: str) -> None:
        async with self.history.rolling_back(TENANT, self.corpus, to, "") as publication:
            assert await committed(publication, self.ingesting.objects, {})

    async def delete(self, document: str) -> None:
        async with self.history.deleting(TENANT, self.corpus, document, "") as publication:
            assert await committed(publication, self.ingesting.objects, {})

    async def checkpoint(self, *, force: bool = True) -> str:
        parts = self.auditing
        return await seal_checkpoint(parts.inspector, self.mender, parts.objects, TENANT, self.corpus, force=force)

    async def manifests(self) -> list[Path]:
        """The objects of every version, in order."""
        async with self.auditing.inspector.inspecting(TENANT, self.corpus, None) as inspection:
            return [self.folder / "objects" / row.manifest_key for row in await inspection.versions()]

    async def audit(self, as_of: str | None = None) -> AuditReport:
        return await audit(self.auditing, TENANT, self.corpus, as_of)

    async def repair(self, found: AuditReport | None = None) -> tuple[Mended, AuditReport]:
        parts = RepairParts(self.auditing, self.ingesting, self.mender, lambda place: open_source(place, LIMITS))
        return await repair(parts, TENANT, self.corpus, found or await self.audit())

    async def clean(self, as_of: str | None = None) -> AuditReport:
        """An audit that must find nothing."""
        report = await self.audit(as_of)
        assert report.clean, said(report)
        return report

    async def sql(self, query: str, **more: Any) -> list[Any]:
        assert self.database
        async with self.database.connection("testing") as connection:
            names = {"corpus": self.ident, "index": self.index, **more}
            cursor = await connection.execute(query, names)
            return await cursor.fetchall() if cursor.description else []

    def kept(self, versions: int) -> None:
        """Keep so many versions from now on."""
        publisher: Any
        if self.store is not None:
            publisher = self.store.publisher
            publisher._retention = Retention(versions)
        else:
            assert self.database
            publisher = PostgresPublisher(self.database, retention=Retention(versions))
        self.ingesting = replace(self.ingesting, publisher=publisher)

    async def view(self, asker: Asker, as_of: str | None = None) -> View:
        view, _ = await self.catalog.view(TENANT, self.corpus, as_of, asker)
        return view


def said(report: AuditReport) -> list[tuple[str, ...]]:
    """What an audit found, readable."""
    return [(each.store, each.kind, each.name, each.detail) for each in report.findings]


def make_world(backend: str, folder: Path, database: Database | None) -> World:
    """An empty corpus over two empty folders."""
    places = {source: folder / source for source in ("docs", "other")}
    for place in places.values():
        place.mkdir()
    objects = FolderObjects(folder / "objects")
    store = MemoryStore(retention=Retention()) if backend == "memory" else None
    runs: Any
    if store is not None:
        runs, publisher, cache = store.runs, store.publisher, store.cache
        inspector, mender, history = store.inspector, store.mender, store.history
        engine, catalog = store.engine, store.catalog
    else:
        assert database
        from ragstone.adapters.postgres.catalog import PostgresCatalog

        runs, publisher = PostgresRuns(database), PostgresPublisher(database)
        cache = lambda corpus: PostgresEmbeddingCache(database, corpus)  # noqa: E731
        inspector, mender, history = PostgresInspector(database), PostgresMender(database), PostgresHistory(database)
        engine, catalog = PostgresEngine(database), PostgresCatalog(database)
    parts = IngestParts(
        runs=runs, staging=runs, publisher=publisher, embeddings=cache, objects=objects, embedder=EMBEDDER,
        recipe=small_recipe(), limits=LIMITS, deletes_percent=50,
    )  # fmt: skip

    async def lister(source: Any) -> Any:
        return await listed(lambda place: open_source(place, LIMITS), source)

    return World(
        name=backend, corpus=f"audit-{uuid.uuid4().hex[:12]}", folder=folder, ingesting=parts,
        auditing=AuditParts(inspector, objects, lister), mender=mender, history=history, engine=engine,
        catalog=catalog, store=store, database=database, places=places,
    )  # fmt: skip


async def answers(world: World, as_of: str | None = None) -> list[tuple[Any, ...]]:
    """What a reader gets for some questions: texts with their scores in both legs; without row numbers, as a repair
    makes rows under new ones."""
    view = await world.view(Asker(), as_of)
    given = []
    for question in ("thirty days of vacation", "hotel", "order-7781", "tea in the cupboard", "laptop screen"):
        query = await ask(question)
        for leg in LEGS:
            hits = await world.engine.search(view, leg, query, None, 50, soon())
            passages = await world.catalog.passages(view, hits.seqs.tolist(), soon())
            found = [passages[seq] for seq in hits.seqs.tolist()]
            scored = zip(found, hits.scores.tolist(), strict=True)
            given += sorted((question, leg, one.key, one.ordinal, one.text, one.start, score) for one, score in scored)
    return given
