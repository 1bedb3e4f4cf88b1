"""How fast the embedders are here, beside a bare loop over the same runtime in the same run. JSON on stdout.

    python benchmarks/bench_embedder.py [--size small|full] [--cache FOLDER] [--threads N]

Rounds of the embedder and of the bare loop alternate, so that a noisy machine disturbs both; the figures are
medians over rounds. `ratio` is what our code (port, event loop, pooling) leaves of the bare loop's speed,
`ratio_cpu` the same in CPU time, which is steadier where other work shares the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import resource
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ragstone.adapters.localmodels.cache import ModelCache
from ragstone.adapters.localmodels.embedder import OnnxEmbedder
from ragstone.adapters.localmodels.fetch import fetch
from ragstone.adapters.localmodels.hashing import HashEmbedder
from ragstone.adapters.localmodels.registry import MODELS, LocalModel
from ragstone.core.compute import Compute
from ragstone.core.errors import RagstoneError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ragstone.core.ports import Embedder

SIZES = {"small": (2, 40), "full": (7, 200)}
WORDS = [
    "stone",
    "wall",
    "index",
    "passage",
    "question",
    "answer",
    "document",
    "version",
    "search",
    "engine",
    "measure",
    "table",
    "server",
    "memory",
    "thread",
    "vector",
    "release",
    "corpus",
    "source",
    "evidence",
    "reason",
    "budget",
    "write",
    "read",
    "commit",
    "store",
]
QUERY = "which release changed the order of the answers last week?"
TOKENS = 128


class Speed(NamedTuple):
    """One round."""

    texts_per_s: float
    cpu_ms: float


def passages(count: int) -> list[str]:
    """Texts of 126 tokens, 128 with the special ones: every word above is one token."""
    chooser = random.Random(7)
    return [" ".join(chooser.choices(WORDS, k=TOKENS - 2)) for _ in range(count)]


def cpu() -> dict[str, Any]:
    """What kind of CPU the figures are for."""
    name, flags = platform.processor() or platform.machine(), ""
    path = Path("/proc/cpuinfo")
    if path.exists():
        facts = dict(
            (part.strip() for part in line.split(":", 1))
            for line in path.read_text("utf-8").splitlines()
            if ":" in line
        )
        name, flags = facts.get("model name", name), facts.get("flags", "")
    present = flags.split()
    return {
        "model": name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        **{flag: flag in present for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")},
    }


def bare_loop(model: LocalModel, cache: ModelCache, threads: int) -> Callable[[list[str]], None]:
    """The least that gives last hidden states: tokenizer, session, thread pool; no pooling, no port."""
    import onnxruntime
    from tokenizers import Tokenizer

    folder = cache.path(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder / model.graph.stored), options, providers=["CPUExecutionProvider"]
    )
    tokenizer = Tokenizer.from_file(str(folder / model.tokenizer.stored))
    tokenizer.no_padding()
    tokenizer.enable_truncation(model.tokens_max)
    pool = ThreadPoolExecutor(threads)

    def one(text: str) -> None:
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        mask, types = np.ones_like(ids), np.zeros_like(ids)
        session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": types})

    def run(texts: list[str]) -> None:
        for _ in pool.map(one, texts):
            pass

    return run


async def timed(work: Awaitable[Any], texts: int) -> Speed:
    """Await `work` on so many texts; CPU time is that of the whole process, all threads."""
    wall, processor = time.perf_counter(), time.process_time()
    await work
    return Speed(texts / (time.perf_counter() - wall), (time.process_time() - processor) * 1e3 / texts)


def summary(rounds: list[Speed]) -> dict[str, Any]:
    return {
        "texts_per_s": round(statistics.median(speed.texts_per_s for speed in rounds), 1),
        "texts_per_s_best": round(max(speed.texts_per_s for speed in rounds), 1),
        "cpu_ms_per_text": round(statistics.median(speed.cpu_ms for speed in rounds), 3),
    }


async def query_ms(embedder: Embedder, count: int) -> float:
    took = []
    for _ in range(count):
        started = time.perf_counter()
        await embedder.embed_query(QUERY)
        took.append((time.perf_counter() - started) * 1e3)
    return statistics.median(took)


async def measure(embedder: Embedder, bare: Callable[[list[str]], None] | None, size: str) -> dict[str, Any]:
    """Alternate rounds of the embedder and of the bare loop."""
    rounds, count = SIZES[size]
    texts = passages(count)
    ours: list[Speed] = []
    theirs: list[Speed] = []
    queries: list[float] = []
    await embedder.embed_passages(texts[:8])
    for _ in range(rounds):
        ours.append(await timed(embedder.embed_passages(texts), count))
        queries.append(await query_ms(embedder, count))
        if bare:
            theirs.append(await timed(asyncio.to_thread(bare, texts), count))
    result: dict[str, Any] = {
        "model": embedder.spec.model,
        "tokens_per_text": embedder.count_tokens(texts[0]) + 2,
        **summary(ours),
        "query_ms": round(statistics.median(queries), 3),
    }
    if theirs:
        pairs = list(zip(ours, theirs, strict=True))
        result["bare"] = summary(theirs)
        result["ratio"] = round(statistics.median(a.texts_per_s / b.texts_per_s for a, b in pairs), 3)
        result["ratio_cpu"] = round(statistics.median(b.cpu_ms / a.cpu_ms for a, b in pairs), 3)
    return result


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    cache = ModelCache(arguments.cache)
    compute = Compute(arguments.threads)
    results = [await measure(HashEmbedder(), None, arguments.size)]
    for model in MODELS:
        try:
            await fetch(model, cache)
        except RagstoneError as fault:
            results.append({"model": model.name, "skipped": fault.what})
            continue
        started = time.perf_counter()
        embedder = OnnxEmbedder.load(model, cache, compute)
        load_ms = (time.perf_counter() - started) * 1e3
        bare = bare_loop(model, cache, arguments.threads)
        results.append(await measure(embedder, bare, arguments.size) | {"load_ms": round(load_ms, 1)})
    compute.close()
    return {
        "benchmark": "embedder",
        "size": arguments.size,
        "threads": arguments.threads,
        "cpu": cpu(),
        "results": results,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    parser.add_argument("--threads", type=int, default=2)
    default = os.environ.get("RAGSTONE_MODEL_CACHE") or Path.home() / ".cache" / "ragstone" / "models"
    parser.add_argument("--cache", type=Path, default=Path(default))
    print(json.dumps(asyncio.run(run(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
