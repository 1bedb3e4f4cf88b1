"""This system beside others that do the same job: one process a system and round, in turn. JSON on stdout.

    python benchmarks/bench_peers.py --bench DIR --venvs DIR --set DIR [--rounds 3] [--peers floor,floor_rust,…]

DIR of `--bench` holds the peers' scripts, `bench_NAME.py`, and the `common.py` with `run_peer` that they share; DIR of
`--venvs` one virtual environment for each, since they disagree about versions. What cannot be run is named in
`left_out` with the last line that it said. Every peer chunks, embeds with one hash embedder, indexes, and answers a
query with the passages of a hybrid search; ours with a filter, reasons and an evidence record in a spool beside.
`ratio` is a peer's p50 over the floor's in the same round; medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from common import machine

ROOT = Path(__file__).parents[1]
VENVS = {
    "floor": "engines", "floor_rust": "engines", "llamaindex": "llamaindex", "langchain": "langchain",
    "haystack": "haystack", "txtai": "txtai",
}  # fmt: skip
FLOOR, OURS = "floor", "ours"
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
RUN_OURS = """
import time; began = time.perf_counter()
from bench_ours import Peer
took = time.perf_counter() - began
from common import run_peer
run_peer(Peer, "ours", took, "")
"""
KEPT = ("p50_ms", "p95_ms", "p99_ms", "cpu_ms_per_query", "chunks_per_s", "ndcg10", "peak_rss_mb", "import_s")
PATIENCE_S = 600


def run(name: str, args: argparse.Namespace) -> dict | str:
    """One peer in a process of its own: its figures, or why there are none."""
    paths = [str(args.bench)]
    if name == OURS:
        paths += [str(ROOT / "benchmarks"), str(ROOT / "src")]
        command = [sys.executable, "-c", RUN_OURS]
    else:
        python = args.venvs / VENVS[name] / "bin" / "python"
        if not python.exists():
            return f"{python} is not there"
        command = [str(python), "-W", "ignore", str(args.bench / f"bench_{name}.py")]
    data = args.set
    command += ["--corpus", str(data / "corpus.jsonl"), "--queries", str(data / "queries.jsonl")]
    command += ["--qrels", str(data / "qrels.tsv"), "--seq", str(args.seq), "--clients", "1", "--seconds", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {key: found[key] for key in KEPT} | {"chunks": found["chunks"], "version": found["version"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--venvs", type=Path, required=True)
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seq", type=int, default=225)
    parser.add_argument("--peers", default=",".join(VENVS))
    args = parser.parse_args()
    rounds: dict[str, list[dict]] = {}
    left_out: dict[str, str] = {}
    for number in range(args.rounds):
        for name in (*args.peers.split(","), OURS):
            if name in left_out:
                continue
            found = run(name, args)
            if isinstance(found, str):
                left_out[name] = found
            else:
                rounds.setdefault(name, []).append(found)
            print(number, name, found if isinstance(found, str) else found["p50_ms"], file=sys.stderr)
    peers = {name: summary(each, rounds.get(FLOOR, [])) for name, each in rounds.items()}
    print(
        json.dumps(
            {"benchmark": "peers", "machine": machine(), "rounds": args.rounds, "peers": peers, "left_out": left_out}
        )
    )


def summary(mine: list[dict], floor: list[dict]) -> dict:
    """Medians of the rounds, and p50 against the floor's of the same round."""
    table = {key: round(statistics.median(each[key] or 0.0 for each in mine), 4) for key in KEPT}
    table |= {"chunks": mine[0]["chunks"], "version": mine[0]["version"]}
    if floor:
        ratios = [one["p50_ms"] / other["p50_ms"] for one, other in zip(mine, floor, strict=False)]
        table["ratio"] = {"median": round(statistics.median(ratios), 2), "rounds": [round(each, 2) for each in ratios]}
    return table


if __name__ == "__main__":
    main()
