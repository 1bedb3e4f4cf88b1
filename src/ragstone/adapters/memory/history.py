"""What moves the head without a run, in memory: going back to an old version, taking one document out."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ragstone.adapters.memory.catalog import kept_version
from ragstone.adapters.memory.publication import Chosen, MemoryPublication
from ragstone.adapters.memory.retention import collect
from ragstone.core.errors import UsageError, ambiguous_document, unknown_document
from ragstone.core.ids import corpus_id
from ragstone.index.records import DELETED, Collected, Origin, Retention

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ragstone.adapters.memory.state import Corpus, Document, Docversion, Membership, State, Version


class MemoryHistory:
    """Implements the port History."""

    def __init__(self, state: State) -> None:
        self._state = state

    @asynccontextmanager
    async def rolling_back(self, tenant: str, corpus: str, to: str, note: str) -> AsyncIterator[MemoryPublication]:
        """A publish of what version `to` held; it sets the hold."""
        held = self._state.serving(corpus_id(tenant, corpus), corpus)
        async with held.lock:
            target = kept_version(held, to)
            if target.index_id != held.index_id:
                raise UsageError(
                    f"version {target.version} was served by another index than the one that serves now",
                    doing="rolling back",
                    next_step="read it with --as-of instead",
                )
            said = note or f"rolled back to version {target.version}"
            origin = Origin("rollback", held.corpus_id, target.index_id, held.secret, note=said)
            yield Rollback(held, origin, target)

    async def resume(self, tenant: str, corpus: str) -> str:
        """Lift the hold; what it said, "" when there was none."""
        held = self._state.serving(corpus_id(tenant, corpus), corpus)
        said, held.hold = held.hold, ""
        return said

    @asynccontextmanager
    async def deleting(self, tenant: str, corpus: str, document: str, note: str) -> AsyncIterator[MemoryPublication]:
        """A publish without one document, which is suppressed in every version."""
        held = self._state.serving(corpus_id(tenant, corpus), corpus)
        async with held.lock:
            found = _document(held, document, corpus)
            assert held.index_id is not None
            origin = Origin("delete", held.corpus_id, held.index_id, held.secret, note=note or DELETED)
            yield Deletion(held, origin, found)

    async def restore(self, tenant: str, corpus: str, document: str) -> bool:
        """Take a deletion back; False when the document was not deleted."""
        held = self._state.serving(corpus_id(tenant, corpus), corpus)
        found = _document(held, document, corpus)
        return held.suppress(found.document_id, hidden=False)

    async def collect(self, corpus_id: bytes, retention: Retention, *, force: bool) -> Collected:
        """Remove what no kept version holds."""
        return collect(self._state, self._state.corpus(corpus_id), retention, force=force)


class Rollback(MemoryPublication):
    """What an old version held, as a new one. Access lists stay today's: a right that was withdrawn since then
    does not come back."""

    def __init__(self, corpus: Corpus, origin: Origin, target: Version) -> None:
        super().__init__(corpus, origin)
        self._target = target

    def _choose(self) -> Chosen:
        fresh: list[tuple[Docversion, Membership | None]] = []
        gone: list[Docversion] = []
        for document in self._corpus.documents.values():
            then, now = document.at(self._target.version), document.head
            if then is None and now is not None:
                gone.append(self._corpus.docversions[now.docversion_id])
            elif then is not None and not document.suppressed and (now and now.docversion_id) != then.docversion_id:
                fresh.append((self._corpus.docversions[then.docversion_id], now))
        return Chosen(tuple(fresh), tuple(gone))

    def _norms(self) -> tuple[float, float] | None:
        return self._target.sealed.statistics.norms

    def _finish(self, version: int | None) -> None:
        if version is not None:
            self._corpus.hold = f"{self.origin.note} (as version {version})"


class Deletion(MemoryPublication):
    """The head without one document."""

    def __init__(self, corpus: Corpus, origin: Origin, document: Document) -> None:
        super().__init__(corpus, origin)
        self._document = document

    def _choose(self) -> Chosen:
        head = self._document.head
        return Chosen((), (self._corpus.docversions[head.docversion_id],) if head else ())

    def _finish(self, version: int | None) -> None:
        del version  # suppressed everywhere, whether the head held it or not
        self._corpus.suppress(self._document.document_id)


def _document(corpus: Corpus, name: str, said: str) -> Document:
    """A document that some version holds or held, or that was deleted."""
    found = {}
    for document in corpus.documents.values():
        full = f"{corpus.sources[document.source_id].name}:{document.key}"
        if name in {document.key, full} and (document.memberships or document.suppressed):
            found[full] = document
    if not found:
        raise unknown_document(name, said)
    if len(found) > 1:
        raise ambiguous_document(name, sorted(found))
    return next(iter(found.values()))
