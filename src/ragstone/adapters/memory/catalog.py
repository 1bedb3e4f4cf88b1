"""Reads of the catalog in memory: the serving view, and passages as a version places them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ragstone.core.errors import NotFound, UsageError
from ragstone.core.ids import corpus_id
from ragstone.core.nouns import Asker, EmbeddingSpec, Passage
from ragstone.core.ports import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ragstone.adapters.memory.state import Corpus, Docversion, State, Version
    from ragstone.core.deadline import Deadline


class MemoryCatalog:
    """Implements the port Catalog."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def view(self, tenant: str, corpus: str, as_of: str | None, asker: Asker) -> tuple[View, EmbeddingSpec]:
        """The corpus as it serves now, or as of a version number or an ISO time."""
        found = self._state.serving(corpus_id(tenant, corpus), corpus)
        version = kept_version(found, as_of)
        statistics = version.sealed.statistics
        view = View(
            corpus_id=found.corpus_id,
            index_id=version.index_id,
            version=version.version,
            epoch=found.epoch,
            restricted=found.is_restricted(),
            asker=asker,
            rows=statistics.rows,
            norms=statistics.norms,
            published_at=version.published_at.isoformat(),
            fields={name: list(types) for name, types in statistics.fields.items()},
        )
        return view, found.indexes[version.index_id].recipe.embedding

    async def passages(self, view: View, seqs: Sequence[int], deadline: Deadline) -> Mapping[int, Passage]:
        """The passages of the given rows as this version places them."""
        deadline.check("reading passages")
        corpus = self._state.corpus(view.corpus_id)
        placed_in = corpus.indexes[view.index_id].placed_in
        found = {}
        for seq in seqs:
            for docversion in placed_in.get(seq, ()):
                one = corpus.docversions[docversion]
                document = corpus.documents[one.staged.document_id]
                member = document.at(view.version)
                if member and member.docversion_id == docversion and document.readable(view.asker.principals):
                    found[seq] = _passage(corpus, view, seq, one)
        return found


def _passage(corpus: Corpus, view: View, seq: int, one: Docversion) -> Passage:
    document, staged = corpus.documents[one.staged.document_id], one.staged
    row = corpus.indexes[view.index_id].rows[seq]
    place = next(each for each in staged.placements if each.seq == seq)
    source = corpus.sources[document.source_id].name
    # Only what the asker may read: the id must not tell of a document that it hides.
    twins = [each for each in corpus.by_key[document.key] if each.readable(view.asker.principals)]
    shared = sum(each.at(view.version) is not None for each in twins) > 1
    return Passage(
        seq=seq,
        chunk_id=row.chunk_id,
        source=source,
        key=document.key,
        document_id=f"{source}:{document.key}" if shared else document.key,
        title=staged.title,
        text=corpus.texts[row.text_hash],
        start=place.start,
        end=place.end,
        heading_path=place.heading_path,
        # A copy, and lists for tuples, as a database gives it back.
        metadata=_plain(staged.metadata),
        source_version=staged.object_version,
        indexed_at=one.indexed_at.isoformat(),
        ordinal=place.ordinal,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def kept_version(corpus: Corpus, as_of: str | None) -> Version:
    """The version that serves: the head, or the newest at or before what was asked. NotFound when there is none, or
    retention has let it go."""
    if as_of is None:
        return corpus.versions[-1]
    if as_of.isdecimal():
        named = [one for one in corpus.versions if str(one.version) == (as_of.lstrip("0") or "0")]
    else:
        named = [one for one in corpus.versions if one.published_at <= _moment(as_of)]
    if not named or named[-1].collected:
        oldest = next(one.version for one in corpus.versions if not one.collected)
        raise NotFound(
            f"version {named[-1].version} is no longer kept; the oldest that is is {oldest}"
            if named
            else f"there is no version {as_of!r}; the newest is {corpus.head}",
            doing="reading the version",
            next_step="see which there are: ragstone versions list",
        )
    return named[-1]


def _moment(as_of: str) -> datetime:
    try:
        moment = datetime.fromisoformat(as_of)
    except ValueError:
        raise UsageError(
            f"{as_of!r} is neither a version number nor an ISO 8601 time",
            doing="reading --as-of",
            next_step="write it like --as-of 3 or --as-of 2026-01-31T12:00:00Z",
        ) from None
    return moment if moment.tzinfo else moment.astimezone()
