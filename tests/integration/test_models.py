"""The registry and the model cache on files of a few kilobytes; then the real models from the cache."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ragstone.adapters.localmodels import registry
from ragstone.adapters.localmodels.cache import ModelCache, list_models, verify_models
from ragstone.adapters.localmodels.embedder import OnnxEmbedder
from ragstone.adapters.localmodels.fetch import fetch
from ragstone.adapters.localmodels.registry import (
    MODELS,
    FolderRoute,
    JarRoute,
    LocalModel,
    find_model,
)
from ragstone.core.compute import Compute
from ragstone.core.errors import (
    IntegrityError,
    NotFound,
    RagstoneError,
    ResourceExhausted,
    Unavailable,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

from tiny_model import GRAPH, TOKENIZER, pack, sha, tiny


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache")


@pytest.fixture
def model(tmp_path: Path) -> LocalModel:
    return tiny(pack(tmp_path))


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


async def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path: Path, model: LocalModel) -> None:
    """A cache below a plain file: exit 2 and the setting to change."""
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UsageError, match="file") as caught:
        await fetch(model, ModelCache(tmp_path / "file" / "models"))
    assert "RAGSTONE_MODEL_CACHE" in caught.value.next_step


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
