"""Ways to come to one and the same content: the engine suite runs on each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from contract_stacks import TENANT, Ingest, Stack, document, ident, random_documents, staged, start

from ragstone.core.errors import Busy
from ragstone.index.records import Retention
from ragstone.index.stage import publish, rollback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ragstone.core.ports import View

DOCUMENTS = random_documents(seed=7, count=100)
CHANGED = [replace(one, object_version="2", source_order="7") for one in random_documents(seed=8, count=20)]
GONE = [f"d{number:04d}" for number in range(90, 100)]


async def first(stack: Stack, corpus: str) -> None:
    """A hundred documents of three chunks."""
    await Ingest(corpus, DOCUMENTS).into(stack)


async def change(stack: Stack, corpus: str) -> None:
    """Twenty replaced, ten deleted: what every situation ends with."""
    await Ingest(corpus, CHANGED, deleted=GONE, order="7").into(stack)


async def mess(stack: Stack, corpus: str, order: str) -> None:
    """What nobody wants: documents of other words, a third of the good ones gone."""
    bad = [document(f"d{n:04d}", f"stone stone mess {n}", version="bad", order=order) for n in range(40)]
    bad += [document(f"bad{n}", "oak oak oak", "river", version="bad", order=order) for n in range(25)]
    await Ingest(corpus, bad, deleted=[f"d{n:04d}" for n in range(60, 100)], order=order).into(stack)


async def head(stack: Stack, corpus: str) -> View:
    """The version that serves."""
    await first(stack, corpus)
    await change(stack, corpus)
    return await stack.view(corpus)


async def as_of(stack: Stack, corpus: str) -> View:
    """An old version, with two later ones that share rows with it or closed them."""
    await first(stack, corpus)
    await change(stack, corpus)
    await mess(stack, corpus, "8")
    await Ingest(corpus, [document("late", "lamp light", order="9")], source="other", order="9").into(stack)
    return await stack.view(corpus, "2")


async def rolled_back(stack: Stack, corpus: str) -> View:
    """A bad ingest taken back, then an ingest as if it had never been."""
    await first(stack, corpus)
    await mess(stack, corpus, "3")
    assert await rollback(stack.history, stack.objects, TENANT, corpus, "1")
    await stack.history.resume(TENANT, corpus)
    await change(stack, corpus)
    return await stack.view(corpus)


async def zombie(stack: Stack, corpus: str) -> View:
    """A writer that was taken for dead wakes after the next publish, and tries to go on."""
    await first(stack, corpus)
    asleep = await stack.runs.begin(start(corpus, order="9"))
    texts = [document(f"d{n:04d}", "quarry quarry stone", version="zombie", order="9") for n in range(60)]
    writer = await staged(stack, asleep, texts)
    await stack.kill(asleep)
    await change(stack, corpus)
    with pytest.raises(Busy):
        await publish(asleep, writer.tally, stack.publisher, stack.objects, GONE, (), replaces_quarantine=True)
    return await stack.view(corpus)


async def collected(stack: Stack, corpus: str) -> View:
    """Old versions are gone, with their rows, and the postings were rewritten."""
    await first(stack, corpus)
    await mess(stack, corpus, "3")
    assert await rollback(stack.history, stack.objects, TENANT, corpus, "1")
    await stack.history.resume(TENANT, corpus)
    await change(stack, corpus)
    view = await stack.view(corpus)
    done = await stack.history.collect(ident(corpus), Retention(1), force=True)
    assert (done.oldest, done.versions) == (4, 3)
    assert done.rows > 100
    await stack.publisher.maintain(view.corpus_id, view.index_id)
    assert await stack.rows(ident(corpus)) == view.rows
    return view


SITUATIONS: dict[str, Callable[[Stack, str], Awaitable[View]]] = {
    "head": head, "as-of": as_of, "rolled-back": rolled_back, "zombie": zombie, "collected": collected,
}  # fmt: skip
