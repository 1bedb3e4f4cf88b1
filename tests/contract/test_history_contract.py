"""The contract of the port History, run by every backend: rollback and hold, deletion, retention."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from contract_stacks import (
    TENANT,
    Ingest,
    Stack,
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

from ragstone.core.errors import Busy, CheckRefused, NotFound, UsageError
from ragstone.core.nouns import Asker
from ragstone.index.records import Retention
from ragstone.index.stage import delete, publish, rollback

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def roll(stack: Stack, corpus: str, to: str):
    return await rollback(stack.history, stack.objects, TENANT, corpus, to)


async def remove(stack: Stack, corpus: str, name: str):
    return await delete(stack.history, stack.objects, TENANT, corpus, name)


async def three_versions(stack: Stack, corpus: str) -> None:
    """Sixty documents; then ten replaced by longer ones, five gone; then ten more, and one back."""
    await Ingest(corpus, random_documents(1, 60)).into(stack)
    longer = [replace(one, object_version="2", source_order="2") for one in random_documents(2, 10, chunks=9)]
    longer = [replace(one, title=f"{one.title} much longer than the titles were before") for one in longer]
    await Ingest(corpus, longer, deleted=[f"d{n:04d}" for n in range(20, 25)], order="2").into(stack)
    more = [replace(one, key=f"e{one.key}", source_order="3") for one in random_documents(3, 10)]
    await Ingest(corpus, [*more, document("d0020", "stone again", version="3", order="3")], order="3").into(stack)


async def picture(stack: Stack, corpus: str, as_of: str | None = None) -> list[tuple[object, ...]]:
    """Which rows every question gets, with which scores."""
    view = await stack.view(corpus, as_of)
    seen: list[tuple[object, ...]] = [(view.rows, view.norms)]
    for question in questions(5, 8):
        hits = await legs(stack, view, await ask(question), 30)
        seen += [(one.seqs.tolist(), one.scores.tolist(), one.matching) for one in hits]
    return seen


@asynccontextmanager
async def under_way(stack: Stack, corpus: str, *documents, order: str = "9", scope: str = "scan", source: str = "docs"):
    """A run that has staged documents and not published."""
    begun = replace(start(corpus, order=order, source=source), scope=scope)
    run = await stack.runs.begin(begun)
    writer = await staged(stack, run, documents)
    try:
        yield run, writer.tally
    finally:
        await stack.runs.end(run, "failed")


async def published(stack: Stack, run, tally, deleted=(), **how):
    how = {"replaces_quarantine": True, **how}
    return await publish(run, tally, stack.publisher, stack.objects, deleted, (), **how)


@pytest.mark.parametrize("to", ["1", "2"])
async def test_a_rollback_serves_what_the_old_version_served(stack, to):
    """Same rows, same scores to the last bit, same Merkle root, as a new version; every version stays readable."""
    corpus = fresh()
    await three_versions(stack, corpus)
    then, last = await picture(stack, corpus, to), await picture(stack, corpus)
    assert then != last
    assert then[0] != last[0], "the norms have not drifted: it is no test of them"
    done = await roll(stack, corpus, to)
    assert done.version == 4
    assert await picture(stack, corpus) == then == await picture(stack, corpus, to)
    assert await picture(stack, corpus, "3") == last
    # Back again, to the state before the rollback.
    await roll(stack, corpus, "3")
    assert await picture(stack, corpus) == last


async def test_a_rollback_has_the_root_of_the_old_version(stack):
    """The same documents, the same proof."""
    corpus = fresh()
    first = await Ingest(corpus, random_documents(1, 30)).into(stack)
    await Ingest(corpus, [document("d0001", "moss", version="2", order="2")], deleted=["d0002"], order="2").into(stack)
    assert (await roll(stack, corpus, "1")).merkle_root == first.merkle_root


async def test_a_rollback_holds_until_resume(stack):
    """The next scan would publish again what was rolled back: runs are refused, at their begin and at their publish;
    one that was under way may not publish after `resume` either."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak")]).into(stack)
    await Ingest(corpus, [document("a", "river", version="2", order="2")], order="2").into(stack)
    async with under_way(stack, corpus, document("a", "lamp", version="3", order="3"), order="3") as (run, tally):
        await roll(stack, corpus, "1")
        with pytest.raises(CheckRefused, match="rolled back to version 1"):
            await published(stack, run, tally)
        with pytest.raises(CheckRefused, match="the corpus is held"):
            await stack.runs.begin(start(corpus, source="other"))
        assert "rolled back to version 1 (as version 3)" in await stack.history.resume(TENANT, corpus)
        with pytest.raises(Busy, match="rolled back while"):
            await published(stack, run, tally)
    assert await stack.history.resume(TENANT, corpus) == ""
    view = await stack.view(corpus)
    assert (view.version, await found(stack, view, "oak")) == (3, {"a"})
    assert await Ingest(corpus, [document("a", "river", version="2", order="4")], order="4").into(stack)


async def test_rolling_back_to_what_serves_changes_nothing(stack):
    """No version and no hold."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak")]).into(stack)
    assert await roll(stack, corpus, "1") is None
    assert (await stack.view(corpus)).version == 1
    assert await Ingest(corpus, [document("b", "oak")], order="2").into(stack)


@pytest.mark.parametrize("to", ["0", "9", "1999-01-01T00:00:00Z"])
async def test_rolling_back_to_nothing(stack, to):
    """A version that does not exist is said as such."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak")]).into(stack)
    with pytest.raises(NotFound, match="there is no version"):
        await roll(stack, corpus, to)
    with pytest.raises(NotFound, match="unknown corpus"):
        await roll(stack, fresh(), "1")


async def test_a_rollback_brings_no_right_and_no_deleted_document_back(stack):
    """Access and deletion are of today, whatever the version."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak"), document("b", "oak"), document("c", "oak")]).into(stack)
    secret = document("a", "oak oak", version="2", order="2", acl=("user:ann",))
    await Ingest(corpus, [secret], order="2").into(stack)
    await remove(stack, corpus, "b")
    done = await roll(stack, corpus, "1")
    assert (done.added, done.removed) == (1, 0)
    view = await stack.view(corpus)
    assert view.rows == 2
    assert await found(stack, view, "oak") == {"c"}
    assert await found(stack, await stack.view(corpus, None, "user:ann"), "oak") == {"a", "c"}


async def test_a_deleted_document_is_gone_from_every_version(stack):
    """Hidden at once in old versions too; the new one is without it, and counts without it."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak river", "oak"), document("b", "oak")]).into(stack)
    await Ingest(corpus, [document("b", "oak lamp", version="2", order="2")], order="2").into(stack)
    epoch = (await stack.view(corpus)).epoch
    done = await remove(stack, corpus, "docs:a")
    assert (done.version, done.removed, done.rows) == (3, 1, 1)
    view = await stack.view(corpus)
    assert (view.rows, view.restricted, view.epoch > epoch) == (1, True, True)
    for version in ("1", "2", "3"):
        assert await found(stack, await stack.view(corpus, version), "oak river") == {"b"}
    assert (await legs(stack, view, await ask("oak")))[0].matching == 1


async def test_a_deleted_document_stays_out_of_ingests_until_it_is_restored(stack):
    """Its source still has it: a run is told to leave it out, and a run that staged it before does not publish it."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak"), document("b", "oak")]).into(stack)
    async with under_way(stack, corpus, document("a", "oak oak", version="2", order="2"), order="2") as (run, tally):
        assert await stack.runs.withheld(run) == frozenset()
        await remove(stack, corpus, "a")
        assert await stack.runs.withheld(run) == {"a"}
        assert await published(stack, run, tally) is None
    assert await found(stack, await stack.view(corpus), "oak") == {"b"}
    assert await stack.history.restore(TENANT, corpus, "a") is True
    assert await stack.history.restore(TENANT, corpus, "a") is False
    assert await found(stack, await stack.view(corpus), "oak") == {"b"}
    assert await found(stack, await stack.view(corpus, "1"), "oak") == {"a", "b"}
    await Ingest(corpus, [document("a", "oak", version="3", order="3")], order="3").into(stack)
    assert await found(stack, await stack.view(corpus), "oak") == {"a", "b"}


async def test_deleting_what_only_an_old_version_holds(stack):
    """No new version is needed; the old ones hide it."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak"), document("b", "oak")]).into(stack)
    await Ingest(corpus, deleted=["a"], order="2").into(stack)
    assert await remove(stack, corpus, "a") is None
    assert await found(stack, await stack.view(corpus, "1"), "oak") == {"b"}
    assert (await stack.view(corpus)).version == 2


async def test_deleting_needs_a_name(stack):
    """Unknown, never published and ambiguous names are refused; nothing is hidden by mistake."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak")]).into(stack)
    await Ingest(corpus, [document("a", "oak")], source="other").into(stack)
    for name in ("z", "docs:z", ""):
        with pytest.raises(NotFound, match="unknown document"):
            await remove(stack, corpus, name)
    with pytest.raises(UsageError, match="docs:a, other:a"):
        await remove(stack, corpus, "a")
    assert not (await stack.view(corpus)).restricted


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


async def test_versions_are_published_in_order_of_time(stack):
    """A clock that jumped back does not make the newest version look older than the one before."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak")]).into(stack)
    await stack.postdate(ident(corpus), 1)
    await Ingest(corpus, [document("a", "river", version="2", order="2")], order="2").into(stack)
    first, second = await stack.view(corpus, "1"), await stack.view(corpus, "2")
    assert second.published_at > first.published_at
    assert (await stack.view(corpus, second.published_at)).version == 2


async def test_the_listing_hides_what_the_asker_may_not_know(postgres, library):
    """`versions diff` counts and names what the asker may read, exactly."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak", "lamp"), document("b", "oak"), document("c", "oak")]).into(postgres)
    secret = document("s", "oak", version="2", order="2", acl=("user:ann",))
    changed = document("a", "oak", "moss", "bell", version="2", order="2")
    await Ingest(corpus, [secret, changed, document("n", "oak", order="2")], deleted=["b"], order="2").into(postgres)
    for asker, added in ((None, ["n"]), ("user:ann,public", ["n", "s"])):
        diff = await library.diff(TENANT, corpus, Asker.of(asker), "1", None, 10)
        assert (diff.before, diff.after, diff.added, diff.removed, diff.changed) == (1, 2, len(added), 1, 1)
        assert [(one.document_id, one.change) for one in diff.items] == [
            ("a", "changed"), ("b", "removed"), *((key, "added") for key in added),
        ]  # fmt: skip
        first = diff.items[0]
        assert (first.before, first.after, first.chunks_before, first.chunks_after, first.chunks_shared) == (
            "1", "2", 2, 3, 1,
        )  # fmt: skip
    back = await library.diff(TENANT, corpus, Asker(), "2", "1", 1)
    assert (back.added, back.removed, back.changed, len(back.items)) == (1, 1, 1, 1)
    await remove(postgres, corpus, "n")
    assert (await library.diff(TENANT, corpus, Asker(), "1", "2", 9)).added == 0
