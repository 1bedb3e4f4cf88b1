"""Runs that meet: two first runs of different recipes, a run that lost its source, maintenance that fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from contract_stacks import Ingest, Unmaintained, document, found, fresh, ident, staged, start

from ragstone.core.errors import Busy, Unavailable, UsageError
from ragstone.index.stage import publish

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_two_first_runs_of_different_recipes(stack):
    """Of two first runs with different recipes one publishes and the other is refused: no document is hidden."""
    corpus = fresh("recipes")
    one = await stack.runs.begin(start(corpus, source="one", name="one"))
    two = await stack.runs.begin(start(corpus, source="two", name="two"))
    try:
        first = await staged(stack, one, [document("a", "oak alone")])
        second = await staged(stack, two, [document("b", "river alone")])
        await publish(one, first.tally, stack.publisher, stack.objects, (), (), replaces_quarantine=True)
        with pytest.raises(UsageError, match="another recipe"):
            await publish(two, second.tally, stack.publisher, stack.objects, (), (), replaces_quarantine=True)
    finally:
        await stack.runs.end(one, "published")
        await stack.runs.end(two, "failed")
    assert await found(stack, await stack.view(corpus), "oak") == {"a"}
    assert await stack.rows(ident(corpus)) == 1


async def test_a_run_that_lost_its_source_writes_no_more(postgres):
    """A run whose source another run took over is told at its next write, and leaves no row behind."""
    corpus = fresh("lost")
    lost = await postgres.runs.begin(start(corpus))
    await staged(postgres, lost, [document("a", "oak one")])
    await postgres.kill(lost)
    await Ingest(corpus, [document("b", "river two")], order="2").into(postgres)
    with pytest.raises(Busy, match="took this source over"):
        await staged(postgres, lost, [document("c", "moss three")])
    assert await postgres.rows(ident(corpus)) == 1
    assert await found(postgres, await postgres.view(corpus), "oak river moss") == {"b"}


class Ailing(Unmaintained):
    """A publisher whose maintenance fails a number of times."""

    def __init__(self, publisher: Any, failures: int) -> None:
        super().__init__(publisher)
        self.failures = failures
        self.calls = 0

    async def maintain(self, corpus_id: bytes, index_id: bytes) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise Unavailable("the merge was interrupted")


async def test_failed_maintenance_is_told_and_made_good(stack):
    """Maintenance that fails fails no publish: it is told, and the next run does it, an unchanged one too."""
    corpus = fresh("ailing")
    ailing = replace(stack, publisher=Ailing(stack.publisher, failures=1))
    published = await Ingest(corpus, [document("a", "oak one")]).into(ailing)
    assert published.version == 1
    assert published.maintenance == "the merge was interrupted"
    assert await Ingest(corpus, order="2").into(ailing) is None
    assert ailing.publisher.calls == 2
