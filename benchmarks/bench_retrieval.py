"""Retrieval quality and stage times on BEIR-shaped sets, every fusion method over the same index. JSON on stdout.

    python benchmarks/bench_retrieval.py --set scifact=DIR --set clapnq-dev=DIR [--model NAME] [--state DIR]

DIR holds corpus.jsonl, queries.jsonl and qrels.tsv. `--limit N` asks only the first N judged questions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from common import evaluation_system, ingest_into, machine, percentiles
from ragstone.bootstrap import System
from ragstone.core.nouns import Asker
from ragstone.evaluate.judgements import read_qrels, read_queries
from ragstone.evaluate.retrieval import evaluate_retrieval
from ragstone.retrieve.profile import METHODS


async def one_set(system: System, name: str, folder: Path, limit: int | None) -> dict:
    began = time.perf_counter()
    report = await ingest_into(system, str(folder / "corpus.jsonl"), name)
    out: dict = {
        "documents": report.scanned,
        "chunks": report.published.rows if report.published else None,
        "embedded": report.tally.embedded,
        "ingest_s": round(time.perf_counter() - began, 1),
    }
    qrels = read_qrels(folder / "qrels.tsv")
    queries = {q: text for q, text in read_queries(folder / "queries.jsonl").items() if q in qrels}
    queries = dict(list(queries.items())[:limit])
    for method in METHODS:
        parts = await system.answer_parts(replace(system.profile(), fusion=method))
        view, embedding = await parts.catalog.view("default", name, None, Asker())
        found = await evaluate_retrieval(await parts.retriever(embedding), view, queries, qrels, 60.0)
        out[method] = {metric: round(value, 4) for metric, value in found.metrics.items()}
        if method == "z":
            # The first questions fill the postings cache.
            out["stage_ms"] = percentiles(found.stage_ms[len(found.stage_ms) // 10 :])
    return {**out, "queries": len(queries)}


async def run(args: argparse.Namespace) -> dict:
    state = Path(args.state) if args.state else Path(tempfile.mkdtemp())
    out: dict = {"benchmark": "retrieval", "machine": machine(), "model": args.model}
    async with evaluation_system(state, args.model) as system:
        for spec in args.set:
            name, _, folder = spec.partition("=")
            out[name] = await one_set(system, name, Path(folder), args.limit)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--model", default="bge-small-en-v1.5-int8")
    parser.add_argument("--state", help="a state directory to keep, so that a second run embeds nothing")
    parser.add_argument("--limit", type=int, default=None)
    print(json.dumps(asyncio.run(run(parser.parse_args())), indent=2))
