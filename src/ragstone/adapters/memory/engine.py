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
from ragstone.core.errors import no_longer_kept
from ragstone.core.filters import Filter, matches, to_json
from ragstone.core.ids import ID_BYTES
from ragstone.core.ports import LegHits, LegName, Query, RowScores, Scores, Seqs, Vector, View
from ragstone.index.bm25 import Mask, Scorer, Statistics, TermScores, best, summed, term_scores, top
from ragstone.index.caches import ByteCache
from ragstone.index.near import NOTHING_NEAR, Near
from ragstone.index.vectors import cosines

if TYPE_CHECKING:
    import numpy.typing as npt

    from ragstone.adapters.memory.state import Corpus, State
    from ragstone.core.deadline import Deadline

CACHE_BYTES = 64 * 1024 * 1024
# A float32 dot product of unit vectors is off by at most dimensions * 6e-8: 1e-4 does for 1,600 dimensions.
MARGIN = 2e-4
# Below this share of the rows, copying theirs out is cheaper than comparing all.
GATHER_SHARE = 0.25
# What the dense leg found serves `score` of the same request: a few kilobytes for each that is under way.
NEAR_BYTES = 1_000_000
Place = tuple[bytes, bytes, int, int, int, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows a request may see, as a mask and as ascending seqs, with the inverse lengths of their vectors."""

    mask: Mask
    seqs: Seqs
    inverse: npt.NDArray[np.float32]
    everything: bool

    @classmethod
    def of(cls, index: Index, mask: Mask, seqs: Seqs, *, everything: bool) -> Selection:
        """With the lengths of an index; a vector of length zero is like nothing."""
        lengths = index.lengths[seqs]
        inverse = np.divide(1.0, lengths, out=np.zeros(len(seqs), np.float32), where=lengths > 0)
        return cls(mask, seqs, inverse, everything)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.mask.nbytes + self.seqs.nbytes + self.inverse.nbytes)


class MemoryEngine:
    """Implements the port Engine."""

    def __init__(self, state: State, cache_bytes: int = CACHE_BYTES) -> None:
        self._state = state
        self._live: ByteCache[Place, Selection] = ByteCache(cache_bytes // 4)
        self._selections: ByteCache[tuple[object, ...], Selection] = ByteCache(cache_bytes // 4)
        self._terms: ByteCache[tuple[object, ...], TermScores] = ByteCache(cache_bytes // 4)
        self._scorers: ByteCache[tuple[object, ...], Scorer] = ByteCache(cache_bytes // 4)
        self._near: ByteCache[tuple[object, ...], Near] = ByteCache(NEAR_BYTES)

    async def search(
        self, view: View, leg: LegName, query: Query, filters: Filter | None, depth: int, deadline: Deadline
    ) -> LegHits:
        """The best `depth` rows of one leg among those that pass the filter."""
        deadline.check(f"searching the {leg} leg")
        index, selection = self._index(view), self._selection(view, filters)
        if leg == "dense":
            return self._dense(view, index, query.vector, selection, depth)
        totals = self._scorer(view, index, query).totals()
        if not selection.everything:
            totals *= selection.mask
        seqs = best(totals, depth)
        return LegHits(seqs, totals[seqs], "postings", int(np.count_nonzero(totals)))

    def _dense(self, view: View, index: Index, vector: Vector, selection: Selection, depth: int) -> LegHits:
        near = _near(index, vector, selection, depth)
        scores = cosines(index.vectors[near], vector)
        found = Near(near, scores)
        self._near.put((_place(view), vector.tobytes()), found, found.nbytes + vector.nbytes)
        order = top(scores, depth)
        path = "exact" if selection.everything else "exact(filtered)"
        return LegHits(near[order], scores[order], path, len(selection.seqs))

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
        dense[seen] = self._cosines(view, index, query.vector, seqs[seen])
        return RowScores(
            bm25=summed(terms),
            dense=dense,
            terms=terms,
            idf=scorer.idf(),
            chunk_ids=_ids(index, seqs, seen, 0),
            text_hashes=_ids(index, seqs, seen, 1),
        )

    def _cosines(self, view: View, index: Index, vector: Vector, seqs: Seqs) -> Scores:
        """The cosines of the given rows; those that the dense leg of this request has scored are not computed again."""
        near = self._near.get((_place(view), vector.tobytes())) or NOTHING_NEAR
        found, new = near.known(seqs)
        found[new] = cosines(index.vectors[seqs[new]], vector)
        return found

    def _index(self, view: View) -> Index:
        return self._state.corpus(view.corpus_id).indexes[view.index_id]

    def _scorer(self, view: View, index: Index, query: Query) -> Scorer:
        key = (_place(view), query.terms)
        scorer = self._scorers.get(key)
        if scorer is None:
            scorer = Scorer(self._term_scores(view, index, query), len(self._everything(view).mask))
            self._scorers.put(key, scorer, scorer.nbytes)
        return scorer

    def _term_scores(self, view: View, index: Index, query: Query) -> list[TermScores]:
        place = _place(view)
        known = {term: self._terms.get((place, term)) for term in query.terms}
        if missing := [term for term, held in known.items() if held is None]:
            mask, stats = self._everything(view).mask, Statistics(view.rows, view.norms)
            for term, postings in zip(missing, index.postings(missing), strict=True):
                known[term] = held = term_scores(postings, mask, stats, index.recipe.lexical)
                self._terms.put((place, term), held, held.nbytes + 200)
        return [held for held in known.values() if held is not None]

    def _everything(self, view: View) -> Selection:
        found = self._live.get(_place(view))
        if found is None:
            index = self._index(view)
            mask = index.live(view.version)
            if np.count_nonzero(mask) != view.rows and self._collected(view):
                raise no_longer_kept(view.version)
            found = Selection.of(index, mask, np.flatnonzero(mask), everything=True)
            self._live.put(_place(view), found, found.nbytes)
        return found

    def _collected(self, view: View) -> bool:
        versions = self._state.corpus(view.corpus_id).versions
        return any(one.version == view.version and one.collected for one in versions)

    def _selection(self, view: View, tree: Filter | None) -> Selection:
        live = self._everything(view)
        if tree is None and not view.restricted:
            return live
        spelled = msgspec.json.encode(to_json(tree)) if tree else b""
        key = (_place(view), view.asker.principals, spelled)
        found = self._selections.get(key)
        if found is None:
            seqs = _passing(self._state.corpus(view.corpus_id), view, tree)
            found = Selection.of(self._index(view), mask_of(seqs, len(live.mask)), seqs, everything=False)
            self._selections.put(key, found, found.nbytes)
        return found


def _ids(index: Index, seqs: Seqs, seen: Mask, column: int) -> tuple[bytes, ...]:
    """Chunk ids (column 0) or text hashes (1) of rows; none of what may not be seen."""
    ids: list[bytes] = index.ids[seqs[seen]].view(f"V{ID_BYTES}")[:, column].tolist()
    if len(ids) == len(seqs):
        return tuple(ids)
    following = iter(ids)
    return tuple([next(following) if here else b"" for here in seen.tolist()])


def _place(view: View) -> Place:
    """What never changes: a version, its statistics, and the epoch, which moves when something is mended."""
    return (view.corpus_id, view.index_id, view.version, view.epoch, view.rows, view.norms)


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


def _near(index: Index, vector: Vector, selection: Selection, depth: int) -> Seqs:
    """The seqs that may be among the `depth` nearest, ascending; all that are, and few others."""
    seqs = selection.seqs
    if len(seqs) <= depth:
        return seqs
    size = int(seqs[-1]) + 1
    if len(seqs) == size:
        rough = index.vectors[:size] @ vector
    elif len(seqs) < GATHER_SHARE * size:
        rough = index.vectors[seqs] @ vector
    else:
        rough = (index.vectors[:size] @ vector)[seqs]
    rough *= selection.inverse
    cut = np.partition(rough, len(rough) - depth)[len(rough) - depth]
    # The question's own length scales every number alike, and the margin with them.
    near: Seqs = seqs[rough >= cut - MARGIN * float(np.linalg.norm(vector))]
    return near
