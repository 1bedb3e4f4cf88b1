"""Identifiers: BLAKE2b-128 over length-prefixed UTF-8, with a `person` tag per kind, so that no two kinds
and no two ways of joining parts can meet; and UUIDv7 (RFC 9562) for records ordered by time."""

from __future__ import annotations

import hashlib
import os
import time
import uuid

ID_BYTES = 16
DIGEST_BYTES = 32


def _framed(parts: tuple[str | bytes, ...]) -> bytes:
    framed = bytearray()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        framed += len(raw).to_bytes(8, "little") + raw
    return bytes(framed)


def make_id(kind: str, *parts: str | bytes) -> bytes:
    """The 16-byte id of `kind` (at most 16 ASCII letters) made from `parts`."""
    return hashlib.blake2b(_framed(parts), digest_size=ID_BYTES, person=kind.encode("ascii")).digest()


def keyed_digest(secret: bytes, kind: str, *parts: str | bytes) -> bytes:
    """The 32-byte keyed digest that Merkle nodes are made of."""
    person = kind.encode("ascii")
    return hashlib.blake2b(_framed(parts), digest_size=DIGEST_BYTES, key=secret, person=person).digest()


def corpus_id(tenant: str, name: str) -> bytes:
    """The id of a corpus of a tenant."""
    return make_id("corpus", tenant, name)


def source_id(corpus: bytes, name: str) -> bytes:
    """The id of a source, by name: it survives a moved clone."""
    return make_id("source", corpus, name)


def document_id(source: bytes, key: str) -> bytes:
    """The id of a document: its source and its key below it."""
    return make_id("document", source, key)


def text_hash(text: str) -> bytes:
    """The content address of a text."""
    return make_id("text", text)


def content_version(data: bytes) -> str:
    """The object version of bytes that carry no version of their own, 32 hex digits."""
    return make_id("content", data).hex()


def uuid7(unix_ms: int | None = None) -> uuid.UUID:
    """A new UUIDv7: 48 bits of milliseconds, then 74 random bits."""
    ms = time.time_ns() // 1_000_000 if unix_ms is None else unix_ms
    value = (ms & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(os.urandom(10), "big")
    value &= ~(0xF << 76) & ~(0x3 << 62)
    return uuid.UUID(int=value | (0x7 << 76) | (0x2 << 62))


def uuid7_unix_ms(value: uuid.UUID) -> int:
    """The moment, in Unix milliseconds, that a UUIDv7 carries."""
    return value.int >> 80
