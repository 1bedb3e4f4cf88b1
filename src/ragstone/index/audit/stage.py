"""The audit in order: the manifests, the sources, every document and row, the postings. It changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ragstone.core.errors import NotFound
from ragstone.core.ids import make_id, text_hash
from ragstone.core.ports import Seqs
from ragstone.core.progress import Progress, silent
from ragstone.index import manifest, merkle
from ragstone.index.audit.chain import Chain, begin, beginnings, candidates, is_key, link, prove
from ragstone.index.audit.documents import Check, SoundRow, lexical_row, row_id, rows_of
from ragstone.index.audit.postings import Named, PostingSums
from ragstone.index.audit.records import (
    AuditReport,
    Differences,
    Forget,
    HeldDocument,
    Listing,
    OtherRow,
    Recount,
    SourceLine,
    Subject,
    VersionRow,
)
from ragstone.index.audit.source import compare_source
from ragstone.index.ports import Inspection, Inspector, ObjectStore
from ragstone.index.postings import LexicalRow
from ragstone.index.records import ChangedDocument
from ragstone.index.rows import canonical

# Lists a source as it is now.
Lister = Callable[[SourceLine], Awaitable[Listing]]


@dataclass(frozen=True, slots=True)
class AuditParts:
    """What an audit runs on."""

    inspector: Inspector
    objects: ObjectStore
    lister: Lister


async def audit(
    parts: AuditParts, tenant: str, corpus: str, as_of: str | None = None, progress: Progress = silent
) -> AuditReport:
    """Compare everything that a version holds in each store with its manifests, and the head with its sources."""
    out = Differences()
    async with parts.inspector.inspecting(tenant, corpus, as_of) as inspection:
        subject = inspection.subject
        versions = await inspection.versions()
        chain = await read_chain(parts.objects, subject, versions, out, progress)
        prove(chain, subject, versions[-1], out)
        listings = await _listings(parts, subject, out, progress)
        check, sums = await _documents(inspection, chain, listings, versions[-1], out, progress)
        await _sources(parts, subject, listings, check.held if chain.broken else chain.lines, out)
        await _postings(inspection, sums, out, progress)
    return AuditReport(
        corpus=corpus,
        version=subject.version,
        head=subject.head,
        merkle_root=versions[-1].merkle_root,
        compared=dict(out.compared),
        totals=dict(out.totals),
        findings=tuple(out.kept),
        remedies=tuple(out.remedies),
        truths=out.truths,
        unmendable=out.unmendable,
        notes=tuple(out.notes),
    )


async def read_chain(
    objects: ObjectStore, subject: Subject, versions: Sequence[VersionRow], out: Differences, progress: Progress
) -> Chain:
    """Fold the manifests from the newest checkpoint that can be believed up to the last of `versions`."""
    chain = Chain()
    for start in beginnings(versions):
        if start < 0:
            break
        key = versions[start].checkpoint_key
        data = await _get(objects, key) if is_key(subject, key) else None
        if begin(chain, subject, versions[start], data, out):
            break
    rest = versions[start + 1 :]
    for done, row in enumerate(rest):
        progress("check manifests", done, len(rest))
        found = [await _get(objects, key) for key in candidates(subject, row)]
        link(chain, subject, row, found, out)
    progress("check manifests", len(rest), len(rest))
    return chain


async def _get(objects: ObjectStore, key: str) -> bytes | None:
    with suppress(NotFound):
        return await objects.get(key)
    return None


async def _listings(
    parts: AuditParts, subject: Subject, out: Differences, progress: Progress
) -> Mapping[bytes, Listing]:
    """Every source as it is now; none for an earlier version."""
    if subject.version != subject.head:
        out.notes.append("Sources hold what the newest version is made of; an earlier one is not compared with them.")
        return {}
    listings = {}
    for done, source in enumerate(subject.sources.values()):
        progress("list sources", done, len(subject.sources))
        listing = await parts.lister(source)
        if listing.unopened:
            out.notes.append(f"Source {source.name!r} was not compared: {listing.unopened}")
        else:
            listings[source.source_id] = listing
    progress("list sources", len(subject.sources), len(subject.sources))
    return listings


async def _sources(
    parts: AuditParts,
    subject: Subject,
    listings: Mapping[bytes, Listing],
    lines: Mapping[bytes, ChangedDocument],
    out: Differences,
) -> None:
    """What the index holds against its sources; a difference is no fault while the corpus is held, or once the head
    moved."""
    found = Differences()
    for ident, listing in listings.items():
        await asyncio.to_thread(compare_source, subject, subject.sources[ident], listing, lines, found)
    out.compared.update(found.compared)
    out.notes += found.notes
    if subject.hold is not None and found.totals:
        out.notes.append(
            f"The index differs from its sources in {found.totals['source']} documents on purpose, until"
            f" `ragstone versions resume`: {subject.hold}"
        )
    elif found.totals and (head := await parts.inspector.head(subject.corpus_id)) != subject.head:
        out.notes.append(f"Version {head} was published meanwhile: what differs from the sources is not told.")
    else:
        out.take(found)


async def _documents(
    inspection: Inspection,
    chain: Chain,
    listings: Mapping[bytes, Listing],
    row: VersionRow,
    out: Differences,
    progress: Progress,
) -> tuple[Check, PostingSums]:
    """Every document of the version with its rows, vectors and cached embeddings; what their postings must be."""
    live = await live_counts(inspection, out)
    acls = {} if inspection.subject.hold is not None else listings
    check = Check(inspection.subject, None if chain.broken else chain.lines, acls, live, out)
    sums = PostingSums(len(live))
    done, total = 0, row.statistics.documents
    async for page in inspection.documents():
        sound = await asyncio.to_thread(_page, check, sums, page)
        await _cached(inspection, sound, out)
        done += len(page)
        progress("check documents", min(done, total), total)
    check.missing()
    _whole(check, chain, row, out)
    return check, sums


async def live_counts(inspection: Inspection, out: Differences) -> npt.NDArray[np.int64]:
    """`live[seq]`: how often a row is live in the version; once is right for one that is placed. A seq that was never
    given out is told at once."""
    seqs, size = await inspection.live(), inspection.subject.size
    known = (seqs >= 0) & (seqs < size)
    for seq in seqs[~known].tolist():
        out.add("rows", "extra", f"row {seq}", "it is live and was never given out", Recount())
    return np.bincount(seqs[known], minlength=size).astype(np.int64)


def _page(check: Check, sums: PostingSums, page: Sequence[HeldDocument]) -> list[SoundRow]:
    sound = [row for held in page for row in check.document(held)]
    sums.expect(row.lexical for row in sound if row.seq < len(sums.expected))
    return sound


async def _cached(inspection: Inspection, sound: Sequence[SoundRow], out: Differences) -> None:
    """A cached embedding is what the next row with that text gets: it must be what this one has."""
    entries = await inspection.cached(list({row.input_hash: None for row in sound}))
    out.compared["embedding_cache"] += len(entries)
    told = set()
    for row in sound:
        entry = entries.get(row.input_hash)
        if entry is None or not row.vector_hash or row.input_hash in told:
            continue
        if make_id("vector", entry) != row.vector_hash:
            told.add(row.input_hash)
            detail = "the embedding cached for its text is not its vector"
            out.add("embedding_cache", "changed", row.name, detail, Forget(row.input_hash))


def _whole(check: Check, chain: Chain, row: VersionRow, out: Differences) -> None:
    """What only all documents together can say: the root where the manifests cannot, and the statistics."""
    name = f"version {row.version}"
    if chain.broken:
        buckets = manifest.buckets_of(check.subject.secret, check.held)
        if merkle.root(check.subject.secret, buckets) != row.merkle_root:
            out.add("catalog", "unproven", name, "its documents do not give its Merkle root")
        else:
            out.notes.append("The chain of manifests is broken; the version's Merkle root proves its documents.")
    if check.unhashed:
        out.notes.append(
            f"{check.unhashed} rows were written without a hash of their vector; ingest them anew for one."
        )
    if out.totals["catalog"] or out.totals["rows"]:
        return
    counted = (len(check.seen), int(np.count_nonzero(check.placed)), check.joined_terms, check.title_terms)
    statistics = row.statistics
    kept = (statistics.documents, statistics.rows, statistics.joined_terms, statistics.title_terms)
    if counted != kept:
        detail = f"its statistics (documents, rows, terms, title terms) are {kept}, its rows give {counted}"
        out.add("catalog", "changed", name, detail, Recount())


async def _postings(inspection: Inspection, sums: PostingSums, out: Differences, progress: Progress) -> None:
    """The postings of every row that a kept version holds."""
    await _other_rows(inspection, sums, out)
    done, total = 0, inspection.subject.postings
    async for pieces in inspection.postings():
        for piece in pieces:
            sums.find(piece, out)
        done += len(pieces)
        progress("check postings", min(done, total), total)
    out.compared["postings"] += int(np.count_nonzero(sums.known))
    if sums.dead:
        out.notes.append(f"{sums.dead} postings are of rows that no kept version holds; they count for nothing.")
    differing = sums.differing()
    if len(differing):
        await _name(inspection, Named(differing), out)


async def _other_rows(inspection: Inspection, sums: PostingSums, out: Differences) -> None:
    unsound = 0
    async for rows in inspection.others():
        fine = [row for row in rows if _readable(row)]
        unsound += len(rows) - len(fine)
        await asyncio.to_thread(sums.expect, [_lexical(row) for row in fine])
    if unsound:
        out.notes.append(f"{unsound} rows of other versions are damaged themselves: see them with --as-of")


async def _name(inspection: Inspection, named: Named, out: Differences) -> None:
    async for batch in differing_rows(inspection, named.seqs):
        for name, row in batch:
            named.expect(row.seq, name, row)
    async for pieces in inspection.postings():
        for piece in pieces:
            named.find(piece)
    named.into(out)


async def differing_rows(inspection: Inspection, seqs: Seqs) -> AsyncIterator[Sequence[tuple[str, LexicalRow]]]:
    """The given rows with their names and what their texts say of their postings, in pages."""
    wanted = set(seqs.tolist())
    async for page in inspection.documents():
        found = [each for held in page for each in rows_of(inspection.subject, held) if each[1].seq in wanted]
        if found:
            yield found
            wanted.difference_update(row.seq for _, row in found)
    async for rows in inspection.others():
        others = [(f"{row.source}:{row.key}", _lexical(row)) for row in rows if row.seq in wanted and _readable(row)]
        if others:
            yield others


def _readable(row: OtherRow) -> bool:
    """Whether a row is what it was when its postings were written."""
    if row.text is None or text_hash(row.text) != row.text_hash:
        return False
    return row_id(row.chunk_id, row.title, row.heading_path, canonical(row.metadata)) == row.row_id


def _lexical(row: OtherRow) -> LexicalRow:
    return lexical_row(row.seq, row.title, row.heading_path, row.text or "")
