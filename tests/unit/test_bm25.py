"""BM25, its postings and its length coding, against what others publish and against a second implementation."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ragstone.core.nouns import LexicalSpec
from ragstone.index.bm25 import Scorer, Statistics, TermPostings, best, idf, summed, term_scores, top
from ragstone.index.caches import ByteCache
from ragstone.index.lengths import LENGTHS, decode, encode
from ragstone.index.postings import LexicalRow, SegmentBuilder, build, merge, pack, unpack

SPEC = LexicalSpec()


def test_short_lengths_are_exact():
    """Lengths 0 to 39 stand for themselves, as in Lucene's SmallFloat."""
    assert [decode(encode(length)) for length in range(40)] == list(range(40))
    assert [encode(length) for length in range(40)] == list(range(40))


def test_lucene_known_points():
    """Known points of SmallFloat.intToByte4: coarser steps from 40 on, and the greatest int in the last byte."""
    table = {
        40: 40,
        41: 40,
        42: 42,
        55: 54,
        56: 56,
        57: 56,
        59: 56,
        60: 60,
        88: 88,
        95: 88,
        96: 96,
        1000: 984,
    }
    assert {length: decode(encode(length)) for length in table} == table
    assert encode(2**31 - 1) == 255
    assert decode(255) == 24 + (15 << 27)
    assert encode(-5) == 0


@given(st.integers(0, 2**31 - 1))
@example(23)
@example(24)
@example(39)
@example(40)
def test_length_coding(length):
    """A coded length is never longer, is off by less than an eighth, and codes to itself."""
    coded = decode(encode(length))
    assert coded <= length
    assert length - coded <= max(0, length - 24) / 8
    assert encode(coded) == encode(length)
    assert encode(length) <= encode(length + 1) <= encode(length) + 1


def test_all_codes():
    """The 256 lengths ascend strictly, and each is coded by its own byte."""
    assert (np.diff(LENGTHS) > 0).all()
    assert [encode(int(length)) for length in LENGTHS] == list(range(256))


def reference(rows, question, *, title_weight=0.25, k1=1.2, b=0.75, norms=None):
    """BM25 once more, from the formula, with plain loops: rows are (joined terms, title terms)."""
    n = len(rows)
    norms = norms or [max(sum(len(row[field]) for row in rows) / n, 1e-9) for field in (0, 1)]
    scores = []
    for row in rows:
        score = 0.0
        for field, weight in ((0, 1.0), (1, title_weight)):
            quantised = decode(encode(len(row[field])))
            for term, count in question.items():
                df = sum(term in other[field] for other in rows)
                tf = min(255, row[field].count(term))
                if df:
                    rarity = math.log(1 + (n - df + 0.5) / (df + 0.5))
                    norm = k1 * (1 - b + b * quantised / norms[field])
                    score += weight * count * rarity * tf / (tf + norm)
        scores.append(score)
    return scores


def lexical(seq, row):
    return LexicalRow(seq, Counter(row[0]), Counter(row[1]))


def postings_of(rows, question, cuts=()):
    """The postings of a question's terms, the rows cut into segments at the given seqs."""
    bounds = [0, *sorted(cuts), len(rows)]
    segments = []
    for low, high in pairwise(bounds):
        packed = build(lexical(seq, rows[seq]) for seq in range(low, high)).packed()
        segments.append({term: unpack(data) for term, _, data in packed})
    return [
        TermPostings(term, count, tuple(held[term] for held in segments if term in held))
        for term, count in question.items()
    ]


def scorer(rows, question, live=None, cuts=(), *, spec=SPEC, norms=None):
    live = np.ones(len(rows), bool) if live is None else live
    kept = [row for row, alive in zip(rows, live, strict=False) if alive]
    norms = norms or tuple(sum(len(row[field]) for row in kept) / max(1, len(kept)) for field in (0, 1))
    stats = Statistics(len(kept), norms)
    terms = postings_of(rows, question, cuts)
    return Scorer([term_scores(term, live, stats, spec) for term in terms], len(live))


TERMS = st.sampled_from("abcde")
TITLES = st.lists(TERMS, max_size=3)
ROWS = st.lists(
    st.builds(lambda title, text: (title + text, title), TITLES, st.lists(TERMS, max_size=60)),
    min_size=1,
    max_size=12,
)
QUESTIONS = st.dictionaries(st.sampled_from("abcdex"), st.integers(1, 3), max_size=4)


@given(ROWS, QUESTIONS, st.data())
@example([(["a"] * 300, [])], {"a": 1}, None)
@example([(["a"], ["a"]), (["b"], [])], {"x": 1}, None)
def test_scores_are_the_formula(rows, question, data):
    """Over any rows, dead rows, segments and question the scorer gives what twenty lines of loops give."""
    live = np.ones(len(rows), bool)
    cuts = []
    if data is not None:
        live = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
        cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=2))
    totals = scorer(rows, question, live, cuts).totals()
    kept = [row for row, alive in zip(rows, live, strict=True) if alive]
    expected = np.zeros(len(rows))
    if kept:
        expected[live] = reference(kept, question)
    assert np.allclose(totals, expected, rtol=1e-12, atol=1e-12)


@given(ROWS, QUESTIONS)
def test_totals_are_the_sum_of_terms(rows, question):
    """Adding up the terms of a row gives its total to the last bit, for one row and for many."""
    found = scorer(rows, question)
    totals = found.totals()
    every = np.arange(len(rows))
    assert np.array_equal(summed(found.by_term(every)), totals)
    for seq in every[:3]:
        assert summed(found.by_term(np.array([seq])))[0] == totals[seq]


def test_many_terms_add_up_in_one_order():
    """Sixty-four terms of one row add up to the very number that the totals hold."""
    rng = np.random.default_rng(5)
    words = [f"t{n}" for n in range(64)]
    rows = [(rng.choice(words, 200).tolist(), []) for _ in range(50)]
    found = scorer(rows, dict.fromkeys(words, 1))
    totals = found.totals()
    for seq in range(50):
        assert summed(found.by_term(np.array([seq])))[0] == totals[seq]


def test_rows_beyond_the_mask_do_not_count():
    """Postings of rows that a version does not know yet change neither df nor scores."""
    rows = [(["a", "b"], ["a"]), (["a"], []), (["b"], [])]
    later = [*rows, (["a"] * 9, ["a"]), (["b"], ["b"])]
    question = {"a": 1, "b": 2}
    live = np.ones(3, bool)
    old = scorer(rows, question, live)
    new = scorer(later, question, live, norms=(4 / 3, 1 / 3))
    assert np.array_equal(old.totals(), new.totals())
    assert np.array_equal(old.idf(), new.idf())


def test_a_title_counts_again():
    """A term in the title adds a quarter of its weight in the titles alone; with weight 0 it adds nothing."""
    rows = [(["a", "b"], ["a"]), (["a", "c"], ["c"]), (["d", "d"], [])]
    with_title = scorer(rows, {"a": 1}).totals()
    without = scorer(rows, {"a": 1}, spec=LexicalSpec(title_weight=0.0)).totals()
    assert with_title[0] > with_title[1] == without[1] == without[0] > 0
    assert with_title[2] == 0


def test_idf():
    """A term in every row still has a weight above zero; a rarer one has more."""
    assert idf(10, 10) == pytest.approx(math.log(1 + 0.5 / 10.5))
    assert [idf(100, df) for df in (1, 5, 50, 100)] == sorted((idf(100, df) for df in (1, 5, 50, 100)), reverse=True)
    assert idf(100, 100) > 0


@given(st.lists(st.sampled_from([0.0, 1.0, 1.5, 2.0, -1.0]), max_size=30), st.integers(1, 12))
def test_best_and_top(scores, depth):
    """The greatest come first and ties by position; `best` leaves out what is not above zero."""
    array = np.array(scores, dtype=np.float64)
    ranked = sorted(range(len(scores)), key=lambda at: (-scores[at], at))
    assert top(array, depth).tolist() == ranked[:depth]
    assert best(array, depth).tolist() == [at for at in ranked if scores[at] > 0][:depth]


@given(ROWS)
def test_packed_postings_come_back(rows):
    """Packing and unpacking loses nothing, and eight bytes keep a row."""
    terms = [term for term, _, _ in build(lexical(seq, row) for seq, row in enumerate(rows)).packed()]
    assert terms == sorted({term for row in rows for term in row[0]})
    for term, n, data in build(lexical(seq, row) for seq, row in enumerate(rows)).packed():
        held = unpack(data)
        assert len(data) == 8 * n == held.nbytes
        assert pack(held) == data
        assert held.seqs.tolist() == [seq for seq, row in enumerate(rows) if term in row[0]]
        for column, field in ((held.tf, 0), (held.title_tf, 1)):
            assert column.tolist() == [rows[seq][field].count(term) for seq in held.seqs.tolist()]
        assert [decode(code) for code in held.length.tolist()] == [
            decode(encode(len(rows[s][0]))) for s in held.seqs.tolist()
        ]


@pytest.mark.parametrize("size", [1, 7, 12])
def test_torn_postings_are_refused(size):
    """Bytes that are no whole number of rows are an error, not a guess."""
    with pytest.raises(ValueError, match=str(size)):
        unpack(bytes(size))
    assert len(unpack(b"").seqs) == 0


def test_counts_beyond_a_byte():
    """A term that stands 300 times is kept as 255: BM25 is flat there."""
    (_, _, data), *_ = build([LexicalRow(3, Counter({"a": 300}), Counter({"a": 299}))]).packed()
    held = unpack(data)
    assert (held.tf.tolist(), held.title_tf.tolist(), held.seqs.tolist()) == ([255], [255], [3])


def test_merge_orders_and_drops():
    """Merged postings ascend by seq and are the rows of all pieces, less those that are not kept."""
    pieces = []
    for seqs in ([4, 9], [1, 7], [5]):
        builder = SegmentBuilder()
        for seq in seqs:
            builder.add(LexicalRow(seq, Counter({"a": seq}), Counter()))
        pieces.extend(unpack(data) for _, _, data in builder.packed())
    whole = merge(pieces)
    assert whole.seqs.tolist() == whole.tf.tolist() == [1, 4, 5, 7, 9]
    keep = np.ones(10, bool)
    keep[[4, 9]] = False
    assert merge(pieces, keep).seqs.tolist() == [1, 5, 7]


def test_the_cache_forgets_the_least_used():
    """A byte cache never holds more than its bytes: out goes what was used longest ago, and nothing too large comes in."""
    cache: ByteCache[str, int] = ByteCache(100)
    for name in "abc":
        cache.put(name, ord(name), 30)
    assert cache.get("a") == 97
    cache.put("d", 100, 30)
    assert [cache.get(name) for name in "abcd"] == [97, None, 99, 100]
    cache.put("e", 101, 101)
    assert cache.get("e") is None
    cache.put("a", 98, 60)
    assert cache.bytes <= 100
    assert cache.get("a") == 98
    assert (cache.hits, cache.misses) == (5, 2)
