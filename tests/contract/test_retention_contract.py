"""What retention removes and what it spares, and postings that stay few and alive; run by every backend."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from contract_history import picture, published, remove, roll, three_versions, under_way
from contract_stacks import (
    TENANT,
    Ingest,
    ask,
    document,
    found,
    fresh,
    ident,
    legs,
    questions,
    random_documents,
    staged,
    start,
)

from ragstone.core.errors import NotFound
from ragstone.index.records import Retention

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_retention_removes_what_no_kept_version_holds(stack):
    """Rows, texts and document versions of expired versions go; kept ones read as before, to the last bit."""
    corpus = fresh()
    await three_versions(stack, corpus)
    kept = {version: await picture(stack, corpus, version) for version in ("2", "3")}
    before = await stack.rows(ident(corpus))
    done = await stack.history.collect(ident(corpus), Retention(2), force=True)
    assert (done.oldest, done.versions, done.documents) == (2, 1, 15)
    assert await stack.rows(ident(corpus)) == before - done.rows
    assert 0 < done.texts <= done.rows
    for version, seen in kept.items():
        assert await picture(stack, corpus, version) == seen
    for read in (stack.view(corpus, "1"), roll(stack, corpus, "1")):
        with pytest.raises(NotFound, match="version 1 is no longer kept; the oldest that is is 2"):
            await read
    again = await stack.history.collect(ident(corpus), Retention(2), force=True)
    assert (again.versions, again.rows, again.oldest) == (0, 0, 2)


async def test_retention_waits_until_it_is_worth_it(stack):
    """Without force nothing is removed before a tenth of what is kept has expired."""
    corpus = fresh()
    for number in range(14):
        await Ingest(corpus, [document("a", f"oak {number}", version=str(number), order=f"{number:02}")]).into(stack)
        await Ingest(corpus).into(stack)
    idle = await stack.history.collect(ident(corpus), Retention(13), force=False)
    assert (idle.versions, idle.oldest, await stack.rows(ident(corpus))) == (1, 2, 13)
    idle = await stack.history.collect(ident(corpus), Retention(30), force=False)
    assert (idle.versions, idle.rows) == (0, 0)


async def test_retention_spares_what_runs_under_way_count_on(stack):
    """A run may reuse the rows of the version it began with, and has rows of its own that nobody sees; what a dead
    run left goes."""
    corpus = fresh()
    whole = document("a", "oak one", "oak two", "oak three")
    await Ingest(corpus, [whole]).into(stack)
    dead = await stack.runs.begin(start(corpus, source="dead"))
    await staged(stack, dead, [document("x", "lost words")])
    await stack.kill(dead)
    changed = document("a", "oak one", "oak two", "oak four", version="2", order="5")
    async with under_way(stack, corpus, changed, order="5") as (run, tally):
        only = document("a", "moss", version="3", order="2")
        async with under_way(stack, corpus, only, order="2", scope="changes") as (single, its):
            assert await published(stack, single, its, replaces_quarantine=False)
        done = await stack.history.collect(ident(corpus), Retention(1), force=True)
        assert (done.oldest, done.rows, done.texts) == (1, 0, 0)
        assert await published(stack, run, tally)
    view = await stack.view(corpus)
    assert (view.version, view.rows) == (3, 3)
    done = await stack.history.collect(ident(corpus), Retention(1), force=True)
    assert (done.oldest, done.rows) == (3, 2)
    assert await found(stack, view, "oak four moss lost") == {"a"}
    assert await stack.rows(ident(corpus)) == 3


async def test_rows_that_were_never_published_go_too(stack):
    """A document that lost against a newer one leaves rows in no version."""
    corpus = fresh()
    async with under_way(stack, corpus, document("a", "old", order="1"), document("b", "oak", order="1")) as (
        run,
        tally,
    ):
        newer = document("a", "new", version="2", order="2")
        async with under_way(stack, corpus, newer, order="2", scope="changes") as (single, its):
            await published(stack, single, its, replaces_quarantine=False)
        done = await published(stack, run, tally)
        assert done.stale == ("a",)
    assert await stack.rows(ident(corpus)) == 3
    assert (await stack.history.collect(ident(corpus), Retention(), force=True)).rows == 1
    assert await stack.rows(ident(corpus)) == 2


async def test_fifty_small_publishes(stack):
    """Segments stay few, dead rows are a bounded share, and scores are those of a corpus that was built at once."""
    corpus, twin = fresh(), fresh()
    documents = random_documents(21, 80, chunks=2)
    await Ingest(corpus, documents).into(stack)
    view = await stack.view(corpus)
    for number in range(50):
        at = number * 4 % 80
        some = [
            replace(one, key=documents[at + n].key, object_version=f"v{number}", source_order=f"2{number:02}")
            for n, one in enumerate(random_documents(100 + number, 4, chunks=2))
        ]
        documents[at : at + 4] = some
        await Ingest(corpus, some, order=f"2{number:02}").into(stack)
        await stack.history.collect(ident(corpus), Retention(3), force=True)
        await stack.publisher.maintain(view.corpus_id, view.index_id)
        assert await stack.segments(ident(corpus)) <= 8
    alive = await stack.rows(ident(corpus))
    assert alive <= 160 + 3 * 8
    posted = await stack.posted(ident(corpus))
    assert len(posted) <= alive * 1.25 + 8 * 8
    # The norms were frozen on the way, so both are read with those of the fresh one.
    await Ingest(twin, documents).into(stack)
    one, other = await stack.view(corpus), await stack.view(twin)
    assert (one.version, one.rows) == (51, other.rows)
    one = replace(one, norms=other.norms)
    for question in questions(7, 20):
        query = await ask(question)
        for ours, theirs in zip(await legs(stack, one, query, 500), await legs(stack, other, query, 500), strict=True):
            assert np.array_equal(np.sort(ours.scores), np.sort(theirs.scores))


async def test_a_reader_of_a_version_that_is_let_go_is_told(stack):
    """Never an answer from what is left of it."""
    corpus = fresh()
    await Ingest(corpus, random_documents(1, 10)).into(stack)
    view = await stack.view(corpus)
    replaced = [replace(one, object_version="2", source_order="2") for one in random_documents(2, 9)]
    await Ingest(corpus, replaced, order="2").into(stack)
    await stack.history.collect(ident(corpus), Retention(1), force=True)
    with pytest.raises(NotFound, match="version 1 is no longer kept"):
        await legs(replace(stack, engine=stack.new_engine()), view, await ask("stone"))


async def test_a_deletion_outlives_its_versions(stack):
    """Retention has let every version of the document go: the deletion stands, and can still be taken back."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak"), document("b", "oak")]).into(stack)
    await remove(stack, corpus, "a")
    await Ingest(corpus, [document("b", "river", version="2", order="2")], order="2").into(stack)
    await stack.history.collect(ident(corpus), Retention(1), force=True)
    async with under_way(stack, corpus, order="3") as (run, _):
        assert await stack.runs.withheld(run) == {"a"}
    assert await stack.history.restore(TENANT, corpus, "a") is True
    await Ingest(corpus, [document("a", "oak", version="4", order="4")], order="4").into(stack)
    assert await found(stack, await stack.view(corpus), "oak") == {"a", "b"}


async def test_texts_go_with_the_last_row_that_has_them(stack):
    """Also those that an earlier collection had to leave, beside a run, and those of runs that failed."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak one")]).into(stack)
    async with under_way(stack, corpus, document("x", "of a failed run"), source="other"):
        await Ingest(corpus, [document("a", "oak two", version="2", order="2")], order="2").into(stack)
        assert (await stack.history.collect(ident(corpus), Retention(1), force=True)).texts == 0
    await Ingest(corpus, [document("a", "oak three", version="3", order="3")], order="3").into(stack)
    done = await stack.history.collect(ident(corpus), Retention(1), force=True)
    assert (done.rows, done.texts) == (1 + (done.versions == 2), 3)


async def test_each_corpus_is_merged(stack):
    """Corpora with one recipe do not keep each other from merging."""
    corpora = [fresh(), fresh()]
    for number in range(12):
        publishes = [
            Ingest(corpus, [document(f"d{number}", f"oak {number}", order=f"{number:02}")], order=f"{number:02}").into(
                stack
            )
            for corpus in corpora
        ]
        await asyncio.gather(*publishes)
    for corpus in corpora:
        assert await stack.segments(ident(corpus)) <= 9


async def test_a_merge_whose_rows_all_went(stack):
    """Every row of every segment is gone: so are the segments."""
    corpus = fresh()
    for number in range(9):
        await Ingest(corpus, [document("a", f"oak {number}", version=f"{number}", order=f"{number:02}")], order=f"{number:02}",
                     maintain=False).into(stack)  # fmt: skip
    view = await stack.view(corpus)
    await Ingest(corpus, deleted=["a"], order="99", maintain=False).into(stack)
    await stack.history.collect(ident(corpus), Retention(1), force=True)
    assert await stack.rows(ident(corpus)) == 0
    await stack.publisher.maintain(view.corpus_id, view.index_id)
    assert (await stack.segments(ident(corpus)), await stack.posted(ident(corpus))) == (0, set())
