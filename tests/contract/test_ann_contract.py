"""The approximate path: taken when there are rows enough, nearly as good as the exact one, honest about the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pytest_asyncio
from contract_stacks import Ingest, ask, fresh, questions, random_documents, soon

from ragstone.adapters.postgres.engine import EngineLimits, PostgresEngine
from ragstone.adapters.postgres.maintenance import ann_name
from ragstone.adapters.postgres.publish import PostgresPublisher
from ragstone.core.filters import parse_filter

if TYPE_CHECKING:
    from contract_stacks import Stack

    from ragstone.adapters.postgres.database import Database
    from ragstone.core.ports import View

pytestmark = pytest.mark.asyncio(loop_scope="session")
DEPTH = 20


class ShortSighted:
    """A database whose walks through the graph end after few rows, as they do where a filter leaves very little."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def reading(self, doing: str, left_s: float, settings: Any = None) -> AsyncIterator[Any]:
        async with self._database.reading(doing, left_s, settings) as connection, connection.transaction():
            # Without sorting: so few rows the planner would rather compare one by one, and find all.
            await connection.execute(
                "select set_config('hnsw.max_scan_tuples', '1', true), set_config('enable_sort', 'off', true)"
            )
            yield connection


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def graph(postgres: Stack, database: Database) -> tuple[Stack, View]:
    """A corpus of 1,200 rows, 150 of them dead, with an HNSW index of its own."""
    corpus = fresh("graph")
    stack = replace(
        postgres,
        publisher=PostgresPublisher(database, ann_rows_min=100),
        engine=PostgresEngine(database, EngineLimits(exact_rows_max=50)),
    )
    documents = random_documents(seed=21, count=400)
    await Ingest(corpus, documents).into(stack)
    gone = [one.key for one in documents[:50]]
    await Ingest(corpus, [], deleted=gone, order="2").into(stack)
    return stack, await stack.view(corpus)


async def recalls(stack: Stack, exact: Stack, view: View, filters: str | None) -> list[float]:
    tree = parse_filter(filters)
    found = []
    for question in questions(seed=22, count=25):
        query = await ask(question)
        near = await stack.engine.search(view, "dense", query, tree, DEPTH, soon())
        best = await exact.engine.search(view, "dense", query, tree, DEPTH, soon())
        assert near.path.startswith("hnsw(ef=")
        assert best.path.startswith("exact")
        assert near.matching == best.matching
        assert near.shortfall == min(DEPTH, near.matching) - len(near.seqs)
        pairs = list(zip((-near.scores).tolist(), near.seqs.tolist(), strict=True))
        assert pairs == sorted(pairs)
        # A row that is as near as the last of the best is as good as any of them.
        found.append(np.count_nonzero(near.scores >= best.scores[-1] - 1e-9) / len(best.seqs))
        scores = await stack.engine.score(view, query, near.seqs, soon())
        assert np.array_equal(scores.dense, near.scores)
    return found


@pytest.mark.parametrize("filters", [None, "year >= 2010", 'lang = "en" and year < 2015'])
async def test_hnsw_recall(graph, postgres, filters):
    """With or without a filter HNSW finds 95 % of what the exact path finds, and no shortfall is kept silent."""
    stack, view = graph
    assert np.mean(await recalls(stack, postgres, view, filters)) >= 0.95


async def test_the_index_is_used(graph, database):
    """The path that is named is the path that is taken: the scans of the HNSW index go up."""
    stack, view = graph
    count = "select idx_scan from pg_stat_user_indexes where indexrelname = %s"

    async def scans() -> int:
        async with database.connection("testing") as connection:
            await connection.execute("select pg_stat_force_next_flush()")
            row = await (await connection.execute(count, (ann_name(view.corpus_id, view.index_id),))).fetchone()
            return int(row[0])

    before = await scans()
    for question in questions(seed=23, count=12):
        await stack.engine.search(view, "dense", await ask(question), None, DEPTH, soon())
    async with database.connection("testing") as connection:
        await connection.execute("select pg_sleep(1.1)")
    for _ in range(8):
        await scans()
    assert await scans() > before


async def test_a_shortfall_is_told(graph, database):
    """Where the walk ends before enough rows are found, the hits say how many are missing."""
    _, view = graph
    engine = PostgresEngine(ShortSighted(database), EngineLimits(exact_rows_max=50))
    tree = parse_filter("year = 2013")
    missing = []
    for question in questions(seed=25, count=10):
        hits = await engine.search(view, "dense", await ask(question), tree, 50, soon())
        assert hits.path.startswith("hnsw")
        assert hits.matching > 50
        assert hits.shortfall == 50 - len(hits.seqs)
        missing.append(hits.shortfall)
    assert max(missing) > 0


async def test_dead_rows_stay_out(graph):
    """Rows of deleted documents are in the graph and never in a result."""
    stack, view = graph
    for question in questions(seed=24, count=10):
        hits = await stack.engine.search(view, "dense", await ask(question), None, 100, soon())
        passages = await stack.catalog.passages(view, hits.seqs.tolist(), soon())
        assert len(passages) == len(hits.seqs) == 100
        assert min(one.key for one in passages.values()) >= "d0050"


async def test_a_narrow_filter_is_exact(graph):
    """A filter that leaves few rows is answered exactly: no graph walk can miss them."""
    stack, view = graph
    hits = await stack.engine.search(view, "dense", await ask("oak"), parse_filter("year = 2013"), DEPTH, soon())
    assert hits.path == "exact(filtered)" or hits.matching > 50
    tree = parse_filter('year = 2013 and lang = "en" and tags listContains "a"')
    hits = await stack.engine.search(view, "dense", await ask("oak"), tree, 100, soon())
    assert hits.path == "exact(filtered)"
    assert (len(hits.seqs), hits.shortfall) == (hits.matching, 0)
