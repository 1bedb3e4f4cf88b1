"""The publish in memory: decided under the corpus lock, done in one step that nothing can interrupt."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ragstone.adapters.memory.state import Corpus, Docversion, Membership, State, Version, now
from ragstone.core.errors import Busy, IntegrityError
from ragstone.index.merkle import bucket_of
from ragstone.index.records import (
    Change,
    ChangedDocument,
    Outcome,
    Published,
    Run,
    Sealed,
    VersionStatistics,
    refuse_other_recipe,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from ragstone.adapters.memory.columns import Index
    from ragstone.core.ports import Seqs


@dataclass(frozen=True, slots=True)
class Plan:
    """What a publish moves: new versions and what each replaces, versions that go, rows opened and closed."""

    fresh: tuple[tuple[Docversion, Membership | None], ...]
    gone: tuple[Docversion, ...]
    opened: Seqs
    closed: Seqs
    change: Change


class MemoryPublisher:
    """Implements the port Publisher."""

    def __init__(self, state: State, *, segments_max: int = 8) -> None:
        self._state = state
        self._segments_max = segments_max

    @asynccontextmanager
    async def publishing(self, run: Run, outcome: Outcome) -> AsyncIterator[MemoryPublication]:
        """Take the corpus lock; leaving without commit or skip changes nothing."""
        corpus = self._state.corpus(run.corpus_id)
        async with corpus.lock:
            if corpus.runs[run.run_id].state != "running":
                raise Busy(
                    "another run took this source over",
                    doing="publishing",
                    next_step="run the same command again",
                )
            refuse_other_recipe(corpus.index_id, run.index_id)
            yield MemoryPublication(corpus, run, outcome)

    async def maintain(self, corpus_id: bytes, index_id: bytes) -> None:
        """Merge postings segments; vectors need no index here."""
        corpus = self._state.corpus(corpus_id)
        published = frozenset(key for key, line in corpus.runs.items() if line.state == "published")
        corpus.indexes[index_id].merge_segments(published, self._segments_max)


class MemoryPublication:
    """Implements the port Publication."""

    def __init__(self, corpus: Corpus, run: Run, outcome: Outcome) -> None:
        self._corpus = corpus
        self._index: Index = corpus.indexes[run.index_id]
        self._run = run
        self._outcome = outcome
        self._plan: Plan | None = None

    async def change(self) -> Change:
        """Compare the run with the head: what would change. IntegrityError when rows are missing."""
        staged = [one for _, one in self._corpus.staged_by(self._run.run_id)]
        self._count(len(staged))
        fresh, stale = self._fresh(staged)
        gone = self._gone()
        old = [*(self._corpus.docversions[was.docversion_id] for _, was in fresh if was), *gone]
        placed = _seqs(one for one, _ in fresh)
        opened = np.setdiff1d(placed, self._index.open_seqs())
        closed = np.setdiff1d(_seqs(old), placed)
        last = self._corpus.versions[-1].sealed if self._corpus.versions else None
        before = last.statistics if last else VersionStatistics()
        delta = self._index.terms[opened].sum(axis=0) - self._index.terms[closed].sum(axis=0)
        change = Change(
            version=self._corpus.head + 1,
            parent=self._corpus.head,
            added=self._lines(one for one, _ in fresh),
            removed=self._lines(gone),
            stale=stale,
            buckets_before=last.buckets if last else b"",
            leaves=self._leaves([one for one, _ in fresh], gone),
            statistics_before=before,
            rows_opened=len(opened),
            rows_closed=len(closed),
            joined_delta=int(delta[0]),
            title_delta=int(delta[1]),
            documents_after=before.documents + sum(was is None for _, was in fresh) - len(gone),
        )
        self._plan = Plan(tuple(fresh), tuple(gone), opened, closed, change)
        return change

    def _count(self, documents: int) -> None:
        rows = sum(row.run_id == self._run.run_id for row in self._index.rows.values())
        planned = (self._outcome.documents, self._outcome.rows)
        if (documents, rows) != planned:
            raise IntegrityError(
                f"{planned[0]} documents and {planned[1]} rows were written, here are {documents} and {rows}",
                doing="publishing",
                next_step="run the same command again; nothing was published",
            )

    def _fresh(
        self, staged: Iterable[Docversion]
    ) -> tuple[list[tuple[Docversion, Membership | None]], tuple[str, ...]]:
        fresh: list[tuple[Docversion, Membership | None]] = []
        stale: list[str] = []
        for one in staged:
            was = self._corpus.documents[one.staged.document_id].head
            if was and self._corpus.docversions[was.docversion_id].staged.source_order >= one.staged.source_order:
                stale.append(one.staged.key)
            else:
                fresh.append((one, was))
        return fresh, tuple(stale)

    def _gone(self) -> list[Docversion]:
        gone = []
        for ident in dict.fromkeys(self._outcome.deleted):
            document = self._corpus.documents.get(ident)
            if document is not None and document.head is not None:
                old = self._corpus.docversions[document.head.docversion_id]
                if old.staged.source_order < self._run.source_order:
                    gone.append(old)
        return gone

    def _lines(self, docversions: Iterable[Docversion]) -> tuple[ChangedDocument, ...]:
        lines = []
        for one in docversions:
            chunks = tuple(self._index.rows[seq].chunk_id for seq in one.seqs.tolist())
            staged = one.staged
            lines.append(ChangedDocument(staged.document_id, staged.key, staged.object_version, staged.leaf, chunks))
        return tuple(sorted(lines, key=lambda line: line.key))

    def _leaves(self, fresh: list[Docversion], gone: list[Docversion]) -> Mapping[int, tuple[bytes, ...]]:
        changed = {one.staged.document_id: one.staged.leaf for one in fresh}
        dropped = {one.staged.document_id for one in gone}
        grouped: dict[int, list[bytes]] = {bucket_of(ident): [] for ident in (*changed, *dropped)}
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
        for one, _ in plan.fresh:
            self._enter(one, change.version)
        for one in plan.gone:
            self._leave(one, change.version)
        self._index.move(change.version, plan.opened, plan.closed)
        corpus.head, corpus.index_id, corpus.restricted = change.version, self._run.index_id, None
        corpus.versions.append(Version(change.version, change.parent, self._run.index_id, sealed, now()))
        corpus.runs[self._run.run_id].state = "published"
        self._quarantine()
        return Published(
            version=change.version,
            added=len(change.added),
            removed=len(change.removed),
            stale=change.stale,
            rows=sealed.statistics.rows,
            rows_opened=change.rows_opened,
            rows_closed=change.rows_closed,
            merkle_root=sealed.merkle_root,
        )

    def _enter(self, one: Docversion, version: int) -> None:
        self._leave(one, version)
        document = self._corpus.documents[one.staged.document_id]
        document.memberships.append(Membership(one.staged.docversion_id, version))
        one.published = True
        acl = frozenset(one.staged.acl)
        if document.acl != acl:
            document.acl = acl
            self._corpus.epoch += 1

    def _leave(self, one: Docversion, version: int) -> None:
        member = self._corpus.documents[one.staged.document_id].head
        if member is not None:
            member.v_to = version

    async def skip(self) -> None:
        """Nothing to publish: record faults, leave the head."""
        self._quarantine()

    def _quarantine(self) -> None:
        held, source = self._corpus.quarantine, self._run.source_id
        if self._outcome.replaces_quarantine:
            for place in [place for place in held if place[0] == source]:
                del held[place]
        held.update({(source, entry.key): entry for entry in self._outcome.quarantine})


def _seqs(docversions: Iterable[Docversion]) -> Seqs:
    return np.unique(np.concatenate([np.zeros(0, np.int64), *(one.seqs for one in docversions)]))
