"""Manifests: one spelling, read back as written; the fold of a chain gives what each version holds."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstone.core.errors import IntegrityError
from ragstone.core.ids import make_id
from ragstone.index import manifest, merkle
from ragstone.index.checkpoint import checkpoint_due
from ragstone.index.manifest import Manifest
from ragstone.index.records import Change, ChangedDocument, Origin, VersionStatistics

SECRET = bytes(32)
CORPUS = make_id("corpus", "t", "c")
INDEX = make_id("index", "i")


def line(key: str, version: int = 1, chunks: int = 2) -> ChangedDocument:
    """A document's line; another version has another leaf."""
    ident = make_id("document", key)
    rows = [make_id("row", key, str(version), str(at)) for at in range(chunks)]
    leaf = merkle.leaf(SECRET, ident, str(version), rows)
    return ChangedDocument(ident, key, str(version), leaf, tuple(rows), make_id("placed", key, str(version)))


def sealed(number: int, before: dict[bytes, ChangedDocument], added, removed, buckets: bytes) -> tuple[bytes, bytes]:
    """The bytes of the next manifest and the bucket digests after it, as a publish makes them."""
    after = {**before, **{one.document_id: one for one in added}}
    for one in removed:
        after.pop(one.document_id, None)
    touched = {merkle.bucket_of(one.document_id) for one in (*added, *removed)}
    leaves = {b: tuple(o.leaf for o in after.values() if merkle.bucket_of(o.document_id) == b) for b in touched}
    change = Change(
        version=number, parent=number - 1, added=tuple(added), removed=tuple(removed), stale=(), buckets_before=buckets,
        leaves=leaves, statistics_before=VersionStatistics(), rows_opened=1, rows_closed=0, joined_delta=7, title_delta=2,
        documents_after=len(after),
    )  # fmt: skip
    origin = Origin("ingest", CORPUS, INDEX, SECRET, source="docs", source_order="1", note="")
    made, data = manifest.seal(origin, change, {"year": ("number",)})
    assert (made.manifest_key, made.manifest_digest) == manifest.address(CORPUS, data)
    return data, made.buckets


@given(st.integers(0, 2**32))
def test_the_fold_gives_what_was_published(seed: int):
    """Over random histories the fold of the manifests is what each version held, and gives its Merkle root; a
    checkpoint of any version says the same at once."""
    rng = random.Random(seed)
    held: dict[bytes, ChangedDocument] = {}
    folded: dict[bytes, ChangedDocument] = {}
    buckets = running = b""
    for number in range(1, 6):
        keys = rng.sample([f"d{n}" for n in range(8)], rng.randint(1, 4))
        added = [line(key, number) for key in keys]
        removed = [one for one in held.values() if one.key not in keys and rng.random() < 0.3]
        data, buckets = sealed(number, held, added, removed, buckets)
        held = {key: one for key, one in held.items() if one not in removed}
        held.update((one.document_id, one) for one in added)
        read = manifest.read(data)
        assert manifest.encoded(read) == data
        assert manifest.fold(folded, read) == []
        assert folded == held
        running = manifest.patched(running, read)
        assert running == buckets == manifest.buckets_of(SECRET, folded)
        assert merkle.root(SECRET, buckets) == read.merkle_root
        listed = manifest.read(manifest.checkpoint(SECRET, read, folded))
        again: dict[bytes, ChangedDocument] = {make_id("document", "old"): line("old")}
        assert manifest.fold(again, listed) == []
        assert again == held
        assert manifest.patched(b"", listed) == buckets
        assert listed.checkpoint
        assert replace(listed, added=read.added, removed=read.removed, buckets=read.buckets, checkpoint=False) == read


def test_a_removal_of_what_was_not_held_is_told():
    """A manifest that removes a document which was not there, or another version of it, does not fit its parent."""
    data, _ = sealed(2, {}, [], [line("a", 1)], b"")
    read = manifest.read(data)
    assert len(manifest.fold({}, read)) == 1
    assert len(manifest.fold({line("a").document_id: line("a", 2)}, read)) == 1
    assert manifest.fold({line("a").document_id: line("a", 1)}, read) == []


def test_a_checkpoint_is_not_sealed_over_other_documents():
    """What is sealed must give the version's root: IntegrityError with one document less, more or another."""
    data, _ = sealed(1, {}, [line("a"), line("b")], [], b"")
    read = manifest.read(data)
    lines = {one.document_id: one for one in read.added}
    manifest.checkpoint(SECRET, read, lines)
    wrong = [{}, {**lines, line("c").document_id: line("c")}, {**lines, line("a").document_id: line("a", 2)}]
    for each in wrong:
        with pytest.raises(IntegrityError, match="another Merkle root"):
            manifest.checkpoint(SECRET, read, each)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"\xff", b'{"schema":2}', b'{"schema":"2"}'])
def test_what_is_no_manifest_is_an_error_of_ours(data: bytes):
    """Bytes that are no manifest end in IntegrityError, whatever they are."""
    with pytest.raises(IntegrityError, match="cannot be read"):
        manifest.read(data)


def test_a_manifest_from_the_future_is_refused():
    """A newer schema is not read as if it were this one."""
    data, _ = sealed(1, {}, [line("a")], [], b"")
    with pytest.raises(IntegrityError, match="schema 3"):
        manifest.read(data.replace(b'"schema":2', b'"schema":3'))


def test_a_manifest_of_the_first_schema_is_read():
    """Schema 1 had no kind, note, statistics nor `placed`."""
    old = (
        b'{"added":[{"chunks":[],"document":"%s","key":"a","leaf":"%s","object_version":"1"}],"buckets":{},'
        b'"documents":1,"index":"00","merkle_root":"11","parent":0,"removed":[],"rows":0,"schema":1,"source":"docs",'
        b'"source_order":"1","version":1}' % (b"aa" * 16, b"bb" * 32)
    )
    read = manifest.read(old)
    assert read == Manifest(
        version=1, parent=0, kind="ingest", index_id=b"\0", source="docs", source_order="1", note="",
        added=(ChangedDocument(b"\xaa" * 16, "a", "1", b"\xbb" * 32, (), b""),), removed=(), buckets={},
        merkle_root=b"\x11", statistics=None,
    )  # fmt: skip


def test_a_checkpoint_is_due_when_it_would_be_shorter():
    """It pays once more came and went than there are documents."""
    assert [checkpoint_due(lines, 10) for lines in (0, 10, 11)] == [False, False, True]
    assert not checkpoint_due(1, 0)
