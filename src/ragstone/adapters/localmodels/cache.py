"""The model cache: one folder a model below one root, every file pinned by size and SHA-256.

Digests are checked whenever a model is loaded, not once when it is fetched: reading and hashing 34 MB takes
30 ms here (17 of them SHA-256), a tenth of what starting the runtime costs, and a marker file that says
"was checked" would vouch for bytes that have changed since.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ragstone.adapters.localmodels.registry import MODELS, LocalModel, ModelFile
from ragstone.core.errors import (
    Busy,
    IntegrityError,
    RagstoneError,
    ResourceExhausted,
    Unavailable,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

Problem = Literal["missing", "size", "digest", "unreadable"]
State = Literal["present", "incomplete", "missing", "wrong"]

LOCK_POLL_S = 0.05
# EFBIG as well: a file size limit (ulimit -f) is met in the same place and cured in the same way.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one file of a cached model."""

    file: Path
    problem: Problem
    expected: str
    actual: str

    def __str__(self) -> str:
        if self.problem in ("missing", "unreadable"):
            return f"{self.file}: {self.problem} ({self.actual or self.expected})"
        return f"{self.file}: wrong {self.problem}: expected {self.expected}, found {self.actual}"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One line of `ragstone models list` or `verify`.

    `present` from a listing means that all sizes are right; from a verification, that all digests are.
    """

    name: str
    state: State
    folder: Path
    size: int
    dimensions: int
    tokens_max: int
    licence: str
    findings: tuple[Finding, ...] = ()


class ModelCache:
    """Models by name below `root`. Nothing is created before something is written."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, model: LocalModel) -> Path:
        """Name the folder of a model, whether it is there or not."""
        return self.root / model.name

    def is_present(self, model: LocalModel) -> bool:
        """Tell whether every file is there in full length; digests are checked by `verify` and on load."""
        return not self.missing(model)

    def missing(self, model: LocalModel) -> list[Finding]:
        """List the files that are absent or of the wrong length, without reading them."""
        found = (check_length(self.path(model), file) for file in model.files)
        return [finding for finding in found if finding]

    def verify(self, model: LocalModel) -> list[Finding]:
        """Check length and SHA-256 of every file; an empty list means that all is well."""
        found = (check_digest(self.path(model), file) for file in model.files)
        return [finding for finding in found if finding]

    def install(self, model: LocalModel, contents: Mapping[str, bytes]) -> None:
        """Put a model into the cache, each file by write, fsync and rename, after checking all bytes.

        A reader sees an old file, a new file or none. A half-installed model is not present, and since the
        digests are fixed, files of two attempts fit together.
        """
        for file in model.files:
            finding = compare(self.path(model) / file.stored, file, contents[file.stored])
            if finding:
                raise IntegrityError(str(finding), doing=f"putting model {model.name} into the cache")
        folder = self.path(model)
        with storing(folder, f"writing model {model.name}"):
            folder.mkdir(parents=True, exist_ok=True)
            for file in model.files:
                _write_atomically(folder, file.stored, contents[file.stored])

    @asynccontextmanager
    async def locked(self, model: LocalModel, wait_s: float) -> AsyncIterator[None]:
        """Alone with one model among all processes; Busy after `wait_s`. The lock dies with its process."""
        lock = self.root / f".{model.name}.lock"
        with storing(self.root, f"locking model {model.name}"):
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            await _flock(handle, lock, wait_s)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def scratch(self, model: LocalModel) -> Iterator[Path]:
        """Lend a folder for half-fetched things, on the same disk, removed at the end.

        Call it with the model locked: what a killed process left behind is removed first.
        """
        prefix = f".fetch-{model.name}-"
        with storing(self.root, f"fetching model {model.name}"):
            for stale in self.root.glob(f"{prefix}*"):
                shutil.rmtree(stale, ignore_errors=True)
            folder = tempfile.TemporaryDirectory(prefix=prefix, dir=self.root, ignore_cleanup_errors=True)
        with folder as name:
            yield Path(name)

    def require_space(self, size: int, model: LocalModel) -> None:
        """Refuse before fetching rather than in the middle of it."""
        with storing(self.root, f"fetching model {model.name}"):
            self.root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.root).free
        if free < size:
            raise ResourceExhausted(
                f"{self.root} has {free:,} bytes free, {size:,} are needed",
                doing=f"fetching model {model.name}",
                next_step="free some space, or name another folder in RAGSTONE_MODEL_CACHE",
            )


def read_verified(folder: Path, model: LocalModel, file: ModelFile) -> bytes:
    """Read a file and check it: what is used is what was hashed, not the file as it was a moment ago."""
    path = folder / file.stored
    fetch = f"ragstone models fetch {model.name}"
    try:
        with path.open("rb") as stream:
            data = stream.read(file.size + 1)
    except (FileNotFoundError, NotADirectoryError) as missing:
        raise Unavailable(
            f"Model {model.name} is not in the cache: {path} is missing",
            doing="loading an embedder",
            next_step=fetch,
        ) from missing
    except OSError as fault:
        raise UsageError(
            f"{path} cannot be read: {fault.strerror}",
            doing="loading an embedder",
            next_step=f"make it readable, or set RAGSTONE_MODEL_CACHE and run {fetch}",
        ) from fault
    finding = compare(path, file, data)
    if finding:
        raise IntegrityError(str(finding), doing=f"loading model {model.name}", next_step=fetch)
    return data


def check_length(folder: Path, file: ModelFile) -> Finding | None:
    """Say what a look at the directory can say against a file."""
    path = folder / file.stored
    try:
        size = path.stat().st_size
    except OSError as fault:
        return Finding(path, "missing", f"{file.size} bytes", fault.strerror or "")
    return None if size == file.size else Finding(path, "size", f"{file.size} bytes", f"{size} bytes")


def check_digest(folder: Path, file: ModelFile) -> Finding | None:
    """Say what reading a file can say against it."""
    wrong_length = check_length(folder, file)
    if wrong_length:
        return wrong_length
    path = folder / file.stored
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as fault:
        return Finding(path, "unreadable", file.sha256, fault.strerror or "")
    return None if digest == file.sha256 else Finding(path, "digest", file.sha256, digest)


def compare(path: Path, file: ModelFile, data: bytes) -> Finding | None:
    """Say what speaks against `data` as the bytes of `file`."""
    if len(data) > file.size:
        return Finding(path, "size", f"{file.size} bytes", "more")
    if len(data) < file.size:
        return Finding(path, "size", f"{file.size} bytes", f"{len(data)} bytes")
    digest = hashlib.sha256(data).hexdigest()
    return None if digest == file.sha256 else Finding(path, "digest", file.sha256, digest)


def list_models(cache: ModelCache) -> list[ModelStatus]:
    """List every known model and whether it is there, without hashing."""
    return [_status(cache, model, cache.missing(model)) for model in MODELS]


def verify_models(cache: ModelCache) -> list[ModelStatus]:
    """Check the digests of every known model. One that was never fetched is `missing`, not wrong."""
    return [_status(cache, model, cache.verify(model)) for model in MODELS]


def _status(cache: ModelCache, model: LocalModel, findings: list[Finding]) -> ModelStatus:
    return ModelStatus(
        name=model.name,
        state=_state(model, findings),
        folder=cache.path(model),
        size=model.size,
        dimensions=model.dimensions,
        tokens_max=model.tokens_max,
        licence=model.licence,
        findings=tuple(findings),
    )


def _state(model: LocalModel, findings: list[Finding]) -> State:
    if not findings:
        return "present"
    absent = sum(finding.problem == "missing" for finding in findings)
    if absent < len(findings):
        return "wrong"
    return "missing" if absent == len(model.files) else "incomplete"


def _write_atomically(folder: Path, name: str, data: bytes) -> None:
    part = folder / f".{name}.part"
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(folder / name)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    # The rename itself must survive a power cut: that is the folder's business, not the file's.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


async def _flock(handle: int, lock: Path, wait_s: float) -> None:
    clock = asyncio.get_running_loop().time
    give_up = clock() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock() >= give_up:
                raise Busy(
                    f"Another process holds {lock}",
                    doing=f"waiting {wait_s:g} s to fetch a model",
                    next_step="wait until it is done, then try again",
                ) from None
            await asyncio.sleep(LOCK_POLL_S)
        else:
            return


@contextmanager
def storing(place: Path, doing: str) -> Iterator[None]:
    """Turn what a file system refuses into an error with a next step."""
    try:
        yield
    except OSError as fault:
        raise storage_error(fault, place, doing) from fault


def storage_error(fault: OSError, place: Path, doing: str) -> RagstoneError:
    """Tell a full disk, which is exhaustion, from a wrong place (permissions, read-only, not a folder)."""
    what = f"{fault.filename or place}: {fault.strerror or fault}"
    if fault.errno in DISK_FULL:
        return ResourceExhausted(
            what, doing=doing, next_step="free some space, or name another folder in RAGSTONE_MODEL_CACHE"
        )
    return UsageError(what, doing=doing, next_step="name a writable folder in RAGSTONE_MODEL_CACHE")
