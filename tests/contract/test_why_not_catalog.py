"""Why not, before the search: what the catalog, an access list, a deletion or the filter keeps from every leg."""

from __future__ import annotations

import pytest
from asking_why_not import asked
from contract_stacks import (
    Ingest,
    document,
    document_ident,
    fresh,
    ident,
    staged,
    start,
)

from ragstone.core.errors import UsageError
from ragstone.index.records import QuarantineEntry
from ragstone.observe.why_not_page import sentence, why_not_document, why_not_page

pytestmark = pytest.mark.asyncio(loop_scope="session")

REFUSED = QuarantineEntry("bad", "7", "invalid_utf8", "byte 3 is no UTF-8", "", "save it as UTF-8")


async def test_the_filter(stack):
    """A document that the filter leaves out is `filtered`, with the conditions that fail and its own values; what
    holds is not named. A filter on an unknown field is a usage error, as in a search."""
    corpus = fresh("why")
    metadata = {"year": 2001, "lang": "en", "tags": ["a"]}
    others = {"year": 2020, "lang": "de", "owner": "x", "tags": ["b"]}
    await Ingest(
        corpus, [document("a", "oak", metadata=metadata), document("b", "oak tree", metadata=others)]
    ).into(stack)  # fmt: skip
    said = await asked(stack, corpus, "oak", "a", filters='year >= 2010 and lang = "en"')
    assert (said.verdict, said.stage) == ("filtered", "filter")
    assert [(each.key, each.operator, each.value, each.actual) for each in said.failed] == [
        ("year", "greaterThanOrEquals", 2010, 2001)
    ]
    assert "year >= 2010 is false (the document has 2001)" in sentence(said)
    said = await asked(
        stack, corpus, "oak", "a", filters='(lang in ("de", "fr") or owner = "x") and tags listContains "a"'
    )
    assert [(each.key, each.actual) for each in said.failed] == [("lang", "en"), ("owner", None)]
    assert "the document has no owner" in sentence(said)
    assert (await asked(stack, corpus, "oak", "a", filters='year = 2001 or lang = "de"')).verdict == "returned"
    for name in ("a", "nobody"):
        with pytest.raises(UsageError, match="unknown filter field 'colour'"):
            await asked(stack, corpus, "oak", name, filters='colour = "red"')


async def test_not_in_the_version(stack):
    """A document of other versions is `not_in_version`, with the versions that held it; in those it is found."""
    corpus = fresh("why")
    await Ingest(corpus, [document("a", "oak one"), document("b", "oak two")]).into(stack)
    await Ingest(corpus, [document("a", "oak three", version="2", order="2")], order="2").into(stack)
    await Ingest(corpus, [document("c", "oak four", order="3")], deleted=["b"], order="3").into(stack)
    removed = await asked(stack, corpus, "oak", "b")
    assert (removed.verdict, removed.stage, removed.corpus_version) == ("not_in_version", "version", 3)
    assert [(span.since, span.until) for span in removed.standing.history] == [(1, 3)]
    assert sentence(removed) == "not in version 3: removed by version 3, last in versions 1 to 2"
    early = await asked(stack, corpus, "oak", "c", as_of="2")
    assert (early.verdict, sentence(early)) == ("not_in_version", "not in version 2: it came with version 3")
    assert (await asked(stack, corpus, "oak", "b", as_of="2")).verdict == "returned"
    changed = await asked(stack, corpus, "oak", "a", as_of="1")
    assert (changed.verdict, changed.standing.object_version) == ("returned", "1")
    assert [(one.since, one.until, one.object_version) for one in changed.standing.history] == [
        (1, 2, "1"),
        (2, None, "2"),
    ]


async def test_quarantine(stack):
    """A document that could not be used is `quarantined` with its reason and next step. One whose older version
    serves is followed through the search and marked stale."""
    corpus = fresh("why")
    stale = QuarantineEntry("a", "9", "too_large", "it has 9 GB", "", "split it")
    await Ingest(corpus, [document("a", "oak one")], quarantine=[REFUSED, stale]).into(stack)
    said = await asked(stack, corpus, "oak", "bad")
    assert (said.verdict, said.stage) == ("quarantined", "ingest")
    assert said.standing.quarantine.reason == "invalid_utf8"
    for part in ("invalid_utf8", "byte 3 is no UTF-8", "next: save it as UTF-8"):
        assert part in sentence(said)
    old = await asked(stack, corpus, "oak", "a")
    assert (old.verdict, old.standing.stale) == ("returned", True)
    assert "stale      an older version of it serves" in why_not_page("oak", old)
    await Ingest(corpus, quarantine=[stale], deleted=["a"], order="2").into(stack)
    gone = await asked(stack, corpus, "oak", "a", as_of="1")
    assert gone.verdict == "returned"


async def test_a_document_that_was_removed_and_came_back_unusable(stack):
    """What keeps a removed document out of the newest version is its quarantine entry, not its removal."""
    corpus = fresh("why")
    await Ingest(corpus, [document("a", "oak one"), document("b", "oak two")]).into(stack)
    broken = QuarantineEntry("b", "9", "too_large", "it has 9 GB", "", "split it")
    await Ingest(corpus, deleted=["b"], quarantine=[broken], order="2").into(stack)
    assert (await asked(stack, corpus, "oak", "b")).verdict == "quarantined"


async def test_suppressed(stack):
    """A deleted document is `suppressed`, in versions that held it too."""
    corpus = fresh("why")
    await Ingest(corpus, [document("a", "oak one"), document("b", "oak two")]).into(stack)
    await stack.suppress(ident(corpus), document_ident(corpus, "b"))
    for as_of in (None, "1"):
        said = await asked(stack, corpus, "oak", "b", as_of=as_of)
        assert (said.verdict, said.stage, said.chunks) == ("suppressed", "deletion", ())
        assert sentence(said).startswith("deleted: hidden in every version")


async def test_never_seen(stack):
    """A name that nothing knows is `never_seen`, and documents with a like name are named."""
    corpus = fresh("why")
    await Ingest(corpus, [document("notes/coffee.txt", "oak"), document("tea.txt", "oak")]).into(stack)
    said = await asked(stack, corpus, "oak", "COFFEE.md")
    assert (said.verdict, said.stage, said.near, said.standing) == (
        "never_seen",
        "catalog",
        ("notes/coffee.txt",),
        None,
    )
    assert (await asked(stack, corpus, "oak", "docs:tea")).near == ("tea.txt",)
    assert (await asked(stack, corpus, "oak", "nothing/like/it")).near == ()
    assert (await asked(stack, corpus, "oak", "notes")).near == ()
    assert (await asked(stack, corpus, "oak", "%")).near == ()
    assert (await asked(stack, corpus, "oak", "/")).near == ()


async def test_a_run_that_was_not_published(stack):
    """What a run staged and never published is never seen."""
    corpus = fresh("why")
    await Ingest(corpus, [document("a", "oak")]).into(stack)
    run = await stack.runs.begin(start(corpus, order="2"))
    await staged(stack, run, [document("late", "oak", order="2")])
    assert (await asked(stack, corpus, "oak", "late")).verdict == "never_seen"
    await stack.runs.end(run, "failed")
    assert (await asked(stack, corpus, "oak", "late")).verdict == "never_seen"


async def test_access(stack):
    """To an asker without the right a document is exactly as if it had never been, whatever became of it: readable,
    removed, in quarantine or deleted; and it is no near name."""
    corpus, hr = fresh("why"), ("group:hr",)
    names = ("plain-secret", "removed-secret", "refused-secret", "deleted-secret")
    await Ingest(corpus, [document("a", "oak"), *(document(name, f"oak {name}", acl=hr) for name in names)]).into(stack)
    refused = QuarantineEntry("refused-secret", "9", "too_large", "it has 9 GB", "", "split it")
    await Ingest(corpus, deleted=["removed-secret", "refused-secret"], quarantine=[refused], order="2").into(stack)
    await stack.suppress(ident(corpus), document_ident(corpus, "deleted-secret"))
    verdicts = ("returned", "not_in_version", "quarantined", "suppressed")
    for name, verdict in zip(names, verdicts, strict=True):
        assert (await asked(stack, corpus, "oak", name, asker="user:ann,group:hr")).verdict == verdict
        for spelled in (name, f"docs:{name}"):
            hidden = await asked(stack, corpus, "oak", spelled, asker="user:eve")
            never = await asked(stack, corpus, "oak", "x" * len(spelled), asker="user:eve")
            said = {**why_not_document(hidden), "document": "", "says": ""}
            assert said == {**why_not_document(never), "document": "", "says": ""}
            assert sentence(hidden).replace(spelled, "") == sentence(never).replace("x" * len(spelled), "")
    assert (await asked(stack, corpus, "oak", "secret", asker="user:eve")).near == ()
    assert (await asked(stack, corpus, "oak", "secret", asker="group:hr")).near == ("plain-secret",)


async def test_two_sources(stack):
    """An id that two sources have is a usage error that names both, `SOURCE:ID` is one of them; a source that the
    asker may not read is not counted."""
    corpus = fresh("why")
    for source, acl in (("one", ("public",)), ("two", ("public",)), ("three", ("group:hr",))):
        await Ingest(corpus, [document("same", f"oak {source}", acl=acl)], source=source).into(stack)
    with pytest.raises(UsageError, match="several sources: one:same, two:same"):
        await asked(stack, corpus, "oak", "same")
    said = await asked(stack, corpus, "oak two", "two:same")
    assert (said.document, said.standing.source, said.verdict) == ("two:same", "two", "returned")
    await Ingest(corpus, deleted=["same"], source="two", order="2").into(stack)
    assert (await asked(stack, corpus, "oak", "same")).document == "same"
    with pytest.raises(UsageError, match="one:same, three:same"):
        await asked(stack, corpus, "oak", "same", asker="group:hr")
