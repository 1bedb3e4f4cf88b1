"""The publish of a run in memory: what it staged becomes the next version, if the run may still publish."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ragstone.adapters.memory.publication import Chosen, MemoryPublication
from ragstone.adapters.memory.retention import collect
from ragstone.adapters.memory.state import Corpus, Document, Docversion, Fault, Membership, State
from ragstone.core.errors import Busy, IntegrityError
from ragstone.index.records import Outcome, Retention, Run, refuse_held, refuse_other_recipe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable


class MemoryPublisher:
    """Implements the port Publisher."""

    def __init__(self, state: State, *, segments_max: int = 8, retention: Retention) -> None:
        self._state = state
        self._segments_max = segments_max
        self._retention = retention

    @asynccontextmanager
    async def publishing(self, run: Run, outcome: Outcome) -> AsyncIterator[RunPublication]:
        """Take the corpus lock; leaving without commit or skip changes nothing."""
        corpus = self._state.corpus(run.corpus_id)
        async with corpus.lock:
            refuse_other_recipe(corpus.index_id, run.index_id)
            refuse_held(corpus.hold)
            if corpus.runs[run.run_id].state != "running":
                raise Busy(
                    "another run took this source over",
                    doing="publishing",
                    next_step="run the same command again",
                )
            if any(one.kind == "rollback" and one.version > run.base_version for one in corpus.versions):
                raise Busy(
                    "the corpus was rolled back while this run was under way",
                    doing="publishing; nothing was published",
                    next_step="run the same command again",
                )
            yield RunPublication(corpus, run, outcome)

    async def maintain(self, corpus_id: bytes, index_id: bytes) -> None:
        """Let expired versions go and merge postings segments; vectors need no index here."""
        corpus = self._state.corpus(corpus_id)
        collect(self._state, corpus, self._retention, force=False)
        published = frozenset(key for key, line in corpus.runs.items() if line.state == "published")
        corpus.indexes[index_id].merge_segments(published, self._segments_max)


class RunPublication(MemoryPublication):
    """What a run staged, as far as it is newer than what is published, and what its source no longer holds."""

    def __init__(self, corpus: Corpus, run: Run, outcome: Outcome) -> None:
        super().__init__(corpus, run.origin, recount=outcome.recount)
        self._run = run
        self._outcome = outcome

    def _choose(self) -> Chosen:
        staged = [one for _, one in self._corpus.staged_by(self._run.run_id)]
        self._count(len(staged))
        fresh, stale = self._fresh(staged)
        return Chosen(tuple(fresh), tuple(self._gone()), stale)

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
            document = self._corpus.documents[one.staged.document_id]
            if document.suppressed:
                continue
            was = document.head
            if self._seen(document) > self._run.source_order:
                stale.append(one.staged.key)
                continue
            if was and self._corpus.docversions[was.docversion_id].staged.source_order >= one.staged.source_order:
                stale.append(one.staged.key)
            else:
                fresh.append((one, was))
        return fresh, tuple(stale)

    def _seen(self, document: Document) -> str:
        """Up to which order the document was looked at, by name or in a scan of the whole."""
        return max(document.seen_order, self._corpus.sources[document.source_id].scanned_order)

    def _gone(self) -> list[Docversion]:
        gone = []
        for ident in dict.fromkeys(self._outcome.deleted):
            document = self._corpus.documents.get(ident)
            if document is None or self._seen(document) > self._run.source_order:
                continue
            if document.head is not None:
                gone.append(self._corpus.docversions[document.head.docversion_id])
        return gone

    def _finish(self, version: int | None) -> None:
        """The run is over and its access lists count: with or without a new version."""
        if version is not None and self._plan is not None:
            for one, _ in self._plan.chosen.fresh:
                one.published = True
                document, acl = self._corpus.documents[one.staged.document_id], frozenset(one.staged.acl)
                if document.acl != acl:
                    document.acl = acl
                    self._corpus.epoch += 1
            self._corpus.runs[self._run.run_id].state = "published"
        self._looked_at()
        self._quarantine()

    def _looked_at(self) -> None:
        """Also what was found unchanged is newer than what a slower run read before."""
        source, order = self._corpus.sources[self._run.source_id], self._run.source_order
        if self._run.scope == "scan":
            source.scanned_order = max(source.scanned_order, order)
            return
        for document in self._corpus.documents.values():
            if document.source_id == self._run.source_id and document.key in self._outcome.examined:
                document.seen_order = max(document.seen_order, order)

    def _quarantine(self) -> None:
        """An entry that a newer scan made is neither taken away nor replaced by an older one."""
        held, source, order = self._corpus.quarantine, self._run.source_id, self._run.source_order
        faulty = {entry.key for entry in self._outcome.quarantine}
        for place, fault in list(held.items()):
            looked_at = self._outcome.replaces_quarantine or place[1] in self._outcome.examined
            if place[0] == source and looked_at and place[1] not in faulty and fault.order <= order:
                del held[place]
        live = {one.key: one for one in self._corpus.documents.values() if one.source_id == source and one.head}
        for entry in self._outcome.quarantine:
            document, known = live.get(entry.key), held.get((source, entry.key))
            head = document.head if document else None
            newer = head and self._corpus.docversions[head.docversion_id].staged.source_order > order
            if not newer and (known is None or known.order <= order):
                held[source, entry.key] = Fault(entry, order)
