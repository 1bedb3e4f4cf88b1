"""Embeddings by ONNX Runtime on the CPU: one text a call, one session, as many threads as cores.

Batch size 1 is a promise, not a simplification: a dynamic int8 graph takes one activation scale for the
whole batch, so a text embedded beside others gets another vector (cosine .998) and another top ten.
One session serves all threads: at 128 tokens on two cores it does 1.9 times the work of one thread, two
sessions do 1.95 times, for a second copy of the weights and another 90 ms at the start.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ragstone.adapters.localmodels.cache import ModelCache, read_verified
from ragstone.core.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from tokenizers import Tokenizer

    from ragstone.adapters.localmodels.registry import LocalModel
    from ragstone.core.compute import Compute
    from ragstone.core.nouns import EmbeddingSpec
    from ragstone.core.ports import Vector

# Tokenising a megabyte to keep 512 tokens of it takes .6 s. English runs at 4 characters a token; at 64 the
# cut can only be felt by texts that are mostly white space or words of hundreds of letters.
CHARACTERS_PER_TOKEN_MAX = 64


class OnnxEmbedder:
    """An `Embedder` over the model files in `folder`; loading verifies their digests.

    Loading takes some 150 ms of CPU plus the first import of the runtime; in a running event loop, do it
    by `await compute.run(OnnxEmbedder.load, model, cache, compute)`.
    """

    def __init__(self, model: LocalModel, folder: Path, compute: Compute) -> None:
        self._model = model
        self._spec = model.spec
        self._compute = compute
        # Both before either is used: nothing parses bytes beside a file that is known to be wrong.
        tokenizer, graph = (read_verified(folder, model, file) for file in (model.tokenizer, model.graph))
        self._tokenizer = _tokenizer(tokenizer)
        self._session = _session(graph)
        self._characters_max = model.tokens_max * CHARACTERS_PER_TOKEN_MAX

    @classmethod
    def load(cls, model: LocalModel, cache: ModelCache, compute: Compute) -> OnnxEmbedder:
        """Load a cached model; Unavailable when it was not fetched, IntegrityError when it was changed."""
        return cls(model, cache.path(model), compute)

    @property
    def spec(self) -> EmbeddingSpec:
        """What the vectors are made by."""
        return self._spec

    def count_tokens(self, text: str) -> int:
        """Count the tokens of `text`, special tokens left out, nothing cut off."""
        return len(self._tokenizer.encode(_well_formed(text), add_special_tokens=False))

    async def embed_query(self, text: str) -> Vector:
        """Embed a question (with the query prefix)."""
        return await self._compute.run(self._embed, self._spec.query_prefix + text)

    async def embed_passages(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed passages, one row each, in order; texts beyond `tokens_max` are cut.

        At most as many texts as there are threads are under way, one a task: a question that arrives while
        a corpus is embedded waits for one passage, not for the corpus.
        """
        vectors = np.empty((len(texts), self._spec.dimensions), dtype=np.float32)
        rows = iter(range(len(texts)))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._compute.threads, len(texts))):
                    group.create_task(self._embed_rows(rows, texts, vectors))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return vectors

    async def _embed_rows(self, rows: Iterator[int], texts: Sequence[str], vectors: npt.NDArray[np.float32]) -> None:
        for row in rows:
            vectors[row] = await self._compute.run(self._embed, self._spec.passage_prefix + texts[row])

    def _embed(self, text: str) -> Vector:
        ids = self._ids(text)
        states = self._session.run(
            None,
            {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
            },
        )[0][0]
        # The masked mean is the plain mean here: one text a call has no padding to mask.
        pooled = states[0] if self._model.pooling == "cls" else states.mean(axis=0)
        norm = float(np.linalg.norm(pooled))
        if not norm > 0:
            raise IntegrityError(
                f"Model {self._model.name} gave a vector of norm {norm}",
                doing="embedding a text",
                next_step=f"ragstone models verify {self._model.name}",
            )
        return cast("Vector", (pooled / norm).astype(np.float32))

    def _ids(self, text: str) -> npt.NDArray[np.int64]:
        ids = self._tokenizer.encode(_well_formed(text[: self._characters_max])).ids
        if len(ids) > self._spec.tokens_max:
            # As the tokenizer's own truncation does, without a second tokenizer (13 ms, 10 MB) for counting:
            # the first tokens, then the closing special token.
            ids = ids[: self._spec.tokens_max - 1] + ids[-1:]
        return np.array([ids], dtype=np.int64)


def _well_formed(text: str) -> str:
    """`text` with lone surrogates replaced: they are legal in a str, and the tokenizer refuses them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _tokenizer(data: bytes) -> Tokenizer:
    from tokenizers import Tokenizer  # noqa: PLC0415 - commands that embed nothing must not pay for it

    tokenizer = Tokenizer.from_buffer(data)
    # One of the two files asks for 128 tokens, always padded to 128.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _session(graph: bytes) -> Any:
    import onnxruntime  # type: ignore[import-untyped]  # noqa: PLC0415 - lazily, as above; it ships no types

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    # One thread a call: the calls are what runs in parallel, and a sum split over threads would depend on
    # how many there are. The memory arena stays on: a process that embedded 2,000 texts holds
    # 290 MB with it and 480 MB without.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
