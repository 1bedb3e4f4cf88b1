"""Reading on PostgreSQL: one statement a round trip, under a limit that stays with the reader."""

from __future__ import annotations

import numpy as np
import pytest
import pytest_asyncio
from contract_stacks import Ingest, ask, document, fresh, ident, legs, soon

from ragstone.adapters.postgres.arrays import Int4Array
from ragstone.adapters.postgres.database import Database
from ragstone.core.errors import DeadlineExceeded


@pytest_asyncio.fixture
async def alone(database):
    """A pool of one connection: what one user leaves behind the next one meets."""
    single = Database(database.conninfo, pool_size=1)
    await single.open()
    yield single
    await single.close()


async def shown(connection, name: str) -> str:
    return (await (await connection.execute(f"show {name}")).fetchone())[0]


@pytest.mark.parametrize("values", [[], [0], [7, 2**31 - 1, 0], list(range(5000))])
async def test_integers_arrive_as_they_are(alone, values):
    """An array of NumPy integers is bound as the same int[]."""
    async with alone.reading("testing", 5) as connection:
        cursor = await connection.execute(
            "select %s::int[], %s = any(%s::int[])", (bound := Int4Array(np.array(values, np.int64)), 7, bound)
        )
        assert await cursor.fetchone() == (values, 7 in values)


async def test_a_limit_goes_with_its_reader(alone):
    """A reader's limit is no tighter than the time it has and at most an eighth looser; others have none."""
    async with alone.reading("testing", 30, {"hnsw.ef_search": "77"}) as connection:
        row = await (
            await connection.execute("select setting::int from pg_settings where name = 'statement_timeout'")
        ).fetchone()
        assert 30_000 <= row[0] <= 33_750
        assert await shown(connection, "join_collapse_limit") == "1"
        assert await shown(connection, "hnsw.ef_search") == "77"
    async with alone.connection("testing") as connection:
        assert await shown(connection, "statement_timeout") == "0"
        assert await shown(connection, "join_collapse_limit") == "8"
        assert await shown(connection, "search_path") == "ragstone,public"
    async with alone.reading("testing", 30) as connection:
        assert await shown(connection, "join_collapse_limit") == "1"


async def test_a_statement_ends_when_the_time_is_up(alone):
    """The server stops what takes too long, and the same connection reads on with another limit."""
    with pytest.raises(DeadlineExceeded):
        async with alone.reading("testing", 0.05) as connection:
            await connection.execute("select pg_sleep(20)")
    async with alone.reading("testing", 20) as connection:
        cursor = await connection.execute("select 1 from pg_sleep(0.2)")
        assert await cursor.fetchone() == (1,)


async def test_rows_that_go_while_a_question_is_answered(postgres, database):
    """A candidate that is collected between the legs and the scores is scored as nothing; the others keep theirs."""
    corpus = fresh("gone")
    await Ingest(corpus, [document(f"d{n}", f"granite quarry {n} stone") for n in range(6)]).into(postgres)
    view = await postgres.view(corpus)
    query = await ask("granite stone")
    bm25, dense = await legs(postgres, view, query)
    seqs = np.union1d(bm25.seqs, dense.seqs)
    before = await postgres.engine.score(view, query, seqs, soon())
    async with database.connection("testing") as connection:
        for table in ("chunk", "vector"):
            await connection.execute(
                f"delete from {table} where corpus_id = %s and seq = %s", (ident(corpus), int(seqs[2]))
            )
    after = await postgres.engine.score(view, query, seqs, soon())
    assert (after.bm25[2], after.dense[2], after.chunk_ids[2], after.text_hashes[2]) == (0, 0, b"", b"")
    kept = [at for at in range(len(seqs)) if at != 2]
    assert after.bm25[kept].tolist() == before.bm25[kept].tolist() != [0] * len(kept)
    assert after.dense[kept].tolist() == before.dense[kept].tolist()
    assert [after.chunk_ids[at] for at in kept] == [before.chunk_ids[at] for at in kept]
