"""Why not, in the search: every verdict of legs, selection and page, with gaps that are what the engine itself says."""

from __future__ import annotations

from typing import Any

import pytest
from asking_why_not import asked, crowd, everything, whereabouts
from contract_stacks import (
    EMBEDDER,
    Ingest,
    document,
    fresh,
    soon,
)

from ragstone.core.ports import LegHits
from ragstone.observe.why_not_page import sentence, why_not_document, why_not_page
from ragstone.retrieve.profile import Profile
from ragstone.retrieve.stage import Ask, Clock, Retriever
from ragstone.retrieve.why_not import WhyNotParts, why_not

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_what_is_returned(stack):
    """A document on the page is `returned` with the rank of its best hit, and each chunk with its scores."""
    corpus = await crowd(stack)
    _, found = await everything(stack, corpus, "stone lamp", 100, 10)
    for hit in found.record.hits:
        said = await asked(stack, corpus, "stone lamp", hit.document_id)
        best = min(each.rank for each in found.record.hits if each.document_id == hit.document_id)
        assert (said.verdict, said.stage, said.rank, said.lost_by) == ("returned", None, best, {})
        columns = found.record.candidates
        for chunk in said.chunks:
            at = columns.chunk_id.index(chunk.chunk_id) if chunk.fate else None
            if at is not None:
                assert (chunk.score, chunk.fused_rank, chunk.fate) == (columns.score[at], at + 1, columns.fate[at])
                assert sum(leg.contribution for leg in chunk.legs.values()) == pytest.approx(chunk.score, abs=1e-9)
                assert chunk.legs["bm25"].score == columns.bm25[at]
                assert chunk.legs["dense"].rank == (columns.dense_rank[at] or None)
    assert said.chunks_total == 3


async def test_beyond_the_page(stack):
    """A candidate below the page is `beyond_page`: its rank, where the page ended, and the score that was missing."""
    corpus = await crowd(stack)
    _, found = await everything(stack, corpus, "stone lamp", 100, 5)
    _, long = await everything(stack, corpus, "stone lamp", 100, 1000)
    on_page = {hit.document_id for hit in found.record.hits}
    beyond = next(hit for hit in long.record.hits if hit.document_id not in on_page)
    said = await asked(stack, corpus, "stone lamp", beyond.document_id, limit=5)
    columns = long.record.candidates
    last = columns.score[found.record.hits[-1].candidate]
    assert (said.verdict, said.stage, said.rank) == ("beyond_page", "page", beyond.rank)
    assert said.lost_by == {"fused": last - columns.score[beyond.candidate]}
    assert said.lost_by["fused"] >= 0
    assert (said.page_end.hits, said.page_end.score) == (5, last)
    assert said.page_end.candidates == len(long.record.hits)
    assert f"rank {beyond.rank} of {len(long.record.hits)}, the page ends at 5" in sentence(said)


async def test_not_a_candidate(stack):
    """A document that no leg listed is `not_candidate`: in each leg the exact score and rank of its best chunk, the
    cut-off, and what was missing of it, as the whole ranking of that leg has them."""
    corpus = await crowd(stack)
    depth, question = 5, "stone lamp river"
    view, found = await everything(stack, corpus, question, depth, 10)
    whole = {leg: await stack.engine.search(view, leg, found.query, None, 1000, soon()) for leg in ("bm25", "dense")}
    keys = {}
    for hits in whole.values():
        passages = await stack.catalog.passages(view, hits.seqs.tolist(), soon())
        keys |= {seq: passage.key for seq, passage in passages.items()}
    candidates = {keys[seq] for seq in found.record.candidates.seq}
    lost = sorted({keys[seq] for seq in whole["bm25"].seqs.tolist()} - candidates)
    assert len(lost) > 3
    for name in lost:
        said = await asked(stack, corpus, question, name, depth=depth)
        assert (said.verdict, said.stage, said.rank) == ("not_candidate", "legs", None)
        for leg, hits in whole.items():
            at = next(at for at, seq in enumerate(hits.seqs.tolist()) if keys[seq] == name)
            one = said.legs[leg]
            assert (one.rank, one.rank_exact, one.reason) == (at + 1, True, "below_cutoff")
            assert one.score == float(hits.scores[at])
            assert one.cutoff == float(hits.scores[depth - 1])
            assert one.lost_by == said.lost_by[leg] == one.cutoff - one.score
            assert one.matching == hits.matching
            assert f"{leg} rank {at + 1} of {hits.matching}" in sentence(said)
        assert all(chunk.fate is None and chunk.fused_rank is None for chunk in said.chunks)
        assert [chunk.score for chunk in said.chunks] == sorted((chunk.score for chunk in said.chunks), reverse=True)


async def test_no_word_of_the_question(stack):
    """A document without a word of the question has no rank in the bm25 leg, says so, and names the words."""
    corpus = fresh("why")
    filler = [document(f"f{at}", f"quarry stone number {at}") for at in range(9)]
    await Ingest(corpus, [*filler, document("other", "an entirely different matter")]).into(stack)
    said = await asked(stack, corpus, "quarry stone", "other", depth=4)
    assert said.legs["bm25"].reason == "no_words"
    assert (said.legs["bm25"].rank, said.legs["bm25"].score) == (None, 0.0)
    assert said.legs["bm25"].lost_by == said.legs["bm25"].cutoff > 0
    assert said.words_missing == ("quarri", "stone")
    assert said.verdict == "not_candidate"
    assert "bm25 has no word of the question" in sentence(said)
    assert (await asked(stack, corpus, "quarry matter", "other")).words_missing == ("quarri",)


async def test_one_leg_is_enough(stack):
    """A document that one leg listed is a candidate; how far it came in the other is told all the same."""
    corpus = fresh("why")
    filler = [document(f"f{at}", f"quarry stone number {at}") for at in range(9)]
    await Ingest(corpus, [*filler, document("other", "an entirely different matter")]).into(stack)
    said = await asked(stack, corpus, "quarry stone", "other", depth=10, limit=1)
    assert said.verdict == "beyond_page"
    assert (said.legs["dense"].reason, said.legs["bm25"].reason) == ("listed", "no_words")
    assert said.legs["bm25"].cutoff is None
    assert said.legs["bm25"].lost_by is None


async def test_a_duplicate(stack):
    """A document whose text a better one has is `duplicate`, and names the document and chunk it collapsed into."""
    corpus = fresh("why")
    same = [document(name, "the quarry is closed on Sunday") for name in ("a", "b", "c")]
    await Ingest(corpus, [*same, document("d", "the mill is closed")]).into(stack)
    said = {name: await asked(stack, corpus, "quarry Sunday", name) for name in ("a", "b", "c")}
    winner = next(one for one in said.values() if one.verdict == "returned")
    losers = [one for one in said.values() if one.verdict != "returned"]
    assert len(losers) == 2
    for one in losers:
        assert (one.verdict, one.stage, one.rank) == ("duplicate", "selection", None)
        twin = one.chunks[0].duplicate_of
        assert (twin.document_id, twin.chunk_id) == (winner.document, winner.chunks[0].chunk_id)
        assert twin.fused_rank == winner.chunks[0].fused_rank
        assert f"a chunk of {winner.document}, place {twin.fused_rank}" in sentence(one)


async def test_a_returned_chunk_decides(stack):
    """Of a document with many chunks one on the page makes it `returned`, though better placed ones are duplicates
    and though fewer chunks are listed than it has."""
    corpus = fresh("why")
    words = "quarry stone lamp"
    await Ingest(
        corpus, [document("aaa", words), document("many", words, "quarry stone", "quarry", "wool")]
    ).into(stack)  # fmt: skip
    said = await asked(stack, corpus, words, "many", chunks=1)
    other = await asked(stack, corpus, words, "aaa", chunks=1)
    assert {said.verdict, other.verdict} <= {"returned", "duplicate"}
    assert said.verdict == "returned"
    assert len(said.chunks) == 1
    assert said.chunks[0].fate == "returned"
    assert said.chunks_total == 4


@pytest.mark.parametrize("fusion", ["z", "rrf", "minmax", "bm25", "dense"])
async def test_every_document_has_its_place(stack, fusion):
    """For every document of a corpus the verdict is what the search itself did with it, with every fusion."""
    corpus = await crowd(stack)
    retriever = Retriever(stack.catalog, stack.engine, EMBEDDER, Profile(depth=12, fusion=fusion))
    view = await stack.view(corpus)
    found = await retriever.retrieve(view, Ask("stone oak bell", None, 6, 0, soon()), Clock())
    columns = found.record.candidates
    passages = await stack.catalog.passages(view, columns.seq, soon())
    fates: dict[str, list[str]] = {}
    for seq, fate in zip(columns.seq, columns.fate, strict=True):
        fates.setdefault(passages[seq].key, []).append(fate)
    told = []
    for number in range(60):
        name = f"d{number:04d}"
        said = await asked(stack, corpus, "stone oak bell", name, depth=12, limit=6, fusion=fusion)
        own = fates.get(name)
        expected = "not_candidate" if own is None else "returned" if "returned" in own else own[0]
        assert said.verdict == expected, name
        told.append(expected)
    assert {"returned", "beyond_page", "not_candidate"} <= set(told)


async def test_both_backends_say_the_same(memory, postgres):
    """The two backends give one answer to the last bit, but for the versions of objects and rows."""
    answers = []
    for stack in (memory, postgres):
        corpus = await crowd(stack)
        said = [await asked(stack, corpus, "stone lamp river", f"d{at:04d}", depth=7) for at in range(0, 60, 6)]
        answers.append([why_not_document(one) for one in said])
    assert answers[0] == answers[1]


async def test_ranks_are_looked_for_within_bounds(memory, monkeypatch):
    """A rank is looked for no deeper than the bound; beyond it the page says beyond which rank it is."""
    monkeypatch.setattr("ragstone.retrieve.why_not.RANK_MAX", 8)
    corpus = await crowd(memory)
    view, found = await everything(memory, corpus, "stone lamp river", 2, 10)
    deep = await memory.engine.search(view, "dense", found.query, None, 1000, soon())
    passages = await memory.catalog.passages(view, deep.seqs.tolist(), soon())
    order = list(dict.fromkeys(passages[seq].key for seq in deep.seqs.tolist()))
    said = await asked(memory, corpus, "stone lamp river", order[-1], depth=2)
    assert (said.legs["dense"].rank, said.legs["dense"].ranked) == (None, 8)
    assert f"beyond rank 8 of {len(deep.seqs)}" in sentence(said)
    assert said.lost_by["dense"] == said.legs["dense"].cutoff - said.legs["dense"].score > 0


class Forgetful:
    """An engine whose walk passes one row by, as a walk through a graph may."""

    def __init__(self, engine: Any, seq: int) -> None:
        self._engine, self._seq = engine, seq

    async def search(self, view: Any, leg: str, query: Any, filters: Any, depth: int, deadline: Any) -> LegHits:
        hits = await self._engine.search(view, leg, query, filters, depth + 1, deadline)
        if leg == "bm25":
            return await self._engine.search(view, leg, query, filters, depth, deadline)
        kept = hits.seqs != self._seq
        return LegHits(hits.seqs[kept][:depth], hits.scores[kept][:depth], "hnsw(ef=40)", hits.matching)

    async def score(self, *words: Any) -> Any:
        return await self._engine.score(*words)


async def test_a_walk_that_passed_it_by(stack):
    """A row that would have been in the list, and that a walk through the graph did not find, is `missed`: no gap is
    told where there is none, and a rank that a walk gave is called `about`."""
    corpus = await crowd(stack)
    view, found = await everything(stack, corpus, "stone lamp river", 100, 10)
    deep = await stack.engine.search(view, "dense", found.query, None, 1000, soon())
    passages = await stack.catalog.passages(view, deep.seqs.tolist(), soon())
    order = [passages[seq].key for seq in deep.seqs.tolist()]
    at = next(at for at, key in enumerate(order) if key not in order[:at] + order[at + 1 : at + 9])
    engine = Forgetful(stack.engine, int(deep.seqs[at]))
    retriever = Retriever(stack.catalog, engine, EMBEDDER, Profile(depth=at + 4))
    parts = WhyNotParts(stack.catalog, whereabouts(stack), engine, retriever)
    ask = Ask("stone lamp river", None, 10, 0, soon())
    said = await why_not(parts, view, ask, order[at], 100)
    dense = said.legs["dense"]
    assert (dense.reason, dense.lost_by, dense.rank_exact) == ("missed", None, False)
    assert dense.score == float(deep.scores[at]) > dense.cutoff
    page = why_not_page("stone lamp river", said)
    assert "the walk through the HNSW index passed it by" in page
    assert "dense" not in said.lost_by
    near = await why_not(parts, view, ask, order[at + 1], 100)
    assert near.legs["dense"].reason == "listed"
    assert f"about rank {near.legs['dense'].rank} of" in why_not_page("stone lamp river", near)
