"""What the JSONL source does with lines that are odd: broken, double, endless; and what of a record counts."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from ragstone.adapters.localfs.jsonl import JsonlSource
from ragstone.ingest.parse import ParseLimits

if TYPE_CHECKING:
    from pathlib import Path

    from ragstone.ingest.records import Scan

LIMITS = ParseLimits(bytes_max=10_000)


def jsonl(tmp_path: Path, *lines: bytes | str | dict[str, Any], end: bytes = b"\n", last: bytes = b"") -> JsonlSource:
    raw = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"".join(line + end for line in raw) + last)
    return JsonlSource(path, LIMITS)


@pytest.mark.parametrize(
    ("line", "reason", "field", "identified"),
    [
        (b'{"_id": "x"', "broken_json", "", False),
        (b'{"_id": "x", "text": NaN}', "broken_json", "", False),
        (b"[" * 5000, "broken_json", "", False),
        (b'{"_id": "x", "text": "\xff"}', "invalid_utf8", "", False),
        (b'["x"]', "wrong_type", "", False),
        (b'{"text": "t"}', "missing_id", "_id", False),
        (b'{"_id": "", "text": "t"}', "missing_id", "_id", False),
        (b'{"_id": null, "text": "t"}', "missing_id", "_id", False),
        (b'{"_id": true, "text": "t"}', "wrong_type", "_id", False),
        (b'{"_id": 1.5, "text": "t"}', "wrong_type", "_id", False),
        (b'{"_id": " ", "text": "t"}', "wrong_type", "_id", False),
        (b'{"_id": "a\\u0000", "text": "t"}', "wrong_type", "_id", False),
        (b'{"_id": "x"}', "missing_text", "text", True),
        (b'{"_id": "x", "text": " ", "title": " "}', "missing_text", "text", True),
        (b'{"_id": "x", "text": 5}', "wrong_type", "text", True),
        (b'{"_id": "x", "text": "t", "title": 5}', "wrong_type", "title", True),
        (b'{"_id": "x", "text": "\\ud800"}', "invalid_utf8", "text", True),
        (b'{"_id": "x", "text": "t", "title": "\\ud800"}', "wrong_type", "title", True),
        (b'{"_id": "x", "text": "t", "metadata": []}', "wrong_type", "metadata", True),
        (b'{"_id": "x", "text": "t", "metadata": {"a": {}}}', "wrong_type", "metadata.a", True),
        (b'{"_id": "x", "text": "t", "metadata": {"a": [[1]]}}', "wrong_type", "metadata.a", True),
        (b'{"_id": "x", "text": "t", "metadata": {"a": 1e999}}', "wrong_type", "metadata.a", True),
        (b'{"_id": "x", "text": "t", "metadata": {"a": "\\u0000"}}', "wrong_type", "metadata.'a'", True),
        (b'{"_id": "x", "text": "t", "acl": "hr"}', "wrong_type", "acl", True),
        (b'{"_id": "x", "text": "t", "acl": [""]}', "wrong_type", "acl", True),
        (b'{"_id": "x", "text": "t", "media_type": "text/csv"}', "wrong_type", "media_type", True),
        (b'{"_id": "x", "text": "t", "media_type": []}', "wrong_type", "media_type", True),
    ],
)
async def test_jsonl_bad_lines(tmp_path: Path, line: bytes, reason: str, field: str, identified: bool) -> None:
    """A bad line is a fault that names file, line and field; the lines around it are listed."""
    scan = await jsonl(tmp_path, {"_id": "before", "text": "t"}, line, {"_id": "after", "text": "t"}).scan()
    assert [found.key for found in scan.objects] == ["after", "before"]
    (fault,) = scan.faults
    assert (fault.reason, fault.field, fault.identified) == (reason, field, identified)
    assert fault.message.startswith("r.jsonl:2 ")
    assert fault.key == ("x" if identified else "r.jsonl:2")
    assert_complete(scan)


async def test_jsonl_duplicate_ids(tmp_path: Path) -> None:
    """The first of two records with one id wins; the fault names both lines. 1 and "1" are one id."""
    source = jsonl(tmp_path, {"_id": 1, "text": "first"}, "", {"_id": "1", "text": "second"})
    scan = await source.scan()
    assert await source.read(scan.objects[0]) == b"first"
    (fault,) = scan.faults
    assert (fault.key, fault.reason) == ("1", "duplicate_id")
    assert "r.jsonl:3" in fault.message
    assert "line 1" in fault.message


async def test_jsonl_fields(tmp_path: Path) -> None:
    """Title, metadata, access list and type come through; null means absent; only a title is a text too."""
    full = {
        "_id": "a",
        "title": " T ",
        "text": "t",
        "metadata": {"n": 1, "l": ["x", 2.5, True], "none": None},
        "acl": ["user:b", "user:a", "user:b"],
        "media_type": "text/markdown",
    }
    source = jsonl(
        tmp_path,
        full,
        {"_id": "b", "title": "Only", "text": ""},
        {"_id": "c", "text": "t", "acl": [], "title": None},
    )
    a, b, c = (await source.scan()).objects
    assert (a.title, a.metadata, a.acl, a.media_type, a.place) == (
        "T",
        {"n": 1, "l": ["x", 2.5, True]},
        ("user:a", "user:b"),
        "text/markdown",
        "r.jsonl:1",
    )
    assert await source.read(b) == b"Only"
    assert (b.media_type, b.acl) == ("text/plain", None)
    assert (c.title, c.acl) == (None, ())


async def test_jsonl_version_follows_every_field(tmp_path: Path) -> None:
    """Text, title, metadata, access list and type each change the version; order and layout do not."""
    base = {"_id": "a", "title": "T", "text": "t", "metadata": {"x": 1, "y": 2}, "acl": ["a", "b"]}
    same = [
        {**base, "acl": ["b", "a"]},
        dict(reversed(base.items())),
        {**base, "metadata": {"y": 2, "x": 1}},
        {**base, "extra": 1},
    ]
    other = [
        {**base, "text": "u"},
        {**base, "title": "U"},
        {**base, "metadata": {"x": 1}},
        {**base, "acl": None},
        {**base, "acl": []},
        {**base, "media_type": "text/html"},
    ]

    async def version(record: dict[str, Any]) -> str:
        return (await jsonl(tmp_path, record).scan()).objects[0].object_version

    first = await version(base)
    assert [await version(record) for record in same] == [first] * len(same)
    assert len({first, *[await version(record) for record in other]}) == len(other) + 1


async def test_jsonl_moved_lines_are_no_change(tmp_path: Path) -> None:
    """A record that moved to another line is still read: its content is what was listed."""
    record = {"_id": "a", "text": "t"}
    listed = (await jsonl(tmp_path, record).scan()).objects[0]
    source = jsonl(tmp_path, {"_id": "new", "text": "longer than before"}, record)
    assert await source.read(listed) == b"t"


async def test_jsonl_layout(tmp_path: Path) -> None:
    """A byte order mark, CRLF, blank lines and a last line without end are fine."""
    source = jsonl(
        tmp_path,
        b'\xef\xbb\xbf{"_id": "a", "text": "one"}',
        b"",
        b"  ",
        b'{"_id": "b", "text": "two"}',
        end=b"\r\n",
        last=b'{"_id": "c", "text": "three"}',
    )
    scan = await source.scan()
    assert [(found.key, found.place) for found in scan.objects] == [
        ("a", "r.jsonl:1"),
        ("b", "r.jsonl:4"),
        ("c", "r.jsonl:5"),
    ]
    assert [await source.read(found) for found in scan.objects] == [b"one", b"two", b"three"]


async def test_jsonl_endless_lines(tmp_path: Path) -> None:
    """Lines above the limit are passed over without being held; what follows keeps its place."""
    path = tmp_path / "r.jsonl"
    with path.open("wb") as file:
        file.truncate(50_000_000)
        file.seek(0, os.SEEK_END)
        file.write(b'\n{"_id": "a", "text": "one"}\n' + b"x" * 30_000)
    source = JsonlSource(path, LIMITS)
    scan = await source.scan()
    assert [fault.reason for fault in scan.faults] == ["too_large", "too_large"]
    assert not any(fault.identified for fault in scan.faults)
    assert await source.read(scan.objects[0]) == b"one"


def assert_complete(scan: Scan) -> None:
    """Every fault says what, where and what to do."""
    for fault in scan.faults:
        assert fault.key
        assert fault.message
        assert fault.next_step
