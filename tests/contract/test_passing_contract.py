"""A long scan and changes of single documents publish past each other: what is newer stays, in every order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from contract_stacks import Ingest, Stack, ask, document, fresh, ident, legs, staged, start

from ragstone.core.errors import Busy
from ragstone.index.records import QuarantineEntry
from ragstone.index.stage import publish

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Writing:
    """A run under way, in steps."""

    def __init__(self, stack: Stack, corpus: str, order: str, scope: str) -> None:
        self._stack = stack
        self._start = replace(start(corpus, order=order), scope=scope)
        self._order = order
        self._scope = scope

    async def begin(self, *documents, deleted=(), faults=(), examined=()) -> Writing:
        """Open the run and stage what it has read."""
        self.run = await self._stack.runs.begin(self._start)
        read = [replace(one, source_order=self._order) for one in documents]
        self.tally = (await staged(self._stack, self.run, read)).tally
        self._keys = [*examined, *(one.key for one in documents), *deleted, *(fault.key for fault in faults)]
        self._deleted, self._faults = deleted, faults
        return self

    async def publish(self):
        """Publish and close it."""
        done = await publish(
            self.run, self.tally, self._stack.publisher, self._stack.objects, self._deleted, self._faults,
            replaces_quarantine=self._scope == "scan", examined=self._keys,
        )  # fmt: skip
        await self._stack.runs.end(self.run, "published" if done else "unchanged")
        return done


def scan(stack: Stack, corpus: str, order: str) -> Writing:
    return Writing(stack, corpus, order, "scan")


def changes(stack: Stack, corpus: str, order: str) -> Writing:
    return Writing(stack, corpus, order, "changes")


def fault(key: str, version: str) -> QuarantineEntry:
    return QuarantineEntry(key, version, "invalid_utf8", "it is broken", "", "mend it")


async def words(stack: Stack, corpus: str) -> set[str]:
    """Which of the words that tests use are in some live row."""
    view = await stack.view(corpus)
    asked = ("oak", "river", "lamp", "moss", "bell")
    return {word for word in asked if (await legs(stack, view, await ask(word)))[0].matching}


@pytest.fixture
async def corpus(stack) -> str:
    """Two documents, read at 1."""
    name = fresh()
    await Ingest(name, [document("a", "oak"), document("b", "bell")]).into(stack)
    return name


async def held(stack: Stack, corpus: str) -> dict[str, str]:
    """Object version by key, of what is published."""
    run = await stack.runs.begin(replace(start(corpus, order="0"), scope="changes"))
    live = await stack.runs.documents(run)
    await stack.runs.end(run, "unchanged")
    return {key: one.object_version for key, one in live.items()}


async def test_a_change_is_not_undone_by_a_scan_that_began_before(stack, corpus):
    """The scan saw the document before the change; both publish, the change stays, the rest of the scan lands."""
    slow = await scan(stack, corpus, "2").begin(document("a", "river", version="2"), document("c", "moss"))
    quick = await changes(stack, corpus, "3").begin(document("a", "lamp", version="3"))
    assert (await quick.publish()).version == 2
    done = await slow.publish()
    assert (done.version, done.stale, slow.tally.stale) == (3, ("a",), ("a",))
    assert await held(stack, corpus) == {"a": "3", "b": "1", "c": "1"}


async def test_a_scan_that_publishes_first_does_not_keep_a_newer_change_out(stack, corpus):
    """The other order of publishing, the same outcome."""
    slow = await scan(stack, corpus, "2").begin(document("a", "river", version="2"), document("c", "moss"))
    quick = await changes(stack, corpus, "3").begin(document("a", "lamp", version="3"))
    assert await slow.publish()
    assert await quick.publish()
    assert await held(stack, corpus) == {"a": "3", "b": "1", "c": "1"}


async def test_what_a_newer_change_found_unchanged_is_not_overtaken(stack, corpus):
    """The scan read another content before it was put back; the change saw the content that is published: it stays."""
    slow = await scan(stack, corpus, "4").begin(
        document("a", "river", version="4"), document("c", "moss"), deleted=["b"]
    )
    assert await (await changes(stack, corpus, "5").begin(examined=["a", "b"])).publish() is None
    done = await slow.publish()
    assert done.stale == ("a",)
    assert await held(stack, corpus) == {"a": "1", "b": "1", "c": "1"}


async def test_a_scan_that_waited_is_older_than_one_that_did_not(stack, corpus):
    """It drew its order and read first, and began after a newer scan had ended: it changes nothing."""
    assert await (await scan(stack, corpus, "5").begin(deleted=["b"])).publish()
    late = await scan(stack, corpus, "4").begin(document("b", "moss", version="4"), document("n", "oak"), deleted=["a"])
    assert await late.publish() is None
    assert set(late.tally.stale) == {"b", "n"}
    assert await held(stack, corpus) == {"a": "1"}


async def test_a_change_from_before_the_scan_is_late(stack, corpus):
    """An old event that arrives after a newer scan changes nothing."""
    late = await changes(stack, corpus, "2").begin(document("a", "lamp", version="2"))
    assert await (await scan(stack, corpus, "3").begin(document("a", "river", version="3"))).publish()
    assert await late.publish() is None
    assert late.tally.stale == ("a",)
    assert await held(stack, corpus) == {"a": "3", "b": "1"}


@pytest.mark.parametrize("first", ["scan", "change"])
async def test_a_deletion_is_not_undone_by_a_scan_that_began_before(stack, corpus, first):
    """The scan read the document, then it was deleted: it does not come back with the scan."""
    slow = await scan(stack, corpus, "2").begin(document("a", "river", version="2"), document("c", "moss"))
    quick = await changes(stack, corpus, "3").begin(deleted=["a"])
    for one in (slow, quick) if first == "scan" else (quick, slow):
        assert await one.publish()
    assert await held(stack, corpus) == {"b": "1", "c": "1"}
    assert await (await scan(stack, corpus, "4").begin(document("a", "lamp", version="4"))).publish()
    assert (await held(stack, corpus))["a"] == "4"


async def test_what_a_change_added_is_not_deleted_by_a_scan_that_did_not_see_it(stack, corpus):
    """A scan's deletions reach only what is older than the scan."""
    slow = await scan(stack, corpus, "2").begin(deleted=["b", "n"])
    assert await (
        await changes(stack, corpus, "3").begin(document("n", "moss"), document("b", "lamp", version="3"))
    ).publish()
    assert await slow.publish() is None
    assert await held(stack, corpus) == {"a": "1", "b": "3", "n": "1"}


async def test_a_deletion_of_what_never_was_is_remembered_once_it_was(stack, corpus):
    """Deleted twice, read in between by an old scan: it stays deleted."""
    assert await (await changes(stack, corpus, "3").begin(deleted=["a"])).publish()
    assert await (await changes(stack, corpus, "5").begin(deleted=["a"])).publish() is None
    assert await (await scan(stack, corpus, "4").begin(document("a", "river", version="4"))).publish() is None
    assert await held(stack, corpus) == {"b": "1"}


async def test_rows_are_shared_across_the_two(stack, corpus):
    """Both replace one document and keep one of its chunks: no row is lost, none is live twice."""
    whole = document("w", "oak bell", "river", "lamp")
    await Ingest(corpus, [whole], order="2").into(stack)
    slow = await scan(stack, corpus, "3").begin(document("w", "oak bell", "river", "moss", version="3"))
    quick = await changes(stack, corpus, "4").begin(document("w", "oak bell", "lamp", "moss", version="4"))
    assert await quick.publish()
    assert await slow.publish() is None
    view = await stack.view(corpus)
    assert view.rows == 5
    again = await scan(stack, corpus, "5").begin(document("w", "oak bell", "river", "lamp", version="5"))
    assert await again.publish()
    assert (await stack.view(corpus)).rows == 5
    assert await words(stack, corpus) == {"oak", "river", "lamp", "bell"}


async def test_one_run_of_each_scope(stack, corpus):
    """A scan and changes at once, but not two of either; a dead one of one scope is not swept by the other."""
    slow = await scan(stack, corpus, "2").begin(document("c", "moss"))
    quick = await changes(stack, corpus, "3").begin(document("d", "lamp"))
    for scope in ("scan", "changes"):
        with pytest.raises(Busy, match="being ingested"):
            await stack.runs.begin(replace(start(corpus, order="4"), scope=scope))
    await stack.kill(quick.run)
    await (await changes(stack, corpus, "5").begin(document("e", "river"))).publish()
    with pytest.raises(Busy):
        await quick.publish()
    assert await slow.publish()
    assert set(await held(stack, corpus)) == {"a", "b", "c", "e"}


async def test_a_lost_run_publishes_no_deletion(stack, corpus):
    """A run that was taken for dead has nothing that counting would miss when it only deletes: it is told all the
    same."""
    asleep = await scan(stack, corpus, "9").begin(deleted=["a", "b"])
    await stack.kill(asleep.run)
    await (await scan(stack, corpus, "3").begin(document("a", "river", version="3"))).publish()
    with pytest.raises(Busy, match="took this source over"):
        await asleep.publish()
    assert await held(stack, corpus) == {"a": "3", "b": "1"}


async def test_quarantine_follows_what_is_newer(stack, corpus):
    """An old scan neither takes away what a newer change found, nor complains of what it mended."""
    slow = await scan(stack, corpus, "2").begin(document("b", "moss", version="2"), faults=[fault("a", "2")])
    quick = changes(stack, corpus, "3")
    await (await quick.begin(document("a", "river", version="3"), faults=[fault("q", "3")])).publish()
    await slow.publish()
    assert await stack.quarantine(ident(corpus)) == [("q", "3", "invalid_utf8")]
    await (await changes(stack, corpus, "4").begin(faults=[fault("b", "4")])).publish()
    assert {key for key, _, _ in await stack.quarantine(ident(corpus))} == {"b", "q"}
    await (await changes(stack, corpus, "5").begin(document("b", "lamp", version="5"))).publish()
    assert {key for key, _, _ in await stack.quarantine(ident(corpus))} == {"q"}
    await (await scan(stack, corpus, "6").begin()).publish()
    assert await stack.quarantine(ident(corpus)) == []


async def test_a_fault_that_is_found_again_is_as_new_as_that(stack, corpus):
    """An older change without it does not take it away."""
    await (await scan(stack, corpus, "2").begin(faults=[fault("q", "2")])).publish()
    late = await changes(stack, corpus, "4").begin(document("q", "moss"))
    await (await scan(stack, corpus, "5").begin(faults=[fault("q", "2")])).publish()
    await late.publish()
    assert await stack.quarantine(ident(corpus)) == [("q", "2", "invalid_utf8")]


async def test_the_clock_of_a_source_goes_forward(stack, corpus):
    """Orders follow the clock, and go on from the last one when the clock is behind it."""
    tenant = start(corpus).tenant
    orders = [await stack.runs.next_order(tenant, corpus, "docs", clock) for clock in (50, 90, 20, 20, 200)]
    assert [int(order) for order in orders] == [50, 90, 91, 92, 200]
    run = await stack.runs.begin(start(corpus, order=f"{500:020d}"))
    await stack.runs.end(run, "unchanged")
    assert int(await stack.runs.next_order(tenant, corpus, "docs", 1)) == 501
    assert await stack.runs.next_order(tenant, fresh(), "docs", 7) == f"{7:020d}"
    assert len(orders[0]) == 20
