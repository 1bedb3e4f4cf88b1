"""The index stage in order: embed what is new, stage rows, seal the manifest, publish."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ragstone.core.errors import RagstoneError
from ragstone.core.ids import document_id
from ragstone.core.ports import Embedder
from ragstone.index import manifest
from ragstone.index.ports import EmbeddingCache, History, ObjectStore, Publication, Publisher, Staging
from ragstone.index.postings import LexicalRow, SegmentBuilder
from ragstone.index.records import (
    Change,
    Outcome,
    Published,
    QuarantineEntry,
    Run,
    StagedBatch,
    StagedRow,
)
from ragstone.index.rows import DocumentRows, IncomingDocument, NewRow, document_rows, field_types, staged_document
from ragstone.index.vectors import stored

SEGMENT_POSTINGS_MAX = 2_000_000
EMBED_BATCH = 64


@dataclass(slots=True)
class Tally:
    """What a run did, counted as it goes."""

    documents: int = 0
    chunks: int = 0
    rows: int = 0
    embedded: int = 0
    embedded_tokens: int = 0
    cached: int = 0
    reused: int = 0
    stale: tuple[str, ...] = ()
    fields: dict[str, set[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Named:
    """A batch whose rows have their ids: what is reused, what is new, and which vectors are known already."""

    documents: tuple[DocumentRows, ...]
    reusable: Mapping[bytes, int]
    new: tuple[NewRow, ...]
    vectors: Mapping[bytes, npt.NDArray[np.float16]]


class Writer:
    """Writes the documents of one run, in two steps that overlap: `name` the next batch while `write` embeds
    this one, whose rows go to the store while the batch after it is embedded. At most one write is under way."""

    def __init__(self, run: Run, staging: Staging, embedder: Embedder, cache: EmbeddingCache) -> None:
        self.tally = Tally()
        self._run = run
        self._staging = staging
        self._embedder = embedder
        self._cache = cache
        self._segment = SegmentBuilder()
        self._spans: list[range] = []
        self._writing: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def name(self, documents: Sequence[IncomingDocument], bases: Sequence[bytes]) -> Named:
        """Name the rows of a batch and look up what is known; `bases` are the live versions that it replaces."""
        reusable = await self._staging.reusable(self._run, bases)
        named = await asyncio.to_thread(lambda: [document_rows(self._run, each, reusable) for each in documents])
        new = {row.row_id: row for each in named for row in each.new}
        hashes = list({row.input_hash: None for row in new.values()})
        known = await self._cache.get(self._embedder.spec.id, hashes)
        return Named(tuple(named), reusable, tuple(new.values()), known)

    async def write(self, batch: Named) -> None:
        """Embed what is new in a batch and stage it."""
        vectors = await self._embed(batch)
        span = await self._staging.lease(self._run, len(batch.new)) if batch.new else range(0)
        seqs = dict(batch.reusable)
        seqs.update(zip((row.row_id for row in batch.new), span, strict=True))
        await self._written()
        self._writing = asyncio.create_task(self._write(batch.documents, batch.new, seqs, vectors, span))

    async def add(self, documents: Sequence[IncomingDocument], bases: Sequence[bytes]) -> None:
        """Both steps of one batch."""
        await self.write(await self.name(documents, bases))

    async def finish(self) -> None:
        """Wait for the last write and close the open postings segment."""
        await self._kept()
        await self._written()
        await self._close_segment()

    async def abandon(self) -> None:
        """Stop writing."""
        tasks = [task for task in (self._writing, self._keeping) if task is not None]
        self._writing = self._keeping = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def _kept(self) -> None:
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            await keeping

    async def _embed(self, batch: Named) -> Mapping[bytes, npt.NDArray[np.float16]]:
        vectors = dict(batch.vectors)
        self.tally.cached += len(vectors)
        missing = list({row.input_hash: row for row in batch.new if row.input_hash not in vectors}.values())
        for at in range(0, len(missing), EMBED_BATCH):
            some = missing[at : at + EMBED_BATCH]
            matrix = stored(await self._embedder.embed_passages([row.input for row in some]))
            fresh = {row.input_hash: vector for row, vector in zip(some, matrix, strict=True)}
            # Kept at once, beside the next ones: a run that is killed later does not embed these again.
            await self._kept()
            self._keeping = asyncio.create_task(self._cache.put(self._embedder.spec.id, fresh))
            vectors.update(fresh)
            self.tally.embedded += len(some)
            self.tally.embedded_tokens += sum(row.tokens for row in some)
        return vectors

    async def _write(
        self,
        named: Sequence[DocumentRows],
        new: Sequence[NewRow],
        seqs: Mapping[bytes, int],
        vectors: Mapping[bytes, npt.NDArray[np.float16]],
        span: range,
    ) -> None:
        documents = tuple(staged_document(self._run, each, seqs) for each in named)
        rows = tuple(_staged_row(seq, row, vectors) for seq, row in zip(span, new, strict=True))
        await self._staging.stage(self._run, StagedBatch(documents, rows))
        for row in rows:
            self._segment.add(LexicalRow(row.seq, row.joined, row.title))
        if span:
            self._spans.append(span)
        self._count(named, len(rows))
        if self._segment.postings >= SEGMENT_POSTINGS_MAX:
            await self._close_segment()

    def _count(self, named: Sequence[DocumentRows], rows: int) -> None:
        tally = self.tally
        tally.documents += len(named)
        tally.rows += rows
        for each in named:
            tally.chunks += len(each.row_ids)
            tally.reused += len(each.row_ids) - len(each.new)
            for name, kind in field_types(each.document.metadata).items():
                tally.fields.setdefault(name, set()).add(kind)

    async def _close_segment(self) -> None:
        if self._segment.rows:
            await self._staging.segment(self._run, self._spans, self._segment.packed())
        self._segment, self._spans = SegmentBuilder(), []


def _staged_row(seq: int, row: NewRow, vectors: Mapping[bytes, npt.NDArray[np.float16]]) -> StagedRow:
    ids = (row.row_id, row.chunk_id, row.text_hash)
    return StagedRow(seq, *ids, row.text, row.tokens, vectors[row.input_hash], row.joined, row.title)


async def publish(
    run: Run,
    tally: Tally,
    publisher: Publisher,
    objects: ObjectStore,
    deleted: Sequence[str],
    quarantine: Sequence[QuarantineEntry],
    *,
    replaces_quarantine: bool,
    examined: Sequence[str] = (),
) -> Published | None:
    """Make the run's documents the next corpus version; None when nothing changed."""
    fields = {name: tuple(sorted(kinds)) for name, kinds in tally.fields.items()}
    outcome = Outcome(
        deleted=tuple(document_id(run.source_id, key) for key in deleted),
        quarantine=tuple(quarantine),
        documents=tally.documents,
        rows=tally.rows,
        fields=fields,
        replaces_quarantine=replaces_quarantine,
        examined=tuple(examined),
        recount=run.kind == "repair",
    )
    async with publisher.publishing(run, outcome) as publication:
        change, published = await committed(publication, objects, fields)
    tally.stale = change.stale
    warning = await maintained(publisher, run)
    return replace(published, maintenance=warning) if published else None


async def committed(
    publication: Publication, objects: ObjectStore, fields: Mapping[str, tuple[str, ...]]
) -> tuple[Change, Published | None]:
    """Gather under the lock, decide (seal), write the manifest, commit: a crash before the commit leaves the old
    version, after it the new one; the manifest's name is its content, so a left-over harms nobody."""
    change = await publication.change()
    if change.empty:
        await publication.skip()
        return change, None
    sealed, data = manifest.seal(publication.origin, change, fields)
    await objects.put(sealed.manifest_key, data)
    return change, await publication.commit(sealed)


async def rollback(
    history: History, objects: ObjectStore, tenant: str, corpus: str, to: str, note: str = ""
) -> Published | None:
    """Publish what version `to` (a number or a time) held, and hold the corpus until `resume`. None, and no hold,
    when the head holds the same."""
    async with history.rolling_back(tenant, corpus, to, note) as publication:
        return (await committed(publication, objects, {}))[1]


async def delete(
    history: History, objects: ObjectStore, tenant: str, corpus: str, document: str, note: str = ""
) -> Published | None:
    """Suppress a document in every version and publish one without it; None when the head did not hold it."""
    async with history.deleting(tenant, corpus, document, note) as publication:
        return (await committed(publication, objects, {}))[1]


async def maintained(publisher: Publisher, run: Run) -> str:
    """Merge and index what has grown, and let old versions go; what goes wrong is told, and made good by the next
    run: it changes how rows are found, never which."""
    try:
        await publisher.maintain(run.corpus_id, run.index_id)
    except RagstoneError as error:
        return error.what
    return ""
