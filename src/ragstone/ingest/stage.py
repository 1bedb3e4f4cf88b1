"""The ingest stage in order: read, parse, chunk; what cannot be used becomes a fault with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from ragstone.core.errors import DocumentRejected
from ragstone.core.nouns import ChunkingSpec
from ragstone.ingest.chunk import chunk
from ragstone.ingest.parse import ParseLimits, parse
from ragstone.ingest.ports import SourceReader
from ragstone.ingest.records import ChunkDraft, Fault, ParsedDocument, SourceObject

BATCH_CHUNKS = 192
BATCH_DOCUMENTS = 256


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document ready for the index."""

    listed: SourceObject
    document: ParsedDocument
    chunks: tuple[ChunkDraft, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents and faults that go on together."""

    prepared: tuple[Prepared, ...]
    faults: tuple[Fault, ...]


async def prepare(
    reader: SourceReader,
    listed: Sequence[SourceObject],
    spec: ChunkingSpec,
    count_tokens: Callable[[str], int],
    limits: ParseLimits,
) -> AsyncIterator[Batch]:
    """Documents in batches of about `BATCH_CHUNKS` chunks, in order of the listing."""
    done: list[Prepared] = []
    faults: list[Fault] = []
    chunks = 0
    for each in listed:
        try:
            data = await reader.read(each)
            one = await asyncio.to_thread(_one, each, data, spec, count_tokens, limits)
        except DocumentRejected as error:
            faults.append(_fault(each, error))
        else:
            done.append(one)
            chunks += len(one.chunks)
        if chunks >= BATCH_CHUNKS or len(done) + len(faults) >= BATCH_DOCUMENTS:
            yield Batch(tuple(done), tuple(faults))
            done, faults, chunks = [], [], 0
    if done or faults:
        yield Batch(tuple(done), tuple(faults))


def _one(
    listed: SourceObject, data: bytes, spec: ChunkingSpec, count_tokens: Callable[[str], int], limits: ParseLimits
) -> Prepared:
    document = parse(data, listed, limits)
    return Prepared(listed, document, chunk(document, spec, count_tokens))


def _fault(listed: SourceObject, error: DocumentRejected) -> Fault:
    return Fault(listed.key, listed.object_version, error.reason, error.what, error.next_step, error.field)
