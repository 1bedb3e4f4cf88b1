"""The evidence spool: records are appended to a local file before an answer goes out, and shipped later.

A frame is b"RSE1", length u32, CRC-32 u32 (little endian), then the envelope as JSON. Every process appends
to its own file, which it holds locked; a file that nobody locks belongs to a process that is gone, and
whoever ships next takes it. A torn or damaged frame (power cut, kill, bad block) is left out; all before and
after it are kept. Shipping twice is harmless: the store ignores what it has.
"""

from __future__ import annotations

import errno
import fcntl
import io
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from ragstone.core.errors import ResourceExhausted, Transient, Unavailable
from ragstone.core.evidence import Degraded, EvidenceEnvelope

logger = logging.getLogger("ragstone.spool")

MAGIC = b"RSE1"
HEAD = struct.Struct("<4sII")
BATCH = 64
FSYNC_WITHIN_S = 0.05
REDUCED_FROM = 0.9


class EvidenceSink(Protocol):
    """Where shipped records go."""

    async def append(self, envelopes: list[EvidenceEnvelope]) -> None:
        """Write records that may have been written before."""


class Spool:
    """One process's end of the spool. Thread-safe."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._file: io.FileIO | None = None
        self._path: Path | None = None
        self._number = 0
        self._dirty = False
        self._syncing = threading.Lock()
        # Bytes in the folder, ours and other processes': looked up anew after every sync, every 50 ms at most.
        self._held: int | None = None
        self._timer: threading.Timer | None = None

    def append(self, envelope: EvidenceEnvelope) -> None:
        """Write one record; it is on the disk within 50 ms.

        A spool nearly full takes records without their passages, labelled; a full one takes none: Unavailable.
        """
        with self._lock:
            if self._held is None:
                self._held = self._size()
            size = self._held
            if size > self._bytes_max * REDUCED_FROM:
                envelope = _reduced(envelope)
            body = msgspec.json.encode(envelope)
            frame = _framed(body)
            if size + len(frame) > self._bytes_max:
                raise Unavailable(
                    f"the evidence spool {self._folder} has reached {self._bytes_max} bytes",
                    doing="recording evidence",
                    next_step="bring the database back (ragstone doctor); the spool then empties by itself",
                )
            try:
                _write_whole(self._open(), frame)
            except OSError as error:
                raise _full(error, self._folder) from None
            self._held += len(frame)
            self._dirty = True
            if self._timer is None:
                self._timer = threading.Timer(FSYNC_WITHIN_S, self.sync)
                self._timer.daemon = True
                self._timer.start()

    def sync(self) -> None:
        """Force what was written to the disk."""
        with self._syncing:
            with self._lock:
                self._timer = self._held = None
                if self._file is None or not self._dirty:
                    return
                handle = os.dup(self._file.fileno())
                self._dirty = False
            try:
                # Without the lock: this takes milliseconds, and whoever appends would wait for it on the event loop.
                os.fsync(handle)
            except OSError:
                self._dirty = True
                raise
            finally:
                os.close(handle)

    async def ship(self, sink: EvidenceSink) -> int:
        """Move every record that no living process is writing, and our own, into the store. Returns how many."""
        self._rotate()
        shipped = 0
        for path in sorted(self._folder.glob("*.spool")) if self._folder.exists() else []:
            shipped += await self._ship_file(path, sink)
        return shipped

    def pending(self) -> Iterator[EvidenceEnvelope]:
        """Every readable record that has not been shipped, of any process."""
        for path in sorted(self._folder.glob("*.spool")) if self._folder.exists() else []:
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            yield from frames(data)

    def rejected(self) -> list[Path]:
        """Files of records that were set aside."""
        return sorted(self._folder.glob("*.rejected")) if self._folder.exists() else []

    def find(self, ident: str) -> EvidenceEnvelope | None:
        """The record with this id, if it has not been shipped."""
        return next((envelope for envelope in self.pending() if envelope.record.id == ident), None)

    def close(self) -> None:
        """Sync and let go of the file; an empty one is removed."""
        self._rotate()

    def _rotate(self) -> None:
        self.sync()
        with self._syncing, self._lock:  # no sync holds the file open, and its lock with it
            self._held = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._file is not None and self._path is not None:
                if self._path.exists() and self._path.stat().st_size == 0:
                    self._path.unlink()
                self._file.close()
            self._file = self._path = None

    async def _ship_file(self, path: Path, sink: EvidenceSink) -> int:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return 0
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
            rejected: list[bytes] = []
            envelopes = list(frames(file.read(), rejected))
            for at in range(0, len(envelopes), BATCH):
                rejected += await _append(envelopes[at : at + BATCH], sink)
            if rejected:
                # Set aside, not lost: a record of another release, or one that the store cannot take.
                path.with_suffix(".rejected").write_bytes(b"".join(map(_framed, rejected)))
            path.unlink(missing_ok=True)
        return len(envelopes)

    def _open(self) -> io.FileIO:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._number += 1
            path = self._folder / f"{os.getpid()}-{self._number}-{os.urandom(4).hex()}.spool"
            # Locked before it has the name that shippers look for: an unlocked new file would be taken for one
            # left behind, and be removed under us.
            beside = path.with_suffix(".new")
            file = io.FileIO(beside, "a")
            try:
                fcntl.flock(file, fcntl.LOCK_SH)
                beside.rename(path)
            except OSError:
                file.close()
                raise
            self._file, self._path = file, path
        return self._file

    def _size(self) -> int:
        total = 0
        for path in self._folder.glob("*.spool") if self._folder.exists() else []:
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue
        return total


def _reduced(envelope: EvidenceEnvelope) -> EvidenceEnvelope:
    # The label goes into the caller's own record, so that the answer that goes out carries it too.
    envelope.record.degraded.append(Degraded("evidence_reduced", "evidence", "the spool is nearly full: no passages"))
    return msgspec.structs.replace(envelope, text=msgspec.structs.replace(envelope.text, context={}))


def _write_whole(file: io.FileIO, frame: bytes) -> None:
    """The whole frame or none of it: on a full disk half a frame would be left before those written later."""
    end = file.seek(0, io.SEEK_END)
    written = 0
    try:
        while written < len(frame):
            written += file.write(frame[written:]) or 0
    except OSError:
        file.truncate(end)
        raise


def _framed(body: bytes) -> bytes:
    return HEAD.pack(MAGIC, len(body), zlib.crc32(body)) + body


async def _append(envelopes: list[EvidenceEnvelope], sink: EvidenceSink) -> list[bytes]:
    """Append a batch; when the store refuses it, one by one. Returns the bodies that it refused."""
    try:
        await sink.append(envelopes)
    except Transient:
        raise  # the store is away: everything waits
    except Exception as error:  # noqa: BLE001 - whatever the store has against one record, the others must go on
        if len(envelopes) > 1:
            return [body for each in envelopes for body in await _append([each], sink)]
        logger.warning("evidence %s is set aside: %s", envelopes[0].record.id, error)
        return [msgspec.json.encode(envelopes[0])]
    return []


def frames(data: bytes, rejected: list[bytes] | None = None) -> Iterator[EvidenceEnvelope]:
    """The whole records of a spool file, in order; torn and damaged ones are passed over, whole ones that this
    release cannot read go to `rejected`."""
    decoder = msgspec.json.Decoder(EvidenceEnvelope)
    at = data.find(MAGIC)
    while 0 <= at <= len(data) - HEAD.size:
        _, size, crc = HEAD.unpack_from(data, at)
        body = data[at + HEAD.size : at + HEAD.size + size]
        whole = 0 < size == len(body) and zlib.crc32(body) == crc  # zeros are a checksum of nothing
        if whole:
            try:
                yield decoder.decode(body)
            except msgspec.MsgspecError:
                if rejected is not None:
                    rejected.append(body)
        at = data.find(MAGIC, at + (HEAD.size + size if whole else 1))


def _full(error: OSError, folder: Path) -> ResourceExhausted | Unavailable:
    kind = ResourceExhausted if error.errno in {errno.ENOSPC, errno.EDQUOT} else Unavailable
    return kind(
        f"cannot write the evidence spool {folder}: {error.strerror}",
        doing="recording evidence",
        next_step="free space or mend the rights, then ask again",
    )
