"""Where evidence goes and comes from."""

from __future__ import annotations

import uuid
from typing import Any, Protocol

from ragstone.core.evidence import Evidence, EvidenceText


class EvidenceWriter(Protocol):
    """Takes a record before its answer goes out. Unavailable when it can take no more."""

    async def write(self, record: Evidence, words: EvidenceText, ledger: list[list[Any]]) -> None:
        """Keep the record."""


class EvidenceReader(Protocol):
    """Finds records. Contract: tests/contract/test_store_contract.py."""

    async def get(self, corpus_id: bytes | None, ident: uuid.UUID) -> tuple[Evidence, EvidenceText | None]:
        """A record by its id, with its words unless they were erased. NotFound."""

    async def recent(self, corpus: bytes, limit: int) -> list[dict[str, Any]]:
        """The newest records, a line each."""
