"""The Merkle tree of a corpus version: a keyed leaf a document, 256 buckets by the id's first byte, one root.

Keyed with the corpus secret, so that a root or a leaf tells an outsider nothing about a document, and old
roots survive an erasure. A publish touches only the buckets of the documents that changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ragstone.core.ids import DIGEST_BYTES, keyed_digest

BUCKETS = 256
EMPTY = bytes(DIGEST_BYTES)


def leaf(secret: bytes, document_id: bytes, object_version: str, row_ids: Iterable[bytes]) -> bytes:
    """The leaf of a document version: its id, its object version and its rows in order."""
    return keyed_digest(secret, "leaf", document_id, object_version, *row_ids)


def bucket_of(document_id: bytes) -> int:
    """The bucket a document belongs to."""
    return document_id[0]


def bucket_digest(secret: bytes, leaves: Iterable[bytes]) -> bytes:
    """The digest of a bucket: its leaves sorted, or zeros when it is empty."""
    ordered = sorted(leaves)
    return keyed_digest(secret, "bucket", *ordered) if ordered else EMPTY


def digest_at(buckets: bytes, bucket: int) -> bytes:
    """The digest of one bucket out of all."""
    return buckets[bucket * DIGEST_BYTES : (bucket + 1) * DIGEST_BYTES]


def rebuild(secret: bytes, before: bytes, changed: Mapping[int, Iterable[bytes]]) -> bytes:
    """All 256 bucket digests in one string, from those before and the leaves of the changed buckets."""
    digests = bytearray(before or EMPTY * BUCKETS)
    for bucket, leaves in changed.items():
        digests[bucket * DIGEST_BYTES : (bucket + 1) * DIGEST_BYTES] = bucket_digest(secret, leaves)
    return bytes(digests)


def root(secret: bytes, buckets: bytes) -> bytes:
    """The root over the bucket digests."""
    return keyed_digest(secret, "root", buckets)
