"""Backends agree not only on what was thought of: random histories of a corpus come out the same on each."""

from __future__ import annotations

import random

import numpy as np
import pytest
from contract_stacks import WORDS, Ingest, Stack, ask, document, fresh, ident, keyed, legs, soon

pytestmark = pytest.mark.asyncio(loop_scope="session")


def history(seed: int, corpus: str) -> list[Ingest]:
    """Eight runs of two sources: documents added, changed, moved back in time, deleted, some of it for nothing."""
    rng = random.Random(seed)
    runs = []
    for step in range(8):
        keys = rng.sample([f"d{n}" for n in range(9)], rng.randint(0, 5))
        order = str(rng.randint(1, step + 2))
        documents = [
            document(
                key,
                *(" ".join(rng.choices(WORDS[:6], k=4)) for _ in range(rng.randint(1, 3))),
                title=rng.choice(("", "stone", "river lamp")),
                version=f"{step}",
                order=order,
                metadata={"n": rng.randint(0, 3)} if rng.random() < 0.5 else {},
                acl=rng.choice((("public",), ("public",), ("user:ann",))),
            )
            for key in keys
        ]
        deleted = [f"d{n}" for n in rng.sample(range(9), rng.randint(0, 3)) if f"d{n}" not in keys]
        source = rng.choice(("docs", "other"))
        runs.append(Ingest(corpus, documents, deleted, source=source, order=order, maintain=rng.random() < 0.5))
    return runs


async def picture(stack: Stack, corpus: str, version: int, asker: str | None) -> tuple[object, ...]:
    """All that a reader can see of a version."""
    view = await stack.view(corpus, str(version), asker)
    query = await ask("stone river lamp")
    hits = [*await legs(stack, view, query, 50), *await legs(stack, view, query, 50, "n >= 1 or n = 0")]
    passages = await stack.catalog.passages(view, list(range(200)), soon())
    scores = await stack.engine.score(view, query, np.arange(200), soon())
    seen = {
        seq: (one.chunk_id, one.document_id, one.title, one.text, one.start, one.ordinal, one.source_version)
        for seq, one in passages.items()
    }
    ranked = [(one.seqs.tolist(), np.round(one.scores, 9).tolist(), one.matching, one.path) for one in hits]
    return view.rows, view.norms, view.epoch, view.restricted, ranked, seen, scores.chunk_ids, scores.text_hashes


@pytest.mark.parametrize("seed", range(6))
async def test_histories_agree(memory, postgres, seed):
    """After each run of a random history both backends published the same, and every version reads the same."""
    corpus = fresh()
    for stack in (memory, postgres):
        await keyed(stack, corpus, b"h" * 32)
    newest = 0
    for ours, theirs in zip(history(seed, corpus), history(seed, corpus), strict=True):
        left, right = await ours.into(memory), await theirs.into(postgres)
        if left is not None and right is not None:
            newest = left.version
            assert sorted(left.stale) == sorted(right.stale)
        assert (left and left.merkle_root, left and left.rows_closed) == (
            right and right.merkle_root,
            right and right.rows_closed,
        )
        assert await memory.rows(ident(corpus)) == await postgres.rows(ident(corpus))
    assert newest > 2
    for version in range(1, newest + 1):
        statistics = [await stack.statistics(ident(corpus), version) for stack in (memory, postgres)]
        assert {**statistics[0], "fields": None} == {
            **statistics[1],
            "norms": tuple(statistics[1]["norms"]),
            "fields": None,
        }
        for asker in (None, "user:ann"):
            assert await picture(memory, corpus, version, asker) == await picture(postgres, corpus, version, asker)
