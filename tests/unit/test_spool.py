"""The evidence spool: what was appended is shipped once, whatever happens to the process, the file or the disk."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ragstone.adapters.localfs import spool as module
from ragstone.adapters.localfs.spool import HEAD, Spool, frames
from ragstone.core import evidence as ev
from ragstone.core.errors import ResourceExhausted, Unavailable
from ragstone.core.ids import uuid7

if TYPE_CHECKING:
    from pathlib import Path

MB = 1_000_000
WRITER = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_spool import envelope
from ragstone.adapters.localfs.spool import Spool
spool = Spool(Path(sys.argv[1]), 10**8)
for number in range(20):
    spool.append(envelope(f"question {number}"))
    print(number, flush=True)
sys.stdin.read()
"""


def envelope(question: str = "why?", passage: str = "because") -> ev.EvidenceEnvelope:
    fusion = ev.FusionRecord("z", {}, 0, {}, {}, {}, {}, 60)
    columns = ev.CandidateColumns([], [], [], [], [], [], [], [], [], [], [])
    record = ev.Evidence(
        id=str(uuid7()), kind="search", at="", corpus="c", corpus_id="00", tenant="t", asker=["public"], index_id="",
        release="", corpus_version=1, trace_id="", status="ok",
        retrieval=ev.RetrievalRecord([], "", None, [], fusion, columns, [], 0, 10), answer=None, degraded=[],
        stage_ms={}, tokens={}, cost_microusd=0, made_by={}, profile={},
    )  # fmt: skip
    return ev.EvidenceEnvelope(record, ev.EvidenceText(question, None, {"00": passage}), [])


class Full(io.FileIO):
    """A file on a disk that has room for forty more bytes."""

    def write(self, data) -> int:
        super().write(data[:40])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Sink:
    """A store that ignores what it has, and may be away."""

    def __init__(self, *, away: bool = False) -> None:
        self.held: dict[str, ev.EvidenceEnvelope] = {}
        self.calls = 0
        self.away = away

    async def append(self, envelopes: list[ev.EvidenceEnvelope]) -> None:
        self.calls += 1
        if self.away:
            raise Unavailable("the database does not answer")
        for each in envelopes:
            self.held.setdefault(each.record.id, each)

    @property
    def questions(self) -> list[str]:
        return [each.text.question for each in self.held.values()]


def writer(folder: Path) -> subprocess.Popen[str]:
    """A process that appends twenty records and lives on."""
    words = [sys.executable, "-c", WRITER, str(folder), *sys.path]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


async def test_what_is_appended_is_shipped_once(folder):
    """Records come out whole and in order, the files go away, and there is nothing left to ship."""
    spool, sink = Spool(folder, MB), Sink()
    made = [envelope(f"question {number} \U0001faa8\n") for number in range(150)]
    for each in made:
        spool.append(each)
    assert [each.record.id for each in spool.pending()] == [each.record.id for each in made]
    assert spool.find(made[7].record.id) == made[7]
    assert await spool.ship(sink) == 150
    assert list(sink.held.values()) == made
    assert sink.calls == 3
    assert (files(folder), await spool.ship(sink), spool.find(made[7].record.id)) == ([], 0, None)
    spool.close()


async def test_a_store_that_is_away(folder):
    """When the store does not answer everything stays; shipping again, also what was half shipped, is harmless."""
    spool, sink = Spool(folder, MB), Sink(away=True)
    for number in range(3):
        spool.append(envelope(str(number)))
    with pytest.raises(Unavailable):
        await spool.ship(sink)
    copy = {path.name: path.read_bytes() for path in files(folder)}
    sink.away = False
    assert await spool.ship(sink) == 3
    for name, data in copy.items():
        (folder / name).write_bytes(data)
    assert await spool.ship(sink) == 3
    assert sorted(sink.questions) == ["0", "1", "2"]


@pytest.mark.parametrize("cut", [1, 5, HEAD.size, HEAD.size + 1, 100])
async def test_a_torn_tail(folder, cut):
    """A last record that was written in part is left out; all before it are kept."""
    spool, sink = Spool(folder, MB), Sink()
    for number in range(3):
        spool.append(envelope(str(number)))
    spool.close()
    (path,) = files(folder)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3 * 2 + cut])
    assert await spool.ship(sink) == 2
    assert sink.questions == ["0", "1"]


@pytest.mark.parametrize("place", [0, 5, 9, HEAD.size + 20], ids=["magic", "length", "checksum", "body"])
async def test_a_damaged_record(folder, place):
    """A flipped bit anywhere in a record costs that record alone."""
    spool, sink = Spool(folder, MB), Sink()
    for number in range(5):
        spool.append(envelope(str(number)))
    spool.close()
    (path,) = files(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 5 * 2 + place] ^= 0x10
    path.write_bytes(data)
    assert await spool.ship(sink) == 4
    assert sink.questions == ["0", "1", "3", "4"]


def test_junk_is_no_record():
    """Bytes that are no frame, or a frame's mark inside a text, give no record and no error."""
    for junk in (b"", b"RSE1", b"RSE1" + bytes(8), b"RSE1\xff\xff\xff\xff" + bytes(100), os.urandom(1000)):
        assert list(frames(junk)) == []


async def test_several_processes(folder):
    """A living process keeps its file to itself; what one that was killed left is taken by whoever ships next."""
    both = [writer(folder), writer(folder)]
    try:
        for process in both:
            assert [process.stdout.readline() for _ in range(20)][-1] == "19\n"
        mine, sink = Spool(folder, MB), Sink()
        mine.append(envelope("mine"))
        assert len(list(mine.pending())) == 41
        assert await mine.ship(sink) == 1
        both[0].send_signal(signal.SIGKILL)
        both[0].wait()
        assert await mine.ship(sink) == 20
        assert len(list(mine.pending())) == 20
    finally:
        for process in both:
            process.kill()
            process.communicate()
    assert await mine.ship(sink) == 20
    assert len(sink.held) == 41


def test_a_file_is_locked_before_it_has_its_name(folder, monkeypatch):
    """Nobody can take a file for one left behind in the moment after it was made."""
    spool, seen = Spool(folder, MB), []
    real = fcntl.flock

    def slow(file, operation):
        seen.extend(folder.glob("*.spool"))
        return real(file, operation)

    monkeypatch.setattr(module.fcntl, "flock", slow)
    spool.append(envelope())
    monkeypatch.undo()
    assert seen == []
    (path,) = folder.glob("*.spool")
    with path.open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    spool.close()


async def test_threads(folder):
    """Records appended by several threads while others ship are all shipped, each once."""
    spool, sink = Spool(folder, 10 * MB), Sink()

    def work(name: int) -> None:
        for number in range(50):
            spool.append(envelope(f"{name}-{number}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        await spool.ship(sink)
    await spool.ship(sink)
    assert len(sink.held) == 200
    assert len(set(sink.questions)) == 200


def test_a_spool_that_fills_up(folder):
    """Nearly full, records are kept without their passages and labelled; full, none is taken; shipped, all is well."""
    spool = Spool(folder, 100_000)
    made = [envelope(passage="x" * 2000) for _ in range(400)]

    def append_all() -> None:
        for each in made:
            spool.append(each)

    with pytest.raises(Unavailable, match="has reached 100000 bytes"):
        append_all()
    reduced = sum([each.code for each in one.record.degraded] == ["evidence_reduced"] for one in made) - 1
    held = list(spool.pending())
    assert reduced == sum(not each.text.context for each in held)
    assert 0 < reduced < len(held)
    assert sum(path.stat().st_size for path in files(folder)) <= 100_000
    spool.close()


async def test_a_full_disk_leaves_no_half_record(folder):
    """On a full disk the record is refused as a whole: what is written when there is space again is found."""
    spool, sink = Spool(folder, MB), Sink()
    spool.append(envelope("before"))
    before = spool._path.read_bytes()
    spool._file.close()
    spool._file = Full(spool._path, "a")
    with pytest.raises(ResourceExhausted, match="No space left"):
        spool.append(envelope("lost"))
    assert spool._path.read_bytes() == before
    spool._file.close()
    spool._file = io.FileIO(spool._path, "a")
    spool.append(envelope("after"))
    spool.close()
    assert await spool.ship(sink) == 2
    assert sink.questions == ["before", "after"]


def test_a_place_that_cannot_be_written(tmp_path):
    """A spool below a file is Unavailable with a next step, and closing it afterwards is quiet."""
    (tmp_path / "file").write_text("")
    spool = Spool(tmp_path / "file" / "spool", MB)
    with pytest.raises(Unavailable, match="cannot write the evidence spool") as refused:
        spool.append(envelope())
    assert refused.value.next_step
    spool.close()


def test_records_reach_the_disk_within_50_ms(folder, monkeypatch):
    """One fsync follows within 50 ms of an append, one for many appends, and none when nothing was written."""
    synced: list[float] = []
    real = os.fsync
    monkeypatch.setattr(module.os, "fsync", lambda descriptor: (real(descriptor), synced.append(time.monotonic())))
    spool = Spool(folder, MB)
    began = time.monotonic()
    for number in range(10):
        spool.append(envelope(str(number)))
    time.sleep(0.3)
    assert len(synced) in {1, 2}
    assert synced[0] - began < module.FSYNC_WITHIN_S + 0.15  # a busy machine wakes a timer late
    spool.append(envelope("last"))
    spool.close()
    count = len(synced)
    assert count in {2, 3}
    spool.sync()
    assert len(synced) == count


def test_nobody_waits_for_the_disk(folder, monkeypatch):
    """A record is appended while an earlier one is being forced to the disk; what came meanwhile is forced next."""
    begun, free, synced = threading.Event(), threading.Event(), []

    def slow(descriptor: int) -> None:
        begun.set()
        assert free.wait(20)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(module.os, "fsync", slow)
    spool = Spool(folder, MB)
    spool.append(envelope("first"))
    assert begun.wait(20)
    appended = threading.Thread(target=spool.append, args=(envelope("second"),))
    appended.start()
    appended.join(10)
    waited = appended.is_alive()
    free.set()
    appended.join(10)
    spool.close()
    assert not waited
    assert synced[-1] > 0
    assert len(synced) >= 2
    assert [each.text.question for each in spool.pending()] == ["first", "second"]


def test_what_others_write_counts_by_the_next_sync(folder):
    """The bound holds for all processes together: what another one has written is seen at the next sync."""
    size = len(module._framed(module.msgspec.json.encode(envelope())))
    one, other = Spool(folder, 3 * size), Spool(folder, 100 * size)
    one.append(envelope())
    for _ in range(5):
        other.append(envelope())
    one.sync()
    with pytest.raises(Unavailable):
        one.append(envelope())
    one.close()
    other.close()


async def test_a_record_of_another_release_is_set_aside(folder):
    """A whole record that cannot be read blocks nothing: the others are shipped, it is kept and named."""
    spool, sink = Spool(folder, MB), Sink()
    spool.append(envelope("before"))
    body = b'{"record":{}}'
    spool._file.write(HEAD.pack(module.MAGIC, len(body), module.zlib.crc32(body)) + body)
    spool.append(envelope("after"))
    assert [each.text.question for each in spool.pending()] == ["before", "after"]
    assert await spool.ship(sink) == 2
    (aside,) = spool.rejected()
    assert body in aside.read_bytes()
    assert list(spool.pending()) == []


class Picky:
    """A store that refuses one question, as a database does a value it cannot hold."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    async def append(self, envelopes: list[ev.EvidenceEnvelope]) -> None:
        if any(each.text.question == "poison" for each in envelopes):
            raise ValueError("no such value")
        self.kept += [each.text.question for each in envelopes]


async def test_one_record_that_the_store_refuses_holds_up_no_other(folder):
    """A batch that the store refuses is tried one by one: the record at fault is set aside, the others are kept."""
    spool, store = Spool(folder, MB), Picky()
    for question in ("one", "poison", "two"):
        spool.append(envelope(question))
    await spool.ship(store)
    assert store.kept == ["one", "two"]
    assert len(spool.rejected()) == 1
    await spool.ship(store)
    assert store.kept == ["one", "two"]
