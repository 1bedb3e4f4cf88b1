"""What the ingest stage needs from outside."""

from __future__ import annotations

from typing import Protocol

from ragstone.ingest.records import Scan, SourceObject


class SourceReader(Protocol):
    """A source of truth: a folder, a JSONL file, a bucket.

    Promise (tests/contract/test_source_contract.py): `scan` lists every object once, sorted by key, and names
    every object it cannot use in `faults`; it raises UsageError for a missing place and never changes it.
    `read` returns the very bytes whose `object_version` was listed, or raises DocumentRejected with reason
    `changed_during_run`.
    """

    @property
    def name(self) -> str:
        """The source's default name: the last part of its path."""

    @property
    def location(self) -> str:
        """Where it is, absolute."""

    async def scan(self, order: str | None = None) -> Scan:
        """The whole listing. `order` is the source order of objects that carry none of their own; None takes the
        clock's."""

    async def read(self, listed: SourceObject) -> bytes:
        """The object's bytes."""
