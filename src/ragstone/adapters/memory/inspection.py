"""What an audit reads of a corpus in memory. What belongs to a published version is not changed by a later publish,
so that reading page by page sees one moment."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np

from ragstone.adapters.memory.catalog import kept_version
from ragstone.adapters.memory.columns import OPEN
from ragstone.core.ids import corpus_id
from ragstone.index.audit.documents import line_of
from ragstone.index.audit.records import (
    Delta,
    HeldDocument,
    HeldVersion,
    OtherRow,
    PackedPostings,
    PlacedRow,
    SourceLine,
    StoredRow,
    Subject,
    VersionRow,
)
from ragstone.index.postings import pack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from ragstone.adapters.memory.state import Corpus, Document, State
    from ragstone.adapters.memory.stores import MemoryEmbeddingCache
    from ragstone.core.ports import Seqs
    from ragstone.index.records import ChangedDocument

PAGE = 200


class MemoryInspector:
    """Implements the port Inspector."""

    def __init__(self, state: State, cache: Callable[[bytes], MemoryEmbeddingCache]) -> None:
        self._state = state
        self._cache = cache

    @asynccontextmanager
    async def inspecting(self, tenant: str, corpus: str, as_of: str | None) -> AsyncIterator[MemoryInspection]:
        """The corpus at one version."""
        held = self._state.serving(corpus_id(tenant, corpus), corpus)
        version = kept_version(held, as_of or str(held.head))
        index = held.indexes[version.index_id]
        subject = Subject(
            corpus_id=held.corpus_id,
            index_id=version.index_id,
            secret=held.secret,
            recipe=index.recipe,
            version=version.version,
            head=held.head,
            oldest=next(one.version for one in held.versions if not one.collected),
            size=index.next_seq,
            postings=sum(len(segment.terms) for segment in index.segments.values()),
            hold=held.hold or None,
            sources={ident: SourceLine(ident, one.name, one.location) for ident, one in held.sources.items()},
            quarantine={place: fault.entry.object_version for place, fault in held.quarantine.items()},
            withheld=frozenset(one.document_id for one in held.documents.values() if one.suppressed),
        )
        yield MemoryInspection(held, subject, self._cache(held.corpus_id))

    async def head(self, corpus_id: bytes) -> int:
        """The version that serves now."""
        return self._state.corpus(corpus_id).head


class MemoryInspection:
    """Implements the port Inspection."""

    def __init__(self, corpus: Corpus, subject: Subject, cache: MemoryEmbeddingCache) -> None:
        self.subject = subject
        self._corpus = corpus
        self._index = corpus.indexes[subject.index_id]
        self._segments = dict(self._index.segments)
        self._cache = cache

    async def versions(self) -> Sequence[VersionRow]:
        """Every version up to the inspected one, ascending."""
        return [
            VersionRow(
                version=one.version,
                parent=one.parent,
                kind=one.kind,
                note=one.note,
                index_id=one.index_id,
                merkle_root=one.sealed.merkle_root,
                buckets=one.sealed.buckets,
                manifest_key=one.sealed.manifest_key,
                manifest_digest=one.sealed.manifest_digest,
                statistics=one.sealed.statistics,
                collected=one.collected,
                checkpoint_key=one.checkpoint_key,
                checkpoint_digest=one.checkpoint_digest,
            )
            for one in self._corpus.versions
            if one.version <= self.subject.version
        ]

    async def live(self) -> Seqs:
        """The seqs that are live in the version."""
        index, version, head = self._index, self.subject.version, self._corpus.head
        seqs: Seqs = index.live_seq[(index.live_from <= version) & (index.live_to > version)]
        if version == self.subject.head:
            late = index.live_from > head
            ends = (index.live_to > head) & (index.live_to < OPEN) & ~late
            seqs = np.concatenate([seqs, index.live_seq[ends], np.repeat(index.live_seq[late], 2)])
        return seqs

    async def documents(self) -> AsyncIterator[Sequence[HeldDocument]]:
        """The documents of the version with all their rows, by document id."""
        version = self.subject.version
        held = [
            (ident, document, member.docversion_id, self._corpus.head < member.v_to < OPEN)
            for ident, document in sorted(self._corpus.documents.items())
            for member in document.memberships
            if member.v_from <= version < member.v_to
        ]
        for at in range(0, len(held), PAGE):
            yield [self._held(*each) for each in held[at : at + PAGE]]

    def _held(self, ident: bytes, document: Document, docversion: bytes, ends: bool = False) -> HeldDocument:
        found = self._corpus.docversions.get(docversion)
        version = None
        if found is not None:
            staged = found.staged
            # As a database gives it back: lists for tuples.
            metadata = json.loads(json.dumps(dict(staged.metadata)))
            rows = tuple(
                PlacedRow(one.seq, one.ordinal, one.start, one.end, one.heading_path, self._stored(one.seq))
                for one in staged.placements
            )
            about = (staged.document_id, staged.object_version, staged.title)
            version = HeldVersion(*about, metadata, staged.leaf, rows)
        return HeldDocument(ident, document.source_id, document.key, b"", document.acl, version, ends)

    def _stored(self, seq: int) -> StoredRow | None:
        row, index = self._index.rows.get(seq), self._index
        if row is None:
            return None
        joined, title = index.terms[seq].tolist()
        vector = index.vectors[seq].astype(np.float16)
        ids = (row.row_id, row.chunk_id, row.text_hash)
        return StoredRow(*ids, joined, title, row.vector_hash, self._corpus.texts.get(row.text_hash), vector)

    async def others(self) -> AsyncIterator[Sequence[OtherRow]]:
        """The rows that other kept versions hold and this one does not."""
        rows = dict(sorted(self._others()))
        found = list(rows.values())
        for at in range(0, len(found), PAGE):
            yield found[at : at + PAGE]

    def _others(self) -> Iterator[tuple[int, OtherRow]]:
        version, oldest = self.subject.version, self.subject.oldest
        placed = {
            one.seq
            for document in self._corpus.documents.values()
            if (member := document.at(version)) and member.docversion_id in self._corpus.docversions
            for one in self._corpus.docversions[member.docversion_id].staged.placements
        }
        for document in self._corpus.documents.values():
            for member in document.memberships:
                found = self._corpus.docversions.get(member.docversion_id)
                if member.v_to <= oldest or member.v_from > self.subject.head or found is None:
                    continue
                source = self.subject.sources[document.source_id].name
                for one in found.staged.placements:
                    row = self._index.rows.get(one.seq)
                    if one.seq not in placed and row is not None:
                        text = self._corpus.texts.get(row.text_hash)
                        metadata = json.loads(json.dumps(dict(found.staged.metadata)))
                        about = (source, document.key, found.staged.title, metadata, one.heading_path)
                        yield one.seq, OtherRow(one.seq, *about, row.row_id, row.chunk_id, row.text_hash, text)

    async def postings(self) -> AsyncIterator[Sequence[PackedPostings]]:
        """The postings of every segment of the index, by segment."""
        for number, segment in self._segments.items():
            yield [PackedPostings(term, number, len(one.seqs), pack(one)) for term, one in segment.terms.items()]

    async def cached(self, hashes: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """The embedding cache's entries by input hash."""
        found = await self._cache.get(self.subject.recipe.embedding.id, hashes)
        return {each: vector.astype("<f2").tobytes() for each, vector in found.items()}

    async def delta(self, version: VersionRow) -> Delta | None:
        """What came and went with a version; None once retention has removed its rows."""
        at = version.version
        if version.collected:
            return None
        added: list[ChangedDocument] = []
        removed: list[ChangedDocument] = []
        orders = {line.order for line in self._corpus.runs.values()}
        for ident, document in self._corpus.documents.items():
            came = [one for one in document.memberships if one.v_from == at]
            went = [one for one in document.memberships if one.v_to == at]
            for member, lines in [(one, added) for one in came] + [(one, removed) for one in went if not came]:
                held = self._held(ident, document, member.docversion_id)
                if held.version is None or any(row.stored is None for row in held.version.rows):
                    return None
                lines.append(line_of(held))
        names = tuple(one.name for one in self._corpus.sources.values())
        in_order = [tuple(sorted(lines, key=lambda line: line.key)) for lines in (added, removed)]
        return Delta(version, names, tuple(sorted(orders)), in_order[0], in_order[1])
