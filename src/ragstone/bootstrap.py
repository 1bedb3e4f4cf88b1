"""The composition root: settings become parts, opened when first needed and closed in reverse."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ragstone import __version__
from ragstone.adapters.localfs.objects import FolderObjects
from ragstone.adapters.localfs.sources import open_source
from ragstone.adapters.localfs.spool import Spool
from ragstone.core.compute import Compute
from ragstone.core.errors import NotFound, RagstoneError, UsageError
from ragstone.core.evidence import Evidence, EvidenceEnvelope, EvidenceText
from ragstone.core.nouns import ChunkingSpec, EmbeddingSpec, LexicalSpec, Recipe
from ragstone.core.ports import Embedder
from ragstone.flow import AnswerParts, IngestParts
from ragstone.generate.calibration import calibration_of
from ragstone.generate.choice import ExtractionSettings
from ragstone.generate.stage import ExtractiveAnswerer
from ragstone.index.records import Collected, Retention
from ragstone.ingest.parse import ParseLimits
from ragstone.ingest.ports import SourceReader
from ragstone.retrieve.profile import Profile, checked_method
from ragstone.retrieve.stage import Retriever
from ragstone.settings import Settings, model_cache

if TYPE_CHECKING:
    from ragstone.adapters.postgres.catalog import PostgresCatalog
    from ragstone.adapters.postgres.database import Database
    from ragstone.adapters.postgres.embedded import EmbeddedPostgres
    from ragstone.adapters.postgres.engine import PostgresEngine
    from ragstone.adapters.postgres.evidence_store import PostgresEvidence
    from ragstone.adapters.postgres.history import PostgresHistory
    from ragstone.adapters.postgres.inspection import PostgresInspector
    from ragstone.adapters.postgres.library import PostgresLibrary
    from ragstone.adapters.postgres.lost_documents import PostgresWhereabouts
    from ragstone.adapters.postgres.repair import PostgresMender

HASH = "hash"
One = TypeVar("One")
Other = TypeVar("Other")
CHUNKING_MARGIN = 2  # the special tokens around a text


class System:
    """One process's parts. Use it in `async with`; nothing is opened before it is asked for."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self.settings = settings
        self.home = Path(settings.state.path).expanduser().absolute()
        self.models = model_cache(settings, environment)
        self.compute = Compute()
        self.spool = Spool(self.home / "spool", settings.evidence.spool_mb * 1_000_000)
        self._stack = AsyncExitStack()
        self._database: Database | None = None
        self._engine: PostgresEngine | None = None
        self._embedders: dict[str, Embedder] = {}
        self._opening = asyncio.Lock()
        self._loading = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Open nothing yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what was opened."""
        try:
            self.spool.close()
        finally:
            await self._stack.aclose()
            self.compute.close()

    async def database(self) -> Database:
        """The open database: `DATABASE_URL`, or the embedded server, started when nobody has."""
        async with self._opening:
            if self._database is None:
                from ragstone.adapters.postgres.database import Database  # noqa: PLC0415 - `--help` needs none

                dsn = self.settings.database.url or (await self._embedded()).dsn
                database = Database(
                    dsn,
                    pool_size=self.settings.database.pool_size,
                    connect_timeout_s=self.settings.database.connect_timeout_s,
                )
                await database.open()
                self._stack.push_async_callback(database.close)
                self._database = database
        return self._database

    async def _embedded(self) -> EmbeddedPostgres:
        from ragstone.adapters.postgres.embedded import EmbeddedOptions, EmbeddedPostgres  # noqa: PLC0415 - as above

        acquiring = asyncio.ensure_future(
            asyncio.to_thread(EmbeddedPostgres.acquire, EmbeddedOptions(state_dir=self.home))
        )
        try:
            server = await asyncio.shield(acquiring)
        except asyncio.CancelledError:
            # The thread goes on whatever we do: what it starts must not be left without an owner.
            await asyncio.to_thread((await acquiring).release)
            raise
        self._stack.push_async_callback(asyncio.to_thread, server.release)
        return server

    async def revive(self) -> None:
        """Start the embedded server again if it has died; the server of `DATABASE_URL` is not ours to start."""
        if self.settings.database.url:
            return
        # A second hold looks whether the server answers and starts it when it does not; the first keeps it up.
        from ragstone.adapters.postgres.embedded import EmbeddedOptions, EmbeddedPostgres  # noqa: PLC0415 - as above

        server = await asyncio.to_thread(EmbeddedPostgres.acquire, EmbeddedOptions(state_dir=self.home))
        await asyncio.to_thread(server.release)

    async def embedder(self, name: str) -> Embedder:
        """An embedder by model name, loaded once, its digests verified."""
        async with self._loading:
            if name not in self._embedders:
                self._embedders[name] = await self._load(name)
        return self._embedders[name]

    async def _load(self, name: str) -> Embedder:
        if name == HASH:
            from ragstone.adapters.localmodels.hashing import HashEmbedder  # noqa: PLC0415 - only who asks pays

            return HashEmbedder()
        from ragstone.adapters.localmodels.cache import ModelCache  # noqa: PLC0415 - as above
        from ragstone.adapters.localmodels.embedder import OnnxEmbedder  # noqa: PLC0415 - as above
        from ragstone.adapters.localmodels.registry import find_model  # noqa: PLC0415 - as above

        model = find_model(name)
        return await asyncio.to_thread(OnnxEmbedder.load, model, ModelCache(self.models), self.compute)

    async def for_index(self, spec: EmbeddingSpec) -> Embedder:
        """The embedder that made an index, whatever the settings say now."""
        embedder = await self.embedder(spec.model)
        if embedder.spec.id != spec.id:
            raise UsageError(
                f"the index was made by another build of {spec.model} than is here",
                doing="loading the embedder of the index",
                next_step="ingest into a new --corpus, or run the version of ragstone that made it",
            )
        return embedder

    def recipe(self, embedder: Embedder) -> Recipe:
        """What the settings make an index by."""
        chunking = self.settings.chunking
        bound = min(chunking.tokens_max, embedder.spec.tokens_max - CHUNKING_MARGIN)
        spec = ChunkingSpec(
            tokens_max=bound,
            tokens_target=min(chunking.tokens_target, bound),
            tokens_min=min(chunking.tokens_min, bound),
            tokenizer=embedder.spec.model,
        )
        return Recipe(spec, LexicalSpec(), embedder.spec)

    def source(self, location: str) -> SourceReader:
        """The source at a location."""
        return open_source(location, self.parse_limits)

    @property
    def parse_limits(self) -> ParseLimits:
        """Bounds on a document."""
        return ParseLimits(bytes_max=self.settings.limits.document_bytes)

    async def ingest_parts(self) -> IngestParts:
        """What an ingest runs on."""
        from ragstone.adapters.postgres.embedding_cache import PostgresEmbeddingCache  # noqa: PLC0415 - as above
        from ragstone.adapters.postgres.publish import PostgresPublisher  # noqa: PLC0415 - as above
        from ragstone.adapters.postgres.runs import PostgresRuns  # noqa: PLC0415 - as above

        embedder, database = await together(self.embedder(self.settings.embedder.model), self.database())
        runs = PostgresRuns(database)
        return IngestParts(
            runs=runs,
            staging=runs,
            publisher=PostgresPublisher(database, retention=self.retention),
            embeddings=lambda corpus: PostgresEmbeddingCache(database, corpus),
            objects=self.objects,
            embedder=embedder,
            recipe=self.recipe(embedder),
            limits=self.parse_limits,
            deletes_percent=self.settings.limits.deletes_percent,
            checkpoint=self._checkpoint,
        )

    @property
    def retention(self) -> Retention:
        """How many versions are kept."""
        return Retention(self.settings.versions.keep)

    @property
    def objects(self) -> FolderObjects:
        """Where manifests are."""
        return FolderObjects(self.home / "objects")

    async def collect(self, corpus: bytes, retention: Retention) -> Collected:
        """Let expired versions go now, and rewrite the postings that have become mostly dead."""
        from ragstone.adapters.postgres.history import PostgresHistory  # noqa: PLC0415 - as above
        from ragstone.adapters.postgres.publish import PostgresPublisher  # noqa: PLC0415 - as above

        database = await self.database()
        collected = await PostgresHistory(database).collect(corpus, retention, force=True)
        await PostgresPublisher(database, retention=retention).tend(corpus)
        return collected

    async def _checkpoint(self, tenant: str, corpus: str) -> str:
        from ragstone.index.checkpoint import seal_checkpoint  # noqa: PLC0415 - as above

        return await seal_checkpoint(await self.inspector(), await self.mender(), self.objects, tenant, corpus)

    async def inspector(self) -> PostgresInspector:
        """What an audit reads."""
        from ragstone.adapters.postgres.inspection import PostgresInspector  # noqa: PLC0415 - as above

        return PostgresInspector(await self.database())

    async def mender(self) -> PostgresMender:
        """What a repair writes in place."""
        from ragstone.adapters.postgres.repair import PostgresMender  # noqa: PLC0415 - as above

        return PostgresMender(await self.database())

    async def history(self) -> PostgresHistory:
        """Rollback, deletion, retention."""
        from ragstone.adapters.postgres.history import PostgresHistory  # noqa: PLC0415 - as above

        return PostgresHistory(await self.database())

    async def answer_parts(self, profile: Profile | None = None) -> AnswerParts:
        """What questions are answered with."""
        from ragstone.adapters.postgres.catalog import PostgresCatalog  # noqa: PLC0415 - as above

        chosen = profile or self.profile()
        database, _ = await together(self.database(), self._warm())
        catalog, engine = PostgresCatalog(database), await self.engine()

        async def retriever(spec: EmbeddingSpec) -> Retriever:
            return Retriever(catalog, engine, await self.for_index(spec), chosen)

        async def answerer(spec: EmbeddingSpec) -> ExtractiveAnswerer:
            return ExtractiveAnswerer(await self.for_index(spec), self.extraction(spec.model))

        return AnswerParts(
            catalog=catalog,
            retriever=retriever,
            answerer=answerer,
            evidence=self,
            made_by={"ragstone": __version__, "analyzer": LexicalSpec().analyzer},
            question_chars_max=self.settings.limits.question_chars,
            passages=self.settings.answer.passages,
        )

    async def _warm(self) -> None:
        """Load the configured embedder beside the database; an index made by another one loads its own."""
        try:
            await self.embedder(self.settings.embedder.model)
        except RagstoneError:
            return  # whoever needs it meets the error, with the model that the index names

    async def engine(self) -> PostgresEngine:
        """The search engine, one a process: its caches are the process's."""
        from ragstone.adapters.postgres.engine import EngineLimits, PostgresEngine  # noqa: PLC0415 - as above

        database = await self.database()
        if self._engine is None:
            retrieval = self.settings.retrieval
            limits = EngineLimits(retrieval.exact_rows_max, retrieval.cache_mb * 1024 * 1024)
            self._engine = PostgresEngine(database, limits)
        return self._engine

    def profile(self) -> Profile:
        """The default profile, as the settings have it."""
        retrieval = self.settings.retrieval
        return Profile(
            depth=retrieval.depth,
            fusion=checked_method(retrieval.fusion),
            bm25_weight=retrieval.bm25_weight,
            dense_weight=retrieval.dense_weight,
        )

    def extraction(self, model: str) -> ExtractionSettings:
        """The knobs of the extractive answerer for an index made by this embedder."""
        answer = self.settings.answer
        fitted, _ = calibration_of(model)
        return ExtractionSettings(fitted, answer.threshold or fitted.threshold, answer.sentences_max)

    async def catalog(self) -> PostgresCatalog:
        """Views and passages, without an embedder."""
        from ragstone.adapters.postgres.catalog import PostgresCatalog  # noqa: PLC0415 - as above

        return PostgresCatalog(await self.database())

    async def whereabouts(self) -> PostgresWhereabouts:
        """Where a document is that a question did not find."""
        from ragstone.adapters.postgres.lost_documents import PostgresWhereabouts  # noqa: PLC0415 - as above

        return PostgresWhereabouts(await self.database())

    async def library(self) -> PostgresLibrary:
        """Listings from the catalog."""
        from ragstone.adapters.postgres.library import PostgresLibrary  # noqa: PLC0415 - as above

        return PostgresLibrary(await self.database())

    async def evidence(self) -> PostgresEvidence:
        """The store of evidence."""
        from ragstone.adapters.postgres.evidence_store import PostgresEvidence  # noqa: PLC0415 - as above

        return PostgresEvidence(await self.database())

    async def write(self, record: Evidence, words: EvidenceText, ledger: list[list[Any]]) -> None:
        """Implements the port EvidenceWriter: into the spool, before the answer goes out."""
        self.spool.append(EvidenceEnvelope(record, words, ledger))

    async def ship(self) -> int:
        """Move the spool into the catalog."""
        return await self.spool.ship(await self.evidence())

    async def find_evidence(self, ident: str, corpus_id: bytes | None = None) -> tuple[Evidence, EvidenceText | None]:
        """A record by its id: from the catalog, or from the spool when it is still there."""
        try:
            wanted = uuid.UUID(ident)
        except ValueError:
            raise NotFound(
                f"{ident!r} is no evidence id",
                doing="reading evidence",
                next_step="the id is printed by ask and search, like 0192f0c1-7a2b-7c3d-8e4f-a1b2c3d4e5f6",
            ) from None
        waiting = await asyncio.to_thread(self.spool.find, str(wanted))
        if waiting is not None and corpus_id in {None, bytes.fromhex(waiting.record.corpus_id)}:
            return waiting.record, waiting.text
        return await (await self.evidence()).get(corpus_id, wanted)


async def together(one: Awaitable[One], other: Awaitable[Other]) -> tuple[One, Other]:
    """Both, side by side. When one fails the other is waited for all the same: a part that opens while the system
    closes would be left open."""
    first, second = await asyncio.gather(one, other, return_exceptions=True)
    for result in (first, second):
        if isinstance(result, BaseException):
            raise result
    return first, second  # type: ignore[return-value]  # neither is an exception


def environment() -> Mapping[str, str]:
    """The process's environment, read here alone."""
    return os.environ
