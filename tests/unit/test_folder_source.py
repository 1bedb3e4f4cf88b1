"""What the folder source does with files that are odd: types, links, names, rights, sizes."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ragstone.adapters.localfs.folder import FolderSource
from ragstone.core.errors import DocumentRejected, UsageError
from ragstone.ingest.parse import ParseLimits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragstone.ingest.records import Scan

LIMITS = ParseLimits(bytes_max=10_000)
NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    root.mkdir()
    return root


async def test_folder_types_and_hidden_files(root: Path) -> None:
    """Types by suffix, whatever its case; hidden things are passed over; other types are named."""
    for name in (
        "a.MD",
        "b.markdown",
        "c.txt",
        "d.text",
        "e.html",
        "f.htm",
        "g.pdf",
        "Makefile",
        ".hidden.md",
        "~x.md",
    ):
        (root / name).write_text("text")
    (root / ".git").mkdir()
    (root / ".git" / "x.md").write_text("text")
    scan = await FolderSource(root, LIMITS).scan()
    assert {found.key: found.media_type for found in scan.objects} == {
        "a.MD": "text/markdown",
        "b.markdown": "text/markdown",
        "c.txt": "text/plain",
        "d.text": "text/plain",
        "e.html": "text/html",
        "f.htm": "text/html",
        "~x.md": "text/markdown",
    }
    assert [(fault.key, fault.reason) for fault in scan.faults] == [
        ("Makefile", "unsupported_type"),
        ("g.pdf", "unsupported_type"),
    ]
    assert_complete(scan)


async def test_folder_never_reads_outside(root: Path, tmp_path: Path) -> None:
    """Links out of the source, and links that lead nowhere, are faults; nothing behind them is listed."""
    (tmp_path / "secret.md").write_text("secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.md").write_text("secret")
    (root / "out.md").symlink_to(tmp_path / "secret.md")
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "up").symlink_to("..")
    (root / "broken.md").symlink_to("nowhere.md")
    (root / "loop.md").symlink_to("loop.md")
    scan = await FolderSource(root, LIMITS).scan()
    assert scan.objects == ()
    assert [(fault.key, fault.reason) for fault in scan.faults] == [
        (key, "symlink") for key in ("broken.md", "loop.md", "out", "out.md", "up")
    ]
    assert_complete(scan)


async def test_folder_links_inside(root: Path) -> None:
    """A link to what is listed anyway is passed over; one into a hidden folder (a Kubernetes volume) is read."""
    (root / "..2024").mkdir()
    (root / "..2024" / "conf.md").write_text("mounted")
    (root / "..data").symlink_to("..2024")
    (root / "conf.md").symlink_to("..data/conf.md")
    (root / "real").mkdir()
    (root / "real" / "a.md").write_text("text")
    (root / "again.md").symlink_to("real/a.md")
    (root / "again").symlink_to("real")
    (root / "real" / "round").symlink_to("..")
    source = FolderSource(root, LIMITS)
    scan = await source.scan()
    assert [found.key for found in scan.objects] == ["conf.md", "real/a.md"]
    assert scan.faults == ()
    assert await source.read(scan.objects[0]) == b"mounted"


async def test_folder_names(root: Path) -> None:
    """Keys are Unicode NFC; two names that become one, and names that are not UTF-8, are faults."""
    (root / "cafe\u0301.md").write_text("decomposed")
    source = FolderSource(root, LIMITS)
    scan = await source.scan()
    assert [found.key for found in scan.objects] == ["caf\u00e9.md"]
    assert await source.read(scan.objects[0]) == b"decomposed"
    assert await FolderSource(root, LIMITS).read(scan.objects[0]) == b"decomposed"
    with pytest.raises(DocumentRejected, match="changed"):
        await FolderSource(root, LIMITS).read(replace(scan.objects[0], key="../docs2/x.md"))
    (root / "caf\u00e9.md").write_text("composed")
    (root / os.fsdecode(b"bad\xff.md")).write_text("text")
    scan = await FolderSource(root, LIMITS).scan()
    assert [found.key for found in scan.objects] == ["caf\u00e9.md"]
    assert sorted(reasons(scan)) == ["duplicate_id", "invalid_name"]
    assert any(r"bad\xff.md" in fault.key for fault in scan.faults)
    assert_complete(scan)


async def test_folder_huge_and_odd_files(root: Path) -> None:
    """A sparse file of 200 MB and a pipe are named without being opened."""
    with (root / "huge.md").open("wb") as file:
        file.truncate(200_000_000)
    os.mkfifo(root / "pipe.md")
    started = time.perf_counter()
    scan = await FolderSource(root, LIMITS).scan()
    assert [(fault.key, fault.reason) for fault in scan.faults] == [
        ("huge.md", "too_large"),
        ("pipe.md", "unsupported_type"),
    ]
    assert time.perf_counter() - started < 2


async def test_folder_deeper_than_the_stack(root: Path) -> None:
    """Depth of folders costs no recursion."""
    place = root
    for _ in range(400):
        place /= "d"
    place.mkdir(parents=True)
    (place / "x.md").write_text("deep")
    source = FolderSource(root, LIMITS)
    (listed,) = (await source.scan()).objects
    assert await source.read(listed) == b"deep"


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder with a file and two folders that nobody may read, seen as an ordinary user.

    Not below tmp_path, which other users cannot enter; and root may read anything, so it becomes nobody.
    """
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as rights:
        root = Path(place)
        root.chmod(0o755)
        (root / "open.md").write_text("text")
        (root / "closed.md").write_text("text")
        (root / "closed").mkdir()
        (root / "closed" / "x.md").write_text("text")
        (root / "whole").mkdir()
        for name in ("closed.md", "closed", "whole"):
            (root / name).chmod(0)
            rights.callback((root / name).chmod, 0o755)
        rights.enter_context(as_nobody())
        yield root


async def test_folder_without_rights(closed: Path) -> None:
    """What may not be read is a fault; under a folder that may not be read nothing is taken for deleted."""
    scan = await FolderSource(closed, LIMITS).scan()
    assert [found.key for found in scan.objects] == ["open.md"]
    assert [(fault.key, fault.reason, fault.identified) for fault in scan.faults] == [
        ("closed.md", "unreadable", True),
        ("closed/", "unreadable", False),
        ("whole/", "unreadable", False),
    ]
    assert_complete(scan)
    with pytest.raises(UsageError, match="cannot be read"):
        await FolderSource(closed / "whole", LIMITS).scan()


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """An ordinary user for a while; root passes every permission."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(NOBODY)
    except OSError:
        pytest.skip("not tested: what happens without rights, since this root may not become another user")
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_file_that_vanishes_during_the_scan(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was listed but is gone when opened is a fault, not a crash."""
    (root / "a.md").write_text("text")
    stat = Path.stat

    def gone(path: Path, **options: Any) -> os.stat_result:
        if path.name == "a.md":
            path.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", gone)
    scan = await FolderSource(root, LIMITS).scan()
    assert (scan.objects, reasons(scan)) == ((), ["vanished"])


def reasons(scan: Scan) -> list[str]:
    return [fault.reason for fault in scan.faults]


def assert_complete(scan: Scan) -> None:
    """Every fault says what, where and what to do."""
    for fault in scan.faults:
        assert fault.key
        assert fault.message
        assert fault.next_step
