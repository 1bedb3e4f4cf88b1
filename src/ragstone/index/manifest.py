"""The sealed manifest of a version: what changed against its parent, and the Merkle root that proves the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from ragstone.core.ids import DIGEST_BYTES
from ragstone.index import merkle
from ragstone.index.records import Change, ChangedDocument, Run, Sealed, VersionStatistics

SCHEMA = 1
NORM_DRIFT = 0.10


def seal(run: Run, change: Change, fields: Mapping[str, tuple[str, ...]]) -> tuple[Sealed, bytes]:
    """The manifest's bytes and what the commit stores of it. Pure: the same change gives the same bytes."""
    buckets = merkle.rebuild(run.secret, change.buckets_before, change.leaves)
    root = merkle.root(run.secret, buckets)
    statistics = next_statistics(change, fields)
    digests = {
        f"{bucket:02x}": buckets[bucket * DIGEST_BYTES : (bucket + 1) * DIGEST_BYTES].hex()
        for bucket in sorted(change.leaves)
    }
    body = {
        "schema": SCHEMA,
        "version": change.version,
        "parent": change.parent,
        "index": run.index_id.hex(),
        "source": run.source,
        "source_order": run.source_order,
        "added": [_line(document) for document in change.added],
        "removed": [_line(document) for document in change.removed],
        "buckets": digests,
        "merkle_root": root.hex(),
        "rows": statistics.rows,
        "documents": statistics.documents,
    }
    data = json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
    key = f"manifests/{run.corpus_id.hex()}/{digest.hex()}.json"
    return Sealed(key, digest, root, buckets, statistics), data


def next_statistics(change: Change, fields: Mapping[str, tuple[str, ...]]) -> VersionStatistics:
    """The statistics after the change. The BM25 norms stay as they are until the mean lengths have drifted by
    more than 10 %: then they are frozen anew, with this version (docs/decisions/0003)."""
    before = change.statistics_before
    rows = before.rows + change.rows_opened - change.rows_closed
    joined = before.joined_terms + change.joined_delta
    title = before.title_terms + change.title_delta
    means = (joined / rows, title / rows) if rows else before.norms
    drifted = any(_drift(old, new) > NORM_DRIFT for old, new in zip(before.norms, means, strict=True))
    merged = {key: tuple(sorted({*before.fields.get(key, ()), *types})) for key, types in fields.items()}
    return VersionStatistics(
        rows=rows,
        documents=change.documents_after,
        joined_terms=joined,
        title_terms=title,
        norms=means if drifted else before.norms,
        fields={**before.fields, **merged},
    )


def _drift(old: float, new: float) -> float:
    return abs(new - old) / old if old else float(new != old)


def _line(document: ChangedDocument) -> dict[str, object]:
    return {
        "document": document.document_id.hex(),
        "key": document.key,
        "object_version": document.object_version,
        "leaf": document.leaf.hex(),
        "chunks": [chunk.hex() for chunk in document.chunk_ids],
    }
