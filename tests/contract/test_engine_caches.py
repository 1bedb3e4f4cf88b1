"""What an engine keeps belongs to one version at one epoch: an engine that has answered answers every other one anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from contract_stacks import (
    Ingest,
    ask,
    document,
    document_ident,
    found,
    fresh,
    ident,
    legs,
    questions,
    random_documents,
    soon,
)  # fmt: skip

from ragstone.index.caches import ByteCache

PAGES = [document(f"d{n}", f"granite quarry {'stone ' * n}lamp", title="Stones") for n in range(1, 7)]


async def scores(stack, view, query):
    """Every number of a question: both lists and the exact scores."""
    bm25, dense = await legs(stack, view, query)
    seqs = np.union1d(bm25.seqs, dense.seqs)
    exact = await stack.engine.score(view, query, seqs, soon())
    lists = [(leg.seqs.tolist(), leg.scores.tolist(), leg.matching) for leg in (bm25, dense)]
    return lists, exact.terms.tolist(), exact.idf.tolist(), exact.dense.tolist()


async def test_each_version_has_its_own_scores(stack):
    """Asked in turn, a version gives what it gave alone: rows that came later change neither idf nor lists."""
    corpus = fresh("caches")
    await Ingest(corpus, PAGES[:3]).into(stack)
    query = await ask("granite stone lamp")
    first = await stack.view(corpus, "1")
    alone = await scores(stack, first, query)
    await Ingest(corpus, PAGES[3:], order="2").into(stack)
    second = await stack.view(corpus)
    both = await scores(stack, second, query)
    assert both[0][0][2] == 6
    assert both[2] != alone[2]
    assert await scores(stack, first, query) == alone
    assert await scores(stack, second, query) == both


async def test_counts_of_a_word_are_told_apart(stack):
    """A word asked twice weighs twice, though the engine has scored it once already."""
    corpus = fresh("caches")
    await Ingest(corpus, PAGES).into(stack)
    view = await stack.view(corpus)
    (once, _), (twice, _) = [await legs(stack, view, await ask(text)) for text in ("stone", "stone stone")]
    assert once.seqs.tolist() == twice.seqs.tolist()
    assert (2 * once.scores).tolist() == twice.scores.tolist()


async def test_two_questions_at_once_keep_their_own_vectors(stack):
    """What the dense leg of one question has scored is not taken for another's."""
    corpus = fresh("caches")
    await Ingest(corpus, PAGES).into(stack)
    view = await stack.view(corpus)
    queries = [await ask("granite stone"), await ask("lamp quarry")]
    alone = [await scores(stack, view, query) for query in queries]
    for query in queries:
        await legs(stack, view, query)
    seqs = np.array(sorted(alone[0][0][1][0]))
    for query, (_, terms, _, dense) in zip(queries, alone, strict=True):
        exact = await stack.engine.score(view, query, seqs, soon())
        assert exact.dense.tolist() == dense
        assert exact.terms.tolist() == terms


async def test_what_is_hidden_is_gone_at_the_next_question(stack):
    """An engine that has answered shows nothing of a document once it is suppressed."""
    corpus = fresh("caches")
    await Ingest(corpus, PAGES).into(stack)
    assert "d4" in await found(stack, await stack.view(corpus), "granite stone")
    await stack.suppress(ident(corpus), document_ident(corpus, "d4"))
    assert await found(stack, await stack.view(corpus), "granite stone") == {f"d{n}" for n in (1, 2, 3, 5, 6)}


def held(engine) -> int:
    """The bytes of all that an engine keeps, whatever its caches believe."""
    parts = (engine, getattr(engine, "_store", None))
    caches = [each for part in parts if part for each in vars(part).values() if isinstance(each, ByteCache)]
    assert len(caches) > 4
    values = [value for cache in caches for value, _ in cache._entries.values()]
    return sum(value.mask.nbytes if hasattr(value, "mask") else value.nbytes for value in values)


async def test_caches_keep_to_their_bytes(stack):
    """However many questions are asked, an engine with little memory holds no more than that, and answers alike."""
    corpus = fresh("caches")
    await Ingest(corpus, random_documents(31, 150)).into(stack)
    view = await stack.view(corpus)
    budget = 60_000
    small, large = (replace(stack, engine=stack.new_engine(size)) for size in (budget, 1 << 26))
    for question in questions(32, 40):
        query = await ask(question)
        assert await scores(small, view, query) == await scores(large, view, query)
    # What the dense leg found for the latest requests is a constant beside the budget.
    near = sum(value.nbytes for value, _ in small.engine._near._entries.values())
    assert near < 1_000_000
    assert held(small.engine) - near <= budget
    assert held(large.engine) > 3 * budget, "nothing had to be let go: it was no test"
