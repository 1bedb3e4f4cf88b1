"""The contract of the Engine port, run by every engine: order, limits, scores, and that all engines agree."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import pytest_asyncio
from contract_situations import DOCUMENTS, SITUATIONS
from contract_stacks import (
    LEGS,
    Ingest,
    Stack,
    ask,
    document,
    fresh,
    ident,
    keys,
    legs,
    questions,
    random_documents,
    soon,
    staged,
    start,
)

from ragstone.core.deadline import Deadline
from ragstone.core.errors import DeadlineExceeded
from ragstone.core.ports import Query, View
from ragstone.core.tokens import analyze

pytestmark = pytest.mark.asyncio(loop_scope="session")

FILTER = 'year >= 2008 and lang = "en"'
HARMLESS = [
    "'; drop table ragstone.chunk; --",
    "oak & (river | !moss) <-> bell:*",
    "%s %(corpus)s {0} \\x00 $1 '' \"\"",
    'oak:AB* NEAR/3 "iron mill" -salt +wool',
    "null\x00byte oak",
]
EMPTY = ["", "   \n\t", "the of and", "?!…", "\U0001faa8"]


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=SITUATIONS)
async def twins(
    request: pytest.FixtureRequest, memory: Stack, postgres: Stack
) -> tuple[tuple[Stack, View], tuple[Stack, View]]:
    """The same random corpus of 270 rows in both engines, come to in one of several ways."""
    corpus = fresh(request.param)
    left, right = [(each, await SITUATIONS[request.param](each, corpus)) for each in (memory, postgres)]
    return left, right


@pytest.fixture(scope="session")
def random_view(stack: Stack, twins: tuple[tuple[Stack, View], tuple[Stack, View]]) -> View:
    return next(view for each, view in twins if each is stack)


@pytest.mark.parametrize("filters", [None, FILTER])
async def test_engines_agree(twins, filters):
    """Memory and PostgreSQL give the same rows in the same order with the same scores, filtered or not."""
    (memory, left), (postgres, right) = twins
    assert (left.version, left.rows, left.norms, left.fields) == (
        right.version, right.rows, right.norms, right.fields,
    )  # fmt: skip
    for question in questions(seed=3, count=60):
        query = await ask(question)
        for ours, theirs in zip(
            await legs(memory, left, query, 25, filters),
            await legs(postgres, right, query, 25, filters),
            strict=True,
        ):
            assert (ours.path, ours.matching, ours.shortfall) == (
                theirs.path,
                theirs.matching,
                theirs.shortfall,
            )
            assert np.array_equal(ours.seqs, theirs.seqs), question
            assert np.allclose(ours.scores, theirs.scores, rtol=0, atol=1e-6)


async def test_engines_score_alike(twins):
    """Memory and PostgreSQL give every candidate the same scores, terms, idf, chunk id and text hash."""
    (memory, left), (postgres, right) = twins
    for question in questions(seed=4, count=25):
        query = await ask(question)
        seqs = np.arange(0, 300, 7)
        ours = await memory.engine.score(left, query, seqs, soon())
        theirs = await postgres.engine.score(right, query, seqs, soon())
        for name in ("bm25", "dense", "terms", "idf"):
            assert np.allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-6), name
        assert ours.chunk_ids == theirs.chunk_ids
        assert ours.text_hashes == theirs.text_hashes


async def test_legs_are_ordered_and_limited(stack, random_view):
    """A leg returns at most `depth` rows, best first, ties by seq, and says how many could have matched."""
    for question in questions(seed=5, count=10):
        query = await ask(question)
        for depth in (1, 7, 1000):
            for leg, hits in zip(LEGS, await legs(stack, random_view, query, depth), strict=True):
                pairs = list(zip((-hits.scores).tolist(), hits.seqs.tolist(), strict=True))
                assert pairs == sorted(pairs)
                assert len(set(hits.seqs.tolist())) == len(pairs) == min(depth, hits.matching)
                assert hits.shortfall == 0
                assert leg == "dense" or (hits.scores > 0).all()
                assert leg == "bm25" or hits.matching == random_view.rows


async def test_equal_texts_tie_by_seq(stack):
    """Rows with equal scores come in order of seq, however many there are, and the cut falls at the same place."""
    corpus = fresh()
    await Ingest(corpus, [document(f"d{n:03d}", "oak river lamp") for n in range(60)]).into(stack)
    view = await stack.view(corpus)
    for hits in await legs(stack, view, await ask("oak river"), 10):
        assert len(set(hits.scores.tolist())) == 1
        assert hits.seqs.tolist() == sorted(hits.seqs.tolist())
        assert hits.seqs.tolist() == list(range(int(hits.seqs[0]), int(hits.seqs[0]) + 10))
    assert hits.seqs[0] == 0


async def test_score_equals_search(stack, random_view):
    """`score` gives a row the score that `search` gave it, to the last bit, whatever is asked beside it."""
    for question in questions(seed=6, count=20):
        query = await ask(question)
        bm25, dense = await legs(stack, random_view, query, 30)
        seqs = np.union1d(bm25.seqs, dense.seqs)
        scores = await stack.engine.score(random_view, query, seqs, soon())
        assert np.array_equal(scores.bm25[np.searchsorted(seqs, bm25.seqs)], bm25.scores)
        assert np.array_equal(scores.dense[np.searchsorted(seqs, dense.seqs)], dense.scores)
        alone = await stack.engine.score(random_view, query, seqs[3:4], soon())
        assert (alone.bm25[0], alone.dense[0]) == (scores.bm25[3], scores.dense[3])
        turned = await stack.engine.score(random_view, query, seqs[::-1].copy(), soon())
        assert np.array_equal(turned.bm25[::-1], scores.bm25)
        assert turned.chunk_ids[::-1] == scores.chunk_ids


async def test_terms_sum_to_bm25(stack, random_view):
    """What the terms add is the BM25 score, nothing else; a term of no weight adds nothing."""
    for question in questions(seed=9, count=20):
        query = await ask(question)
        seqs = (await legs(stack, random_view, query, 30))[0].seqs
        scores = await stack.engine.score(random_view, query, seqs, soon())
        assert scores.terms.shape == (len(query.terms), len(seqs))
        assert np.allclose(scores.terms.sum(axis=0), scores.bm25, rtol=0, atol=1e-12)
        assert (scores.terms >= 0).all()
        for row, (term, _) in enumerate(query.terms):
            assert term != "unknownword" or not scores.terms[row].any()


async def test_document_frequencies_are_exact_for_the_version(stack, random_view):
    """N and df count the live rows of the version: not those replaced, not those deleted."""
    query = await ask("quarry stone oak bellhouse unknownword")
    scores = await stack.engine.score(random_view, query, np.zeros(0, np.int64), soon())
    seqs = (await legs(stack, random_view, query, 1000))[1].seqs
    passages = (await stack.catalog.passages(random_view, seqs.tolist(), soon())).values()
    assert len(passages) == random_view.rows == 270
    for (term, _), idf in zip(query.terms, scores.idf.tolist(), strict=True):
        df = sum(term in analyze(f"{one.title}\n{one.text}") for one in passages)
        assert idf == pytest.approx(math.log(1 + (270 - df + 0.5) / (df + 0.5)), abs=1e-12), term


async def test_dense_scores_are_cosines(stack, random_view):
    """The dense leg is the cosine of what is kept, and finds exactly the nearest rows."""
    query = await ask("stoneyard riverlight wool wool oak")
    every = await stack.engine.search(random_view, "dense", query, None, 1000, soon())
    few = await stack.engine.search(random_view, "dense", query, None, 15, soon())
    assert len(every.seqs) == random_view.rows
    assert np.array_equal(few.seqs, every.seqs[:15])
    scaled = Query(query.terms, query.vector * np.float32(4))
    again = await stack.engine.search(random_view, "dense", scaled, None, 15, soon())
    assert np.array_equal(again.seqs, few.seqs)
    assert np.allclose(again.scores, few.scores, atol=1e-9)


async def test_at_most_depth_hits_cross_the_port(twins):
    """However many rows match, a leg hands over `depth` seqs and scores in two arrays, nothing per row."""
    for stack, view in twins:
        for hits in await legs(stack, view, await ask("stone river lamp oak iron salt"), 5):
            assert hits.matching > 50
            assert (hits.seqs.shape, hits.seqs.dtype) == ((5,), np.int64)
            assert (hits.scores.shape, hits.scores.dtype) == ((5,), np.float64)
            assert hits.seqs.nbytes + hits.scores.nbytes == 80


@pytest.mark.parametrize("question", HARMLESS)
async def test_query_syntax_is_harmless(stack, random_view, question):
    """SQL, search syntax and placeholders in a question are words, and words only."""
    query = await ask(question)
    for hits in await legs(stack, random_view, query, 10):
        scores = await stack.engine.score(random_view, query, hits.seqs, soon())
        assert len(scores.chunk_ids) == len(hits.seqs)
    every = await stack.engine.search(random_view, "dense", query, None, 1000, soon())
    assert len(every.seqs) == random_view.rows


@pytest.mark.parametrize("question", EMPTY)
async def test_a_question_without_terms(stack, random_view, question):
    """A question without words finds nothing by words, and still whatever is nearest."""
    query = await ask(question)
    assert query.terms == ()
    bm25, dense = await legs(stack, random_view, query, 10)
    assert (len(bm25.seqs), bm25.matching) == (0, 0)
    assert len(dense.seqs) == 10
    scores = await stack.engine.score(random_view, query, dense.seqs, soon())
    assert scores.terms.shape == (0, 10)
    assert not scores.bm25.any()


async def test_scoring_nothing(stack, random_view):
    """No rows give empty arrays, not an error."""
    query = await ask("stone oak")
    scores = await stack.engine.score(random_view, query, np.zeros(0, np.int64), soon())
    assert (len(scores.bm25), len(scores.dense), scores.chunk_ids) == (0, 0, ())
    assert scores.terms.shape == (2, 0)


async def test_a_passed_deadline(stack, random_view):
    """No leg, score or passage is looked up after the deadline."""
    late = Deadline.after(-1)
    query = await ask("stone")
    for leg in LEGS:
        with pytest.raises(DeadlineExceeded):
            await stack.engine.search(random_view, leg, query, None, 5, late)
    with pytest.raises(DeadlineExceeded):
        await stack.engine.score(random_view, query, np.arange(3), late)
    with pytest.raises(DeadlineExceeded):
        await stack.catalog.passages(random_view, [1], late)


async def test_an_unpublished_run_is_invisible(stack):
    """Rows of a run under way are in no leg, score, passage, df or document id; after the publish they are."""
    corpus, query = fresh(), await ask("oak river")
    await Ingest(corpus, [document(f"d{n}", f"oak river lamp {n}") for n in range(20)]).into(stack)
    view = await stack.view(corpus)
    before = await legs(stack, view, query)
    scores = await stack.engine.score(view, query, before[0].seqs, soon())
    run = await stack.runs.begin(start(corpus, source="other"))
    await staged(stack, run, [document(f"d{n}", "oak river", "oak") for n in range(20)])
    # A fresh engine has no cache to hide behind.
    view = await stack.view(corpus)
    for old, new in zip(before, await legs(stack, view, query), strict=True):
        assert np.array_equal(old.seqs, new.seqs)
        assert np.array_equal(old.scores, new.scores)
    again = await stack.engine.score(view, query, before[0].seqs, soon())
    assert np.array_equal(scores.idf, again.idf)
    hidden = await stack.engine.score(view, query, np.array([0, 25, 59, 10_000]), soon())
    assert [bool(chunk) for chunk in hidden.chunk_ids] == [True, False, False, False]
    assert [bool(text) for text in hidden.text_hashes] == [True, False, False, False]
    assert not hidden.bm25[1:].any()
    assert not hidden.dense[1:].any()
    assert not hidden.terms[:, 1:].any()
    passages = await stack.catalog.passages(view, [0, 25, 59, 10_000], soon())
    assert {seq: one.document_id for seq, one in passages.items()} == {0: "d0"}
    await stack.runs.end(run, "failed")
    await Ingest(corpus, [document(f"d{n}", "oak river", "oak") for n in range(20)], source="other").into(stack)
    assert (await legs(stack, await stack.view(corpus), query, 100))[0].matching == 60


async def test_a_segment_merge_changes_no_score(stack):
    """Postings in ten segments and the same merged give equal scores, bit for bit."""
    corpus, documents = fresh(), random_documents(seed=11, count=40)
    for number in range(10):
        part = documents[number * 4 : number * 4 + 4]
        await Ingest(corpus, part, order=str(number), maintain=False).into(stack)
    view = await stack.view(corpus)
    asked = [await ask(question) for question in questions(seed=12, count=15)]
    before = [await legs(stack, view, query, 30) for query in asked]
    assert await stack.segments(ident(corpus)) == 10
    await stack.publisher.maintain(view.corpus_id, view.index_id)
    assert await stack.segments(ident(corpus)) <= 8
    stack = replace(stack, engine=stack.new_engine())
    for query, old in zip(asked, before, strict=True):
        for left, right in zip(old, await legs(stack, view, query, 30), strict=True):
            assert np.array_equal(left.seqs, right.seqs)
            assert np.array_equal(left.scores, right.scores)


async def test_passages_are_what_was_published(stack, random_view):
    """A passage has the text, title, span, metadata and ids that its document was published with."""
    by_key = {one.key: one for one in DOCUMENTS}
    seqs = (await legs(stack, random_view, await ask("quarry"), 200))[0].seqs
    passages = await stack.catalog.passages(random_view, seqs.tolist(), soon())
    assert {"d0050", "d0060"} <= await keys(stack, random_view, seqs)
    for seq, one in passages.items():
        if one.key not in by_key or one.source_version != "1":
            continue
        origin = by_key[one.key]
        piece = origin.pieces[one.ordinal]
        assert (one.seq, one.text, one.start, one.end) == (seq, piece.text, piece.start, piece.end)
        assert (one.title, one.metadata, one.document_id) == (origin.title, origin.metadata, origin.key)
