"""Runs in memory: one at a time for a source, and what they stage before anybody sees it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ragstone.adapters.memory.columns import Index
from ragstone.adapters.memory.state import Corpus, Docversion, RunLine, Source, State, now, seqs_of
from ragstone.core.errors import Busy, UsageError
from ragstone.core.ids import corpus_id, make_id, source_id
from ragstone.index.records import LiveDocument, Run, RunStart, RunState, StagedBatch, refuse_held

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence


class MemoryRuns:
    """Implements the ports Runs and Staging."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def next_order(self, tenant: str, corpus: str, source: str, clock_us: int) -> str:
        """A source order greater than every one given out for this source, and at least the clock's."""
        ident = corpus_id(tenant, corpus)
        known = self._state.corpora.get(ident)
        line = known.sources.get(source_id(ident, source)) if known else None
        if line is not None:
            clock_us = line.last_order = max(line.last_order + 1, clock_us)
        return f"{clock_us:020d}"

    async def begin(self, start: RunStart) -> Run:
        """Hold the source for the scope, make sure corpus, source and index exist, sweep what dead runs left."""
        ident = corpus_id(start.tenant, start.corpus)
        source = source_id(ident, start.source)
        if (source, start.scope) in self._state.held:
            raise Busy(
                f"source {start.source!r} of corpus {start.corpus!r} is being ingested by another run",
                doing="opening a run",
                next_step="wait for it to end, then run the same command again",
            )
        corpus = self._state.corpus_or_new(ident)
        index_id = start.recipe.index_id
        refuse_held(corpus.hold)
        _agree(corpus, source, start)
        line = corpus.sources.setdefault(source, Source(start.source, start.location))
        if start.source_order.isdecimal():
            line.last_order = max(line.last_order, int(start.source_order))
        corpus.indexes.setdefault(index_id, Index(start.recipe))
        for dead, run in corpus.runs.items():
            if (run.source_id, run.scope) == (source, start.scope) and run.state == "running":
                sweep(corpus, dead, "dead")
        run_id = make_id("run", ident, source, start.source_order, os.urandom(16))
        corpus.runs[run_id] = RunLine(source, index_id, start.scope, corpus.head, start.source_order)
        self._state.held[source, start.scope] = run_id
        return Run(
            run_id,
            ident,
            source,
            index_id,
            corpus.head,
            corpus.secret,
            start.recipe,
            start.source_order,
            start.source,
            start.scope,
            start.version_kind,
        )

    async def documents(self, run: Run, only: Collection[str] | None = None) -> Mapping[str, LiveDocument]:
        """The live documents of the run's source, by key; `only` bounds them."""
        corpus = self._state.corpus(run.corpus_id)
        found = {}
        for document in corpus.documents.values():
            member = document.head
            if document.source_id == run.source_id and member and (only is None or document.key in only):
                staged = corpus.docversions[member.docversion_id].staged
                # As on PostgreSQL: with another access list than its version came with, it counts as changed.
                same = document.acl == frozenset(staged.acl)
                found[document.key] = LiveDocument(
                    staged.document_id,
                    staged.docversion_id,
                    document.key,
                    staged.object_version if same else "",
                    staged.source_order,
                )
        return found

    async def withheld(self, run: Run) -> frozenset[str]:
        """The keys of the run's source whose documents were deleted on purpose."""
        documents = self._state.corpus(run.corpus_id).documents.values()
        return frozenset(one.key for one in documents if one.source_id == run.source_id and one.suppressed)

    async def end(self, run: Run, state: RunState) -> None:
        """Release the source; rows of a run that did not publish are swept."""
        corpus = self._state.corpus(run.corpus_id)
        # Stopped between commit and end, a run has published whatever its process believes.
        if state != "published" and corpus.runs[run.run_id].state == "running":
            sweep(corpus, run.run_id, state)
        self.abandon(run)

    def abandon(self, run: Run) -> None:
        """What the death of a run's process does: the source is free, the rows stay until the next run."""
        if self._state.held.get((run.source_id, run.scope)) == run.run_id:
            del self._state.held[run.source_id, run.scope]

    async def reusable(self, run: Run, docversions: Sequence[bytes]) -> Mapping[bytes, int]:
        """Row id -> seq of the rows of the given live document versions."""
        corpus = self._state.corpus(run.corpus_id)
        rows = corpus.indexes[run.index_id].rows
        known = (corpus.docversions[each] for each in docversions if each in corpus.docversions)
        return {rows[seq].row_id: seq for one in known for seq in one.seqs.tolist()}

    async def lease(self, run: Run, count: int) -> range:
        """`count` consecutive seqs that no other run gets."""
        index = self._index(run)
        index.next_seq += count
        return range(index.next_seq - count, index.next_seq)

    async def stage(self, run: Run, batch: StagedBatch) -> None:
        """Keep documents and rows."""
        corpus, index = self._state.corpus(run.corpus_id), self._index(run)
        index.add(batch.rows, run.run_id)
        for row in batch.rows:
            corpus.texts[row.text_hash] = row.text
        for staged in batch.documents:
            corpus.document(staged, run.source_id)
            corpus.docversions[staged.docversion_id] = Docversion(staged, run.run_id, now(), seqs_of(staged))
            for place in staged.placements:
                index.placed_in.setdefault(place.seq, []).append(staged.docversion_id)

    async def segment(self, run: Run, spans: Sequence[range], postings: Iterable[tuple[str, int, bytes]]) -> None:
        """Keep one postings segment for the rows with the seqs of `spans`."""
        self._index(run).add_segment(run.run_id, spans, postings)

    def _index(self, run: Run) -> Index:
        return self._state.corpus(run.corpus_id).indexes[run.index_id]


def _agree(corpus: Corpus, source: bytes, start: RunStart) -> None:
    if corpus.index_id is not None and corpus.index_id != start.recipe.index_id:
        raise UsageError(
            f"corpus {start.corpus!r} is served by an index made with another recipe (embedder or chunking)",
            doing="opening a run",
            next_step="set [embedder] and [chunking] in ragstone.toml back, or ingest into another --corpus",
        )
    known = corpus.sources.get(source)
    if known is not None and known.location != start.location:
        raise UsageError(
            f"source {start.source!r} is {known.location}, not {start.location}",
            doing="opening a run",
            next_step="give the other place a name of its own: --source NAME",
        )


def sweep(corpus: Corpus, run_id: bytes, state: RunState) -> None:
    """Remove what a run that did not publish has staged, and close it."""
    line = corpus.runs[run_id]
    index = corpus.indexes[line.index_id]
    index.sweep(run_id)
    for docversion, one in list(corpus.staged_by(run_id)):
        for seq in one.seqs.tolist():
            index.placed_in[seq].remove(docversion)
        del corpus.docversions[docversion]
    line.state = state
