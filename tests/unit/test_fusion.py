"""Fusion: the score follows from the record, whatever order the candidates come in."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ragstone.core.errors import UsageError
from ragstone.core.evidence import FusionRecord
from ragstone.retrieve.fusion import LEGS, contribution, fuse
from ragstone.retrieve.profile import METHODS, Profile, checked_method

SCORES = st.sampled_from([0.0, 1.0, 0.1, 0.30000000000000004, 12.5]) | st.floats(0, 30)


@st.composite
def candidates(draw):
    """Scores and ranks of both legs and distinct chunk ids; a leg's ranks follow its scores."""
    n = draw(st.integers(1, 12))
    scores = {leg: np.array(draw(st.lists(SCORES, min_size=n, max_size=n))) for leg in LEGS}
    ranks = {}
    for leg in LEGS:
        depth = draw(st.integers(0, n))
        ranks[leg] = np.zeros(n, np.int64)
        ranks[leg][np.argsort(-scores[leg], kind="stable")[:depth]] = np.arange(1, depth + 1)
    ids = draw(st.permutations([bytes([number]) * 16 for number in range(n)]))
    return scores, ranks, ids


PROFILES = st.builds(
    Profile, fusion=st.sampled_from(METHODS), bm25_weight=st.floats(0, 3), dense_weight=st.floats(0, 3)
)


def same(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9)


@given(candidates(), PROFILES)
def test_the_score_follows_from_the_record(given_candidates, profile):
    """The record, written out and read back, and the raw leg scores give each score again within 1e-12."""
    scores, ranks, ids = given_candidates
    fused = fuse(scores, ranks, ids, profile)
    record = msgspec.json.decode(msgspec.json.encode(fused.record), type=FusionRecord)
    again = {leg: contribution(leg, scores[leg], ranks[leg], record) for leg in LEGS}
    for at in range(len(ids)):
        assert abs(math.fsum(again[leg][at] for leg in LEGS) - fused.score[at]) <= 1e-12


@given(candidates(), PROFILES, st.randoms(use_true_random=False))
def test_order_of_candidates_does_not_matter(given_candidates, profile, random):
    """Candidates in another order get the same scores; where scores differ, the same order comes out."""
    scores, ranks, ids = given_candidates
    fused = fuse(scores, ranks, ids, profile)
    turn = list(range(len(ids)))
    random.shuffle(turn)
    turned = fuse(
        {leg: scores[leg][turn] for leg in LEGS},
        {leg: ranks[leg][turn] for leg in LEGS},
        [ids[at] for at in turn],
        profile,
    )
    for at, origin in enumerate(turn):
        assert same(turned.score[at], fused.score[origin])
    ranked = [fused.score[at] for at in fused.order]
    again = [fused.score[turn[at]] for at in turned.order]
    assert all(same(left, right) for left, right in zip(ranked, again, strict=True))


@given(candidates(), PROFILES)
def test_order_is_by_score_then_chunk_id(given_candidates, profile):
    """Every candidate comes once, best first, equals by chunk id."""
    scores, ranks, ids = given_candidates
    fused = fuse(scores, ranks, ids, profile)
    pairs = [(-fused.score[at], ids[at]) for at in fused.order]
    assert pairs == sorted(pairs)
    assert sorted(fused.order.tolist()) == list(range(len(ids)))


@pytest.mark.parametrize("method", ["z", "minmax"])
@given(value=st.floats(0, 30), n=st.integers(1, 20))
@example(value=0.1, n=3)
@example(value=0.30000000000000004, n=7)
def test_a_leg_of_equal_scores_adds_nothing(method, value, n):
    """Where a leg gives all candidates one score its deviation is 0 and it contributes 0, not noise blown up."""
    scores = {"bm25": np.full(n, value), "dense": np.linspace(0, 1, n)}
    ranks = {leg: np.arange(1, n + 1) for leg in LEGS}
    fused = fuse(scores, ranks, [bytes([at]) for at in range(n)], Profile(fusion=method))
    assert not fused.contributions["bm25"].any()
    assert fused.record.deviation["bm25"] == 0.0
    assert np.array_equal(fused.score, fused.contributions["dense"])


def test_z_is_the_standard_score():
    """z is (score - mean) / population deviation, weighted and added up."""
    scores = {"bm25": np.array([1.0, 2.0, 6.0]), "dense": np.array([0.9, 0.1, 0.5])}
    ranks = {leg: np.array([1, 2, 3]) for leg in LEGS}
    fused = fuse(scores, ranks, [b"a", b"b", b"c"], Profile(bm25_weight=2.0))
    deviation = math.sqrt((4 + 1 + 9) / 3)
    other = math.sqrt((0.16 + 0.16) / 3)
    expected = [
        2 * (1 - 3) / deviation + 0.4 / other,
        2 * (2 - 3) / deviation - 0.4 / other,
        2 * 3 / deviation,
    ]
    assert fused.score == pytest.approx(expected)
    assert fused.order.tolist() == [2, 0, 1]
    assert (fused.record.n, fused.record.mean["bm25"]) == (3, 3.0)


def test_rrf_uses_ranks_alone():
    """Reciprocal ranks: 1 / (60 + rank) for each list that holds the candidate, nothing where none does."""
    scores = {leg: np.array([5.0, 9.0, 1.0]) for leg in LEGS}
    ranks = {"bm25": np.array([2, 1, 0]), "dense": np.array([1, 0, 0])}
    fused = fuse(scores, ranks, [b"a", b"b", b"c"], Profile(fusion="rrf", dense_weight=0.5))
    assert fused.score.tolist() == pytest.approx([1 / 62 + 0.5 / 61, 1 / 61, 0.0])


def test_one_leg_alone():
    """A profile of one leg ranks by that leg's score."""
    scores = {"bm25": np.array([1.0, 3.0]), "dense": np.array([0.9, 0.2])}
    ranks = {leg: np.array([1, 2]) for leg in LEGS}
    assert fuse(scores, ranks, [b"a", b"b"], Profile(fusion="bm25")).order.tolist() == [1, 0]
    assert fuse(scores, ranks, [b"a", b"b"], Profile(fusion="dense")).order.tolist() == [0, 1]


def test_minmax_spans_zero_to_the_weight():
    """Min-max gives the best of a leg its weight and the worst nothing."""
    scores = {"bm25": np.array([2.0, 4.0, 3.0]), "dense": np.zeros(3)}
    ranks = {leg: np.zeros(3, np.int64) for leg in LEGS}
    fused = fuse(scores, ranks, [b"a", b"b", b"c"], Profile(fusion="minmax", bm25_weight=2.0))
    assert fused.score.tolist() == [0.0, 2.0, 1.0]


def test_nothing_to_fuse():
    """No candidates give an empty order and a record without numbers that mean nothing."""
    empty = {leg: np.zeros(0) for leg in LEGS}
    fused = fuse(empty, {leg: np.zeros(0, np.int64) for leg in LEGS}, [], Profile())
    assert len(fused.order) == len(fused.score) == 0
    assert (fused.record.n, fused.record.mean["bm25"]) == (0, 0.0)


def test_unknown_methods_are_refused():
    """A method that does not exist is a usage error that lists those that do."""
    with pytest.raises(UsageError, match="'average'") as caught:
        checked_method("average")
    assert all(method in caught.value.next_step for method in METHODS)
    assert [checked_method(method) for method in METHODS] == list(METHODS)
