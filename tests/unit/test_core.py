"""Ids, money, deadlines, nouns, words and texts: what everything else stands on."""

from __future__ import annotations

import asyncio
import socket
import time
import uuid

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ragstone.core import errors, ids
from ragstone.core.compute import Compute, cores
from ragstone.core.deadline import Deadline
from ragstone.core.money import usd
from ragstone.core.nouns import Asker, ChunkingSpec, EmbeddingSpec, LexicalSpec, Recipe
from ragstone.core.texts import passage_input, place_line
from ragstone.core.tokens import TERM_CHARS_MAX, analyze, query_terms
from ragstone.index import merkle
from ragstone.index.vectors import cosines, stored

PARTS = st.lists(st.text(max_size=4) | st.binary(max_size=4), max_size=4).map(tuple)


@given(PARTS, PARTS)
@example(("ab", "c"), ("a", "bc"))
@example(("a", ""), ("", "a"))
@example(("a",), ("a", ""))
@example(("\ud800",), ("?",))
def test_ids_keep_parts_apart(left, right):
    """Two lists of parts have one id only when they are the same bytes in the same parts."""
    raw = [
        tuple(p.encode("utf-8", "surrogatepass") if isinstance(p, str) else p for p in parts) for parts in (left, right)
    ]
    assert (ids.make_id("test", *left) == ids.make_id("test", *right)) is (raw[0] == raw[1])


def test_kinds_keep_ids_apart():
    """The same parts under two kinds, or two secrets, are two ids; the same once more is the same."""
    assert ids.make_id("chunk", "a") != ids.make_id("row", "a")
    assert ids.keyed_digest(b"1" * 32, "leaf", "a") != ids.keyed_digest(b"2" * 32, "leaf", "a")
    assert ids.keyed_digest(b"1" * 32, "leaf", "a") != ids.keyed_digest(b"1" * 32, "root", "a")
    corpus = ids.corpus_id("t", "c")
    assert len(corpus) == 16
    assert corpus == ids.corpus_id("t", "c") != ids.corpus_id("tc", "")
    assert ids.document_id(ids.source_id(corpus, "s"), "k") != ids.document_id(ids.source_id(corpus, "sk"), "")
    assert len(ids.content_version(b"")) == 32


def test_ids_are_for_ever():
    """Ids are what they were when the first index was built."""
    assert ids.make_id("text", "stone").hex() == ids.text_hash("stone").hex() == "8e4908089c660b3594834f89bfac8e68"
    assert ids.corpus_id("default", "default").hex() == "ee31e43070fcbcd14c016ca86fc764bd"


def test_uuid7_sorts_by_time():
    """Ids of later moments are greater, carry their moment, and are of version 7 (RFC 9562)."""
    made = [ids.uuid7(ms) for ms in (0, 1, 1_700_000_000_000, 2**48 - 1)]
    assert made == sorted(made)
    assert [ids.uuid7_unix_ms(one) for one in made] == [0, 1, 1_700_000_000_000, 2**48 - 1]
    assert {(one.version, one.variant) for one in made} == {(7, uuid.RFC_4122)}
    assert len({ids.uuid7(5) for _ in range(1000)}) == 1000
    assert abs(ids.uuid7_unix_ms(ids.uuid7()) - time.time() * 1000) < 5_000


@pytest.mark.parametrize(
    ("micro", "text"),
    [(0, "0.000000"), (1, "0.000001"), (1_500_000, "1.500000"), (-1, "-0.000001"), (-2_000_001, "-2.000001")],
)
def test_money(micro, text):
    """Micro-dollars are written as exact decimals, below zero too."""
    assert usd(micro) == text


@given(st.integers(-(10**18), 10**18))
def test_money_loses_nothing(micro):
    """What is written is what was counted."""
    assert int(usd(micro).replace(".", "")) == micro


def test_a_deadline():
    """A deadline counts down to zero and not below, and refuses work once it has passed."""
    deadline = Deadline.after(60)
    deadline.check("anything")
    assert 59 < deadline.left_s <= 60
    late = Deadline.after(-1)
    assert late.left_s == 0
    with pytest.raises(errors.DeadlineExceeded, match="while searching"):
        late.check("searching")


def test_errors_say_what_to_do():
    """An error's text has the fault, what was being done and the next step; every class has its own codes."""
    text = str(errors.UsageError("no such field", doing="checking the filter", next_step="use another"))
    assert text == "no such field while checking the filter\n  next: use another"
    assert str(errors.Busy("held")) == "held"
    codes = {
        errors.Busy: (75, 503), errors.Unavailable: (1, 503), errors.DeadlineExceeded: (1, 504),
        errors.UsageError: (2, 400), errors.NotFound: (2, 404), errors.CheckRefused: (3, 409),
        errors.IntegrityError: (1, 500), errors.ResourceExhausted: (1, 507),
    }  # fmt: skip
    assert {kind: (kind.exit_code, kind.http_status) for kind in codes} == codes
    rejected = errors.DocumentRejected("too large", reason="too_large", field="text")
    assert (rejected.reason, rejected.field) == ("too_large", "text")


@pytest.mark.parametrize("words", [None, "", " , "])
def test_everybody_is_public(words):
    """Who says nothing is `public`; who says something is `public` as well."""
    assert Asker.of(words) == Asker()
    assert Asker.of(" user:ann,group:hr ,").principals == {"public", "user:ann", "group:hr"}


EMBEDDING = EmbeddingSpec("m", "d", 8, 512, "mean")


@pytest.mark.parametrize(
    ("spec", "change"),
    [
        *((ChunkingSpec(), {name: "x"}) for name in ("parser", "chunker", "tokenizer")),
        *((ChunkingSpec(), {name: 7}) for name in ("tokens_max", "tokens_target", "tokens_min")),
        *((LexicalSpec(), {name: 0.5}) for name in ("k1", "b", "title_weight")),
        (LexicalSpec(), {"analyzer": "x"}),
        *((EMBEDDING, {name: "x"}) for name in ("digest", "pooling", "query_prefix", "precision", "runtime")),
        *((EMBEDDING, {name: 7}) for name in ("dimensions", "tokens_max")),
    ],
)
def test_any_change_is_another_id(spec, change):
    """A recipe's id changes with everything that changes its chunks, terms or vectors."""
    from dataclasses import replace

    other = replace(spec, **change)
    assert other.id != spec.id
    parts = {"chunking": ChunkingSpec(), "lexical": LexicalSpec(), "embedding": EMBEDDING}
    name = next(key for key, part in parts.items() if type(part) is type(spec))
    assert Recipe(**{**parts, name: other}).index_id != Recipe(**{**parts, name: spec}).index_id


def test_words():
    """Words are lower case stems without stop words; identifiers are kept whole beside their parts."""
    assert analyze("The running dogs") == ["run", "dog"]
    assert analyze("Order-7781 in foo_bar.py") == [
        "order",
        "7781",
        "foo",
        "bar",
        "py",
        "order-7781",
        "foo_bar.py",
    ]
    assert analyze("well-known") == ["well", "known"]
    assert analyze("the of and") == analyze("!? \x00 \U0001faa8") == analyze("") == []
    assert analyze("\uff2fAK") == analyze("oak") == ["oak"]
    assert analyze("Über") == ["über"]
    assert len(analyze("x" * 500)[0]) == TERM_CHARS_MAX


def test_question_terms():
    """A question's terms are distinct, counted, in order of appearance and bounded."""
    assert query_terms("oak river oaks") == (("oak", 2), ("river", 1))
    assert len(query_terms(" ".join(f"w{n}" for n in range(200)), limit=5)) == 5
    assert query_terms("") == ()


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_title_is_in_the_joined_text(title, text):
    """Every term of a title is a term of what is tokenised of its chunk: the postings of titles rely on it."""
    assert set(analyze(title)) <= set(analyze(passage_input(title, (), text)))


def test_place_lines():
    """A chunk's place names title and headings once each, on one line; without any the text stands alone."""
    assert place_line(" Travel\n guide ", ("Meals", "Meals", "Travel guide")) == "Travel guide > Meals"
    assert passage_input("", (), "text") == "text"
    assert passage_input("T", ("H",), "text") == "T > H\ntext"


def test_merkle_tree():
    """A bucket's digest takes its leaves in any order, an empty bucket is zeros, and only changed ones move."""
    secret = b"k" * 32
    leaves = [merkle.leaf(secret, bytes([n]), "1", [b"r"]) for n in range(3)]
    assert merkle.bucket_digest(secret, leaves) == merkle.bucket_digest(secret, leaves[::-1])
    assert merkle.bucket_digest(secret, []) == bytes(32)
    before = merkle.rebuild(secret, b"", {3: leaves})
    after = merkle.rebuild(secret, before, {3: [], 255: leaves})
    assert len(before) == 256 * 32
    assert after[255 * 32 :] == before[3 * 32 : 4 * 32]
    assert merkle.rebuild(secret, after, {255: []}) == merkle.rebuild(secret, b"", {})
    assert merkle.root(secret, before) != merkle.root(secret, after)
    assert merkle.leaf(secret, b"d", "1", [b"ab"]) != merkle.leaf(secret, b"d", "1", [b"a", b"b"])


def test_cosines_do_not_depend_on_neighbours():
    """A row's cosine is the same alone, among others and in any order; a zero vector has 0."""
    rng = np.random.default_rng(1)
    vectors = stored(rng.standard_normal((97, 384)).astype(np.float32)).astype(np.float32)
    vectors[5] = 0
    query = rng.standard_normal(384).astype(np.float32)
    every = cosines(vectors, query)
    assert every[5] == 0
    assert np.array_equal(cosines(vectors[::-1], query), every[::-1])
    assert all(cosines(vectors[at : at + 1], query)[0] == every[at] for at in range(97))
    assert cosines(vectors, vectors[0])[0] == pytest.approx(1.0, abs=1e-12)
    assert not cosines(vectors, np.zeros(384, np.float32)).any()


def test_no_test_reaches_another_machine():
    """The suite refuses every connection beyond this machine; loopback is refused by nobody but the other side."""
    for address in (("192.0.2.1", 443), ("example.org", 80)):
        with socket.socket() as opened, pytest.raises(OSError, match="a test may not reach"):
            opened.connect(address)
    with socket.socket(socket.AF_INET6) as opened, pytest.raises(OSError, match="a test may not reach"):
        opened.connect_ex(("2001:db8::1", 443, 0, 0))
    with socket.socket() as opened, pytest.raises(ConnectionRefusedError):
        opened.connect(("127.0.0.1", 1))


async def test_compute_is_bounded():
    """Work runs on as many threads as were asked for, and errors come back to the caller."""
    compute = Compute(2)
    running, most = 0, 0

    def work(value: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.01)
        running -= 1
        return value

    assert await asyncio.gather(*(compute.run(work, n) for n in range(8))) == list(range(8))
    assert most <= 2
    with pytest.raises(ValueError, match="invalid literal"):
        await compute.run(int, "x")
    compute.close()
    assert cores() >= 1
