"""The search engine in memory. Scores come from the same functions as on PostgreSQL; every path is exact.

The dense leg first compares in single precision to find who may be in the list, then scores those exactly:
the margin is wider than what single precision can be wrong by, so that nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ragstone.adapters.memory.columns import Index, mask_of
from ragstone.core.filters import Filter, matches, to_json
from ragstone.core.ports import LegHits, LegName, Query, RowScores, Seqs, Vector, View
from ragstone.index.bm25 import Mask, Scorer, Statistics, best, summed, top
from ragstone.index.caches import ByteCache
from ragstone.index.vectors import cosines

if TYPE_CHECKING:
    from ragstone.adapters.memory.state import Corpus, State
    from ragstone.core.deadline import Deadline

CACHE_BYTES = 64 * 1024 * 1024
# A float32 dot product of unit vectors is off by at most dimensions * 6e-8: 1e-4 does for 1,600 dimensions.
MARGIN = 2e-4
# Below this share of the rows, copying theirs out is cheaper than comparing all.
GATHER_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows a request may see, as a mask and as ascending seqs."""

    mask: Mask
    seqs: Seqs
    everything: bool


class MemoryEngine:
    """Implements the port Engine."""

    def __init__(self, state: State, cache_bytes: int = CACHE_BYTES) -> None:
        self._state = state
        self._live: ByteCache[tuple[bytes, bytes, int], Selection] = ByteCache(cache_bytes // 2)
        self._selections: ByteCache[tuple[object, ...], Selection] = ByteCache(cache_bytes // 2)

    async def search(
        self, view: View, leg: LegName, query: Query, filters: Filter | None, depth: int, deadline: Deadline
    ) -> LegHits:
        """The best `depth` rows of one leg among those that pass the filter."""
        deadline.check(f"searching the {leg} leg")
        index, selection = self._index(view), self._selection(view, filters)
        if leg == "dense":
            return _dense(index, query.vector, selection, depth)
        totals = self._scorer(view, index, query).totals()
        if not selection.everything:
            totals[~selection.mask] = 0.0
        seqs = best(totals, depth)
        return LegHits(seqs, totals[seqs], "postings", int(np.count_nonzero(totals)))

    async def score(self, view: View, query: Query, seqs: Seqs, deadline: Deadline) -> RowScores:
        """Exact scores of the given rows in both legs; a row that may not be seen has none, nor an id."""
        deadline.check("scoring candidates")
        index, mask = self._index(view), self._selection(view, None).mask
        seen = np.zeros(len(seqs), dtype=np.bool_)
        inside = (seqs >= 0) & (seqs < len(mask))
        seen[inside] = mask[seqs[inside]]
        terms = np.zeros((len(query.terms), len(seqs)))
        scorer = self._scorer(view, index, query)
        terms[:, seen] = scorer.by_term(seqs[seen])
        dense = np.zeros(len(seqs))
        dense[seen] = cosines(index.vectors[seqs[seen]], query.vector)
        rows = [index.rows[seq] if here else None for seq, here in zip(seqs.tolist(), seen.tolist(), strict=True)]
        return RowScores(
            bm25=summed(terms),
            dense=dense,
            terms=terms,
            idf=scorer.idf(),
            chunk_ids=tuple(row.chunk_id if row else b"" for row in rows),
            text_hashes=tuple(row.text_hash if row else b"" for row in rows),
        )

    def _index(self, view: View) -> Index:
        return self._state.corpus(view.corpus_id).indexes[view.index_id]

    def _scorer(self, view: View, index: Index, query: Query) -> Scorer:
        stats = Statistics(view.rows, view.norms)
        return Scorer(index.postings(query.terms), self._everything(view).mask, stats, index.recipe.lexical)

    def _everything(self, view: View) -> Selection:
        key = (view.corpus_id, view.index_id, view.version)
        found = self._live.get(key)
        if found is None:
            mask = self._index(view).live(view.version)
            found = Selection(mask, np.flatnonzero(mask), everything=True)
            self._live.put(key, found, mask.nbytes + found.seqs.nbytes)
        return found

    def _selection(self, view: View, tree: Filter | None) -> Selection:
        live = self._everything(view)
        if tree is None and not view.restricted:
            return live
        spelled = msgspec.json.encode(to_json(tree)) if tree else b""
        key = (view.corpus_id, view.index_id, view.version, view.epoch, view.asker.principals, spelled)
        found = self._selections.get(key)
        if found is None:
            seqs = _passing(self._state.corpus(view.corpus_id), view, tree)
            mask = mask_of(seqs, len(live.mask))
            found = Selection(mask, seqs, everything=False)
            self._selections.put(key, found, mask.nbytes + seqs.nbytes)
        return found


def _passing(corpus: Corpus, view: View, tree: Filter | None) -> Seqs:
    """The seqs of the documents that may be read and pass the filter."""
    passed = [np.zeros(0, np.int64)]
    for document in corpus.documents.values():
        member = document.at(view.version)
        if member is None or not document.readable(view.asker.principals):
            continue
        docversion = corpus.docversions[member.docversion_id]
        if tree is None or matches(tree, docversion.staged.metadata):
            passed.append(docversion.seqs)
    return np.unique(np.concatenate(passed))


def _dense(index: Index, vector: Vector, selection: Selection, depth: int) -> LegHits:
    near = _near(index, vector, selection.seqs, depth)
    scores = cosines(index.vectors[near], vector)
    order = top(scores, depth)
    path = "exact" if selection.everything else "exact(filtered)"
    return LegHits(near[order], scores[order], path, len(selection.seqs))


def _near(index: Index, vector: Vector, seqs: Seqs, depth: int) -> Seqs:
    """The seqs that may be among the `depth` nearest, ascending; all that are, and few others."""
    if len(seqs) <= depth:
        return seqs
    size = int(seqs[-1]) + 1
    few = len(seqs) < GATHER_SHARE * size
    dots = index.vectors[seqs] @ vector if few else (index.vectors[:size] @ vector)[seqs]
    lengths = index.lengths[seqs] * np.linalg.norm(vector)
    rough = np.divide(dots, lengths, out=np.zeros(len(seqs), np.float32), where=lengths > 0)
    cut = np.partition(rough, len(rough) - depth)[len(rough) - depth]
    near: Seqs = seqs[rough >= cut - MARGIN]
    return near
