"""What a question costs beyond the least that answers it, in one process, question by question. JSON on stdout.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/bench_query.py --set DIR [--rounds 3] [--postgres URL]

DIR holds corpus.jsonl, queries.jsonl and qrels.tsv; without it a synthetic corpus is made. In turn for each question:

- `floor`: bm25s with numba, NumPy over all vectors, reciprocal ranks, ten texts; no filter, reasons or record. Left
  out, and said so, where bm25s and numba are not installed: they belong to the comparison, not to the project.
- `ours`: the whole of flow.search in memory with a filter that nine documents in ten pass, every candidate's reasons,
  and the evidence record encoded and written to a spool; see bench_ours.py.
- `unrecorded`: the same decisions without record and spool.
- with `--postgres`: `bare`, the SQL and scoring that a question needs on one connection (bench_bare.py), and `ours` on
  the same database.

`ratio` is p50 over p50 inside one round. Every part runs on one thread. Each finds the processor's caches full of the
other's vectors: in turn both take longer than alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench_ours import FILTER, Peer
from bench_synthetic import HashingEmbedder, corpus, read_set
from bench_world import World
from common import machine, percentiles
from ragstone.core.filters import Filter, parse_filter
from ragstone.core.nouns import Asker
from ragstone.evaluate.metrics import averages
from ragstone.retrieve.stage import Ask, Clock, Retriever

Answering = Callable[[str], Awaitable[list[str]]]
WORD = re.compile(r"[A-Za-z0-9]+")


class Floor:
    """The least work that answers: sparse scores by bm25s, all cosines, the fifty best of each, reciprocal ranks."""

    def __init__(self, docs: list[dict[str, str]], embedder: HashingEmbedder, words: int = 200) -> None:
        import bm25s

        from bench_world import windows

        self._embedder = embedder
        self._texts, self._ids = [], []
        for each in docs:
            for window in windows(each["text"], words):
                self._texts.append(window)
                self._ids.append(each["id"])
        self._vectors = np.stack(embedder.embed(self._texts))
        self._bm25 = bm25s.BM25(backend="numba")
        self._bm25.index([WORD.findall(text.lower()) for text in self._texts], show_progress=False)

    async def answer(self, question: str) -> list[str]:
        """The ids of the documents behind the ten best texts."""
        vector = self._embedder.embed([question])[0]
        dots = self._vectors @ vector
        n = min(50, len(dots))
        dense = np.argpartition(-dots, n - 1)[:n]
        dense = dense[np.argsort(-dots[dense])]
        tokens = [WORD.findall(question.lower())]
        sparse = self._bm25.retrieve(tokens, k=n, show_progress=False, n_threads=0).documents[0]
        fused: dict[int, float] = {}
        for ranked in (dense, sparse):
            for rank, row in enumerate(ranked.tolist()):
                fused[row] = fused.get(row, 0.0) + 1 / (60 + rank)
        best = sorted(fused, key=fused.__getitem__, reverse=True)[:10]
        "\n".join(self._texts[row] for row in best)
        return [self._ids[row] for row in best]


class Unrecorded(Retriever):
    """Decides as the retriever does and makes no record of it; a benchmark's alone."""

    def _record(self, *decided: Any) -> Any:
        return [passage.document_id for passage in decided[-1]]


async def unrecorded(world: World, text: str, filters: Filter | None) -> list[str]:
    """flow.search without evidence: view, legs, scores, fusion, selection, passages."""
    view, _ = await world.ports.catalog.view("default", world.corpus, None, Asker())
    retriever = Unrecorded(world.ports.catalog, world.ports.engine, world.embedder, world.profile)
    question = world.question(text, filters)
    async with asyncio.timeout(question.deadline.left_s):
        found: Any = await retriever.retrieve(view, Ask(text, filters, 10, 0, question.deadline), Clock())
    return found


async def interleaved(
    systems: dict[str, Answering], questions: list[str], rounds: int
) -> tuple[list[dict[str, dict[str, float]]], dict[str, dict[str, list[str]]]]:
    """p50, p95, p99 and CPU of each system by round, and what each answered. The first pass is not counted."""
    table, answers = [], {name: {} for name in systems}
    for number in range(rounds + 1):
        wall: dict[str, list[float]] = {name: [] for name in systems}
        cpu = dict.fromkeys(systems, 0.0)
        for text in questions:
            for name, answering in systems.items():
                began, spent = time.perf_counter(), time.process_time()
                answers[name][text] = await answering(text)
                cpu[name] += time.process_time() - spent
                wall[name].append((time.perf_counter() - began) * 1e3)
        if number:
            merged = percentiles([dict(zip(systems, each, strict=True)) for each in zip(*wall.values(), strict=True)])
            for name in systems:
                merged[name]["cpu_mean"] = round(cpu[name] / len(questions) * 1e3, 4)
            table.append(merged)
    return table, answers


def ratios(table: list[dict[str, dict[str, float]]], over: str, under: str, figure: str = "p50") -> dict[str, Any]:
    """One system over another by round, with the median."""
    every = [round(each[over][figure] / each[under][figure], 3) for each in table]
    return {"median": statistics.median(every), "rounds": every}


async def in_memory(docs: list[Any], queries: dict[str, str], qrels: Any, rounds: int) -> dict[str, Any]:
    embedder = HashingEmbedder()
    peer = Peer(embedder, argparse.Namespace(chunk=200, filter=FILTER))
    await peer.ingest_async(docs)
    tree = parse_filter(FILTER)
    systems: dict[str, Answering] = {}
    left_out = None
    try:
        systems["floor"] = Floor(docs, embedder).answer
    except ImportError as error:
        left_out = f"floor: {error}"
    systems["ours"] = lambda text: peer.ids(text, 10)
    table, answers = await interleaved(systems, list(queries.values()), rounds)
    pair = {"ours": systems["ours"], "unrecorded": lambda text: unrecorded(peer.world, text, tree)}
    evidence, plain = await interleaved(pair, list(queries.values()), rounds)
    answers |= plain
    out: dict[str, Any] = {"chunks": peer.chunks(), "filter": FILTER, "left_out": left_out, "rounds": table}
    if "floor" in systems:
        out["ratio_to_floor"] = ratios(table, "ours", "floor")
    out["evidence_share_of_cpu"] = round(1 - 1 / ratios(evidence, "ours", "unrecorded", "cpu_mean")["median"], 3)
    out["stage_ms"] = percentiles([await peer.stages(text) for text in queries.values()])
    if qrels:
        ranked = {name: {q: answers[name][text] for q, text in queries.items()} for name in answers}
        out["ndcg@10"] = {name: round(averages(run, qrels)["ndcg@10"], 4) for name, run in ranked.items()}
    return out


async def run(args: argparse.Namespace) -> dict[str, Any]:
    docs, queries, qrels = read_set(Path(args.set)) if args.set else corpus(args.documents, args.questions)
    queries = dict(list(queries.items())[: args.questions])
    out: dict[str, Any] = {"benchmark": "query", "machine": machine(), "documents": len(docs)}
    out["memory"] = await in_memory(docs, queries, qrels, args.rounds)
    if args.postgres:
        from bench_bare import on_postgres

        out["postgres"] = await on_postgres(args.postgres, docs, queries, args.rounds)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", help="a folder with corpus.jsonl, queries.jsonl and qrels.tsv")
    parser.add_argument("--documents", type=int, default=1400, help="size of the synthetic corpus")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgres", metavar="URL", help="'embedded', or the address of an empty database")
    print(json.dumps(asyncio.run(run(parser.parse_args())), indent=2))
