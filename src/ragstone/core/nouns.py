"""The nouns that more than one stage uses (docs/glossary.md defines them)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NewType

from ragstone.core.ids import make_id

MicroUsd = NewType("MicroUsd", int)
PUBLIC = "public"
Metadata = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: the principals (`user:ann`, `group:hr`) that access lists are matched against."""

    principals: frozenset[str] = frozenset({PUBLIC})

    @classmethod
    def of(cls, words: str | None) -> Asker:
        """From `user:ann,group:hr`; everybody is `public` as well."""
        named = {part.strip() for part in (words or "").split(",") if part.strip()}
        return cls(frozenset(named | {PUBLIC}))


@dataclass(frozen=True, slots=True)
class ChunkingSpec:
    """How a document becomes chunks. Any change of a field is another chunking id.

    `tokens_max` bounds what the embedder sees of one chunk, its heading path included; small blocks are
    packed together up to `tokens_target`; a chunk below `tokens_min` joins its neighbour.
    """

    parser: str = "ragstone-parsers/1"
    chunker: str = "ragstone-structure/1"
    tokens_max: int = 480
    tokens_target: int = 256
    tokens_min: int = 24
    tokenizer: str = ""

    @property
    def id(self) -> bytes:
        """The chunking id."""
        numbers = (str(self.tokens_max), str(self.tokens_target), str(self.tokens_min))
        return make_id("chunking", self.parser, self.chunker, self.tokenizer, *numbers)


@dataclass(frozen=True, slots=True)
class LexicalSpec:
    """The lexical id: tokenizer, stemmer, stop words, BM25 parameters, field weights."""

    analyzer: str = "ragstone-words/1+snowball-english"
    k1: float = 1.2
    b: float = 0.75
    title_weight: float = 0.25

    @property
    def id(self) -> bytes:
        """The lexical id."""
        return make_id("lexical", self.analyzer, repr(self.k1), repr(self.b), repr(self.title_weight))


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """The embedding id: model digest, runtime, precision, pooling, prefixes, batch rule."""

    model: str
    digest: str
    dimensions: int
    tokens_max: int
    pooling: str
    query_prefix: str = ""
    passage_prefix: str = ""
    precision: str = "int8"
    runtime: str = "onnxruntime"
    batch_invariant: bool = False

    @property
    def id(self) -> bytes:
        """The embedding id."""
        words = (self.digest, self.pooling, self.query_prefix, self.passage_prefix, self.precision)
        return make_id("embedding", *words, self.runtime, str(self.dimensions), str(self.tokens_max))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Chunking, lexical and embedding together: what an index is made by."""

    chunking: ChunkingSpec
    lexical: LexicalSpec
    embedding: EmbeddingSpec

    @property
    def index_id(self) -> bytes:
        """The id of the index that this recipe makes."""
        return make_id("index", self.chunking.id, self.lexical.id, self.embedding.id)


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk as a reader sees it: text, where it stands, and how fresh it is."""

    seq: int
    chunk_id: bytes
    document_id: str
    source: str
    key: str
    title: str
    text: str
    start: int
    end: int
    heading_path: tuple[str, ...]
    metadata: Metadata = field(hash=False)
    source_version: str
    indexed_at: str
    ordinal: int = 0
