"""Where one document is, in memory: the version's rows, the versions that held it, quarantine, suppression."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ragstone.adapters.memory.columns import OPEN
from ragstone.core.errors import ambiguous_document
from ragstone.retrieve.records import Refusal, Row, Span, Standing, last_part

if TYPE_CHECKING:
    from ragstone.adapters.memory.state import Corpus, Document, State
    from ragstone.core.ports import View
    from ragstone.index.records import QuarantineEntry


class MemoryWhereabouts:
    """Implements the port Whereabouts."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def find(self, view: View, document: str) -> Standing | None:
        """A document by its id, or `SOURCE:ID`."""
        corpus = self._state.corpus(view.corpus_id)
        known = sorted(_named(corpus, view, document), key=lambda place: (place[1], corpus.sources[place[0]].name))
        held = [place for place in known if _in_version(corpus, view, place)] or known
        if len(held) > 1:
            raise ambiguous_document(document, (f"{corpus.sources[source].name}:{key}" for source, key in held))
        return _standing(corpus, view, *held[0]) if held else None

    async def near(self, view: View, document: str, limit: int) -> tuple[str, ...]:
        """Ids of documents in the version with a name like it, shortest first."""
        corpus = self._state.corpus(view.corpus_id)
        part = last_part(document)
        found = [
            (len(one.key), one.key, corpus.sources[one.source_id].name)
            for one in corpus.documents.values()
            if part and part in one.key.rpartition("/")[2].lower()
            if one.at(view.version) and one.readable(view.asker.principals)
        ]
        nearest = sorted(found)[:limit]
        keys = [key for _, key, _ in nearest]
        return tuple(f"{source}:{key}" if keys.count(key) > 1 else key for _, key, source in nearest)


def _named(corpus: Corpus, view: View, document: str) -> set[tuple[bytes, str]]:
    """(source, key) of all that the name fits and the asker may know of."""
    places = {(one.source_id, one.key) for one in corpus.documents.values()} | set(corpus.quarantine)
    fitting = {
        (source, key) for source, key in places if document in {key, f"{corpus.sources[source].name}:{key}"}
    }  # fmt: skip
    return {place for place in fitting if _may_know(corpus, view, place)}


def _may_know(corpus: Corpus, view: View, place: tuple[bytes, str]) -> bool:
    one = _document(corpus, place)
    if one is None:
        return place in corpus.quarantine
    # A document that was staged and never published is known by nobody yet.
    known = bool(one.memberships) or one.suppressed or place in corpus.quarantine
    return known and not one.acl.isdisjoint(view.asker.principals)


def _document(corpus: Corpus, place: tuple[bytes, str]) -> Document | None:
    return next((one for one in corpus.by_key.get(place[1], ()) if one.source_id == place[0]), None)


def _in_version(corpus: Corpus, view: View, place: tuple[bytes, str]) -> bool:
    one = _document(corpus, place)
    return one is not None and one.at(view.version) is not None


def _standing(corpus: Corpus, view: View, source: bytes, key: str) -> Standing:
    one, fault = _document(corpus, (source, key)), corpus.quarantine.get((source, key))
    member = one.at(view.version) if one else None
    docversion = corpus.docversions[member.docversion_id] if member else None
    rows: list[Row] = []
    if one and docversion and not one.suppressed:
        held = corpus.indexes[view.index_id].rows
        rows = [
            Row(each.seq, held[each.seq].chunk_id.hex(), each.ordinal, each.heading_path)
            for each in sorted(docversion.staged.placements, key=lambda each: each.ordinal)
        ]
    spans = [
        Span(each.v_from, each.v_to if each.v_to < OPEN else None, _object_version(corpus, each.docversion_id))
        for each in (one.memberships if one else ())
    ]
    name = corpus.sources[source].name
    shared = any(
        other.source_id != source and other.at(view.version) and other.readable(view.asker.principals)
        for other in corpus.by_key.get(key, ())
    )
    return Standing(
        document_id=f"{name}:{key}" if shared else key,
        source=name,
        key=key,
        rows=tuple(rows),
        object_version=docversion.staged.object_version if docversion else "",
        # A copy, and lists for tuples, as a database gives it back.
        metadata=json.loads(json.dumps(dict(docversion.staged.metadata))) if docversion else {},
        history=tuple(spans),
        quarantine=_refusal(fault.entry) if fault else None,
        suppressed=bool(one and one.suppressed),
    )


def _refusal(entry: QuarantineEntry) -> Refusal:
    return Refusal(entry.object_version, entry.reason, entry.message, entry.field, entry.next_step)


def _object_version(corpus: Corpus, docversion: bytes) -> str:
    return corpus.docversions[docversion].staged.object_version
