"""Checkpoints: a manifest that lists everything a version holds, so that the chain need not be read from its start,
and is proven from there on where an older link is lost."""

from __future__ import annotations

from contextlib import suppress

from ragstone.core.errors import IntegrityError
from ragstone.core.progress import silent
from ragstone.index import manifest
from ragstone.index.audit.chain import Chain
from ragstone.index.audit.documents import Check, line_of
from ragstone.index.audit.records import Differences, VersionRow
from ragstone.index.audit.stage import live_counts, read_chain
from ragstone.index.manifest import Manifest
from ragstone.index.ports import Inspection, Inspector, Mender, ObjectStore
from ragstone.index.records import ChangedDocument


def checkpoint_due(lines_since: int, documents: int) -> bool:
    """Whether reading what changed since the last checkpoint costs more than reading a new one would."""
    return lines_since > max(1, documents)


async def seal_checkpoint(
    inspector: Inspector, mender: Mender, objects: ObjectStore, tenant: str, corpus: str, *, force: bool = False
) -> str:
    """Seal a checkpoint of the head when one is due, or by `force`; its key, "" when none was sealed.

    It is folded from the manifests; only where their chain is broken (`force` alone) it is read from the catalog,
    every document of which must then be whole. Either way it is sealed only if it gives the Merkle root of the
    version: IntegrityError.
    """
    async with inspector.inspecting(tenant, corpus, None) as inspection:
        subject, versions = inspection.subject, await inspection.versions()
        since = await mender.changes_since_checkpoint(subject.corpus_id)
        if not force and not checkpoint_due(since, versions[-1].statistics.documents):
            return ""
        chain = await read_chain(objects, subject, versions, Differences(), silent)
        data = _folded(subject.secret, chain)
        if data is None and not force:
            return ""
        if data is None:
            data = manifest.checkpoint(subject.secret, _as_manifest(versions[-1]), await _from_catalog(inspection))
    key, digest = manifest.address(subject.corpus_id, data)
    await objects.replace(key, data)
    await mender.keep_checkpoint(subject.corpus_id, subject.version, key, digest)
    return key


def _folded(secret: bytes, chain: Chain) -> bytes | None:
    """The checkpoint that the manifests give; None when they do not prove what they say."""
    if chain.broken or chain.last is None:
        return None
    with suppress(IntegrityError):
        return manifest.checkpoint(secret, chain.last, chain.lines)
    return None


async def _from_catalog(inspection: Inspection) -> dict[bytes, ChangedDocument]:
    """Every document as the catalog holds it, proven against itself."""
    out = Differences()
    check = Check(inspection.subject, None, {}, await live_counts(inspection, out), out)
    lines = {}
    async for page in inspection.documents():
        for held in page:
            check.document(held)
            if not out.totals:
                lines[held.document_id] = line_of(held)
    if out.totals:
        first = out.kept[0]
        raise IntegrityError(
            f"the catalog itself is damaged: {first.name}: {first.detail}",
            doing="sealing a checkpoint",
            next_step="see what differs: ragstone audit",
        )
    return lines


def _as_manifest(row: VersionRow) -> Manifest:
    return Manifest(
        version=row.version,
        parent=row.parent,
        kind=row.kind,
        index_id=row.index_id,
        source="",
        source_order="",
        note=row.note,
        added=(),
        removed=(),
        buckets={},
        merkle_root=row.merkle_root,
        statistics=row.statistics,
    )
