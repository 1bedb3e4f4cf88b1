"""Ports that two stages share: the embedder and the search engine.

The engine works on arrays: at most `depth` hits of a leg cross the port, never an object per hit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ragstone.core.deadline import Deadline
    from ragstone.core.filters import Filter
    from ragstone.core.nouns import Asker, EmbeddingSpec

Vector = npt.NDArray[np.float32]
Seqs = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
LegName = Literal["bm25", "dense"]


class Embedder(Protocol):
    """Text to unit vectors. Contract: tests/contract/test_embedder_contract.py.

    Vectors are float32 of length `spec.dimensions` and norm 1; the same text gives the same vector on one
    kind of CPU, whatever else is embedded beside it.
    """

    @property
    def spec(self) -> EmbeddingSpec:
        """What the vectors are made by."""

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, special tokens left out."""

    async def embed_query(self, text: str) -> Vector:
        """The vector of a question (with the query prefix)."""

    async def embed_passages(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """The vectors of passages, one row each, in order."""


@dataclass(frozen=True, slots=True)
class View:
    """One published version of one index of a corpus, as one asker may see it: fixed for a whole request.

    `restricted` says that some document is suppressed or not public: then every read checks access row by row.
    `norms` are the mean field lengths BM25 divides by, `fields` the known metadata fields and their types.
    """

    corpus_id: bytes
    index_id: bytes
    version: int
    epoch: int
    restricted: bool
    asker: Asker
    rows: int
    norms: tuple[float, float]
    published_at: str
    fields: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Query:
    """A question as the legs see it: analysed terms with their counts, and its vector."""

    terms: tuple[tuple[str, int], ...]
    vector: Vector


@dataclass(frozen=True, slots=True)
class LegHits:
    """One leg's best rows, best first, ties by seq; `path` says how they were found."""

    seqs: Seqs
    scores: Scores
    path: str
    matching: int
    shortfall: int = 0


@dataclass(frozen=True, slots=True)
class RowScores:
    """Exact scores of given rows in both legs, with what fusion needs to break ties and collapse duplicates.

    `terms[i, j]` is what the query's term `i` adds to the BM25 score of row `j`, `idf[i]` the term's weight in
    this version; arrays are in the order asked.
    """

    bm25: Scores
    dense: Scores
    terms: Scores
    idf: Scores
    chunk_ids: tuple[bytes, ...]
    text_hashes: tuple[bytes, ...]


class Engine(Protocol):
    """A searchable index. Contract: tests/contract/test_engine_contract.py, run by every engine.

    Every method sees only rows that are live in `view.version`, whose document is not suppressed and may be
    read by `view.asker`. DeadlineExceeded and Unavailable are the only errors of a correct call.
    """

    async def search(
        self, view: View, leg: LegName, query: Query, filters: Filter | None, depth: int, deadline: Deadline
    ) -> LegHits:
        """The best `depth` rows of one leg among those that pass the filter."""

    async def score(self, view: View, query: Query, seqs: Seqs, deadline: Deadline) -> RowScores:
        """Exact scores of the given rows in both legs."""
