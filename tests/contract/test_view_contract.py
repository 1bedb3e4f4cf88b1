"""What a view promises on every backend: one version, as one asker may see it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest
from contract_stacks import (
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
    soon,
    start,
)

from ragstone.core.errors import NotFound, UsageError
from ragstone.core.nouns import Asker

if TYPE_CHECKING:
    from ragstone.core.ports import View

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def three_versions(stack: Stack) -> str:
    """Version 1 holds a and b, version 2 has a changed, version 3 has b deleted and c added."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak one"), document("b", "oak two")]).into(stack)
    await Ingest(corpus, [document("a", "oak three", title="new", version="2", order="2")], order="2").into(stack)
    await Ingest(corpus, [document("c", "oak four", order="3")], deleted=["b"], order="3").into(stack)
    return corpus


async def texts(stack: Stack, view: View) -> list[str]:
    hits = (await legs(stack, view, await ask("oak"), 100))[1]
    passages = await stack.catalog.passages(view, hits.seqs.tolist(), soon())
    assert len(passages) == len(hits.seqs) == view.rows
    return sorted(one.text for one in passages.values())


async def test_as_of_a_version(stack):
    """Every published version can be read as it was; without a wish the newest serves."""
    corpus = await three_versions(stack)
    expected = {1: ["oak one", "oak two"], 2: ["oak three", "oak two"], 3: ["oak four", "oak three"]}
    for version, wanted in expected.items():
        view = await stack.view(corpus, str(version))
        assert view.version == version
        assert await texts(stack, view) == wanted
    assert (await stack.view(corpus)).version == 3
    assert (await stack.view(corpus, "0003")).version == 3


async def test_as_of_a_time(stack):
    """A moment names the newest version published by then, in any time zone; before the first there is none."""
    corpus = await three_versions(stack)
    moments = [datetime.fromisoformat((await stack.view(corpus, str(v))).published_at) for v in (1, 2, 3)]
    assert moments == sorted(moments)
    assert (await stack.view(corpus, moments[1].isoformat())).version == 2
    assert (await stack.view(corpus, (moments[1] - timedelta(microseconds=1)).isoformat())).version == 1
    assert (await stack.view(corpus, (datetime.now(UTC) + timedelta(days=1)).isoformat())).version == 3
    shifted = moments[1].astimezone(datetime.strptime("+0530", "%z").tzinfo)
    assert (await stack.view(corpus, shifted.isoformat())).version == 2
    with pytest.raises(NotFound, match="no version"):
        await stack.view(corpus, (moments[0] - timedelta(seconds=1)).isoformat())


@pytest.mark.parametrize("as_of", ["0", "4", "2147483648", "99999999999", "9" * 5000, "1990-01-01T00:00:00Z"])
async def test_an_unknown_version(stack, as_of):
    """A version that was never published is NotFound, however large its number."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak")]).into(stack)
    with pytest.raises(NotFound, match="there is no version"):
        await stack.view(corpus, as_of)


@pytest.mark.parametrize("as_of", ["-1", "1.0", "yesterday", "", "2026-13-01", "v1"])
async def test_a_version_that_is_no_version(stack, as_of):
    """Words that are neither a number nor a time are a usage error that quotes them."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak")]).into(stack)
    with pytest.raises(UsageError, match="neither a version number nor"):
        await stack.view(corpus, as_of)


async def test_unknown_and_empty_corpora(stack):
    """An unknown corpus, one of another tenant and one without a version are NotFound, each by its name."""
    corpus = fresh()
    with pytest.raises(NotFound, match=f"unknown corpus '{corpus}'"):
        await stack.view(corpus)
    run = await stack.runs.begin(start(corpus))
    await stack.runs.end(run, "unchanged")
    with pytest.raises(NotFound, match="has no documents"):
        await stack.view(corpus)
    await Ingest(corpus, [document("a", "oak")]).into(stack)
    with pytest.raises(NotFound):
        await stack.catalog.view("another", corpus, None, Asker())
    _, spec = await stack.catalog.view(TENANT, corpus, None, Asker())
    assert spec.dimensions == 64


async def test_a_view_stays_what_it_was(stack):
    """A request that began before a publish goes on reading its version."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak one")]).into(stack)
    view = await stack.view(corpus)
    await Ingest(corpus, [document("b", "oak two")], deleted=["a"], order="2").into(stack)
    assert await texts(stack, view) == ["oak one"]


async def test_access_lists(stack):
    """Each asker sees what a list of theirs names, and nothing else, in every leg, score and passage."""
    corpus = fresh()
    lists = {"all": ("public",), "ann": ("user:ann",), "hr": ("group:hr", "user:bob"), "none": ()}
    await Ingest(corpus, [document(key, f"oak {key}", acl=acl) for key, acl in lists.items()]).into(stack)
    seen = {
        None: {"all"},
        "user:ann": {"all", "ann"},
        "user:bob": {"all", "hr"},
        "user:ann,group:hr": {"all", "ann", "hr"},
        "user:%": {"all"},
    }
    everyone = await stack.view(corpus, asker="user:ann,group:hr")
    seqs = (await legs(stack, everyone, await ask("oak"), 10))[1].seqs
    for asker, wanted in seen.items():
        view = await stack.view(corpus, asker=asker)
        assert view.restricted
        assert await found(stack, view, "oak") == wanted
        assert await found(stack, view, "oak", 'x != "y" or x = "y"') == set()
        passages = await stack.catalog.passages(view, [*seqs.tolist(), 0, 1, 2, 3], soon())
        assert {one.key for one in passages.values()} == wanted
        scores = await stack.engine.score(view, await ask("oak"), np.arange(4), soon())
        assert sum(bool(chunk) for chunk in scores.chunk_ids) == len(wanted)
        assert np.count_nonzero(scores.bm25) == np.count_nonzero(scores.dense) == len(wanted)


async def test_access_does_not_change_scores(stack):
    """N and df are the corpus's, whoever asks: a score tells nothing about what is hidden, and moves for nobody."""
    corpus = fresh()
    hidden = [document(f"h{n}", "oak river", acl=("user:ann",)) for n in range(8)]
    await Ingest(corpus, [document("p", "oak lamp"), *hidden]).into(stack)
    query = await ask("oak lamp")
    public = await legs(stack, await stack.view(corpus), query)
    ann = await legs(stack, await stack.view(corpus, asker="user:ann"), query)
    assert public[0].scores[0] == ann[0].scores[0]


async def test_default_is_public(stack):
    """A corpus of public documents is not restricted, and anybody sees all of it."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak"), document("b", "oak")]).into(stack)
    view = await stack.view(corpus, asker="user:ann")
    assert not view.restricted
    assert await found(stack, view, "oak") == {"a", "b"}


async def test_no_access_list_means_nobody(stack):
    """Where every document must name its readers, one that names none is seen by nobody, public included."""
    corpus = fresh()
    await Ingest(corpus, [document(key, "oak", acl=()) for key in "ab"]).into(stack)
    for asker in (None, "public", "user:ann", "group:"):
        view = await stack.view(corpus, asker=asker)
        assert await found(stack, view, "oak") == set()
        assert await stack.catalog.passages(view, [0, 1], soon()) == {}


async def test_access_changes_at_once_for_every_version(stack):
    """A new access list applies to old versions too, moves the epoch, and needs no new rows."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak")]).into(stack)
    old = await stack.view(corpus)
    assert await found(stack, old, "oak") == {"a"}
    changed = document("a", "oak", version="2", order="2", acl=("user:ann",))
    published = await Ingest(corpus, [changed], order="2").into(stack)
    assert (published.rows_opened, published.rows_closed) == (0, 0)
    for as_of in ("1", "2"):
        now = await stack.view(corpus, as_of)
        assert now.epoch > old.epoch
        assert await found(stack, now, "oak") == set()
        assert await found(stack, await stack.view(corpus, as_of, "user:ann"), "oak") == {"a"}


async def test_suppression_hides_from_every_version(stack):
    """A suppressed document is gone from every version at once, for whoever may read it."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak"), document("b", "oak")]).into(stack)
    await Ingest(corpus, [document("b", "oak", version="2", order="2")], order="2").into(stack)
    assert await found(stack, await stack.view(corpus), "oak") == {"a", "b"}
    await stack.suppress(ident(corpus), document_ident(corpus, "b"))
    for as_of in ("1", "2"):
        view = await stack.view(corpus, as_of)
        assert view.restricted
        assert await found(stack, view, "oak") == {"a"}
        passages = await stack.catalog.passages(view, [0, 1, 2], soon())
        assert {one.key for one in passages.values()} == {"a"}


async def test_a_shared_key_names_its_source(stack):
    """Two sources with one key: each document's id names its source, in the versions that hold both."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak one")]).into(stack)
    await Ingest(corpus, [document("a", "oak two")], source="other").into(stack)
    names = {}
    for as_of in ("1", "2"):
        view = await stack.view(corpus, as_of)
        passages = await stack.catalog.passages(view, [0, 1], soon())
        names[as_of] = {one.document_id for one in passages.values()}
    assert names == {"1": {"a"}, "2": {"docs:a", "other:a"}}
    # To whom one of the two is hidden, the id of the other says nothing of it.
    await Ingest(
        corpus, [document("a", "oak two", version="2", order="2", acl=("user:ann",))], source="other", order="2"
    ).into(stack)
    for asker, seen in ((None, {"a"}), ("user:ann", {"docs:a", "other:a"})):
        view = await stack.view(corpus, "2", asker)
        assert {one.document_id for one in (await stack.catalog.passages(view, [0, 1], soon())).values()} == seen


async def test_a_row_is_placed_as_its_version_says(stack):
    """Text kept over two versions has one row and one chunk id, and each version its own span and object."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak", "river")]).into(stack)
    moved = document("a", "a new beginning", "oak", "river", version="2", order="2")
    assert (await Ingest(corpus, [moved], order="2").into(stack)).rows_opened == 1
    seen = []
    for as_of in ("1", "2"):
        view = await stack.view(corpus, as_of)
        one = (await stack.catalog.passages(view, [1], soon()))[1]
        seen.append((one.text, one.start, one.ordinal, one.source_version, one.chunk_id))
    assert seen[0] == ("river", 4, 1, "1", seen[1][4])
    assert seen[1] == ("river", 20, 2, "2", seen[0][4])
