"""The chain of manifests against the catalog's version rows: each link proven, the fold giving what a version holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from ragstone.core.errors import IntegrityError
from ragstone.index import manifest, merkle
from ragstone.index.audit.records import Delta, Differences, Reseal, RestoreVersion, SealCheckpoint, Subject, VersionRow
from ragstone.index.manifest import Manifest
from ragstone.index.records import ChangedDocument


@dataclass(slots=True)
class Chain:
    """What is folded so far, the bucket digests that the manifests say, and whether every link was there."""

    lines: dict[bytes, ChangedDocument] = field(default_factory=dict)
    buckets: bytes = merkle.EMPTY * merkle.BUCKETS
    broken: bool = False
    last: Manifest | None = None


def beginnings(versions: Sequence[VersionRow]) -> list[int]:
    """Where reading may begin, best first: at each checkpoint, newest first, then before the first version. Places
    in the list of versions; -1 is before all."""
    return [at for at in reversed(range(len(versions))) if versions[at].checkpoint_key] + [-1]


def begin(chain: Chain, subject: Subject, row: VersionRow, data: bytes | None, out: Differences) -> bool:
    """Begin at a checkpoint; False when its bytes are not what the catalog knows it by."""
    name = f"checkpoint of version {row.version}"
    read = _read(data, row.checkpoint_digest)
    if isinstance(read, str):
        out.add("manifest", "missing" if data is None else "damaged", name, read, SealCheckpoint())
        return False
    chain.lines.clear()
    wrong = manifest.fold(chain.lines, read)
    buckets = manifest.buckets_of(subject.secret, chain.lines)
    proven = read.checkpoint and not wrong and merkle.root(subject.secret, buckets) == read.merkle_root
    if not proven or read.version != row.version:
        detail = "what it lists does not give the version's Merkle root"
        out.add("manifest", "unproven", name, detail, SealCheckpoint())
        chain.lines.clear()
        return False
    out.compared["manifest"] += 1
    chain.buckets, chain.last = buckets, read
    truth = _as_sealed(row, read)
    _compare_row(row, truth if row.collected else replace(truth, buckets=buckets), out)
    return True


def candidates(subject: Subject, row: VersionRow) -> tuple[str, ...]:
    """The keys under which a version's manifest may be: as the catalog names it, if that is a name of a manifest, and
    as its digest does."""
    named = (row.manifest_key,) if is_key(subject, row.manifest_key) else ()
    return tuple(dict.fromkeys((*named, manifest.key_of(subject.corpus_id, row.manifest_digest))))


def is_key(subject: Subject, key: str) -> bool:
    """Whether a key is one of this corpus's manifests: a damaged one must not lead anywhere else."""
    return key == manifest.key_of(subject.corpus_id, _digest_in(key))


def link(chain: Chain, subject: Subject, row: VersionRow, found: Sequence[bytes | None], out: Differences) -> None:
    """Take the next version in: `found` are the bytes at its `candidates`. Once a link is missing the chain proves
    nothing behind it; what it can still say of each version by itself is compared all the same."""
    name = f"version {row.version}"
    expected = chain.last.version + 1 if chain.last is not None else 1
    if not chain.broken and row.version != expected:
        out.add("catalog", "missing", f"version {expected}", "its row is missing from the catalog", SealCheckpoint())
        chain.broken = True
    read, digest = _at_candidates(row, found)
    if isinstance(read, str):
        kind = "missing" if all(data is None for data in found) else "damaged"
        out.add("manifest", kind, name, read, Reseal(row.version))
        chain.broken = True
        return
    out.compared["manifest"] += 1
    if (read.version, read.parent) != (row.version, row.version - 1):
        detail = f"the object is the manifest of version {read.version} after {read.parent}"
        out.add("manifest", "damaged", name, detail, Reseal(row.version))
        chain.broken = True
        return
    truth = replace(
        _as_sealed(row, read), manifest_key=manifest.key_of(subject.corpus_id, digest), manifest_digest=digest
    )
    if not chain.broken:
        chain.buckets = manifest.patched(chain.buckets, read)
        chain.last = read
        if not row.collected:
            truth = replace(truth, buckets=chain.buckets)
        for wrong in manifest.fold(chain.lines, read):
            out.add("manifest", "unproven", name, wrong, SealCheckpoint())
        if merkle.root(subject.secret, chain.buckets) != read.merkle_root:
            out.add("manifest", "unproven", name, "its bucket digests do not give its Merkle root", SealCheckpoint())
    _compare_row(row, truth, out)


def prove(chain: Chain, subject: Subject, row: VersionRow, out: Differences) -> None:
    """At the end of the chain: the leaves of all documents give the bucket digests and the root of the version."""
    if chain.broken:
        return
    buckets = manifest.buckets_of(subject.secret, chain.lines)
    if buckets != chain.buckets:
        differing = sum(
            merkle.digest_at(buckets, at) != merkle.digest_at(chain.buckets, at) for at in range(merkle.BUCKETS)
        )
        detail = f"the documents of its manifests give other digests for {differing} of 256 buckets"
        out.add("manifest", "unproven", f"version {row.version}", detail, SealCheckpoint())
        out.add("manifest", "unproven", f"version {row.version}", detail)


def rebuilt(delta: Delta) -> bytes | None:
    """A manifest made again from what the catalog still holds; None unless it comes out with the very digest."""
    row = delta.version
    touched = {merkle.bucket_of(line.document_id) for line in (*delta.added, *delta.removed)}
    wanted = {row.manifest_digest, _digest_in(row.manifest_key)}
    for source, order in [*product(delta.sources, delta.orders), ("", "")]:
        for chosen in (touched, set(range(merkle.BUCKETS))):
            made = Manifest(
                version=row.version,
                parent=row.parent,
                kind=row.kind,
                index_id=row.index_id,
                source=source,
                source_order=order,
                note=row.note,
                added=delta.added,
                removed=delta.removed,
                buckets={bucket: merkle.digest_at(row.buckets, bucket) for bucket in chosen},
                merkle_root=row.merkle_root,
                statistics=row.statistics,
            )
            data = manifest.encoded(made)
            if manifest.digest_of(data) in wanted:
                return data
    return None


def _read(data: bytes | None, digest: bytes) -> Manifest | str:
    """The manifest, or what is wrong with it."""
    if data is None:
        return "the object is missing"
    if manifest.digest_of(data) != digest:
        return "its bytes do not have the recorded digest"
    try:
        return manifest.read(data)
    except IntegrityError as error:
        return error.what


def _at_candidates(row: VersionRow, found: Sequence[bytes | None]) -> tuple[Manifest | str, bytes]:
    """The manifest of a version, from the first bytes that have the digest that the catalog or their key says, and
    that digest; or what is wrong."""
    said = "the object is missing"
    for data in found:
        for digest in (row.manifest_digest, _digest_in(row.manifest_key)):
            read = _read(data, digest)
            if not isinstance(read, str):
                return read, digest
            said = read if data is not None else said
    return said, b""


def _digest_in(key: str) -> bytes:
    name = key.rpartition("/")[2].removesuffix(".json")
    try:
        return bytes.fromhex(name)
    except ValueError:
        return b""


def _compare_row(row: VersionRow, truth: VersionRow, out: Differences) -> None:
    """What the catalog says of a version against what its manifest says."""
    for what in (
        "parent", "kind", "note", "index_id", "merkle_root", "buckets", "manifest_key", "manifest_digest", "statistics",
    ):  # fmt: skip
        if getattr(row, what) != getattr(truth, what):
            out.truths[row.version] = truth
            detail = f"the catalog's {what} of it is not what its manifest says"
            out.add("catalog", "changed", f"version {row.version}", detail, RestoreVersion(row.version))


def _as_sealed(row: VersionRow, read: Manifest) -> VersionRow:
    """The row as the manifest says it must be."""
    return replace(
        row,
        parent=read.parent,
        kind=read.kind,
        note=read.note,
        index_id=read.index_id,
        merkle_root=read.merkle_root,
        statistics=read.statistics or row.statistics,
    )
