"""Vectors by (embedding id, input hash): little-endian half floats in a bytea."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ragstone.adapters.postgres.database import Database


class PostgresEmbeddingCache:
    """Implements the port EmbeddingCache for one corpus: a tenant never learns what another has embedded."""

    def __init__(self, database: Database, corpus_id: bytes) -> None:
        self._database = database
        self._corpus = corpus_id

    async def get(self, embedding_id: bytes, hashes: Sequence[bytes]) -> Mapping[bytes, npt.NDArray[np.float16]]:
        """The vectors that are known."""
        if not hashes:
            return {}
        async with self._database.connection("looking up embeddings") as connection:
            cursor = await connection.execute(
                "select text_hash, embedding from embedding_cache"
                " where corpus_id = %s and embedding_id = %s and text_hash = any(%s)",
                (self._corpus, embedding_id, list(hashes)),
            )
            return {bytes(row[0]): np.frombuffer(row[1], dtype="<f2") for row in await cursor.fetchall()}

    async def put(self, embedding_id: bytes, vectors: Mapping[bytes, npt.NDArray[np.float16]]) -> None:
        """Keep vectors; a known one stays as it is."""
        async with self._database.connection("keeping embeddings") as connection:
            await connection.execute(
                "insert into embedding_cache (corpus_id, embedding_id, text_hash, embedding)"
                " select %s, %s, * from unnest(%s::bytea[], %s::bytea[]) order by 3 on conflict do nothing",
                (self._corpus, embedding_id, list(vectors), [v.astype("<f2").tobytes() for v in vectors.values()]),
            )
