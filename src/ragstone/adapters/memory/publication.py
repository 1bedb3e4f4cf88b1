"""What every publish in memory shares: decided under the corpus lock, done in one step that nothing can interrupt.

Which document versions come and go is up to the kind of version: what a run staged (publish.py), what an old
version held, what a person deletes (history.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from ragstone.adapters.memory.state import Corpus, Document, Docversion, Membership, Version, now
from ragstone.index.merkle import BUCKETS, bucket_of
from ragstone.index.records import Change, ChangedDocument, Origin, Published, Sealed, VersionStatistics
from ragstone.index.rows import placed_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ragstone.adapters.memory.columns import Index
    from ragstone.core.ports import Seqs


@dataclass(frozen=True, slots=True)
class Chosen:
    """Versions that come and what each replaces, versions that go, keys that stay out as they are not newer."""

    fresh: tuple[tuple[Docversion, Membership | None], ...]
    gone: tuple[Docversion, ...]
    stale: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a publish moves: documents, rows opened and closed, and the change as it is sealed."""

    chosen: Chosen
    opened: Seqs
    closed: Seqs
    change: Change


class MemoryPublication(ABC):
    """Implements the port Publication."""

    def __init__(self, corpus: Corpus, origin: Origin, *, recount: bool = False) -> None:
        self._corpus = corpus
        self._index: Index = corpus.indexes[origin.index_id]
        self._recount = recount
        self._plan: Plan | None = None
        self.origin = origin

    @abstractmethod
    def _choose(self) -> Chosen:
        """Which document versions come and go."""

    @abstractmethod
    def _finish(self, version: int | None) -> None:
        """What else this kind of version writes; None when there is nothing to publish."""

    def _norms(self) -> tuple[float, float] | None:
        """BM25 norms to take over from another version."""
        return None

    async def change(self) -> Change:
        """Compare with the head: what would change. IntegrityError when rows are missing."""
        chosen = self._choose()
        fresh = [one for one, _ in chosen.fresh]
        old = [*(self._corpus.docversions[was.docversion_id] for _, was in chosen.fresh if was), *chosen.gone]
        placed = _seqs(fresh)
        opened = np.setdiff1d(placed, self._index.open_seqs())
        closed = np.setdiff1d(_seqs(old), placed)
        if self._recount:
            closed = np.union1d(closed, self._strays(placed))
            # Only what is open, and nothing that a document which stays places: what is replaced may be damaged.
            moved = {one.staged.document_id for one in (*fresh, *chosen.gone)}
            staying = [one for document, one in self._open_versions() if document.document_id not in moved]
            closed = np.setdiff1d(np.intersect1d(closed, self._index.open_seqs()), _seqs(staying))
        before, buckets_before = self._before()
        delta = self._index.terms[opened].sum(axis=0) - self._index.terms[closed].sum(axis=0)
        change = Change(
            version=self._corpus.head + 1,
            parent=self._corpus.head,
            added=self._lines(fresh),
            removed=self._lines(chosen.gone),
            stale=chosen.stale,
            buckets_before=buckets_before,
            leaves=self._leaves(fresh, chosen.gone),
            statistics_before=before,
            rows_opened=len(opened),
            rows_closed=len(closed),
            joined_delta=int(delta[0]),
            title_delta=int(delta[1]),
            documents_after=before.documents + sum(was is None for _, was in chosen.fresh) - len(chosen.gone),
            norms=self._norms(),
        )
        self._plan = Plan(chosen, opened, closed, change)
        return change

    def _strays(self, placed: Seqs) -> Seqs:
        """Open rows that no open document places: what a repair closes beside."""
        return np.setdiff1d(self._index.open_seqs(), np.union1d(_seqs(self._open()), placed))

    def _open(self) -> list[Docversion]:
        return [one for _, one in self._open_versions()]

    def _open_versions(self) -> list[tuple[Document, Docversion]]:
        heads = ((document, document.head) for document in self._corpus.documents.values())
        return [(document, self._corpus.docversions[head.docversion_id]) for document, head in heads if head]

    def _before(self) -> tuple[VersionStatistics, bytes]:
        last = self._corpus.versions[-1].sealed if self._corpus.versions else None
        before = last.statistics if last else VersionStatistics()
        if not self._recount:
            return before, last.buckets if last else b""
        seqs = self._index.open_seqs()
        joined, title = self._index.terms[seqs].sum(axis=0).tolist()
        counted = replace(before, rows=len(seqs), documents=len(self._open()), joined_terms=joined, title_terms=title)
        return counted, b""

    def _lines(self, docversions: Iterable[Docversion]) -> tuple[ChangedDocument, ...]:
        lines = []
        for one in docversions:
            rows = [self._index.rows[seq] for seq in one.seqs.tolist()]
            staged = one.staged
            placed = placed_digest(
                (row.row_id, place.start, place.end, row.vector_hash)
                for row, place in zip(rows, staged.placements, strict=True)
            )
            chunks = tuple(row.chunk_id for row in rows)
            about = (staged.document_id, staged.key, staged.object_version, staged.leaf)
            lines.append(ChangedDocument(*about, chunks, placed))
        return tuple(sorted(lines, key=lambda line: line.key))

    def _leaves(self, fresh: Iterable[Docversion], gone: Iterable[Docversion]) -> Mapping[int, tuple[bytes, ...]]:
        changed = {one.staged.document_id: one.staged.leaf for one in fresh}
        dropped = {one.staged.document_id for one in gone}
        touched = range(BUCKETS) if self._recount else map(bucket_of, (*changed, *dropped))
        grouped: dict[int, list[bytes]] = {bucket: [] for bucket in touched}
        for document in self._corpus.documents.values():
            bucket = grouped.get(bucket_of(document.document_id))
            if bucket is None or document.document_id in dropped:
                continue
            if document.document_id in changed:
                bucket.append(changed[document.document_id])
            elif document.head is not None:
                bucket.append(self._corpus.docversions[document.head.docversion_id].staged.leaf)
        return {bucket: tuple(leaves) for bucket, leaves in grouped.items()}

    async def commit(self, sealed: Sealed) -> Published:
        """Move the head."""
        assert self._plan is not None
        plan, change, corpus = self._plan, self._plan.change, self._corpus
        for one, was in plan.chosen.fresh:
            if was is not None:
                was.v_to = change.version
            document = corpus.documents[one.staged.document_id]
            document.memberships.append(Membership(one.staged.docversion_id, change.version))
        for one in plan.chosen.gone:
            member = corpus.documents[one.staged.document_id].head
            if member is not None:
                member.v_to = change.version
        self._index.move(change.version, plan.opened, plan.closed)
        corpus.head, corpus.index_id, corpus.restricted = change.version, self.origin.index_id, None
        # The clock may jump back: "the version that served at" must stay the newest one published by then.
        moment = max([now(), *(one.published_at + timedelta(microseconds=1) for one in corpus.versions[-1:])])
        about = (self.origin.kind, self.origin.note)
        corpus.versions.append(Version(change.version, change.parent, self.origin.index_id, sealed, moment, *about))
        self._finish(change.version)
        return change.published(sealed)

    async def skip(self) -> None:
        """Nothing to publish: leave the head, write the rest."""
        self._finish(None)


def _seqs(docversions: Iterable[Docversion]) -> Seqs:
    return np.unique(np.concatenate([np.zeros(0, np.int64), *(one.seqs for one in docversions)]))
