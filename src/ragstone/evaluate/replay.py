"""`replay`: legs' lists, fusion, selection, context and answer are decided again from the recorded numbers, by the
very functions that decided them, and must come out equal to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ragstone.core.errors import IntegrityError
from ragstone.core.evidence import CandidateColumns, Evidence, EvidenceText, LegRecord, RetrievalRecord
from ragstone.core.ports import RowScores
from ragstone.evaluate.replay_answer import answer_again
from ragstone.evaluate.replay_record import Difference, Replay
from ragstone.retrieve.fusion import LEGS, fuse
from ragstone.retrieve.profile import Profile
from ragstone.retrieve.selection import Selected, select

# The database finds the nearest rows in single precision: what is nearer to the cut than this may be on either side.
CUT_TOLERANCE = 1e-6
EXACT_PATHS = ("postings", "exact")
ERASED = "its words were erased: the quotes were not held to the passages"
HIT_FIELDS = ("rank", "candidate", "chunk_id")


def replay(record: Evidence, words: EvidenceText | None = None) -> Replay:
    """Decide a record again, with its words where they are still kept: then the quotes are held to the passages.

    A record of a failure has nothing to decide. IntegrityError for a record that is not whole.
    """
    if record.error is not None:
        return Replay((), ())
    try:
        return _replay(record, words)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # A record comes from outside: columns of unequal length or a name that is missing are its fault, not ours.
        raise IntegrityError(
            f"the record {record.id} is not whole: {error or type(error).__name__}",
            doing="deciding it again",
            next_step=f"look at what it holds: ragstone trace show {record.id} --json",
        ) from None


def is_exact(path: str) -> bool:
    """Whether a leg that took this path misses no row."""
    return path.startswith(EXACT_PATHS)


def _replay(record: Evidence, words: EvidenceText | None) -> Replay:
    retrieval, notes = record.retrieval, []
    again = _selected(retrieval, record.profile)
    differences = [
        *_legs(retrieval, record.profile),
        *_fusion(retrieval, again),
        *_page(retrieval, again),
    ]
    decided = ["legs", "fusion", "selection", "context"]
    if record.answer is not None:
        found, note = answer_again(record, words)
        decided.append("answer")
        differences += found
        notes += [note] if note else []
        notes += [] if words else [ERASED]
    return Replay(tuple(decided), tuple(differences), tuple(notes))


def _legs(recorded: RetrievalRecord, profile: dict[str, Any]) -> Iterator[Difference]:
    """Every leg's list: the best scores first, none left out by a path that misses none, no longer than allowed."""
    if sorted(leg.name for leg in recorded.legs) != sorted(LEGS):
        raise ValueError(f"its legs are not {' and '.join(LEGS)}")
    for leg in recorded.legs:
        ranks: list[int] = getattr(recorded.candidates, f"{leg.name}_rank")
        listed = sum(rank > 0 for rank in ranks)
        if leg.depth != profile["depth"]:
            yield Difference(f"legs.{leg.name}.depth", leg.depth, profile["depth"])
        if leg.returned != listed:
            yield Difference(f"legs.{leg.name}.returned", leg.returned, listed)
        for at, (old, new) in enumerate(zip(ranks, _ranks(recorded, leg), strict=True)):
            if old != new:
                yield Difference(f"candidates[{at}].{leg.name}_rank", old, new)


def _ranks(recorded: RetrievalRecord, leg: LegRecord) -> list[int]:
    """The rank of each candidate in a leg's list, from its score: ties by seq, as the engine has them."""
    columns = recorded.candidates
    scores: list[float] = getattr(columns, leg.name)
    was: list[int] = getattr(columns, f"{leg.name}_rank")
    inside = [at for at, rank in enumerate(was) if rank > 0]
    cut = min((scores[at] for at in inside), default=float("-inf"))
    if is_exact(leg.path):
        inside += [at for at, rank in enumerate(was) if rank <= 0 and scores[at] > cut + CUT_TOLERANCE]
    if leg.name == "bm25":
        inside = [at for at in inside if scores[at] > 0]
    order = sorted(inside, key=lambda at: (-scores[at], columns.seq[at]))[: leg.depth]
    ranks = [0] * len(scores)
    for rank, at in enumerate(order, 1):
        ranks[at] = rank
    return ranks


def _fusion(recorded: RetrievalRecord, again: Selected) -> Iterator[Difference]:
    columns = recorded.candidates
    for name in CandidateColumns.__struct_fields__:
        for at, (old, new) in enumerate(zip(getattr(columns, name), getattr(again.columns, name), strict=True)):
            if old != new:
                yield Difference(f"candidates[{at}].{name}", old, new)
    for name in type(recorded.fusion).__struct_fields__:
        old, new = getattr(recorded.fusion, name), getattr(again.fusion, name)
        if old != new:
            yield Difference(f"fusion.{name}", old, new)


def _page(recorded: RetrievalRecord, again: Selected) -> Iterator[Difference]:
    """The page: which candidates, under which rank, and each one's words adding up to its score."""
    context = [hit.candidate for hit in recorded.hits]
    if context != list(again.returned):
        yield Difference("context", context, list(again.returned))
    for place, hit in enumerate(recorded.hits):
        expected = (recorded.offset + place + 1, hit.candidate, recorded.candidates.chunk_id[hit.candidate])
        for name, new in zip(HIT_FIELDS, expected, strict=True):
            if getattr(hit, name) != new:
                yield Difference(f"hits[{place}].{name}", getattr(hit, name), new)
        # In the order of the question's terms, as the engine adds them up: equal to the last bit.
        total = sum(hit.terms.values(), 0.0)
        if total != recorded.candidates.bm25[hit.candidate]:
            yield Difference(f"hits[{place}].terms", total, recorded.candidates.bm25[hit.candidate])


def _selected(recorded: RetrievalRecord, profile: dict[str, Any]) -> Selected:
    columns = recorded.candidates
    chunk_ids = tuple(bytes.fromhex(each) for each in columns.chunk_id)
    # Equal texts are known by whom they stand for: the record keeps no hash of a text.
    group = [original if original >= 0 else at for at, original in enumerate(columns.duplicate_of)]
    scores = RowScores(
        bm25=np.array(columns.bm25, dtype=np.float64),
        dense=np.array(columns.dense, dtype=np.float64),
        terms=np.zeros((0, len(chunk_ids))),
        idf=np.zeros(0),
        chunk_ids=chunk_ids,
        text_hashes=tuple(str(each).encode() for each in group),
    )
    ranks = {
        "bm25": np.array(columns.bm25_rank, dtype=np.int64),
        "dense": np.array(columns.dense_rank, dtype=np.int64),
    }
    chosen = Profile(**profile)
    fused = fuse({"bm25": scores.bm25, "dense": scores.dense}, ranks, chunk_ids, chosen)
    seqs = np.array(columns.seq, dtype=np.int64)
    return select(seqs, scores, ranks, fused, recorded.offset, recorded.limit, collapse=chosen.collapse_duplicates)
