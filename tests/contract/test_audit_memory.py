"""One entry, one bit: every damage of a store in memory is found under its store and name, repaired, and nothing
beside it is made anew."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from audit_world import PAGES, World, answers, make_world, said

from ragstone.adapters.memory.columns import OPEN

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="session")

LEAVE = "docs:leave.md"


def turned(data: bytes, at: int = 0) -> bytes:
    """Bytes with one bit turned."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


class Parts:
    """What a damage reaches into: the document's membership, its version, its first row."""

    def __init__(self, world: World) -> None:
        assert world.store
        self.corpus = world.store.state.corpus(world.ident)
        self.index = self.corpus.indexes[world.index]
        self.document = self.corpus.documents[world.document("leave.md")]
        self.member = self.document.memberships[-1]
        self.docversion = self.corpus.docversions[self.member.docversion_id]
        self.seq = int(self.docversion.seqs[0])
        self.row = self.index.rows[self.seq]
        self.cache = world.store.cache(world.ident)._vectors
        self.segment = next(iter(self.index.segments.values()))

    def staged(self, **changed: Any) -> None:
        self.docversion.staged = replace(self.docversion.staged, **changed)

    def placed(self, at: int, **changed: Any) -> None:
        places = list(self.docversion.staged.placements)
        places[at] = replace(places[at], **changed)
        self.staged(placements=tuple(places))

    def stored(self, **changed: Any) -> None:
        self.index.rows[self.seq] = replace(self.row, **changed)

    def sealed(self, **changed: Any) -> None:
        version = self.corpus.versions[0]
        version.sealed = replace(version.sealed, **changed)

    def entry(self, column: str, value: int) -> None:
        held = getattr(self.index, column).copy()
        held[self.index.live_seq == self.seq] = value
        setattr(self.index, column, held)

    def posting(self, column: str) -> None:
        piece = self.segment.terms["vacat"]
        changed = getattr(piece, column).copy()
        changed[0] ^= 1
        self.segment.terms["vacat"] = replace(piece, **{column: changed})

    def another(self) -> bytes:
        return next(
            one.memberships[-1].docversion_id for one in self.corpus.documents.values() if one.key == "travel.md"
        )

    def extra(self) -> None:
        for column, value in (("live_seq", 77), ("live_from", 1), ("live_to", OPEN)):
            setattr(self.index, column, np.append(getattr(self.index, column), value))


def statistics(parts: Parts) -> None:
    kept = parts.corpus.versions[0].sealed.statistics
    parts.sealed(statistics=replace(kept, rows=kept.rows + 1))


# What is done, the store and the name that must be told, how many documents are made anew.
DAMAGES: dict[str, tuple[Any, str, str, int]] = {
    "membership deleted": (lambda p: p.document.memberships.clear(), "catalog", LEAVE, 1),
    "membership elsewhere": (lambda p: setattr(p.member, "docversion_id", p.another()), "catalog", LEAVE, 1),
    "membership ends": (lambda p: setattr(p.member, "v_to", 9), "catalog", LEAVE, 1),
    "document key": (lambda p: setattr(p.document, "key", "x.md"), "catalog", LEAVE, 0),
    "access list": (lambda p: setattr(p.document, "acl", frozenset({"user:eve"})), "catalog", LEAVE, 0),
    "title": (lambda p: p.staged(title="Left"), "catalog", LEAVE, 1),
    "metadata": (lambda p: p.staged(metadata={"a": 1}), "catalog", LEAVE, 1),
    "object version": (lambda p: p.staged(object_version="0"), "catalog", LEAVE, 1),
    "leaf": (lambda p: p.staged(leaf=turned(p.docversion.staged.leaf)), "catalog", LEAVE, 1),
    "span": (lambda p: p.placed(0, end=3), "catalog", LEAVE, 1),
    "ordinal": (lambda p: p.placed(0, ordinal=9), "catalog", LEAVE, 1),
    "heading": (lambda p: p.placed(1, heading_path=("Sick leave",)), "catalog", LEAVE, 1),
    "row deleted": (lambda p: p.index.rows.pop(p.seq), "rows", f"{LEAVE}#0", 1),
    "chunk id": (lambda p: p.stored(chunk_id=turned(p.row.chunk_id)), "catalog", LEAVE, 1),
    "row id": (lambda p: p.stored(row_id=turned(p.row.row_id)), "catalog", LEAVE, 1),
    "text hash": (lambda p: p.stored(text_hash=turned(p.row.text_hash)), "rows", f"{LEAVE}#0", 1),
    "vector hash": (lambda p: p.stored(vector_hash=turned(p.row.vector_hash)), "catalog", LEAVE, 1),
    "terms": (lambda p: p.index.terms.__setitem__((p.seq, 0), 1), "catalog", LEAVE, 1),
    "text": (lambda p: p.corpus.texts.__setitem__(p.row.text_hash, "other"), "catalog", LEAVE, 1),
    "text deleted": (lambda p: p.corpus.texts.pop(p.row.text_hash), "rows", f"{LEAVE}#0", 1),
    "live closed early": (lambda p: p.entry("live_to", 1), "rows", f"{LEAVE}#0", 1),
    "live ends": (lambda p: p.entry("live_to", 7), "rows", f"{LEAVE}#0", 1),
    "live begins late": (lambda p: p.entry("live_from", 7), "rows", f"{LEAVE}#0", 1),
    "live beside": (Parts.extra, "rows", "row 77", 0),
    "vector": (lambda p: p.index.vectors.__setitem__((p.seq, 0), 0.5), "vectors", f"{LEAVE}#0", 1),
    **{
        f"posting's {column}": (lambda p, column=column: p.posting(column), "postings", LEAVE, 0)
        for column in ("seqs", "tf", "title_tf", "length", "title_length")
    },
    "posting deleted": (lambda p: p.segment.terms.pop("vacat"), "postings", LEAVE, 0),
    "segment deleted": (lambda p: p.index.segments.clear(), "postings", LEAVE, 0),
    "cached embedding": (lambda p: next(iter(p.cache.values())).__setitem__(0, 0.5), "embedding_cache", "docs:", 0),
    "root": (
        lambda p: p.sealed(merkle_root=turned(p.corpus.versions[0].sealed.merkle_root)),
        "catalog",
        "version 1",
        0,
    ),
    "buckets": (lambda p: p.sealed(buckets=turned(p.corpus.versions[0].sealed.buckets, 99)), "catalog", "version 1", 0),
    "statistics": (statistics, "catalog", "version 1", 0),
    "manifest key": (lambda p: p.sealed(manifest_key="x"), "catalog", "version 1", 0),
    "manifest digest": (lambda p: p.sealed(manifest_digest=b"x"), "catalog", "version 1", 0),
}


@pytest.mark.parametrize("what", DAMAGES)
async def test_a_damaged_entry_is_found_and_mended(tmp_path: Path, what: str):
    """Each damage is told with its store and name; the repair makes only its document anew, and all is as before."""
    harm, store, name, documents = DAMAGES[what]
    world = make_world("memory", tmp_path, None)
    world.write(PAGES)
    await world.ingest()
    before = await answers(world)
    harm(Parts(world))
    found = await world.audit()
    told = [(each.store, each.name) for each in found.findings]
    assert any(one == store and said_of.startswith(name) for one, said_of in told), said(found)
    done, after = await world.repair(found)
    assert after.clean, (done, said(after))
    assert not done.left
    assert (done.documents, done.rows) == (documents, 2 * documents)
    assert (done.postings > 0) is (store == "postings")
    assert done.embedded == 0
    assert await answers(world) == before
