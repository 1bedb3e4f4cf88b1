"""The audit on both backends: clean after every history, and what differs from the sources is told by name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pytest_asyncio
from audit_world import PAGES, World, answers, make_world, said
from contract_stacks import TENANT, document, staged

from ragstone.adapters.memory.columns import OPEN
from ragstone.core.errors import Busy, NotFound
from ragstone.index.records import RunStart

if TYPE_CHECKING:
    from pathlib import Path

    from ragstone.adapters.postgres.database import Database

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(params=["memory", "postgres"], loop_scope="session")
async def world(request: pytest.FixtureRequest, tmp_path: Path, database: Database) -> World:
    """A corpus of the handbook on one backend, ingested once."""
    made = make_world(request.param, tmp_path, database)
    made.write(PAGES)
    await made.ingest()
    return made


def told(report) -> set[tuple[str, str, str]]:
    return {(each.store, each.kind, each.name) for each in report.findings}


async def test_a_fresh_corpus_is_clean(world):
    """Right after an ingest nothing differs, and everything was looked at."""
    report = await world.clean()
    assert report.compared["source"] == report.compared["catalog"] == len(PAGES)
    rows = report.compared["rows"]
    assert rows > len(PAGES)
    assert report.compared["vectors"] == report.compared["postings"] == report.compared["embedding_cache"] == rows
    assert report.compared["manifest"] == report.version == report.head == 1


async def test_every_version_of_a_long_history_is_clean(world):
    """Changes, deletions, two sources, a rollback, a document deleted on purpose, merges: each version is proven."""
    world.write({"a.txt": "Apples of the other source.\n", "leave.md": "# Leave\n\nAsk Ann.\n"}, "other")
    await world.ingest("other")
    for number in range(9):
        world.write(
            {"travel.md": f"# Travel\n\nA hotel may cost {number} euros.\n", f"new-{number}.md": f"# New {number}\n"}
        )
        if number % 3 == 2:
            (world.places["docs"] / f"new-{number - 1}.md").unlink()
        await world.ingest()
    await world.roll_back("4")
    held = await world.clean()
    assert any("on purpose" in note for note in held.notes)
    await world.history.resume(TENANT, world.corpus)
    await world.ingest()
    await world.delete("security.md")
    head = await world.clean()
    assert any("deleted on purpose" in note for note in head.notes)
    for version in range(1, head.version + 1):
        assert (await world.clean(str(version))).version == version
    assert await world.checkpoint()
    await world.clean()


async def test_versions_that_retention_let_go_leave_a_clean_corpus(world):
    """After retention the kept versions are proven from the whole chain; one that is gone is not found."""
    world.kept(2)
    for number in range(5):
        world.write({"travel.md": f"# Travel\n\nA hotel may cost {number} euros.\n"})
        await world.ingest()
    head = await world.clean()
    await world.clean(str(head.version - 1))
    with pytest.raises(NotFound):
        await world.audit("1")


async def test_what_differs_from_the_source_is_told_and_ingested(world):
    """A changed, a new and a vanished file are told by name; the repair is an ordinary ingest of the source."""
    world.write({"travel.md": "# Travel\n\nWalk.\n", "new.md": "# New\n\nA new page.\n"})
    (world.places["docs"] / "security.md").unlink()
    found = await world.audit()
    assert told(found) == {
        ("source", "changed", "docs:travel.md"),
        ("source", "missing", "docs:new.md"),
        ("source", "extra", "docs:security.md"),
    }
    assert (await world.audit("1")).head == 1
    done, after = await world.repair(found)
    assert after.clean, said(after)
    assert (done.documents, after.version) == (2, 2)


async def test_what_is_in_quarantine_is_no_difference(world):
    """A file that cannot be read is in quarantine with its version; once it changes again the source is ahead."""
    (world.places["docs"] / "bad.txt").write_bytes(b"\xff\xfe\xff")
    await world.ingest()
    report = await world.clean()
    assert any("1 objects of 'docs' are in quarantine" in note for note in report.notes)
    (world.places["docs"] / "bad.txt").write_bytes(b"\xff\xfe\xff\xff")
    assert told(await world.audit()) == {("source", "missing", "docs:bad.txt")}


async def test_a_place_that_is_gone_is_told_and_proves_nothing(world):
    """A source that cannot be opened is a note, and a document that needs it is left damaged, with the next step."""
    shutil.move(world.places["docs"], world.folder / "elsewhere")
    report = await world.clean()
    assert any("'docs' was not compared" in note for note in report.notes)
    await damage_title(world)
    done, after = await world.repair()
    assert not after.clean
    assert len(done.left) == 1
    assert "'docs'" in done.left[0]
    shutil.move(world.folder / "elsewhere", world.places["docs"])
    done, after = await world.repair()
    assert (done.documents, done.left, after.clean) == (1, [], True)


@pytest.mark.parametrize("harm", ["turned", "deleted", "swapped", "emptied"])
async def test_a_lost_manifest_is_made_again_to_the_byte(world, harm):
    """A manifest that is damaged, missing or another's is told by its version, and made again with the very bytes."""
    world.write({"travel.md": "# Travel\n\nWalk.\n", "new.md": "# New\n\nA new page.\n"})
    (world.places["docs"] / "security.md").unlink()
    await world.ingest()
    await world.roll_back("1")
    await world.history.resume(TENANT, world.corpus)
    await world.ingest()
    objects = await world.manifests()
    before = [each.read_bytes() for each in objects]
    if harm == "turned":
        for each, data in zip(objects, before, strict=True):
            each.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    elif harm == "swapped":
        objects[0].write_bytes(before[1])
        objects[1].write_bytes(before[0])
    else:
        for each in objects:
            each.unlink() if harm == "deleted" else each.write_bytes(b"")
    found = await world.audit()
    harmed = 2 if harm == "swapped" else len(objects)
    kind = "missing" if harm == "deleted" else "damaged"
    assert told(found) == {("manifest", kind, f"version {number + 1}") for number in range(harmed)}
    done, after = await world.repair(found)
    assert after.clean, said(after)
    assert (done.manifests, done.documents, done.checkpoint) == (harmed, 0, "")
    assert [each.read_bytes() for each in objects] == before


async def test_a_manifest_lost_for_good_is_followed_by_a_checkpoint(world):
    """What retention has taken cannot be rebuilt: a checkpoint of the head is sealed, and proves from there on."""
    world.kept(1)
    for number in range(3):
        world.write({"travel.md": f"# Travel\n\nA hotel may cost {number} euros.\n"})
        await world.ingest()
    (await world.manifests())[1].unlink()
    found = await world.audit()
    assert told(found) == {("manifest", "missing", "version 2")}
    assert any("the version's Merkle root proves its documents" in note for note in found.notes)
    done, after = await world.repair(found)
    assert after.clean, said(after)
    assert done.checkpoint
    assert done.documents == done.manifests == 0


async def test_reading_begins_at_the_newest_checkpoint_that_can_be_believed(world):
    """Manifests before a checkpoint are not needed; a checkpoint that is damaged is told, and read around."""
    world.write({"travel.md": "# Travel\n\nWalk.\n"})
    await world.ingest()
    first = await world.checkpoint()
    world.write({"travel.md": "# Travel\n\nRun.\n"})
    await world.ingest()
    second = await world.checkpoint()
    assert first != second
    objects = await world.manifests()
    objects[0].rename(world.folder / "kept")
    assert (await world.clean()).compared["manifest"] == 1
    path = world.folder / "objects" / second
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    found = await world.audit()
    assert told(found) == {("manifest", "damaged", "checkpoint of version 3")}
    assert found.compared["manifest"] == 2
    (world.folder / "kept").rename(objects[0])
    _, after = await world.repair(found)
    assert after.clean, said(after)
    assert path.read_bytes() == data


async def test_a_checkpoint_is_sealed_when_it_is_due(world):
    """As long as little has changed since the last one none is sealed."""
    assert not await world.checkpoint(force=False)
    world.write({"travel.md": "# Travel\n\nWalk.\n"})
    await world.ingest()
    assert await world.checkpoint(force=False)
    assert not await world.checkpoint(force=False)


async def test_a_publish_meanwhile_is_no_difference(world):
    """What is published while an audit reads is not seen by it, nor taken for a difference from the source."""
    inner = world.auditing.lister

    async def busy(source):
        world.write({"travel.md": "# Travel\n\nWalk.\n"})
        assert (await world.ingest()).published
        return await inner(source)

    world.auditing = replace(world.auditing, lister=busy)
    report = await world.clean()
    assert (report.version, report.head) == (1, 1)
    assert any("Version 2 was published meanwhile" in note for note in report.notes)


async def test_a_repair_waits_for_nobody(world):
    """While another run of named documents holds the source, a repair that needs it is busy and changes nothing."""
    await damage_title(world)
    start = RunStart(
        TENANT, world.corpus, "docs", str(world.places["docs"]), "folder", world.ingesting.recipe, "0" * 20, "changes"
    )
    run = await world.ingesting.runs.begin(start)
    with pytest.raises(Busy):
        await world.repair()
    await world.ingesting.runs.end(run, "failed")
    done, after = await world.repair()
    assert (done.documents, after.clean) == (1, True)


async def test_a_repair_of_nothing_changes_nothing(world):
    """A clean corpus is left as it is."""
    before = await answers(world)
    done, after = await world.repair()
    assert (done.documents, done.rows, done.postings, done.versions, done.checkpoint) == (0, 0, 0, [], "")
    assert after.version == 1
    assert await answers(world) == before


async def damage_title(world: World) -> None:
    """Another title than the one that the rows of leave.md were made with."""
    ident = world.document("leave.md")
    if world.store is None:
        sql = "update docversion set title = 'Left' where corpus_id = %(corpus)s and document_id = %(document)s"
        await world.sql(sql, document=ident)
    else:
        corpus = world.store.state.corpus(world.ident)
        held = corpus.docversions[corpus.documents[ident].memberships[-1].docversion_id]
        held.staged = replace(held.staged, title="Left")


async def test_a_row_that_is_live_again_is_told_and_closed(world):
    """A row of an old version that came back to life belongs to no document of the head: a version without it."""
    world.write({"travel.md": "# Travel\n\nWalk.\n"})
    await world.ingest()
    before = await answers(world)
    if world.store is None:
        reopened = "update live set v_to = 2147483647 where corpus_id = %(corpus)s and v_to = 2 returning seq"
        seqs = [row[0] for row in await world.sql(reopened)]
    else:
        index = world.store.state.corpus(world.ident).indexes[world.index]
        seqs = index.live_seq[index.live_to == 2].tolist()
        index.live_to = np.where(index.live_to == 2, OPEN, index.live_to)
    assert seqs
    found = await world.audit()
    assert told(found) == {("rows", "extra", f"row {seq}") for seq in seqs}
    done, after = await world.repair(found)
    assert after.clean, said(after)
    assert (done.documents, done.rows, done.versions) == (0, 0, [3])
    assert await answers(world) == before
    await world.clean("1")


async def test_an_old_row_is_compared_and_mended_too(world):
    """Postings of a row that only an older version holds are compared at the head, and written again from its text."""
    world.write({"travel.md": "# Travel\n\nWalk.\n"})
    await world.ingest()
    before = await answers(world, "1")
    if world.store is None:
        await world.sql("delete from posting where corpus_id = %(corpus)s and term = 'hotel'")
    else:
        for segment in world.store.state.corpus(world.ident).indexes[world.index].segments.values():
            segment.terms.pop("hotel", None)
    found = await world.audit()
    assert told(found) == {("postings", "changed", "docs:travel.md")}
    done, after = await world.repair(found)
    assert after.clean, said(after)
    assert (done.postings, done.documents, done.versions) == (1, 0, [])
    assert await answers(world, "1") == before


async def test_a_run_under_way_is_no_difference(world):
    """Rows that a run has staged and nobody sees are neither missing nor extra; killed, they are none either."""
    parts = world.ingesting
    place, order = str(world.places["docs"]), "9" * 19
    run = await parts.runs.begin(RunStart(TENANT, world.corpus, "docs", place, "folder", parts.recipe, order))
    stack = SimpleNamespace(runs=parts.runs, cache=parts.embeddings)
    await staged(stack, run, [document("leave.md", "Other words of leave.", order=order)])
    report = await world.clean()
    assert any("postings are of rows that no kept version holds" in note for note in report.notes)
    await parts.runs.end(run, "failed")
    assert not any("postings" in note for note in (await world.clean()).notes)


async def test_an_access_list_is_not_guessed(world):
    """Where the source cannot be asked, a damaged access list is left, and said so."""
    if world.store is None:
        await world.sql("update acl set principals = '{user:eve}' where corpus_id = %(corpus)s")
    else:
        world.store.state.corpus(world.ident).documents[world.document("leave.md")].key = "x.md"
    shutil.move(world.places["docs"], world.folder / "elsewhere")
    done, _ = await world.repair()
    assert any("its access list is as it was" in each for each in done.left)
    shutil.move(world.folder / "elsewhere", world.places["docs"])
    done, after = await world.repair()
    assert (done.left, after.clean) == ([], True)
