"""What retrieval needs beside the engine and the embedder: a fixed view, and the words of the chosen rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ragstone.core.deadline import Deadline
from ragstone.core.nouns import Asker, EmbeddingSpec, Passage
from ragstone.core.ports import View


class Catalog(Protocol):
    """Reads the serving row and passages. Contract: tests/contract/test_engine_contract.py."""

    async def view(self, tenant: str, corpus: str, as_of: str | None, asker: Asker) -> tuple[View, EmbeddingSpec]:
        """The corpus as it serves now, or as of a version number or an ISO time, with the embedding it was
        made by. NotFound for an unknown corpus or version."""

    async def passages(self, view: View, seqs: Sequence[int], deadline: Deadline) -> Mapping[int, Passage]:
        """The passages of the given rows as this version places them; what the asker may not see is left out."""
