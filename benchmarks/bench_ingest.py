"""The ingest against the bare embedder on the same texts, in turn, and an unchanged source again. JSON on stdout.

    python benchmarks/bench_ingest.py --source examples/handbook [--rounds 3] [--model NAME] [--documents N]

`ratio` is the ingest's texts a second over the bare embedder's, round by round: the share of the time that is
not parsing, tokenising, writing and publishing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from common import evaluation_system, ingest_into, machine
from ragstone.bootstrap import System
from ragstone.core.texts import passage_input
from ragstone.ingest.stage import prepare


async def inputs(system: System, source: str, model: str) -> list[str]:
    """The very texts that the ingest embeds."""
    reader = system.source(source)
    embedder = await system.embedder(model)
    recipe = system.recipe(embedder)
    listed = (await reader.scan()).objects
    texts = []
    async for batch in prepare(reader, listed, recipe.chunking, embedder.count_tokens, system.parse_limits):
        for each in batch.prepared:
            texts += [passage_input(each.document.title, c.heading_path, c.text) for c in each.chunks]
    return list(dict.fromkeys(texts))


async def run(args: argparse.Namespace) -> dict:
    source = args.source
    work = Path(tempfile.mkdtemp())
    if args.documents:
        source = str(work / "source")
        Path(source).mkdir()
        for page in sorted(Path(args.source).rglob("*.md"))[: args.documents]:
            shutil.copy(page, Path(source) / page.name)
    rounds, unchanged = [], []
    async with evaluation_system(work / "state", args.model) as system:
        texts = await inputs(system, source, args.model)
        embedder = await system.embedder(args.model)
        await embedder.embed_passages(texts[:8])
        for number in range(args.rounds):
            began = time.perf_counter()
            await embedder.embed_passages(texts)
            bare = len(texts) / (time.perf_counter() - began)
            began = time.perf_counter()
            report = await ingest_into(system, source, f"round-{number}")
            full = report.tally.embedded / (time.perf_counter() - began)
            began = time.perf_counter()
            again = await ingest_into(system, source, f"round-{number}")
            unchanged.append(time.perf_counter() - began)
            assert again.published is None
            assert again.tally.embedded == 0
            rounds.append(
                {"bare_per_s": round(bare, 1), "ingest_per_s": round(full, 1), "ratio": round(full / bare, 3)}
            )
    first = len(texts) / statistics.median(r["ingest_per_s"] for r in rounds)
    return {
        "benchmark": "ingest",
        "machine": machine(),
        "model": args.model,
        "texts": len(texts),
        "rounds": rounds,
        "ratio_median": statistics.median(r["ratio"] for r in rounds),
        "unchanged_s_median": round(statistics.median(unchanged), 3),
        "unchanged_times_faster": round(first / statistics.median(unchanged), 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="examples/handbook")
    parser.add_argument("--documents", type=int, default=0, help="only the first N pages, flattened")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="bge-small-en-v1.5-int8")
    print(json.dumps(asyncio.run(run(parser.parse_args())), indent=2))
