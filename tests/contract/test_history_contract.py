"""The contract of the port History, run by every backend: rollback and hold, deletion."""

from __future__ import annotations

from dataclasses import replace

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
    random_documents,
    start,
)

from ragstone.core.errors import Busy, CheckRefused, NotFound, UsageError
from ragstone.core.nouns import Asker

pytestmark = pytest.mark.asyncio(loop_scope="session")


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


async def test_a_source_that_went_back_sets_access_right(stack):
    """Opened by mistake, rolled back, and mended in the source: the document has the object version of before, and
    today's access list; so it counts as changed, and the next ingest closes it again."""
    corpus = fresh()
    mine = document("a", "oak", acl=("user:ann",))
    await Ingest(corpus, [mine]).into(stack)
    await Ingest(corpus, [replace(mine, object_version="2", source_order="2", acl=("public",))], order="2").into(stack)
    await roll(stack, corpus, "1")
    await stack.history.resume(TENANT, corpus)
    assert await found(stack, await stack.view(corpus), "oak") == {"a"}
    async with under_way(stack, corpus, order="3") as (run, _):
        assert (await stack.runs.documents(run))["a"].object_version != mine.object_version
    await Ingest(corpus, [replace(mine, source_order="4")], order="4").into(stack)
    async with under_way(stack, corpus, order="5") as (run, _):
        assert (await stack.runs.documents(run))["a"].object_version == mine.object_version
    for asker, seen in ((None, set()), ("user:ann", {"a"})):
        assert await found(stack, await stack.view(corpus, None, asker), "oak") == seen


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
