"""The sealed manifest of a version: what changed against its parent, and the Merkle root that proves the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from ragstone.core.errors import IntegrityError
from ragstone.core.ids import DIGEST_BYTES
from ragstone.index import merkle
from ragstone.index.records import Change, ChangedDocument, Origin, Sealed, VersionStatistics

SCHEMA = 2
NORM_DRIFT = 0.10


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as written: what a version added and removed, the Merkle buckets that this changed, the root over
    all. A checkpoint lists every document of the version as added and every bucket that holds one."""

    version: int
    parent: int
    kind: str
    index_id: bytes
    source: str
    source_order: str
    note: str
    added: tuple[ChangedDocument, ...]
    removed: tuple[ChangedDocument, ...]
    buckets: Mapping[int, bytes]
    merkle_root: bytes
    statistics: VersionStatistics | None
    checkpoint: bool = False


def seal(origin: Origin, change: Change, fields: Mapping[str, tuple[str, ...]]) -> tuple[Sealed, bytes]:
    """The manifest's bytes and what the commit stores of it. Pure: the same change gives the same bytes."""
    buckets = merkle.rebuild(origin.secret, change.buckets_before, change.leaves)
    root = merkle.root(origin.secret, buckets)
    statistics = next_statistics(change, fields)
    data = encoded(
        Manifest(
            version=change.version,
            parent=change.parent,
            kind=origin.kind,
            index_id=origin.index_id,
            source=origin.source,
            source_order=origin.source_order,
            note=origin.note,
            added=change.added,
            removed=change.removed,
            buckets={bucket: merkle.digest_at(buckets, bucket) for bucket in change.leaves},
            merkle_root=root,
            statistics=statistics,
        )
    )
    key, digest = address(origin.corpus_id, data)
    return Sealed(key, digest, root, buckets, statistics), data


def encoded(manifest: Manifest) -> bytes:
    """The manifest's bytes: one spelling."""
    body: dict[str, object] = {
        "schema": SCHEMA,
        "version": manifest.version,
        "parent": manifest.parent,
        "kind": manifest.kind,
        "index": manifest.index_id.hex(),
        "source": manifest.source,
        "source_order": manifest.source_order,
        "note": manifest.note,
        "added": [_line(document) for document in manifest.added],
        "removed": [_line(document) for document in manifest.removed],
        "buckets": {f"{bucket:02x}": digest.hex() for bucket, digest in manifest.buckets.items()},
        "merkle_root": manifest.merkle_root.hex(),
        "statistics": msgspec.to_builtins(manifest.statistics),
    }
    if manifest.checkpoint:
        body["checkpoint"] = True
    return json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def digest_of(data: bytes) -> bytes:
    """The digest that a manifest is known by."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def key_of(corpus_id: bytes, digest: bytes) -> str:
    """The key that a manifest with this digest is stored under."""
    return f"manifests/{corpus_id.hex()}/{digest.hex()}.json"


def address(corpus_id: bytes, data: bytes) -> tuple[str, bytes]:
    """The key and the digest of a manifest's bytes."""
    digest = digest_of(data)
    return key_of(corpus_id, digest), digest


def read(data: bytes) -> Manifest:
    """A manifest from its bytes. Those of schema 1 know no statistics and no `placed`. IntegrityError when it is
    none, or of a schema from the future."""
    try:
        body = json.loads(data)
        if body["schema"] > SCHEMA:
            raise _unreadable(f"it has schema {body['schema']}, this program knows {SCHEMA}")
        return Manifest(
            version=body["version"],
            parent=body["parent"],
            kind=body.get("kind", "ingest"),
            index_id=bytes.fromhex(body["index"]),
            source=body["source"],
            source_order=body["source_order"],
            note=body.get("note", ""),
            added=tuple(_document(line) for line in body["added"]),
            removed=tuple(_document(line) for line in body["removed"]),
            buckets={int(bucket, 16): bytes.fromhex(digest) for bucket, digest in body["buckets"].items()},
            merkle_root=bytes.fromhex(body["merkle_root"]),
            statistics=msgspec.convert(body["statistics"], VersionStatistics) if "statistics" in body else None,
            checkpoint=body.get("checkpoint", False),
        )
    except (ValueError, KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
        raise _unreadable(f"{type(error).__name__}: {error}") from None


def fold(lines: dict[bytes, ChangedDocument], manifest: Manifest) -> list[str]:
    """Apply what a manifest says to the documents held before it (a checkpoint says all). Gives what does not fit:
    the removal of a document that was not held, or was held as another version."""
    if manifest.checkpoint:
        lines.clear()
    wrong = []
    for document in manifest.removed:
        before = lines.pop(document.document_id, None)
        if before is None or before.leaf != document.leaf:
            wrong.append(f"it removes {document.key!r}, which version {manifest.parent} did not hold so")
    lines.update((document.document_id, document) for document in manifest.added)
    return wrong


def checkpoint(secret: bytes, last: Manifest, lines: Mapping[bytes, ChangedDocument]) -> bytes:
    """The bytes of a manifest that lists everything a version holds. IntegrityError when the documents do not give
    the version's Merkle root: what is sealed must be proven."""
    buckets = buckets_of(secret, lines)
    root = merkle.root(secret, buckets)
    if root != last.merkle_root:
        raise IntegrityError(
            f"the documents of version {last.version} give another Merkle root than the version has",
            doing="sealing a checkpoint",
            next_step="see what differs: ragstone audit",
        )
    held = {bucket: merkle.digest_at(buckets, bucket) for bucket in range(merkle.BUCKETS)}
    used = {bucket: digest for bucket, digest in held.items() if digest != merkle.EMPTY}
    listed = tuple(sorted(lines.values(), key=lambda line: (line.key, line.document_id)))
    return encoded(replace(last, added=listed, removed=(), buckets=used, checkpoint=True))


def buckets_of(secret: bytes, lines: Mapping[bytes, ChangedDocument]) -> bytes:
    """All bucket digests over the given documents."""
    leaves: dict[int, list[bytes]] = {}
    for ident, line in lines.items():
        leaves.setdefault(merkle.bucket_of(ident), []).append(line.leaf)
    return merkle.rebuild(secret, b"", leaves)


def patched(before: bytes, manifest: Manifest) -> bytes:
    """The bucket digests after a manifest, from those before it."""
    buckets = bytearray(b"" if manifest.checkpoint else before) or bytearray(merkle.EMPTY * merkle.BUCKETS)
    for bucket, digest in manifest.buckets.items():
        buckets[bucket * DIGEST_BYTES : (bucket + 1) * DIGEST_BYTES] = digest
    return bytes(buckets)


def next_statistics(change: Change, fields: Mapping[str, tuple[str, ...]]) -> VersionStatistics:
    """The statistics after the change. The BM25 norms stay as they are until the mean lengths have drifted by
    more than 10 %: then they are frozen anew, with this version (docs/decisions/0003)."""
    before = change.statistics_before
    rows = before.rows + change.rows_opened - change.rows_closed
    joined = before.joined_terms + change.joined_delta
    title = before.title_terms + change.title_delta
    means = (joined / rows, title / rows) if rows else before.norms
    norms = _next_norms(before.norms, means) if change.norms is None else change.norms
    merged = {key: tuple(sorted({*before.fields.get(key, ()), *types})) for key, types in fields.items()}
    return VersionStatistics(
        rows=rows,
        documents=change.documents_after,
        joined_terms=joined,
        title_terms=title,
        norms=norms,
        fields={**before.fields, **merged},
    )


def _next_norms(before: tuple[float, float], means: tuple[float, float]) -> tuple[float, float]:
    drifted = any(_drift(old, new) > NORM_DRIFT for old, new in zip(before, means, strict=True))
    return means if drifted else before


def _drift(old: float, new: float) -> float:
    return abs(new - old) / old if old else float(new != old)


def _line(document: ChangedDocument) -> dict[str, object]:
    return {
        "document": document.document_id.hex(),
        "key": document.key,
        "object_version": document.object_version,
        "leaf": document.leaf.hex(),
        "chunks": [chunk.hex() for chunk in document.chunk_ids],
        "placed": document.placed.hex(),
    }


def _document(line: Mapping[str, Any]) -> ChangedDocument:
    return ChangedDocument(
        document_id=bytes.fromhex(line["document"]),
        key=line["key"],
        object_version=line["object_version"],
        leaf=bytes.fromhex(line["leaf"]),
        chunk_ids=tuple(bytes.fromhex(chunk) for chunk in line["chunks"]),
        placed=bytes.fromhex(line.get("placed", "")),
    )


def _unreadable(why: str) -> IntegrityError:
    return IntegrityError(
        f"the manifest cannot be read: {why}", doing="reading a manifest", next_step="see: ragstone audit --repair"
    )
