"""Whole-process times: `ragstone --help`, and process start to answer with the database warm. JSON on stdout.

python benchmarks/bench_start.py [--source examples/handbook] [--runs 7]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import evaluation_system, ingest_into, machine

QUESTION = "How many months should I expect the background investigation for a top secret clearance to take?"


def timed(command: list[str], environment: dict[str, str], runs: int) -> dict[str, float]:
    seconds = []
    for number in range(runs + 1):
        began = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        if number:  # the first one warms the page cache
            seconds.append(time.perf_counter() - began)
    return {
        "min_s": round(min(seconds), 3),
        "median_s": round(statistics.median(seconds), 3),
        "max_s": round(max(seconds), 3),
    }


async def run(args: argparse.Namespace) -> dict:
    state = Path(tempfile.mkdtemp())
    environment = {**os.environ, "RAGSTONE_HOME": str(state), "RAGSTONE_EMBEDDER_MODEL": args.model}
    ragstone = str(Path(sys.executable).with_name("ragstone"))
    async with evaluation_system(state, args.model) as system:  # held open: the database stays warm
        report = await ingest_into(system, args.source, "default")
        ask = await asyncio.to_thread(timed, [ragstone, "ask", QUESTION], environment, args.runs)
        search = await asyncio.to_thread(timed, [ragstone, "search", QUESTION], environment, args.runs)
    return {
        "benchmark": "start",
        "machine": machine(),
        "model": args.model,
        "chunks": report.published.rows if report.published else None,
        "help": timed([ragstone, "--help"], environment, args.runs),
        "search_warm_database": search,
        "ask_warm_database": ask,
        "search_cold_database": timed([ragstone, "search", QUESTION], environment, args.runs),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="examples/handbook")
    parser.add_argument("--model", default="bge-small-en-v1.5-int8")
    parser.add_argument("--runs", type=int, default=7)
    print(json.dumps(asyncio.run(run(parser.parse_args())), indent=2))
