"""An audit and what mends what it found: exactly what differs is done again, nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ragstone.bootstrap import System
from ragstone.core.errors import Busy, RagstoneError
from ragstone.core.ports import Seqs
from ragstone.core.progress import Progress, silent
from ragstone.flow import IngestParts, IngestReport, IngestRequest, ingest
from ragstone.index.audit.chain import rebuilt
from ragstone.index.audit.records import (
    AuditReport,
    Forget,
    IngestAgain,
    ListedObject,
    Listing,
    Mended,
    Recount,
    Redo,
    Remedy,
    Reseal,
    RestoreDocument,
    RestoreVersion,
    RewriteRow,
    RewriteSegment,
    SealCheckpoint,
    SourceLine,
)
from ragstone.index.audit.stage import AuditParts, audit, differing_rows
from ragstone.index.checkpoint import seal_checkpoint
from ragstone.index.ports import Inspection, Mender
from ragstone.index.postings import LexicalRow
from ragstone.ingest.plan import UNSUPPORTED
from ragstone.ingest.ports import SourceReader

Kind = TypeVar("Kind", bound=Remedy)
ROUNDS_MAX = 3
Opener = Callable[[str], SourceReader]


@dataclass(frozen=True, slots=True)
class RepairParts:
    """What a repair runs on."""

    audit: AuditParts
    ingest: IngestParts
    mender: Mender
    opener: Opener


async def audit_parts(system: System) -> AuditParts:
    """What an audit of this system's corpora runs on."""

    async def lister(source: SourceLine) -> Listing:
        return await listed(system.source, source)

    return AuditParts(await system.inspector(), system.objects, lister)


async def listed(opener: Opener, source: SourceLine) -> Listing:
    """A source as it is now, or why it cannot be listed."""
    try:
        scan = await opener(source.location).scan()
    except RagstoneError as error:
        return Listing(unopened=error.what)
    faults = [fault for fault in scan.faults if fault.reason != UNSUPPORTED]
    return Listing(
        objects={each.key: ListedObject(each.object_version, each.acl) for each in scan.objects},
        faulty=frozenset(fault.key for fault in faults),
        complete=all(fault.identified for fault in faults),
    )


async def repair(
    parts: RepairParts, tenant: str, corpus: str, found: AuditReport, progress: Progress = silent
) -> tuple[Mended, AuditReport]:
    """Mend what an audit of the head found, and audit again: as long as that finds something that was not tried yet,
    since damage may hide damage. Busy while another run holds a source that is needed."""
    done, tried = Mended(), set[Remedy]()
    for _ in range(ROUNDS_MAX):
        work = _Repair(parts, tenant, corpus, found, progress, done)
        await work.in_place()
        await work.from_sources()
        await work.postings()
        await work.checkpoint()
        tried.update(found.remedies)
        found = await audit(parts.audit, tenant, corpus, None, progress)
        if not set(found.remedies) - tried:
            break
    return done, found


class _Repair:
    """One repair in order: what a publish builds on, the publishes, then what hangs on rows that exist."""

    def __init__(
        self, parts: RepairParts, tenant: str, corpus: str, found: AuditReport, progress: Progress, done: Mended
    ) -> None:
        self.parts, self.tenant, self.corpus, self.found, self.progress = parts, tenant, corpus, found, progress
        self.done = done
        self.seal = bool(self._all(SealCheckpoint))

    def _all(self, kind: type[Kind]) -> list[Kind]:
        return [each for each in self.found.remedies if isinstance(each, kind)]

    async def in_place(self) -> None:
        """Rows of versions and documents, manifests, cached embeddings."""
        async with self.parts.audit.inspector.inspecting(self.tenant, self.corpus, None) as inspection:
            subject = inspection.subject
            for version in self._all(RestoreVersion):
                await self.parts.mender.restore_version(subject.corpus_id, self.found.truths[version.version])
                self.done.restored += 1
            await self._documents(subject.corpus_id, subject.sources.values())
            hashes = [each.input_hash for each in self._all(Forget)]
            if hashes:
                await self.parts.mender.forget(subject.corpus_id, subject.recipe.embedding.id, hashes)
                self.done.forgotten += len(hashes)
        if self._all(Reseal):
            # A version's row that was damaged too has just been restored: look at it as it is now.
            async with self.parts.audit.inspector.inspecting(self.tenant, self.corpus, None) as inspection:
                await self._manifests(inspection)

    async def _documents(self, corpus_id: bytes, sources: Iterable[SourceLine]) -> None:
        wanted = self._all(RestoreDocument)
        for source in sources:
            mine = [each for each in wanted if each.source == source.name]
            listing = await self.parts.audit.lister(source) if mine else Listing()
            for each in mine:
                about = listing.objects.get(each.key)
                if about is None:
                    why = listing.unopened or "the source does not list it"
                    self.done.left.append(f"{each.source}:{each.key}: its access list is as it was: {why}")
                acl = (about.acl or ("public",)) if about else None
                await self.parts.mender.restore_document(corpus_id, each, acl)
                self.done.restored += 1

    async def _manifests(self, inspection: Inspection) -> None:
        rows = {row.version: row for row in await inspection.versions()}
        for each in self._all(Reseal):
            delta = await inspection.delta(rows[each.version])
            data = rebuilt(delta) if delta else None
            if data is None:
                self.seal = True
            else:
                await self.parts.audit.objects.replace(rows[each.version].manifest_key, data)
                self.done.manifests += 1

    async def from_sources(self) -> None:
        """Ingest sources that are ahead; make damaged documents again; close rows that nothing places."""
        async with self.parts.audit.inspector.inspecting(self.tenant, self.corpus, None) as inspection:
            subject = inspection.subject
            sources = {line.name: line for line in subject.sources.values()}
        if any(isinstance(each, Redo | Recount) for each in self.found.remedies):
            await self.parts.mender.settle(subject.corpus_id, subject.index_id)
        redo: dict[str, set[str]] = {}
        for each in self._all(Redo):
            redo.setdefault(each.source, set()).add(each.key)
        if self._all(Recount) and not redo and sources:
            await self._recount(sources[self._openable(sources)])
        for name, keys in redo.items():
            await self._ingest(sources[name], frozenset(keys))
        # Last: what has just been made again is as the source has it, and is not made twice.
        for again in self._all(IngestAgain):
            await self._ingest(sources[again.source], None)

    async def _recount(self, source: SourceLine) -> None:
        """Publish a version that counts everything anew. Where no row is to be closed there is nothing to publish:
        then one document is made again with it."""
        before = len(self.done.versions)
        await self._ingest(source, frozenset())
        if len(self.done.versions) == before and (listing := await self.parts.audit.lister(source)).objects:
            await self._ingest(source, frozenset({min(listing.objects)}))

    def _openable(self, sources: dict[str, SourceLine]) -> str:
        for name, line in sources.items():
            try:
                self.parts.opener(line.location)
            except RagstoneError:
                continue
            return name
        return next(iter(sources))

    async def _ingest(self, source: SourceLine, redo: frozenset[str] | None) -> None:
        try:
            reader = self.parts.opener(source.location)
            kind = "jsonl" if source.location.endswith(".jsonl") else "folder"
            request = IngestRequest(reader, self.tenant, self.corpus, source.name, kind, redo=redo)
            self._count(await ingest(self.parts.ingest, request, self.progress))
        except Busy:
            raise
        except RagstoneError as error:
            self.done.left.append(f"source {source.name!r}: {error}")

    def _count(self, report: IngestReport) -> None:
        self.done.documents += report.tally.documents
        self.done.rows += report.tally.rows
        self.done.embedded += report.tally.embedded
        if report.published:
            self.done.versions.append(report.published.version)
            self.seal = True
        self.done.left += [
            f"{report.source}:{each.key}: {each.message}; {each.next_step}" for each in report.quarantined
        ]

    async def postings(self) -> None:
        """Write the postings of rows again from their texts."""
        rows = self._all(RewriteRow)
        segments = frozenset(each.segment for each in self._all(RewriteSegment))
        if not rows and not segments:
            return
        seqs: Seqs = np.array(sorted(each.seq for each in rows), dtype=np.int64)
        async with self.parts.audit.inspector.inspecting(self.tenant, self.corpus, None) as inspection:
            subject = inspection.subject
            self.done.postings += await self.parts.mender.rewrite_postings(
                subject.corpus_id, subject.index_id, seqs, segments, _lexical(inspection, seqs)
            )

    async def checkpoint(self) -> None:
        """Seal a listing of everything where a repair published, or where a manifest is lost for good."""
        if not self.seal:
            return
        parts = self.parts.audit
        try:
            self.done.checkpoint = await seal_checkpoint(
                parts.inspector, self.parts.mender, parts.objects, self.tenant, self.corpus, force=True
            )
        except RagstoneError as error:
            self.done.left.append(f"no checkpoint was sealed: {error}")


async def _lexical(inspection: Inspection, seqs: Seqs) -> AsyncIterator[Sequence[LexicalRow]]:
    async for page in differing_rows(inspection, seqs):
        yield [row for _, row in page]
