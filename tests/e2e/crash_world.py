"""What the crash tests share: a source whose versions are told apart, what a corpus holds, what must not be left, and
readers at work all the time."""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from cli_world import PATIENCE_S

from ragstone import flow
from ragstone.bootstrap import System
from ragstone.core.deadline import Deadline
from ragstone.core.errors import NotFound, RagstoneError
from ragstone.core.ids import corpus_id
from ragstone.core.nouns import Asker
from ragstone.settings import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli_world import World

DOCUMENTS = 60
BUSY = 75
SHIP_EVERY = 200
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
join live l on l.corpus_id = m.corpus_id and l.index_id = p.index_id and l.seq = p.seq and l.v_to = 2147483647
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
    "rows of a document that are not live": "select p.seq from membership m join placement p on p.corpus_id ="
    " m.corpus_id and p.docversion_id = m.docversion_id where m.corpus_id = %(corpus)s and m.v_to = 2147483647 and not"
    " exists (select 1 from live l where l.corpus_id = p.corpus_id and l.index_id = p.index_id and l.seq = p.seq and"
    " l.v_to = 2147483647)",
    "rows live twice": "select seq from live where corpus_id = %(corpus)s and v_to = 2147483647 group by 1 having count(*) > 1",
    "chunks live twice": "select c.chunk_id from live l join chunk c on c.corpus_id = l.corpus_id and c.index_id ="
    " l.index_id and c.seq = l.seq where l.corpus_id = %(corpus)s and l.v_to = 2147483647 group by 1 having count(*) > 1",
    "staged documents": "select 1 from docversion where corpus_id = %(corpus)s and state = 'staged'",
    "runs under way": "select 1 from run where corpus_id = %(corpus)s and state = 'running'",
    "postings of no published run": "select 1 from segment s join run r on r.corpus_id = s.corpus_id and r.run_id ="
    " s.run_id where s.corpus_id = %(corpus)s and r.state <> 'published'",
    "versions without a manifest's name": "select 1 from version where corpus_id = %(corpus)s and manifest_key = ''",
}  # fmt: skip


def write(cli: World, folder: Path, marker: str, documents: int = DOCUMENTS) -> None:
    """Every document anew; each chunk carries the marker of its version, and half of the text stays."""
    files = {}
    for number in range(documents):
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


def rows(cli: World, corpus: str) -> list[Any]:
    """What the corpus serves at its head, down to the vectors."""
    with cli.database() as mine:
        return mine.execute(CONTENT, {"corpus": corpus_id("default", corpus)}).fetchall()


def content(cli: World, corpus: str) -> list[Any]:
    """What the corpus holds, and a check that nothing else is left and that the manifest is there."""
    names = {"corpus": corpus_id("default", corpus)}
    with cli.database() as mine:
        for what, sql in REMAINS.items():
            assert not mine.execute(sql, names).fetchall(), what
        keys = mine.execute("select manifest_key from version where corpus_id = %(corpus)s", names).fetchall()
        missing = [key for (key,) in keys if key and not (cli.home / "objects" / key).exists()]
        assert not missing
        return mine.execute(CONTENT, names).fetchall()


def head(cli: World, corpus: str) -> int:
    """The corpus's newest version, 0 when there is none."""
    with cli.database() as mine:
        row = mine.execute("select head from corpus where corpus_id = %s", (corpus_id("default", corpus),)).fetchone()
        return row[0] if row else 0


def cached(cli: World, corpus: str) -> int:
    """How many vectors the corpus's cache holds."""
    with cli.database() as mine:
        sql = "select count(*) from embedding_cache where corpus_id = %s"
        return mine.execute(sql, (corpus_id("default", corpus),)).fetchone()[0]


def completed(cli: World, folder: Path, corpus: str, documents: int = DOCUMENTS) -> None:
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
    assert len(kept) > 2 * documents
    assert kept == content(cli, fresh)


@dataclass(frozen=True)
class Driven:
    """How an ingest of the driver ended: its exit code (negative: a signal), its steps, its report or its error."""

    code: int
    steps: tuple[str, ...]
    ended: dict[str, Any] | None
    error: str
    text: str
    other: int | None
    """How the other run ended, where one took the source over."""


class Driver:
    """`crash_driver.py`, which ingests in processes that end at an exact step."""

    def __init__(self, cli: World) -> None:
        self._notes = cli.base / "notes"
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("crash_driver.py"))],
            env=cli.env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        cli.processes.append(self._process)

    def ingest(self, folder: Path, corpus: str, at: str = "", deed: str = "kill", seed: int = 0) -> Driven:
        """One ingest, with a deed at one of its steps."""
        self._notes.unlink(missing_ok=True)
        order = {"folder": str(folder), "corpus": corpus, "at": at, "deed": deed, "seed": seed}
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(order | {"notes": str(self._notes)}), file=self._process.stdin, flush=True)
        code = json.loads(self._process.stdout.readline())["code"]
        said: list[dict[str, Any]] = [json.loads(line) for line in self._notes.read_text().splitlines()]
        last = said[-1] if said else {}
        steps = tuple(each["step"] for each in said if "step" in each)
        other = next((each["other"] for each in said if "other" in each), None)
        return Driven(code, steps, last.get("ended"), last.get("error", ""), last.get("text", ""), other)

    def finish(self, cli: World, folder: Path, corpus: str) -> int | None:
        """Run it again to its end, as its user would; the version it published. Nothing is embedded twice."""
        before, end = cached(cli, corpus), time.monotonic() + PATIENCE_S
        while (driven := self.ingest(folder, corpus)).code == BUSY and time.monotonic() < end:
            time.sleep(0.1)  # the server has not noticed yet that the run before is gone
        assert driven.code == 0, driven
        assert driven.ended
        assert driven.ended["embedded"] == cached(cli, corpus) - before
        return driven.ended["version"]


class Reader(threading.Thread):
    """Searches without pause and notes, of each answer, the version and the markers in it."""

    def __init__(self, cli: World, corpus: str, *, patient: bool = False) -> None:
        super().__init__(daemon=True)
        self._env = cli.env
        self._corpus = corpus
        self._over = threading.Event()
        self._away: tuple[type[Exception], ...] = (RagstoneError, psycopg.Error) if patient else (NotFound,)
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
                    if sum(self.seen.values()) % SHIP_EVERY == 0:
                        await system.ship()
                except self._away:
                    await asyncio.sleep(0.01)
                    continue
                texts = outcome.words.context.values()
                markers = frozenset(re.findall(r"marker([a-z]+)", " ".join(texts)))
                self.seen[outcome.record.corpus_version, markers, len(texts)] += 1
                await asyncio.sleep(0.05)  # a machine of two cores has others to serve

    def end(self) -> None:
        self._over.set()
        self.join(PATIENCE_S)
        if self.failed:
            raise self.failed


@contextmanager
def reading(cli: World, corpus: str, *, patient: bool = False) -> Iterator[Reader]:
    """A reader at work all the time; what it saw is judged at the end. A patient one bears a database that is away."""
    reader = Reader(cli, corpus, patient=patient)
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
