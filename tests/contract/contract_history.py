"""What the suites of history and retention do to a corpus, in steps."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace

from contract_stacks import (
    TENANT,
    Ingest,
    Stack,
    ask,
    document,
    legs,
    questions,
    random_documents,
    staged,
    start,
)

from ragstone.index.stage import delete, publish, rollback


async def roll(stack: Stack, corpus: str, to: str):
    return await rollback(stack.history, stack.objects, TENANT, corpus, to)


async def remove(stack: Stack, corpus: str, name: str):
    return await delete(stack.history, stack.objects, TENANT, corpus, name)


async def three_versions(stack: Stack, corpus: str) -> None:
    """Sixty documents; then ten replaced by longer ones, five gone; then ten more, and one back."""
    await Ingest(corpus, random_documents(1, 60)).into(stack)
    longer = [replace(one, object_version="2", source_order="2") for one in random_documents(2, 10, chunks=9)]
    longer = [replace(one, title=f"{one.title} much longer than the titles were before") for one in longer]
    await Ingest(corpus, longer, deleted=[f"d{n:04d}" for n in range(20, 25)], order="2").into(stack)
    more = [replace(one, key=f"e{one.key}", source_order="3") for one in random_documents(3, 10)]
    await Ingest(corpus, [*more, document("d0020", "stone again", version="3", order="3")], order="3").into(stack)


async def picture(stack: Stack, corpus: str, as_of: str | None = None) -> list[tuple[object, ...]]:
    """Which rows every question gets, with which scores."""
    view = await stack.view(corpus, as_of)
    seen: list[tuple[object, ...]] = [(view.rows, view.norms)]
    for question in questions(5, 8):
        hits = await legs(stack, view, await ask(question), 30)
        seen += [(one.seqs.tolist(), one.scores.tolist(), one.matching) for one in hits]
    return seen


@asynccontextmanager
async def under_way(stack: Stack, corpus: str, *documents, order: str = "9", scope: str = "scan", source: str = "docs"):
    """A run that has staged documents and not published."""
    begun = replace(start(corpus, order=order, source=source), scope=scope)
    run = await stack.runs.begin(begun)
    writer = await staged(stack, run, documents)
    try:
        yield run, writer.tally
    finally:
        await stack.runs.end(run, "failed")


async def published(stack: Stack, run, tally, deleted=(), **how):
    how = {"replaces_quarantine": True, **how}
    return await publish(run, tally, stack.publisher, stack.objects, deleted, (), **how)
