"""Every hit carries its reasons: from `why` alone, read back from JSON, its score is computed again."""

from __future__ import annotations

import json
import math
import random
import statistics
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from ragstone import flow
from ragstone.adapters.localfs.folder import FolderSource
from ragstone.adapters.localmodels.hashing import HashEmbedder
from ragstone.adapters.memory.store import MemoryStore
from ragstone.core.deadline import Deadline
from ragstone.core.filters import parse_filter
from ragstone.core.nouns import Asker, ChunkingSpec, LexicalSpec, Recipe
from ragstone.ingest.parse import ParseLimits
from ragstone.retrieve.profile import METHODS, Profile
from ragstone.retrieve.stage import Ask, Clock, Retriever
from ragstone.retrieve.why import hit_json

if TYPE_CHECKING:
    from pathlib import Path

    from ragstone.core.evidence import RetrievalRecord

WORDS = [
    "stone",
    "river",
    "lamp",
    "oak",
    "iron",
    "salt",
    "wool",
    "bell",
    "moss",
    "kiln",
    "mill",
    "yard",
    "bridge",
    "field",
    "house",
    "light",
]
QUESTIONS = (
    "stone bridge over the river",
    "oak",
    "salt salt iron lamp",
    "the house of light",
    "zebra",
    "moss kiln yard",
)


@pytest.fixture
async def store(tmp_path: Path) -> MemoryStore:
    """Ninety documents of skewed words, some with the same text."""
    rng = random.Random(5)
    weights = [1 / (place + 1) for place in range(len(WORDS))]
    for number in range(90):
        words = " ".join(rng.choices(WORDS, weights, k=rng.choice((4, 15, 60))))
        text = "the same moss in many documents" if number % 9 == 0 else words
        (tmp_path / f"{number:02}.md").write_text(f"# {rng.choice(WORDS)}\n\n{text}.\n")
    made, embedder = MemoryStore(), HashEmbedder(64)
    parts = flow.IngestParts(
        runs=made.runs, staging=made.runs, publisher=made.publisher, embeddings=made.cache, objects=made.objects,
        embedder=embedder, recipe=Recipe(ChunkingSpec(tokenizer="hash"), LexicalSpec(), embedder.spec),
        limits=ParseLimits(), deletes_percent=20.0,
    )  # fmt: skip
    reader = FolderSource(tmp_path, ParseLimits())
    report = await flow.ingest(parts, flow.IngestRequest(reader, "default", "default", "docs", "folder"))
    assert report.published
    return made


async def retrieved(
    store: MemoryStore, question: str, profile: Profile, filters: str | None = None
) -> tuple[RetrievalRecord, list[dict[str, Any]]]:
    """The record, and the hits as a user gets them: through JSON."""
    view, _ = await store.catalog.view("default", "default", None, Asker())
    retriever = Retriever(store.catalog, store.engine, HashEmbedder(64), profile)
    ask = Ask(question, parse_filter(filters), 100, 0, Deadline.after(30))
    record = (await retriever.retrieve(view, ask, Clock())).record
    return record, json.loads(json.dumps([hit_json(record, hit, "") for hit in record.hits]))


def contribution(leg: str, why: dict[str, Any]) -> float:
    """What a leg adds, written down anew from the published description of each method."""
    fusion, seen = why["fusion"], why["legs"][leg]
    weight, method = fusion["weights"][leg], fusion["method"]
    if method == "rrf":
        return 0.0 if seen["rank"] is None else weight / (fusion["rank_constant"] + seen["rank"])
    if method == "z":
        spread = fusion["deviation"][leg]
        return weight * (seen["score"] - fusion["mean"][leg]) / spread if spread else 0.0
    if method == "minmax":
        low, high = fusion["minimum"][leg], fusion["maximum"][leg]
        return weight * (seen["score"] - low) / (high - low) if high > low else 0.0
    return weight * seen["score"] if method == leg else 0.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("depth", [8, 100])
async def test_the_score_follows_from_why(store, method, depth):
    """With each fusion, weights that differ and short lists, `why` alone gives each score again within 1e-6, and the
    contributions that it names; the bm25 score is the sum of its terms."""
    profile = Profile(fusion=method, depth=depth, bm25_weight=0.7, dense_weight=1.6)
    ranks: set[bool] = set()
    for question in QUESTIONS:
        _, hits = await retrieved(store, question, profile)
        assert hits
        for hit in hits:
            why = hit["why"]
            again = {leg: contribution(leg, why) for leg in ("bm25", "dense")}
            assert math.fsum(again.values()) == pytest.approx(hit["score"], abs=1e-6)
            for leg, value in again.items():
                assert why["legs"][leg]["contribution"] == pytest.approx(value, abs=1e-6)
                ranks.add(why["legs"][leg]["rank"] is None)
            terms = why["legs"]["bm25"]["terms"]
            assert math.fsum(terms.values()) == pytest.approx(why["legs"]["bm25"]["score"], abs=1e-6)
            assert all(value > 0 for value in terms.values())
    assert ranks == {True, False}, "candidates that a leg did not find were not tested"


@pytest.mark.parametrize("method", METHODS)
async def test_the_order_follows_from_the_scores(store, method):
    """Hits are ordered by score, ties by chunk id; ranks count from one; a leg's rank orders its scores."""
    for question in QUESTIONS:
        _, hits = await retrieved(store, question, Profile(fusion=method, depth=20))
        assert [hit["rank"] for hit in hits] == list(range(1, len(hits) + 1))
        assert hits == sorted(hits, key=lambda hit: (-hit["score"], hit["chunk_id"]))
        for leg in ("bm25", "dense"):
            found = [hit["why"]["legs"][leg] for hit in hits if hit["why"]["legs"][leg]["rank"]]
            ordered = [seen["score"] for seen in sorted(found, key=lambda seen: seen["rank"])]
            assert all(above >= below - 1e-6 for above, below in pairwise(ordered))


async def test_the_statistics_are_those_of_the_candidates(store):
    """Mean, deviation, minimum, maximum and n under `fusion` are recomputed from the recorded candidates."""
    record, hits = await retrieved(store, QUESTIONS[0], Profile())
    fusion = hits[0]["why"]["fusion"]
    for leg, scores in (("bm25", record.candidates.bm25), ("dense", record.candidates.dense)):
        assert fusion["n"] == len(scores) > len(hits)
        assert fusion["mean"][leg] == pytest.approx(statistics.fmean(scores), abs=1e-9)
        assert fusion["deviation"][leg] == pytest.approx(statistics.pstdev(scores), abs=1e-9)
        assert (fusion["minimum"][leg], fusion["maximum"][leg]) == (min(scores), max(scores))


async def test_what_stands_for_others_says_so(store):
    """Of equal texts one is returned and names the chunks that it stands for; each candidate has one fate."""
    record, hits = await retrieved(store, "moss in many documents", Profile(), 'source = "docs"')
    columns = record.candidates
    merged = [hit for hit in hits if hit["why"]["selected"]["duplicates"]]
    assert merged
    assert sum(len(hit["why"]["selected"]["duplicates"]) for hit in hits) == columns.fate.count("duplicate")
    assert set(columns.fate) <= {"returned", "duplicate", "beyond_page"}
    assert [columns.chunk_id[hit["why"]["selected"]["fused_rank"] - 1] for hit in hits] == [
        hit["chunk_id"] for hit in hits
    ]
