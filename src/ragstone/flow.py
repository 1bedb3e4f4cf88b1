"""The story, end to end: how a source becomes a searchable version, and how a question becomes a cited answer.

Read this first. Each function gathers, decides and acts through the stages in order; the parts it runs on are
put together in `bootstrap.py` and known here by their ports alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ragstone.core.deadline import Deadline
from ragstone.core.errors import DeadlineExceeded, RagstoneError, UsageError
from ragstone.core.evidence import AnswerRecord, Evidence, EvidenceText
from ragstone.core.filters import Filter
from ragstone.core.nouns import PUBLIC, Asker, EmbeddingSpec, Recipe
from ragstone.core.ports import Embedder
from ragstone.core.progress import Progress, silent
from ragstone.generate.ports import Answerer, Grounds, Usage
from ragstone.index.ports import EmbeddingCache, ObjectStore, Publisher, Runs, Staging
from ragstone.index.records import LiveDocument, Published, QuarantineEntry, Run, RunStart
from ragstone.index.rows import IncomingDocument, Piece
from ragstone.index.stage import Named, Tally, Writer, publish
from ragstone.ingest.parse import ParseLimits
from ragstone.ingest.plan import UNSUPPORTED, Plan, guard, make_plan, unknown_keys
from ragstone.ingest.ports import SourceReader
from ragstone.ingest.records import Fault, Scan
from ragstone.ingest.stage import Batch, Prepared, prepare
from ragstone.observe.ports import EvidenceWriter
from ragstone.observe.record import Made, evidence_of, failure_of
from ragstone.retrieve.ports import Catalog
from ragstone.retrieve.stage import Ask, Clock, Retrieved, Retriever

# Whether a checkpoint is due is looked at with every sixteenth version: asking costs a read of all of them.
CHECKPOINT_EVERY = 16


@dataclass(frozen=True, slots=True)
class IngestParts:
    """What an ingest runs on. `checkpoint` seals a manifest that lists everything a corpus (tenant, name) holds, when
    one is due; None leaves that out."""

    runs: Runs
    staging: Staging
    publisher: Publisher
    embeddings: Callable[[bytes], EmbeddingCache]
    objects: ObjectStore
    embedder: Embedder
    recipe: Recipe
    limits: ParseLimits
    deletes_percent: float
    checkpoint: Callable[[str, str], Awaitable[str]] | None = None


@dataclass(frozen=True, slots=True)
class IngestRequest:
    """One ingest of one source into one corpus.

    `only` bounds it to documents by key, beside a scan of the whole source that may be under way. `redo` makes it
    a repair: these documents are made again although the source has not changed, and nothing stored is believed
    that can be counted anew.
    """

    reader: SourceReader
    tenant: str
    corpus: str
    source: str
    kind: str
    allow_delete: bool = False
    only: frozenset[str] | None = None
    redo: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What a run did. `published` is None when the source had not changed."""

    source: str
    corpus: str
    published: Published | None
    scanned: int
    unchanged: int
    changed: int
    deleted: int
    kept_back: int
    withheld: int
    left_out: Mapping[str, int]
    quarantined: tuple[QuarantineEntry, ...]
    tally: Tally = field(hash=False)
    seconds: float


async def ingest(parts: IngestParts, request: IngestRequest, progress: Progress = silent) -> IngestReport:
    """Make the corpus equal to the source, as one new version or not at all."""
    began = time.monotonic()
    order = await parts.runs.next_order(request.tenant, request.corpus, request.source, time.time_ns() // 1000)
    scan = await request.reader.scan(order)
    run = await parts.runs.begin(_start(parts, request, scan))
    try:
        live = await parts.runs.documents(run, _bound(request))
        plan = await _plan(parts, request, run, scan, live)
        tally, faults = await _write(parts, request, run, plan, live, progress)
        entries = tuple(_entry(each) for each in faults if each.reason != UNSUPPORTED)
        progress("publish", 0, 1)
        published = await publish(
            run, tally, parts.publisher, parts.objects, plan.deleted, entries,
            replaces_quarantine=_bound(request) is None, examined=tuple(_bound(request) or ()),
        )  # fmt: skip
        progress("publish", 1, 1)
    except BaseException:
        # What went wrong is the news; a run that cannot even be closed is swept by the next one, as after a kill.
        with suppress(RagstoneError):
            await parts.runs.end(run, "failed")
        raise
    await parts.runs.end(run, "published" if published else "unchanged")
    published = published and await _checkpointed(parts, request, published)
    return IngestReport(
        source=request.source,
        corpus=request.corpus,
        published=published,
        scanned=len(scan.objects),
        unchanged=plan.unchanged,
        changed=len(plan.changed),
        deleted=len(plan.deleted) if published else 0,
        kept_back=plan.kept_back,
        withheld=plan.withheld,
        left_out=_by_suffix(faults),
        quarantined=entries,
        tally=tally,
        seconds=time.monotonic() - began,
    )


async def _checkpointed(parts: IngestParts, request: IngestRequest, published: Published) -> Published:
    """Look now and then whether a checkpoint is due; one that cannot be sealed is told, and due again next time."""
    if parts.checkpoint is None or published.version % CHECKPOINT_EVERY:
        return published
    try:
        await parts.checkpoint(request.tenant, request.corpus)
    except RagstoneError as error:
        return replace(published, maintenance=published.maintenance or error.what)
    return published


def _bound(request: IngestRequest) -> frozenset[str] | None:
    """The keys that the ingest is bounded to; None is the whole source."""
    return request.only if request.redo is None else request.redo | (request.only or frozenset())


async def _plan(
    parts: IngestParts, request: IngestRequest, run: Run, scan: Scan, live: Mapping[str, LiveDocument]
) -> Plan:
    """What changed, unless a guard says no."""
    published = {key: each.object_version for key, each in live.items()}
    only = _bound(request)
    if request.only:
        unknown_keys(request.only, scan, published)
    plan = make_plan(scan, published, await parts.runs.withheld(run), only, request.redo or ())
    guard(
        plan, scan, len(published), request.reader.location,
        percent=parts.deletes_percent, allowed=request.allow_delete, named=only is not None,
    )  # fmt: skip
    return plan


async def _write(
    parts: IngestParts,
    request: IngestRequest,
    run: Run,
    plan: Plan,
    live: Mapping[str, LiveDocument],
    progress: Progress,
) -> tuple[Tally, list[Fault]]:
    """Read, parse, chunk and name rows on one side; embed and stage on the other; a short queue between them."""
    writer = Writer(run, parts.staging, parts.embedder, parts.embeddings(run.corpus_id))
    redo = request.redo or frozenset()
    faults = list(plan.faults)
    queue: asyncio.Queue[tuple[Batch, Named] | None] = asyncio.Queue(maxsize=2)
    total = len(plan.changed)

    async def produce() -> None:
        async for batch in prepare(
            request.reader, plan.changed, parts.recipe.chunking, parts.embedder.count_tokens, parts.limits
        ):
            incoming = [_incoming(request.source, each) for each in batch.prepared]
            bases = [live[e.key].docversion_id for e in incoming if e.key in live and e.key not in redo]
            await queue.put((batch, await writer.name(incoming, bases)))
        await queue.put(None)

    async def consume() -> None:
        done = 0
        progress("embed and write", 0, total)
        while (item := await queue.get()) is not None:
            batch, named = item
            faults.extend(batch.faults)
            await writer.write(named)
            done += len(batch.prepared) + len(batch.faults)
            progress("embed and write", done, total)
        await writer.finish()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            group.create_task(consume())
    except ExceptionGroup as failed:
        raise _first(failed) from None
    finally:
        await writer.abandon()  # also when we are stopped: a write that goes on would outlive the sweep
    return writer.tally, faults


def _first(failed: BaseExceptionGroup[Any]) -> BaseException:
    """The error to show of several that came at once: one of ours before a fault in the program."""
    ours = failed.subgroup(RagstoneError)
    group = ours or failed
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _start(parts: IngestParts, request: IngestRequest, scan: Scan) -> RunStart:
    return RunStart(
        tenant=request.tenant,
        corpus=request.corpus,
        source=request.source,
        location=request.reader.location,
        kind=request.kind,
        recipe=parts.recipe,
        source_order=scan.source_order,
        scope="scan" if _bound(request) is None else "changes",
        version_kind="ingest" if request.redo is None else "repair",
    )


def _incoming(source: str, prepared: Prepared) -> IncomingDocument:
    listed, document = prepared.listed, prepared.document
    # Where a document comes from can be filtered by, whatever the document says of itself.
    metadata = {**document.metadata, **listed.metadata, "source": source, "path": listed.key}
    pieces = tuple(Piece(c.text, c.start, c.end, c.heading_path, c.tokens) for c in prepared.chunks)
    return IncomingDocument(
        key=listed.key,
        object_version=listed.object_version,
        source_order=listed.source_order,
        title=document.title or "",
        metadata=metadata,
        acl=listed.acl if listed.acl is not None else (PUBLIC,),
        pieces=pieces,
    )


def _entry(fault: Fault) -> QuarantineEntry:
    return QuarantineEntry(fault.key, fault.object_version, fault.reason, fault.message, fault.field, fault.next_step)


def _by_suffix(faults: list[Fault]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for fault in faults:
        if fault.reason == UNSUPPORTED:
            name = fault.key.rpartition("/")[2]
            suffix = f".{name.rpartition('.')[2]}" if "." in name else "no suffix"
            counts[suffix] = counts.get(suffix, 0) + 1
    return counts


@dataclass(frozen=True, slots=True)
class AnswerParts:
    """What questions are answered with. `retriever` depends on the embedder that made the index."""

    catalog: Catalog
    retriever: Callable[[EmbeddingSpec], Awaitable[Retriever]]
    answerer: Callable[[EmbeddingSpec], Awaitable[Answerer]]
    evidence: EvidenceWriter
    made_by: Mapping[str, str]
    question_chars_max: int
    passages: int


@dataclass(frozen=True, slots=True)
class Question:
    """One question of one asker to one corpus."""

    text: str
    tenant: str
    corpus: str
    asker: Asker
    filters: Filter | None
    as_of: str | None
    deadline: Deadline
    limit: int = 10
    offset: int = 0
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The record that was made, and the words that belong to it."""

    record: Evidence
    words: EvidenceText
    has_more: bool


async def search(parts: AnswerParts, question: Question) -> Outcome:
    """The passages for a question, with reasons, and the record of how they were found."""
    return await _decide(parts, question, "search")


async def ask(parts: AnswerParts, question: Question) -> Outcome:
    """A cited answer or an abstention, and the record of how it was made."""
    return await _decide(parts, question, "ask")


async def _decide(parts: AnswerParts, question: Question, kind: str) -> Outcome:
    """Decide and leave a record, of a failure too; a caller's own mistake leaves none."""
    check_question(question.text, parts.question_chars_max)
    clock = Clock()
    try:
        return await _in_time(question.deadline, _answered(parts, question, kind, clock))
    except UsageError:
        raise
    except RagstoneError as error:
        made = Made(kind, question.tenant, question.corpus, question.trace_id, parts.made_by, {})
        record, words = failure_of(made, sorted(question.asker.principals), question.text, error, clock.ms)
        with suppress(RagstoneError):  # the error itself is what the caller must see
            await parts.evidence.write(record, words, [])
        raise


async def _in_time(deadline: Deadline, work: Awaitable[Outcome]) -> Outcome:
    """Whatever a part waits for, the caller is told when the time is up."""
    try:
        async with asyncio.timeout(deadline.left_s):
            return await work
    except TimeoutError:
        raise DeadlineExceeded(
            f"the deadline of {deadline.budget_s:g} s has passed",
            doing="answering",
            next_step="give it more time with --deadline-ms",
        ) from None


async def _answered(parts: AnswerParts, question: Question, kind: str, clock: Clock) -> Outcome:
    """View, retrieve, answer, record: in this order, under one deadline, with one clock."""
    with clock.stage("total"):
        with clock.stage("view"):
            view, embedding = await parts.catalog.view(question.tenant, question.corpus, question.as_of, question.asker)
        with clock.stage("load"):
            retriever = await parts.retriever(embedding)
        limit = question.limit if kind == "search" else parts.passages
        found = await retriever.retrieve(
            view, Ask(question.text, question.filters, limit, question.offset, question.deadline), clock
        )
        answer, usage, settings = None, Usage({}, 0), {}
        if kind == "ask":
            with clock.stage("answer"):
                answerer = await parts.answerer(embedding)
                answer, usage = await answerer.answer(_grounds(question.text, found), question.deadline)
                settings = answerer.settings
    made = Made(kind, question.tenant, question.corpus, question.trace_id, parts.made_by, settings)
    record, words, ledger = evidence_of(
        made, view, embedding, retriever.profile, question.text, found, answer, usage, clock.ms
    )
    await parts.evidence.write(record, words, ledger)
    return Outcome(record, words, found.has_more)


def check_question(text: str, chars_max: int) -> None:
    """UsageError for a question that is empty or too long."""
    if not text.strip():
        step = 'ask something: ragstone ask "…"'
        raise UsageError("the question is empty", doing="reading the question", next_step=step)
    if "\0" in text:
        raise UsageError("the question holds a NUL character", doing="reading the question", next_step="leave it out")
    if len(text) > chars_max:
        raise UsageError(
            f"the question has {len(text)} characters, at most {chars_max} are allowed",
            doing="reading the question",
            next_step="shorten it, or raise limits.question_chars in ragstone.toml",
        )


def _grounds(text: str, found: Retrieved) -> Grounds:
    columns = found.record.candidates
    places = [hit.candidate for hit in found.record.hits]
    return Grounds(
        question=text,
        query=found.query,
        terms=tuple((term, count, idf) for term, count, idf in found.record.terms),
        passages=found.passages,
        cosines=tuple(columns.dense[at] for at in places),
    )


def answer_text(answer: AnswerRecord) -> str:
    """The answer as one text."""
    return " ".join(sentence.text for sentence in answer.sentences)
