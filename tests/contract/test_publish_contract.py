"""The contract of the ports Publisher and Publication, run by every backend: all or nothing, and proven."""

from __future__ import annotations

import hashlib
import json

import pytest
from contract_stacks import (
    Ingest,
    document,
    document_ident,
    found,
    fresh,
    ident,
    keyed,
    recipe,
    soon,
    staged,
    start,
)

from ragstone.core.errors import IntegrityError, NotFound
from ragstone.core.ids import make_id
from ragstone.core.tokens import analyze
from ragstone.index.manifest import seal
from ragstone.index.records import Outcome, QuarantineEntry
from ragstone.index.rows import IncomingDocument, canonical
from ragstone.index.stage import publish

pytestmark = pytest.mark.asyncio(loop_scope="session")
TWO = (document("a", "oak one", "oak two", title="first"), document("b", "river", title="second"))
NOTHING = Outcome((), (), 0, 0, {})


def fault(key: str, version: str = "1", reason: str = "invalid_utf8") -> QuarantineEntry:
    return QuarantineEntry(key, version, reason, "it is broken", "", "mend it")


def merkle_root(corpus: str, secret: bytes, documents: list[IncomingDocument], source: str = "docs") -> bytes:
    """The root from the documents alone, written down once more: nothing of the index stage is used but ids."""

    def node(kind: str, *parts: bytes) -> bytes:
        framed = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
        return hashlib.blake2b(framed, digest_size=32, key=secret, person=kind.encode()).digest()

    buckets: dict[int, list[bytes]] = {}
    for one in documents:
        rows, seen = [], {}
        for piece in one.pieces:
            number = seen[piece.text] = seen.get(piece.text, -1) + 1
            chunk = make_id("chunk", source, one.key, recipe().chunking.id, piece.text, str(number))
            heading = canonical(list(piece.heading_path))
            rows.append(make_id("row", chunk, one.title, heading, canonical(one.metadata)))
        key = document_ident(corpus, one.key, source)
        buckets.setdefault(key[0], []).append(node("leaf", key, one.object_version.encode(), *rows))
    digests = [node("bucket", *sorted(buckets[n])) if n in buckets else bytes(32) for n in range(256)]
    return node("root", b"".join(digests))


@pytest.mark.parametrize(("documents", "rows"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
async def test_counts_must_agree(stack, documents, rows):
    """When the store holds other counts than the run wrote, nothing is published: IntegrityError."""
    corpus = fresh()
    run = await stack.runs.begin(start(corpus))
    writer = await staged(stack, run, TWO)
    writer.tally.documents += documents
    writer.tally.rows += rows
    with pytest.raises(IntegrityError, match="nothing was published"):
        await publish(run, writer.tally, stack.publisher, stack.objects, [], [fault("z")], replaces_quarantine=True)
    await stack.runs.end(run, "failed")
    with pytest.raises(NotFound):
        await stack.view(corpus)
    assert await stack.quarantine(ident(corpus)) == []


@pytest.mark.parametrize("how", ["quietly", "by an error"])
async def test_leaving_a_publish_changes_nothing(stack, how):
    """A publish that is left without commit or skip changes nothing, and the next one goes through."""
    corpus = fresh()
    await Ingest(corpus, TWO).into(stack)
    run = await stack.runs.begin(start(corpus, order="2"))
    await staged(stack, run, [document("c", "oak", order="2")])
    outcome = Outcome((document_ident(corpus, "a"),), (fault("z"),), 1, 1, {})

    async def leave() -> None:
        async with stack.publisher.publishing(run, outcome) as publication:
            assert not (await publication.change()).empty
            if how == "by an error":
                raise ZeroDivisionError

    if how == "by an error":
        with pytest.raises(ZeroDivisionError):
            await leave()
    else:
        await leave()
    view = await stack.view(corpus)
    assert (view.version, view.rows) == (1, 3)
    assert await found(stack, view, "oak") == {"a", "b"}
    assert await stack.quarantine(ident(corpus)) == []
    async with stack.publisher.publishing(run, outcome) as publication:
        change = await publication.change()
        published = await publication.commit(seal(run.origin, change, {})[0])
    await stack.runs.end(run, "published")
    assert (published.version, published.added, published.removed) == (2, 1, 1)
    assert await stack.quarantine(ident(corpus)) == [("z", "1", "invalid_utf8")]


async def test_merkle_roots_follow_from_the_documents(stack):
    """Each version's root is the one that its documents alone give, through changes, deletions and another source."""
    corpus, secret = fresh(), bytes(range(32))
    await keyed(stack, corpus, secret)
    held = {f"d{n}": document(f"d{n}", f"oak {n}", "oak", "oak", title=f"t{n}", metadata={"n": n}) for n in range(40)}
    published = await Ingest(corpus, list(held.values())).into(stack)
    assert published.merkle_root == merkle_root(corpus, secret, list(held.values()))
    changed = [document(f"d{n}", f"river {n}", version="2", order="2") for n in range(0, 40, 7)]
    held |= {one.key: one for one in changed} | {"new": document("new", "moss", order="2")}
    gone = ["d1", "d2", "d39"]
    published = await Ingest(corpus, [*changed, held["new"]], deleted=gone, order="2").into(stack)
    for key in gone:
        del held[key]
    assert published.merkle_root == merkle_root(corpus, secret, list(held.values()))
    published = await Ingest(corpus, deleted=list(held), order="3").into(stack)
    assert published.merkle_root == merkle_root(corpus, secret, [])


async def test_merkle_roots_are_the_same_everywhere(memory, postgres):
    """The same documents under the same secret have one root on every backend, and another under another secret."""
    corpus = fresh()
    for stack in (memory, postgres):
        await keyed(stack, corpus, b"s" * 32)
    roots = [(await Ingest(corpus, TWO).into(stack)).merkle_root for stack in (memory, postgres)]
    assert (
        roots[0] == roots[1] == merkle_root(corpus, b"s" * 32, list(TWO)) != merkle_root(corpus, b"t" * 32, list(TWO))
    )


async def test_the_manifest_lists_what_changed(stack):
    """The sealed manifest names version, parent, each change with its chunks, and is stored under its digest."""
    corpus = fresh()
    await Ingest(corpus, TWO).into(stack)
    run = await stack.runs.begin(start(corpus, order="2"))
    writer = await staged(stack, run, [document("a", "oak one", "oak six", title="first", version="2", order="2")])
    outcome = Outcome((document_ident(corpus, "b"),), (), writer.tally.documents, writer.tally.rows, {})
    async with stack.publisher.publishing(run, outcome) as publication:
        sealed, data = seal(run.origin, await publication.change(), {})
        await stack.objects.put(sealed.manifest_key, data)
        published = await publication.commit(sealed)
    await stack.runs.end(run, "published")
    manifest = json.loads(await stack.objects.get(sealed.manifest_key))
    assert hashlib.blake2b(data, digest_size=32).hexdigest() in sealed.manifest_key
    assert (manifest["version"], manifest["parent"], manifest["source_order"]) == (2, 1, "2")
    assert (manifest["statistics"]["rows"], manifest["statistics"]["documents"]) == (2, 1)
    assert manifest["merkle_root"] == published.merkle_root.hex()
    assert [(one["key"], one["object_version"]) for one in manifest["added"]] == [("a", "2")]
    assert [(one["key"], one["object_version"]) for one in manifest["removed"]] == [("b", "1")]
    view = await stack.view(corpus)
    passages = sorted((await stack.catalog.passages(view, range(9), soon())).values(), key=lambda one: one.ordinal)
    assert manifest["added"][0]["chunks"] == [one.chunk_id.hex() for one in passages]
    touched = {f"{document_ident(corpus, key)[0]:02x}" for key in "ab"}
    assert set(manifest["buckets"]) == touched


async def test_statistics_are_exact(stack):
    """A version's statistics are what counting its rows gives, after any change."""
    corpus = fresh()
    texts = [("oak river", "lamp"), ("moss " * 30,), ("iron salt wool",)]
    held = {f"d{n}": document(f"d{n}", *text, title="the kiln") for n, text in enumerate(texts)}
    await Ingest(corpus, list(held.values())).into(stack)
    held["d0"] = document("d0", "oak bell", "lamp", title="kiln", version="2", order="2")
    await Ingest(corpus, [held["d0"]], deleted=["d2"], order="2").into(stack)
    del held["d2"]
    joined = [len(analyze(f"{one.title}\n{piece.text}")) for one in held.values() for piece in one.pieces]
    title = [len(analyze(one.title)) for one in held.values() for _ in one.pieces]
    statistics = await stack.statistics(ident(corpus), 2)
    assert (statistics["rows"], statistics["documents"]) == (3, 2)
    assert (statistics["joined_terms"], statistics["title_terms"]) == (sum(joined), sum(title))


async def test_norms_move_only_after_a_drift(stack):
    """The mean lengths that BM25 divides by stay while they drift by less than 10 %, and then are taken anew."""
    corpus = fresh()
    await Ingest(corpus, [document(f"d{n}", "oak " * 20) for n in range(10)]).into(stack)
    await Ingest(corpus, [document("x", "oak " * 25, order="2")], order="2").into(stack)
    await Ingest(corpus, [document("y", "oak " * 60, order="3")], order="3").into(stack)
    norms = [(await stack.view(corpus, str(v))).norms[0] for v in (1, 2, 3)]
    assert norms[:2] == [20.0, 20.0]
    assert norms[2] == pytest.approx((200 + 25 + 60) / 12)


async def test_quarantine_is_replaced(stack):
    """A full scan replaces its source's entries, a partial one adds to them, and other sources keep theirs."""
    corpus, held = fresh(), lambda: stack.quarantine(ident(corpus))
    await Ingest(corpus, TWO, quarantine=[fault("x"), fault("y")]).into(stack)
    await Ingest(corpus, quarantine=[fault("x")], source="other").into(stack)
    assert [entry[0] for entry in await held()] == ["x", "x", "y"]
    await Ingest(corpus, quarantine=[fault("y", "2", "too_large")], order="2", replaces_quarantine=False).into(stack)
    assert ("y", "2", "too_large") in await held()
    assert len(await held()) == 3
    await Ingest(corpus, quarantine=[fault("z")], order="3").into(stack)
    assert [entry[0] for entry in await held()] == ["x", "z"]
    await Ingest(corpus, order="4").into(stack)
    assert [entry[0] for entry in await held()] == ["x"]
