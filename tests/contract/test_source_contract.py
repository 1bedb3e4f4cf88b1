"""The promises of the SourceReader port, held by every source on this machine, with real files."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ragstone.adapters.localfs.folder import FolderSource
from ragstone.adapters.localfs.jsonl import JsonlSource
from ragstone.adapters.localfs.sources import open_source
from ragstone.core.errors import DocumentRejected, UsageError
from ragstone.ingest.parse import ParseLimits, parse
from ragstone.ingest.records import Fault, Scan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ragstone.ingest.ports import SourceReader

LIMITS = ParseLimits(bytes_max=10_000)
NOBODY = 65534


@dataclass
class Kind:
    """One kind of source: where it is, how texts get into it, how it is opened."""

    place: Path
    write: Callable[[Mapping[str, str]], None]
    open: Callable[[], SourceReader]
    name: str


def folder_kind(tmp_path: Path) -> Kind:
    root = tmp_path / "handbook"

    def write(texts: Mapping[str, str]) -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for key, text in texts.items():
            (root / key).parent.mkdir(parents=True, exist_ok=True)
            (root / key).write_text(text, encoding="utf-8")

    return Kind(root, write, lambda: FolderSource(root, LIMITS), "handbook")


def jsonl_kind(tmp_path: Path) -> Kind:
    path = tmp_path / "records.jsonl"

    def write(texts: Mapping[str, str]) -> None:
        path.write_text("".join(json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts.items()), "utf-8")

    return Kind(path, write, lambda: JsonlSource(path, LIMITS), "records")


@pytest.fixture(params=[folder_kind, jsonl_kind], ids=["folder", "jsonl"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    return request.param(tmp_path)


TEXTS = {"b.md": "Two.", "a.md": "One.", "sub/c.md": "Grüße."}


# -- what every source promises


async def test_lists_every_object_once_by_key(kind: Kind) -> None:
    """Every object, once, sorted by key, with its size, and no fault."""
    kind.write(TEXTS)
    scan = await kind.open().scan()
    assert [(found.key, found.size_bytes) for found in scan.objects] == [
        ("a.md", 4),
        ("b.md", 4),
        ("sub/c.md", 8),
    ]
    assert scan.faults == ()


async def test_reads_what_it_listed(kind: Kind) -> None:
    """`read` gives the very bytes that were listed, and they parse."""
    kind.write(TEXTS)
    source = kind.open()
    for listed in (await source.scan()).objects:
        data = await source.read(listed)
        assert data.decode() == TEXTS[listed.key]
        assert parse(data, listed, LIMITS).text == TEXTS[listed.key]


async def test_reads_without_a_scan_of_its_own(kind: Kind) -> None:
    """Another instance, in another process perhaps, reads what was listed."""
    kind.write(TEXTS)
    listed = (await kind.open().scan()).objects[0]
    assert await kind.open().read(listed) == b"One."


async def test_version_follows_content_alone(kind: Kind) -> None:
    """The same content gives the same version, whenever written; other content another."""
    kind.write(TEXTS)
    first = versions(await kind.open().scan())
    kind.write(TEXTS)
    assert versions(await kind.open().scan()) == first
    kind.write({**TEXTS, "a.md": "Else."})
    second = versions(await kind.open().scan())
    assert {key for key in first if first[key] != second[key]} == {"a.md"}


async def test_a_later_scan_is_newer(kind: Kind) -> None:
    """The source order of a later scan sorts after, as text, whatever the files' own times say."""
    kind.write(TEXTS)
    first = await kind.open().scan()
    if kind.place.is_dir():
        os.utime(kind.place / "a.md", (0, 0))
    await asyncio.sleep(0.001)
    second = await kind.open().scan()
    assert re.fullmatch(r"\d{20}", first.source_order)
    assert first.source_order < second.source_order
    assert {found.source_order for found in second.objects} == {second.source_order}


async def test_a_change_during_the_run_is_noticed(kind: Kind) -> None:
    """What changed or vanished after the scan is refused as `changed_during_run`, never read as if listed."""
    kind.write(TEXTS)
    source = kind.open()
    listed = {found.key: found for found in (await source.scan()).objects}
    kind.write({"a.md": "Changed.", "b.md": "Two."})
    for key in ("a.md", "sub/c.md"):
        with pytest.raises(DocumentRejected) as refused:
            await source.read(listed[key])
        assert refused.value.reason == "changed_during_run"
    if kind.place.is_dir():
        shutil.rmtree(kind.place)
    else:
        kind.place.unlink()
    with pytest.raises(DocumentRejected, match=r"b\.md|records"):
        await source.read(listed["b.md"])


async def test_a_missing_place_is_a_usage_error(kind: Kind) -> None:
    """A place that is not there is exit 2, with the path and a next step."""
    with pytest.raises(UsageError, match=re.escape(str(kind.place))) as raised:
        await kind.open().scan()
    assert raised.value.exit_code == 2
    assert raised.value.next_step


async def test_an_empty_source_is_no_error(kind: Kind) -> None:
    """Nothing in it: a scan without objects; the stage decides what that means."""
    kind.write({})
    scan = await kind.open().scan()
    assert (scan.objects, scan.faults) == ((), ())


async def test_too_large_is_a_fault(kind: Kind) -> None:
    """An object above the limit is named and not read; the others are listed."""
    kind.write({"a.md": "x" * 20_000, "b.md": "Two."})
    scan = await kind.open().scan()
    assert [found.key for found in scan.objects] == ["b.md"]
    assert reasons(scan) == ["too_large"]
    assert_complete(scan)


async def test_name_and_location(kind: Kind) -> None:
    """The default name is the last part of the path, the location is absolute; a scan changes nothing."""
    kind.write(TEXTS)
    source = kind.open()
    assert (source.name, source.location) == (kind.name, str(kind.place.absolute()))
    before = snapshot(kind.place.parent)
    await source.scan()
    assert snapshot(kind.place.parent) == before


async def test_open_source_finds_the_kind(kind: Kind) -> None:
    """`open_source` opens the same source from its path as text."""
    kind.write(TEXTS)
    opened = open_source(str(kind.place), LIMITS)
    assert type(opened) is type(kind.open())
    assert versions(await opened.scan()) == versions(await kind.open().scan())


# -- which source a location means


async def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    """One .md, .txt or .html file is a source with one object."""
    (tmp_path / "a.md").write_text("text")
    (tmp_path / "b.md").write_text("other")
    source = open_source(str(tmp_path / "a.md"), LIMITS)
    assert [found.key for found in (await source.scan()).objects] == ["a.md"]
    assert (source.name, source.location) == ("a.md", str(tmp_path / "a.md"))
    (tmp_path / "a.md").unlink()
    with pytest.raises(UsageError, match="does not exist"):
        await source.scan()


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("s3://bucket/prefix", "S3 sources come in a later release"),
        ("https://a.example/x", "no kind of source"),
        ("", "empty"),
        ("  ", "empty"),
        ("nowhere", "does not exist"),
        ("a\0b", "no path"),
        ("x" * 5000, "cannot be read"),
        (__file__, "neither a folder"),
    ],
)
def test_what_is_no_source(location: str, said: str) -> None:
    """Anything else is exit 2, with the reason and a next step."""
    with pytest.raises(UsageError, match=said) as raised:
        open_source(location, LIMITS)
    assert raised.value.next_step


def versions(scan: Scan) -> dict[str, str]:
    return {found.key: found.object_version for found in scan.objects}


def reasons(scan: Scan) -> list[str]:
    return [fault.reason for fault in scan.faults]


def assert_complete(scan: Scan) -> None:
    """Every fault says what, where and what to do."""
    for fault in scan.faults:
        assert isinstance(fault, Fault)
        assert fault.key
        assert fault.message
        assert fault.next_step


def snapshot(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}
