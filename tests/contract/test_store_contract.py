"""The contract of the ports Runs, Staging, Publisher, EmbeddingCache and ObjectStore, run by every backend."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from contract_stacks import (
    EMBEDDER,
    TENANT,
    Ingest,
    Stack,
    ask,
    document,
    document_ident,
    found,
    fresh,
    ident,
    legs,
    recipe,
    soon,
    staged,
    start,
)

from ragstone.core.errors import Busy, NotFound, UsageError
from ragstone.index.records import Outcome, QuarantineEntry, Run
from ragstone.index.stage import publish

pytestmark = pytest.mark.asyncio(loop_scope="session")
TWO = (document("a", "oak one", "oak two", title="first"), document("b", "river", title="second"))
NOTHING = Outcome((), (), 0, 0, {})


def fault(key: str, version: str = "1", reason: str = "invalid_utf8") -> QuarantineEntry:
    return QuarantineEntry(key, version, reason, "it is broken", "", "mend it")


async def test_a_publish_makes_the_next_version(stack):
    """The first publish is version 1, and tells exactly what it opened."""
    corpus = fresh()
    published = await Ingest(corpus, TWO).into(stack)
    assert (published.version, published.added, published.removed, published.stale) == (1, 2, 0, ())
    assert (published.rows, published.rows_opened, published.rows_closed) == (3, 3, 0)
    view = await stack.view(corpus)
    assert (view.version, view.rows) == (1, 3)
    assert await found(stack, view, "oak river") == {"a", "b"}


async def test_nothing_new_is_no_version(stack):
    """A run without a change publishes nothing, leaves the head and no rows."""
    corpus = fresh()
    assert await Ingest(corpus).into(stack) is None
    with pytest.raises(NotFound):
        await stack.view(corpus)
    await Ingest(corpus, TWO).into(stack)
    assert await Ingest(corpus, order="2").into(stack) is None
    assert (await stack.view(corpus)).version == 1
    assert await stack.rows(ident(corpus)) == 3


async def test_documents_lists_what_is_live(stack):
    """A run sees the live documents of its own source: key, object version, source order."""
    corpus = fresh()
    await Ingest(corpus, TWO).into(stack)
    await Ingest(corpus, [document("x", "moss")], source="other").into(stack)
    await Ingest(corpus, [document("a", "oak", version="7", order="3")], deleted=["b"], order="3").into(stack)
    run = await stack.runs.begin(start(corpus, order="4"))
    live = await stack.runs.documents(run)
    await stack.runs.end(run, "unchanged")
    assert {key: (one.object_version, one.source_order) for key, one in live.items()} == {"a": ("7", "3")}
    assert live["a"].document_id == document_ident(corpus, "a")


async def test_changes_reuse_rows(stack):
    """Only changed chunks get rows: one chunk of three changed is one row in, one row out, the others stay."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak one", "oak two", "oak three"), TWO[1]]).into(stack)
    changed = document("a", "oak one", "oak new", "oak three", version="2", order="2")
    ingest = Ingest(corpus, [changed], order="2")
    published = await ingest.into(stack)
    assert (published.added, published.rows_opened, published.rows_closed, published.rows) == (1, 1, 1, 4)
    assert (ingest.tally.reused, ingest.tally.rows, ingest.tally.embedded) == (2, 1, 1)
    assert await stack.rows(ident(corpus)) == 5


async def test_new_metadata_makes_rows_without_embedding(stack):
    """Metadata is part of a row, not of its vector: new rows, nothing embedded."""
    corpus = fresh()
    await Ingest(corpus, TWO).into(stack)
    ingest = Ingest(corpus, [replace(TWO[0], object_version="2", source_order="2", metadata={"n": 1})], order="2")
    published = await ingest.into(stack)
    assert (published.rows_opened, published.rows_closed) == (2, 2)
    assert (ingest.tally.embedded, ingest.tally.cached) == (0, 2)
    view = await stack.view(corpus)
    assert await found(stack, view, "oak", "n = 1") == {"a"}


async def test_deletion_leaves_the_next_version(stack):
    """A deleted document is in no leg of the next version; deleting it again, or what never was, is nothing."""
    corpus = fresh()
    await Ingest(corpus, TWO).into(stack)
    published = await Ingest(corpus, deleted=["a", "never", "a"], order="2").into(stack)
    assert (published.removed, published.rows_closed, published.rows) == (1, 2, 1)
    assert await found(stack, await stack.view(corpus), "oak") == {"b"}
    assert await Ingest(corpus, deleted=["a"], order="3").into(stack) is None


async def test_a_document_may_come_back(stack):
    """A deleted document that returns is new again, and the version between stays without it."""
    corpus = fresh()
    await Ingest(corpus, TWO).into(stack)
    await Ingest(corpus, deleted=["a"], order="2").into(stack)
    await Ingest(corpus, [replace(TWO[0], source_order="3")], order="3").into(stack)
    held = [await found(stack, await stack.view(corpus, str(v)), "oak river") for v in (1, 2, 3)]
    assert held == [{"a", "b"}, {"b"}, {"a", "b"}]


async def test_an_older_document_is_dropped(stack):
    """A document whose source order is not newer than what is published changes nothing; the others land."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak five", version="5", order="5")], order="5").into(stack)
    late = [document("a", "oak four", version="4", order="4"), document("b", "oak", order="4")]
    published = await Ingest(corpus, late, order="6").into(stack)
    assert (published.stale, published.added, published.rows_opened) == (("a",), 1, 1)
    same = await Ingest(corpus, [document("a", "oak again", version="6", order="5")], order="7").into(stack)
    assert same is None
    view = await stack.view(corpus)
    passages = await stack.catalog.passages(view, range(10), soon())
    assert sorted(one.text for one in passages.values()) == ["oak", "oak five"]
    assert (await stack.statistics(ident(corpus), 2))["documents"] == 2


async def test_an_older_deletion_is_dropped(stack):
    """A scan that began before a document arrived does not delete it."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak", order="5")], order="5").into(stack)
    assert await Ingest(corpus, deleted=["a"], order="4").into(stack) is None
    assert (await Ingest(corpus, deleted=["a"], order="6").into(stack)).removed == 1


async def test_sources_do_not_touch_each_other(stack):
    """Two sources of one corpus hold the same key side by side, and each deletes only its own."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak one")]).into(stack)
    await Ingest(corpus, [document("a", "oak two")], source="other").into(stack)
    assert (await stack.view(corpus)).rows == 2
    await Ingest(corpus, deleted=["a"], source="other", order="2").into(stack)
    view = await stack.view(corpus)
    passages = await stack.catalog.passages(view, [0, 1], soon())
    assert [(one.source, one.text) for one in passages.values()] == [("docs", "oak one")]


async def test_runs_of_two_sources_both_land(stack):
    """Runs of two sources may be open at once; both publish, and the second builds on the first."""
    corpus = fresh()
    first = await stack.runs.begin(start(corpus))
    second = await stack.runs.begin(start(corpus, source="other"))
    for run, key in ((second, "b"), (first, "a")):
        writer = await staged(stack, run, [document(key, "oak")])
        args = (run, writer.tally, stack.publisher, stack.objects, [], [])
        await publish(*args, replaces_quarantine=True)
        await stack.runs.end(run, "published")
    view = await stack.view(corpus)
    assert (view.version, view.rows) == (2, 2)


async def test_one_run_a_source(stack):
    """A second run of a source is Busy and names it, while another source works; after the end it may begin."""
    corpus = fresh()
    run = await stack.runs.begin(start(corpus))
    with pytest.raises(Busy, match=f"source 'docs' of corpus '{corpus}'"):
        await stack.runs.begin(start(corpus))
    other = await stack.runs.begin(start(corpus, source="other"))
    await stack.runs.end(other, "unchanged")
    for _ in range(5):
        await stack.runs.end(run, "unchanged")
        run = await stack.runs.begin(start(corpus))
    await stack.runs.end(run, "unchanged")


async def begin_soon(stack: Stack, corpus: str) -> Run:
    """A run as soon as the dead one's lock is gone."""
    for _ in range(100):
        try:
            return await stack.runs.begin(start(corpus, order="2"))
        except Busy:
            await asyncio.sleep(0.05)
    raise AssertionError("the lock of a dead run never went")


async def test_a_dead_run_is_swept(stack):
    """What a killed run wrote is invisible, swept by the next run of its source, and it cannot publish any more."""
    corpus = fresh()
    await Ingest(corpus, TWO).into(stack)
    dead = await stack.runs.begin(start(corpus))
    await staged(stack, dead, [document("c", "oak", "moss"), document("a", "oak new", version="2", order="2")])
    assert await stack.rows(ident(corpus)) == 6
    assert await stack.segments(ident(corpus)) == 2
    await stack.kill(dead)
    assert (await stack.view(corpus)).rows == 3
    run = await begin_soon(stack, corpus)
    assert await stack.rows(ident(corpus)) == 3
    assert await stack.segments(ident(corpus)) == 1
    with pytest.raises(Busy, match="took this source over"):
        async with stack.publisher.publishing(dead, NOTHING):
            pass
    await stack.runs.end(run, "unchanged")
    await Ingest(corpus, [document("c", "oak", order="3")], order="3").into(stack)
    assert await found(stack, await stack.view(corpus), "oak") == {"a", "b", "c"}


async def test_a_failed_run_leaves_nothing(stack):
    """A run that ends without a publish leaves no rows, no postings and no version."""
    corpus = fresh()
    run = await stack.runs.begin(start(corpus))
    await staged(stack, run, TWO)
    await stack.runs.end(run, "failed")
    assert await stack.rows(ident(corpus)) == 0
    assert await stack.segments(ident(corpus)) == 0
    assert (await Ingest(corpus, TWO).into(stack)).rows == 3


async def test_a_source_keeps_its_place(stack):
    """A known source name with another location is a usage error that names both places."""
    corpus = fresh()
    await Ingest(corpus, TWO).into(stack)
    with pytest.raises(UsageError, match="is /place/docs, not /else"):
        await stack.runs.begin(replace(start(corpus), location="/else"))


async def test_an_index_keeps_its_recipe(stack):
    """A corpus that is served by one recipe takes no rows of another."""
    corpus = fresh()
    await Ingest(corpus, TWO).into(stack)
    with pytest.raises(UsageError, match="another recipe"):
        await stack.runs.begin(start(corpus, name="other"))
    # Neither refusal holds the source.
    await stack.runs.end(await stack.runs.begin(start(corpus)), "unchanged")


async def test_leases_do_not_overlap(stack):
    """No two leases share a seq, whoever asks."""
    corpus = fresh()
    runs = [await stack.runs.begin(start(corpus, source=f"s{n}")) for n in range(3)]
    leases = await asyncio.gather(*(stack.runs.lease(run, 1 + n) for n in range(5) for run in runs))
    seqs = [seq for lease in leases for seq in lease]
    assert len(set(seqs)) == len(seqs) == 45
    for run in runs:
        await stack.runs.end(run, "unchanged")


async def test_corpora_are_apart(stack):
    """Two corpora of one recipe share nothing: neither rows, nor df, nor cached vectors."""
    left, right = fresh(), fresh()
    await Ingest(left, TWO).into(stack)
    ingest = Ingest(right, [document("a", "oak one", title="first")])
    await ingest.into(stack)
    assert ingest.tally.cached == 0
    for hits in await legs(stack, await stack.view(right), await ask("oak"), 50):
        assert hits.matching == 1
    with pytest.raises(NotFound):
        await stack.catalog.view(f"{TENANT}2", left, None, None)


async def test_the_embedding_cache_keeps_the_first(stack):
    """A cached vector comes back as it was kept, by embedding id; a second put of it changes nothing."""
    cache = stack.cache(ident(fresh()))
    vectors = {bytes([n]) * 16: np.full(8, n + 0.5, np.float16) for n in range(3)}
    await cache.put(b"e" * 16, vectors)
    await cache.put(b"e" * 16, {bytes(16): np.zeros(8, np.float16)})
    await cache.put(b"e" * 16, {})
    known = await cache.get(b"e" * 16, [*vectors, b"?" * 16])
    assert known.keys() == vectors.keys()
    assert all(np.array_equal(known[key], vector) and known[key].dtype == np.float16 for key, vector in vectors.items())
    assert await cache.get(b"f" * 16, list(vectors)) == {}
    assert await cache.get(b"e" * 16, []) == {}


async def test_what_was_embedded_is_not_embedded_again(stack):
    """A text that any run of the corpus embedded is taken from the cache, also after that run failed."""
    corpus = fresh()
    run = await stack.runs.begin(start(corpus))
    assert (await staged(stack, run, TWO)).tally.embedded == 3
    await stack.runs.end(run, "failed")
    ingest = Ingest(corpus, TWO)
    await ingest.into(stack)
    assert (ingest.tally.embedded, ingest.tally.cached) == (0, 3)
    assert EMBEDDER.spec.id == recipe().embedding.id


async def test_objects(stack):
    """An object is read as it was put; a key that is not there is NotFound."""
    await stack.objects.put("a/b.json", b"\x00body")
    await stack.objects.put("a/b.json", b"\x00body")
    assert await stack.objects.get("a/b.json") == b"\x00body"
    with pytest.raises(NotFound, match=r"a/c\.json"):
        await stack.objects.get("a/c.json")
