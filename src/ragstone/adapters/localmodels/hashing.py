"""A test double that we ship: signed feature hashing of words. Same port, no model, 30,000 texts a second.

It finds passages that share words with a question and knows nothing of meaning.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from typing import TYPE_CHECKING

import numpy as np

from ragstone.core.nouns import EmbeddingSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from ragstone.core.ports import Vector

_WORD = re.compile(r"\w+")
TOKENS_MAX = 512
# Under a millisecond of work; then other tasks of the event loop get their turn.
TEXTS_A_TURN = 20
_SIGN_BIT = np.uint32(1 << 31)


class HashEmbedder:
    """Deterministic on every machine, independent of batches; tokens are words."""

    def __init__(self, dimensions: int = 384) -> None:
        self._spec = EmbeddingSpec(
            model="hash",
            digest=f"crc32-signed-words/1:{dimensions}",
            dimensions=dimensions,
            tokens_max=TOKENS_MAX,
            pooling="sum",
            precision="float32",
            runtime="python",
            batch_invariant=True,
        )

    @property
    def spec(self) -> EmbeddingSpec:
        """What the vectors are made by."""
        return self._spec

    def count_tokens(self, text: str) -> int:
        """Count the words of `text`."""
        return len(_WORD.findall(text))

    async def embed_query(self, text: str) -> Vector:
        """Embed a question."""
        return self._embed(text)

    async def embed_passages(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed passages, one row each, in order."""
        vectors = np.empty((len(texts), self._spec.dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._embed(text)
            if row % TEXTS_A_TURN == TEXTS_A_TURN - 1:
                await asyncio.sleep(0)
        return vectors

    def _embed(self, text: str) -> Vector:
        words = _WORD.findall(text.lower())[:TOKENS_MAX]
        hashes = np.fromiter((zlib.crc32(word.encode()) for word in words), dtype=np.uint32, count=len(words))
        signs = np.where(hashes & _SIGN_BIT, 1.0, -1.0)
        places = (hashes % np.uint32(self._spec.dimensions)).astype(np.int64)
        vector = np.bincount(places, weights=signs, minlength=self._spec.dimensions).astype(np.float32)
        norm = float(np.linalg.norm(vector))
        if norm == 0:
            # No words, or words that cancel: any fixed unit vector keeps the promise of the port.
            vector[0] = norm = 1.0
        return vector / np.float32(norm)
