"""The sums that compare postings with texts: one bit anywhere is seen, and said of the right row."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstone.index.audit.postings import Named, PostingSums
from ragstone.index.audit.records import Differences, PackedPostings, RewriteRow, RewriteSegment
from ragstone.index.postings import LexicalRow, build

SIZE = 8


def rows_of(rng: random.Random) -> list[LexicalRow]:
    """A few rows with common and rare terms; some have no title."""
    rows = []
    for seq in range(SIZE - 2):
        title = Counter(rng.choices("abc", k=rng.randint(0, 2)))
        rows.append(LexicalRow(seq, Counter(rng.choices("abcdefgh", k=rng.randint(1, 30))) | title, title))
    return rows


def packed(rows: list[LexicalRow]) -> list[PackedPostings]:
    """The rows in two segments."""
    halves = (rows[:3], rows[3:])
    return [
        PackedPostings(term, at, n, data) for at, half in enumerate(halves) for term, n, data in build(half).packed()
    ]


def differing(rows: list[LexicalRow], pieces: list[PackedPostings]) -> tuple[list[int], Differences]:
    out, sums = Differences(), PostingSums(SIZE)
    sums.expect(rows)
    for piece in pieces:
        sums.find(piece, out)
    seqs = sums.differing()
    named = Named(seqs)
    for row in rows:
        if row.seq in seqs:
            named.expect(row.seq, f"row-{row.seq}", row)
    for piece in pieces:
        named.find(piece)
    named.into(out)
    return seqs.tolist(), out


@given(st.integers(0, 2**32))
def test_what_is_packed_from_the_rows_differs_in_nothing(seed: int):
    """Rows and their own postings agree, whatever the order in which either comes."""
    rng = random.Random(seed)
    rows = rows_of(rng)
    pieces = packed(rows)
    rng.shuffle(pieces)
    seqs, out = differing(rows[::-1], pieces)
    assert (seqs, out.kept) == ([], [])


@given(st.integers(0, 2**32))
def test_one_bit_anywhere_is_seen(seed: int):
    """One turned bit of any posting is a difference of the row that it was of; the repair is to write that row."""
    rng = random.Random(seed)
    rows = rows_of(rng)
    pieces = packed(rows)
    at = rng.randrange(len(pieces))
    one = pieces[at]
    place = rng.randrange(len(one.packed))
    data = bytearray(one.packed)
    data[place] ^= 1 << rng.randrange(8)
    pieces[at] = PackedPostings(one.term, one.segment, one.rows, bytes(data))
    owner = [row for row in (rows[:3], rows[3:])[one.segment] if one.term in row.joined]
    column = place // 4 if place < 4 * one.rows else place % one.rows
    seqs, out = differing(rows, pieces)
    assert owner[column].seq in seqs
    assert {each.name for each in out.kept} == {f"row-{seq}" for seq in seqs}
    assert RewriteRow(owner[column].seq) in out.remedies
    assert any(repr(one.term) in each.detail for each in out.kept)


def test_what_is_left_out_twice_or_unreadable_is_seen():
    """A piece that is gone, or there twice, or cut short, is a difference of every row in it."""
    rows = rows_of(random.Random(1))
    pieces = packed(rows)
    one = pieces[0]
    inside = [row.seq for row in rows[:3] if one.term in row.joined]
    assert differing(rows, pieces[1:])[0] == inside
    assert differing(rows, [*pieces, one])[0] == inside
    cut = PackedPostings(one.term, one.segment, one.rows, one.packed[:-1])
    seqs, out = differing(rows, [cut, *pieces[1:]])
    assert seqs == inside
    assert RewriteSegment(one.segment) in out.remedies


def test_rows_that_nobody_holds_count_for_nothing():
    """Postings of a row that is not compared are counted as dead and are no difference, also beyond every row."""
    rows = rows_of(random.Random(2))
    extra = [LexicalRow(seq, Counter("a"), Counter()) for seq in (SIZE - 1, SIZE + 5)]
    out, sums = Differences(), PostingSums(SIZE)
    sums.expect(rows)
    for piece in [*packed(rows), *packed(extra)]:
        sums.find(piece, out)
    assert (sums.differing().tolist(), sums.dead, out.kept) == ([], 2, [])


@pytest.mark.parametrize("count", [255, 256, 100_000])
def test_a_count_beyond_a_byte_is_compared_as_it_is_stored(count: int):
    """Counts above 255 are stored as 255, lengths in Lucene's one byte: neither is a difference."""
    row = LexicalRow(0, Counter({"a": count}), Counter())
    assert differing([row], packed([row]))[0] == []
