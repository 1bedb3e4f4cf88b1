"""How time, memory and work grow with the corpus, in memory and on PostgreSQL. JSON on stdout.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/bench_scale.py [--chunks 10000,100000]
        [--engines memory,postgres] [--changes 1,100,10000] [--questions 200]

A synthetic corpus by Zipf's law (bench_synthetic.py), one chunk a document, a hash embedder of 384 dimensions; every
engine and size in a process of its own. For each: building (chunks a second), questions by stage (`first`: caches
empty, `warm`: the same questions again), publishing of so many changed chunks (staging, publish and maintenance apart,
and the first question afterwards), filters that so many per mille of the documents pass (recall@10 of the dense leg
against all vectors compared in this process, the path taken, rows missing and not reported), memory and database size.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench_bare import database_of, postgres_ports
from bench_synthetic import HashingEmbedder, corpus
from bench_world import TENANT, CallableEmbedder, Ports, Spooled, World, incoming
from common import machine, percentiles
from ragstone import flow
from ragstone.adapters.memory.store import MemoryStore
from ragstone.core.deadline import Deadline
from ragstone.core.filters import parse_filter
from ragstone.core.nouns import Asker
from ragstone.core.ports import Query
from ragstone.core.tokens import query_terms
from ragstone.index.rows import IncomingDocument

SHARDS = 1000
PASSING = (1, 10, 100, 500, 1000)
K = 10


class Timed:
    """A publisher whose maintenance is timed apart."""

    def __init__(self, publisher: Any) -> None:
        self._publisher = publisher
        self.publishing = publisher.publishing
        self.maintain_s = 0.0

    async def maintain(self, corpus_id: bytes, index_id: bytes) -> None:
        """Maintain, and note how long it took."""
        began = time.perf_counter()
        await self._publisher.maintain(corpus_id, index_id)
        self.maintain_s = time.perf_counter() - began


class Bench:
    """One engine with one size of corpus."""

    def __init__(self, ports: Ports, chunks: int, questions: int) -> None:
        self.docs, asked, _ = corpus(chunks, questions, words=(60, 120))
        self.questions = list(asked.values())
        self.embedder = HashingEmbedder()
        self.timed = Timed(ports.publisher)
        every = Ports(ports.runs, self.timed, ports.objects, ports.engine, ports.catalog, ports.cache)
        self.world = World(every, CallableEmbedder(self.embedder.embed, self.embedder.dim))
        self.parts = self.world.parts(Spooled(Path(tempfile.mkdtemp())))

    def documents(self, count: int, change: int) -> list[IncomingDocument]:
        """The first documents, with other text for every change but 0."""
        order = self.world.order + 1
        return [
            incoming(each["id"], each["title"], f"{each['text']} change{change}" if change else each["text"], order)
            for each in self.docs[:count]
        ]

    async def build(self) -> dict[str, float]:
        """Ingest everything."""
        documents = self.documents(len(self.docs), 0)
        began = time.perf_counter()
        published = await self.world.ingest(documents)
        seconds = time.perf_counter() - began
        assert published is not None
        return {
            "rows": published.rows,
            "seconds": round(seconds, 2),
            "chunks_per_s": round(published.rows / (seconds - self.timed.maintain_s), 1),
            **self.world.seconds,
            "maintain_s": round(self.timed.maintain_s, 3),
        }

    async def ask(self) -> dict[str, Any]:
        """Every question twice: percentiles by stage, and paths."""
        out: dict[str, Any] = {}
        for name in ("first", "warm"):
            times, paths = [], set()
            for text in self.questions:
                found = await flow.search(self.parts, self.world.question(text))
                times.append(found.record.stage_ms)
                paths |= {leg.path for leg in found.record.retrieval.legs}
            out[name] = percentiles(times)
        return {**out, "paths": sorted(paths)}

    async def change(self, counts: Sequence[int]) -> list[dict[str, Any]]:
        """Publish so many changed chunks, then ask."""
        out = []
        for number, count in enumerate((n for n in counts if n <= len(self.docs)), 1):
            published = await self.world.ingest(self.documents(count, number))
            assert published is not None
            assert published.rows_opened == published.rows_closed == count
            began = time.perf_counter()
            await flow.search(self.parts, self.world.question(self.questions[0]))
            out.append(
                {
                    "changed": count,
                    **self.world.seconds,
                    "maintain_s": round(self.timed.maintain_s, 4),
                    "next_question_ms": round((time.perf_counter() - began) * 1e3, 2),
                }
            )
        return out

    async def filters(self) -> list[dict[str, Any]]:
        """By selectivity: recall of the dense leg against all vectors, path, shortfall, p50 and p99 of questions."""
        texts = [each["text"] for each in self.docs]
        vectors = np.stack([v.astype(np.float16).astype(np.float64) for v in self._vectors(texts)])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        shards = np.array([incoming(each["id"], "", "", 0).metadata["shard"] for each in self.docs])
        view, _ = await self.world.ports.catalog.view(TENANT, self.world.corpus, None, Asker())
        out = []
        for passing in PASSING:
            tree, allowed = parse_filter(f"shard < {passing}"), np.flatnonzero(shards < passing)
            recalls, times, paths, unreported = [], [], set(), 0
            for text in self.questions:
                vector = self.embedder.embed([text])[0].astype(np.float16).astype(np.float32)
                query = Query(query_terms(text), vector)
                hits = await self.world.ports.engine.search(view, "dense", query, tree, 100, Deadline.after(60))
                exact = np.sort(vectors[allowed] @ (vector / np.linalg.norm(vector)).astype(np.float64))[::-1][:K]
                if len(exact):
                    found = np.count_nonzero(hits.scores[:K] >= exact[-1] - 1e-6)
                    recalls.append(min(1.0, found / len(exact)))
                unreported += max(0, min(100, len(allowed)) - len(hits.seqs) - hits.shortfall)
                began = time.perf_counter()
                await flow.search(self.parts, self.world.question(text, tree))
                times.append((time.perf_counter() - began) * 1e3)
                paths.add(hits.path)
            times.sort()
            out.append(
                {
                    "per_mille": passing,
                    "rows": len(allowed),
                    "recall@10": round(float(np.mean(recalls)), 4) if recalls else None,
                    "paths": sorted(paths),
                    "unreported": unreported,
                    "p50_ms": round(times[len(times) // 2], 3),
                    "p99_ms": round(times[min(len(times) - 1, int(len(times) * 0.99))], 3),
                }
            )
        return out

    def _vectors(self, texts: list[str]) -> list[np.ndarray]:
        """The vectors of the passages as they were embedded: title on a line of its own, then the text."""
        titled = [f"{each['title']}\n{text}" for each, text in zip(self.docs, texts, strict=True)]
        return self.embedder.embed(titled)


@asynccontextmanager
async def ports_of(engine: str, url: str) -> AsyncIterator[tuple[Ports, Any]]:
    """The ports of an engine, and the database if it has one."""
    if engine == "memory":
        yield Ports.of_memory(MemoryStore()), None
        return
    async with database_of(url) as database:
        yield postgres_ports(database), database


async def one(engine: str, chunks: int, args: argparse.Namespace) -> dict[str, Any]:
    async with ports_of(engine, args.postgres) as (ports, database):
        bench = Bench(ports, chunks, args.questions)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        out: dict[str, Any] = {"engine": engine, "chunks": chunks, "build": await bench.build()}
        out["questions"] = await bench.ask()
        out["memory_mb"] = {
            "before": round(before / 1024, 1),
            "peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }
        out["filters"] = await bench.filters()
        out["changes"] = await bench.change([int(each) for each in args.changes.split(",")])
        if database is not None:
            async with database.connection("measuring") as connection:
                cursor = await connection.execute("select pg_database_size(current_database())")
                out["database_mb"] = round((await cursor.fetchone())[0] / 2**20, 1)
    return out


def run(args: argparse.Namespace) -> dict[str, Any]:
    out: dict[str, Any] = {"benchmark": "scale", "machine": machine(), "runs": []}
    for chunks in args.chunks.split(","):
        for engine in args.engines.split(","):
            command = [sys.executable, __file__, "--one", engine, "--chunks", chunks, "--changes", args.changes]
            command += ["--questions", str(args.questions), "--postgres", args.postgres]
            done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
            failed = {"engine": engine, "chunks": int(chunks), "failed": done.returncode}
            out["runs"].append(json.loads(done.stdout) if done.returncode == 0 else failed)
            print(json.dumps(out["runs"][-1]), file=sys.stderr, flush=True)  # a long run shows how far it is
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", default="10000,100000")
    parser.add_argument("--engines", default="memory,postgres")
    parser.add_argument("--changes", default="1,100,10000", help="how many chunks change at once")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--postgres", metavar="URL", default="embedded", help="the address of an empty database")
    parser.add_argument("--one", metavar="ENGINE", help="one engine and size in this process")
    chosen = parser.parse_args()
    print(json.dumps(asyncio.run(one(chosen.one, int(chosen.chunks), chosen)) if chosen.one else run(chosen), indent=2))
