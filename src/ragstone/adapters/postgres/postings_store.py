"""Postings, what terms score, live masks and filter selections as the service holds them: read once, kept while
they fit.

All belong to something that never changes (a segment, a published version, a version at an epoch), so a cached
value is never wrong, only unused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ragstone.adapters.postgres.database import Connection, fetch_one
from ragstone.adapters.postgres.filter_sql import condition
from ragstone.core.errors import Unavailable, no_longer_kept
from ragstone.core.filters import Filter, to_json
from ragstone.core.nouns import LexicalSpec
from ragstone.core.ports import View
from ragstone.index.bm25 import Mask, Scorer, Statistics, TermPostings, TermScores, term_scores
from ragstone.index.caches import ByteCache
from ragstone.index.postings import Postings, unpack

MISSING = """
select (select array_agg(segment_id order by segment_id) from segment where corpus_id = %(corpus)s
        and index_id = %(index)s) as segments, w.term, w.segment_id, p.bytes
from (select unnest(%(terms)s::text[]) as term, unnest(%(segments)s::int[]) as segment_id) w
left join posting p on p.corpus_id = %(corpus)s and p.index_id = %(index)s and p.term = w.term
     and p.segment_id = w.segment_id
"""
LIVE = """
select coalesce(string_agg(int4send(seq), ''::bytea), ''::bytea) from live
where corpus_id = %s and index_id = %s and v_from <= %s and v_to > %s
"""
SELECTION = """
select coalesce(string_agg(int4send(p.seq), ''::bytea), ''::bytea)
from membership m
join document d on d.corpus_id = m.corpus_id and d.document_id = m.document_id
join docversion v on v.corpus_id = m.corpus_id and v.docversion_id = m.docversion_id
join placement p on p.corpus_id = m.corpus_id and p.docversion_id = m.docversion_id and p.index_id = %s
where m.corpus_id = %s and m.v_from <= %s and m.v_to > %s and {access} and {filter}
"""
ACCESS = "d.suppressed_at is null and d.acl_id in (select acl_id from acl where corpus_id = %s and principals && %s)"
EMPTY = unpack(b"")
ATTEMPTS = 3
# A term's scores of this size take about a millisecond.
SLICE_BYTES = 1_000_000
Place = tuple[bytes, bytes, int, int, int, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows a request may see: all live ones, or a mask of those that pass the filter and the access check."""

    mask: Mask
    count: int
    everything: bool

    def seqs(self) -> npt.NDArray[np.int64]:
        """The selected seqs, ascending."""
        return np.flatnonzero(self.mask)

    def holds(self, seqs: npt.NDArray[np.int64]) -> Mask:
        """Which of the given seqs are selected."""
        inside = (seqs >= 0) & (seqs < len(self.mask))
        held = np.zeros(len(seqs), dtype=np.bool_)
        held[inside] = self.mask[seqs[inside]]
        return held


class PostingsStore:
    """Reads through byte-bounded caches. What begins with `held_` never waits: None when something must be read."""

    def __init__(self, bytes_max: int) -> None:
        self.postings: ByteCache[tuple[bytes, bytes, int, str], Postings] = ByteCache(bytes_max // 8)
        self._scores: ByteCache[tuple[Any, ...], TermScores] = ByteCache(bytes_max // 4)
        self._masks: ByteCache[Place, Mask] = ByteCache(bytes_max // 4)
        self._selections: ByteCache[tuple[Any, ...], Selection] = ByteCache(bytes_max // 4)
        # What `search` worked out serves `score` of the same request.
        self._scorers: ByteCache[tuple[Any, ...], Scorer] = ByteCache(bytes_max // 8)
        self._segments: dict[tuple[bytes, bytes], tuple[int, ...]] = {}

    def held_selection(self, view: View, tree: Filter | None) -> Selection | None:
        """What the request may see, if it is known."""
        live = self._masks.get(place_of(view))
        if live is None or (tree is None and not view.restricted):
            return None if live is None else Selection(live, view.rows, everything=True)
        return self._selections.get(_selection_key(view, tree))

    def held_scorer(self, view: View, terms: tuple[tuple[str, int], ...]) -> Scorer | None:
        """The scorer of a question, if what each of its terms scores is known."""
        live = self._masks.get(place_of(view))
        key = (place_of(view), terms)
        scorer = self._scorers.get(key)
        if scorer is not None or live is None:
            return scorer
        known = [self._scores.get((place_of(view), term)) for term in terms]
        found = [held for held in known if held is not None]
        if len(found) < len(terms):
            return None
        scorer = Scorer(found, len(live))
        self._scorers.put(key, scorer, scorer.nbytes)
        return scorer

    async def scorer(
        self, connection: Connection, view: View, terms: tuple[tuple[str, int], ...], spec: LexicalSpec
    ) -> Scorer:
        """The scorer of a question."""
        live = await self.live(connection, view)
        place, stats = place_of(view), Statistics(view.rows, view.norms)
        known = {term: self._scores.get((place, term)) for term in terms}
        missing = [term for term, held in known.items() if held is None]
        for term, postings in zip(missing, await self.terms(connection, view, missing), strict=True):
            known[term] = held = term_scores(postings, live, stats, spec)
            self._scores.put((place, term), held, held.nbytes + 200)
            if held.nbytes > SLICE_BYTES:
                await asyncio.sleep(0)  # others get their turn between two terms that many rows hold
        return Scorer([held for held in known.values() if held is not None], len(live))

    async def live(self, connection: Connection, view: View) -> Mask:
        """`mask[seq]`: whether the row is live in the view's version."""
        mask = self._masks.get(place_of(view))
        if mask is None:
            params = (view.corpus_id, view.index_id, view.version, view.version)
            mask = _mask((await fetch_one(connection, LIVE, params, binary=True))[0])
            if np.count_nonzero(mask) != view.rows:
                await _refuse_collected(connection, view)
            self._masks.put(place_of(view), mask, mask.nbytes)
        return mask

    async def selection(self, connection: Connection, view: View, tree: Filter | None) -> Selection:
        """What the request may see; access is checked whenever any document of the corpus is not public."""
        live = await self.live(connection, view)
        found = self.held_selection(view, tree)
        if found is None:
            params: list[Any] = [view.index_id, view.corpus_id, view.version, view.version]
            params += [view.corpus_id, sorted(view.asker.principals)]
            where = condition(tree, "v.metadata", params) if tree else "true"
            row = await fetch_one(connection, SELECTION.format(access=ACCESS, filter=where), params, binary=True)
            mask = _mask(row[0], len(live))
            found = Selection(mask, int(np.count_nonzero(mask)), everything=False)
            self._selections.put(_selection_key(view, tree), found, mask.nbytes)
        return found

    async def terms(
        self, connection: Connection, view: View, terms: Sequence[tuple[str, int]]
    ) -> tuple[TermPostings, ...]:
        """The postings of the terms in the segments of one moment.

        A merge may replace segments between two reads: what is fetched carries the list of segments of the
        same snapshot, and when the list is not the one that was asked for, it is asked again.
        """
        place = (view.corpus_id, view.index_id)
        segments = self._segments.get(place, ())
        for _ in range(ATTEMPTS):
            found, now = await self._gather(connection, place, [term for term, _ in terms], segments)
            if now == segments:
                break
            segments = self._segments[place] = now
        else:
            # Never a score from half of the postings.
            raise Unavailable(
                "the postings are being merged faster than they can be read",
                doing="reading postings",
                next_step="ask again",
            )
        return tuple(
            TermPostings(term, count, tuple(piece for piece in found[term] if len(piece.seqs))) for term, count in terms
        )

    async def _gather(
        self, connection: Connection, place: tuple[bytes, bytes], terms: list[str], segments: tuple[int, ...]
    ) -> tuple[dict[str, list[Postings]], tuple[int, ...]]:
        found: dict[str, list[Postings]] = {term: [] for term in terms}
        wanted: list[tuple[str, int]] = []
        for term in terms:
            for segment in segments:
                piece = self.postings.get((*place, segment, term))
                if piece is None:
                    wanted.append((term, segment))
                else:
                    found[term].append(piece)
        # Always at least one row, so that the list of segments comes back.
        pairs = wanted or [("", -1)]
        names = {"corpus": place[0], "index": place[1]}
        cursor = await connection.execute(
            MISSING, {**names, "terms": [p[0] for p in pairs], "segments": [p[1] for p in pairs]}, binary=True
        )
        now: tuple[int, ...] = ()
        for listed, term, segment, packed in await cursor.fetchall():
            now = tuple(listed or ())
            if segment in now and segment in segments:
                piece = unpack(packed) if packed else EMPTY
                self.postings.put((*place, segment, term), piece, piece.nbytes + 200)
                found[term].append(piece)
        return found, now


def place_of(view: View) -> Place:
    """What never changes: a version, its statistics, and the epoch, which moves when something is mended."""
    return (view.corpus_id, view.index_id, view.version, view.epoch, view.rows, view.norms)


def _selection_key(view: View, tree: Filter | None) -> tuple[Any, ...]:
    spelled = msgspec.json.encode(to_json(tree)) if tree else b""
    return (place_of(view), view.asker.principals, spelled)


async def _refuse_collected(connection: Connection, view: View) -> None:
    """NotFound when retention has let the version go since the view was taken: never an answer from a part of it."""
    cursor = await connection.execute(
        "select 1 from version where corpus_id = %s and v = %s and collected_at is not null",
        (view.corpus_id, view.version),
    )
    if await cursor.fetchone():
        raise no_longer_kept(view.version)


def _mask(packed: bytes, size: int | None = None) -> Mask:
    seqs = np.frombuffer(packed, dtype=">i4").astype(np.int64)
    mask = np.zeros(size if size is not None else (int(seqs.max()) + 1 if len(seqs) else 0), dtype=np.bool_)
    mask[seqs] = True
    return mask
