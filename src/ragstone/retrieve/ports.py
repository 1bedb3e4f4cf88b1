"""What retrieval needs beside the engine and the embedder: a fixed view, and the words of the chosen rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ragstone.core.deadline import Deadline
from ragstone.core.nouns import Asker, EmbeddingSpec, Passage
from ragstone.core.ports import View
from ragstone.retrieve.records import Standing


class Catalog(Protocol):
    """Reads the serving row and passages. Contract: tests/contract/test_engine_contract.py."""

    async def view(self, tenant: str, corpus: str, as_of: str | None, asker: Asker) -> tuple[View, EmbeddingSpec]:
        """The corpus as it serves now, or as of a version number or an ISO time, with the embedding it was
        made by. NotFound for an unknown corpus or version."""

    async def passages(self, view: View, seqs: Sequence[int], deadline: Deadline) -> Mapping[int, Passage]:
        """The passages of the given rows as this version places them; what the asker may not see is left out."""


class Whereabouts(Protocol):
    """Where a document is, if it is anywhere. Contract: tests/contract/test_why_not_catalog.py.

    What the asker may not read is as if it had never been: neither found nor near.
    """

    async def find(self, view: View, document: str) -> Standing | None:
        """A document by its id, or `SOURCE:ID`. UsageError naming the candidates when several have that id."""

    async def near(self, view: View, document: str, limit: int) -> tuple[str, ...]:
        """At most `limit` ids of documents in the version whose own last part holds the last part of the name that
        was asked for, shortest first."""
