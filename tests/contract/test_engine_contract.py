from __future__ import annotations
import pytest, numpy as np, time
from contract_stacks import *
from ragstone.core.filters import parse_filter
pytestmark = pytest.mark.asyncio(loop_scope="session")

async def test_first(postgres):
    s = postgres
    c = fresh()
    t=time.perf_counter()
    p = await Ingest(c, random_documents(1, 100)).into(s)
    print(p, time.perf_counter()-t)
    v = await s.view(c)
    print(v)
    for q in questions(2, 10):
        Q = await ask(q)
        b = await s.engine.search(v, "bm25", Q, None, 20, soon())
        d = await s.engine.search(v, "dense", Q, None, 20, soon())
        sc = await s.engine.score(v, Q, np.union1d(b.seqs, d.seqs), soon())
        at = np.searchsorted(np.union1d(b.seqs, d.seqs), b.seqs)
        assert np.array_equal(sc.bm25[at], b.scores)
        f = await s.engine.search(v, "dense", Q, parse_filter('year >= 2010 and lang in ("en") and tags listContains "a"'), 20, soon())
        print(f.path, f.matching)
    ps = await s.catalog.passages(v, b.seqs.tolist(), soon())
    print(list(ps.values())[0])
    assert await Ingest(c, [], order="2").into(s) is None
