"""flow.search on PostgreSQL beside the bare SQL and scoring that the same question needs, on the same database.

Bare is written straight down on one synchronous connection in autocommit, every statement prepared by its fifth run:
the serving version, the nearest rows by the very SQL that the engine runs, the candidates' vectors and ids, the
passages; and between them BM25 over postings that are in memory already, exact cosines, z-scores, the order. There is
no deadline, pool, access check beyond the SQL's own, filter language, reason, record or spool, and what is read once
for a version (postings, live rows, a filter's rows) is read before the clock starts, as the engine's caches have it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from bench_ours import FILTER
from bench_synthetic import DIMENSIONS, HashingEmbedder
from bench_world import CallableEmbedder, Ports, Spooled, World, incoming
from common import evaluation_system
from ragstone import flow
from ragstone.adapters.memory.stores import MemoryObjects
from ragstone.adapters.postgres.catalog import HEAD, PASSAGES, VERSION, PostgresCatalog
from ragstone.adapters.postgres.database import OPTIONS, Database
from ragstone.adapters.postgres.embedding_cache import PostgresEmbeddingCache
from ragstone.adapters.postgres.engine import EXACT_ALL, EXACT_SOME, HNSW, PostgresEngine
from ragstone.adapters.postgres.publish import PostgresPublisher
from ragstone.adapters.postgres.runs import PostgresRuns, acl_id
from ragstone.core.filters import Filter, parse_filter
from ragstone.core.ids import corpus_id
from ragstone.core.nouns import PUBLIC, LexicalSpec
from ragstone.core.tokens import query_terms
from ragstone.index.bm25 import Statistics, TermPostings, term_scores
from ragstone.index.postings import unpack

DEPTH, SPARE, LIMIT = 100, 16, 10
ROWS = """
select c.seq, c.chunk_id, halfvec_send(v.embedding) from chunk c
join vector v on v.corpus_id = c.corpus_id and v.index_id = c.index_id and v.seq = c.seq
where c.corpus_id = %s and c.index_id = %s and c.seq = any(%s::int[])
"""


@asynccontextmanager
async def database_of(url: str) -> AsyncIterator[Database]:
    """An open database: a fresh embedded one, or that at an address."""
    if url == "embedded":
        async with evaluation_system(Path(tempfile.mkdtemp()), "hash") as system:
            yield await system.database()
        return
    database = Database(url)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


def postgres_ports(database: Database, engine: Any = None) -> Ports:
    """Everything in PostgreSQL but manifests."""
    return Ports(
        runs=PostgresRuns(database),
        publisher=PostgresPublisher(database),
        objects=MemoryObjects(),
        engine=engine or PostgresEngine(database),
        catalog=PostgresCatalog(database),
        cache=lambda corpus: PostgresEmbeddingCache(database, corpus),
    )


class Bare:
    """The least that answers from the same tables."""

    def __init__(self, conninfo: str, world: World, embedder: HashingEmbedder, filters: Filter | None) -> None:
        self._connection = psycopg.connect(conninfo, options=OPTIONS, autocommit=True)
        self._embedder = embedder
        self._names: dict[str, Any] = {
            "corpus": corpus_id("default", world.corpus), "public": acl_id((PUBLIC,)), "principals": [PUBLIC],
        }  # fmt: skip
        version = self._view()
        self._names |= {"v": version[0], "index": bytes(version[1])}
        self._stats = Statistics(int(version[2]["rows"]), tuple(version[2]["norms"]))
        self._mask = self._live()
        self._passing = self._passing_rows() if filters else None
        self._ann = self._one("select ann from index where corpus_id = %(corpus)s and index_id = %(index)s")[0]
        self._terms: dict[tuple[str, int], Any] = {}

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def _one(self, sql: str) -> Any:
        return self._connection.execute(sql, self._names).fetchone()

    def _view(self) -> Any:
        head = self._one(HEAD)
        self._names["at"] = head[1]
        return self._one(VERSION)

    def _live(self) -> np.ndarray:
        sql = "select seq from live where corpus_id = %(corpus)s and index_id = %(index)s and v_to > %(v)s"
        seqs = [row[0] for row in self._connection.execute(sql, self._names)]
        mask = np.zeros(max(seqs) + 1, dtype=np.bool_)
        mask[seqs] = True
        return mask

    def _passing_rows(self) -> np.ndarray:
        sql = (
            "select p.seq from placement p join docversion v using (corpus_id, docversion_id)"
            " where p.corpus_id = %(corpus)s and p.index_id = %(index)s and (v.metadata->>'shard')::int < 900"
        )
        seqs = np.unique([row[0] for row in self._connection.execute(sql, self._names)])
        return seqs[self._mask[seqs]]

    def learn(self, question: str) -> None:
        """Read and decode the postings of a question's terms, before the clock starts."""
        sql = (
            "select bytes from posting where corpus_id = %(corpus)s and index_id = %(index)s and term = %(term)s"
            " order by segment_id"
        )
        for term, count in query_terms(question):
            rows = self._connection.execute(sql, {**self._names, "term": term}).fetchall()
            pieces = tuple(unpack(row[0]) for row in rows)
            postings = TermPostings(term, count, pieces)
            self._terms[term, count] = term_scores(postings, self._mask, self._stats, LexicalSpec())

    async def answer(self, question: str) -> list[str]:
        """The ids of the documents behind the ten best rows."""
        self._view()
        vector = self._embedder.embed([question])[0].astype(np.float16).astype(np.float32)
        totals = np.zeros(len(self._mask))
        for term in query_terms(question):
            totals[self._terms[term].seqs] += self._terms[term].part
        allowed = totals if self._passing is None else totals[self._passing]
        kept = min(DEPTH, int(np.count_nonzero(allowed)))
        lexical = np.argpartition(-allowed, max(0, kept - 1))[:kept]
        lexical = lexical if self._passing is None else self._passing[lexical]
        seqs = np.union1d(lexical, self._nearest(vector))
        rows = self._connection.execute(ROWS, (self._names["corpus"], self._names["index"], seqs.tolist())).fetchall()
        rows.sort()
        packed = np.frombuffer(b"".join([row[2] for row in rows]), dtype=">f2").reshape(len(rows), DIMENSIONS + 2)
        wide = packed[:, 2:].astype(np.float64)
        cosines = wide @ vector / np.linalg.norm(wide, axis=1)
        fused = sum((leg - leg.mean()) / (leg.std() or 1.0) for leg in (totals[seqs], cosines))
        best = seqs[np.argsort(-fused, kind="stable")[:LIMIT]].tolist()
        found = {row[0]: row[3] for row in self._connection.execute(PASSAGES, {**self._names, "seqs": best}).fetchall()}
        return [found[seq] for seq in best]

    def _nearest(self, vector: np.ndarray) -> np.ndarray:
        names = {**self._names, "vector": "[" + ",".join(map(repr, vector.tolist())) + "]", "limit": DEPTH + SPARE}
        count = self._stats.rows if self._passing is None else len(self._passing)
        if self._passing is not None:
            names["seqs"] = self._passing.tolist()
        if count > 5000 and self._ann:
            some = "" if self._passing is None else "and v.seq = any(%(seqs)s::int[])"
            sql = HNSW.format(
                corpus=names["corpus"].hex(), index=names["index"].hex(), dimensions=DIMENSIONS, some=some
            )
            names["limit"] = DEPTH
        else:
            sql = EXACT_ALL if self._passing is None else EXACT_SOME
        rows = self._connection.execute(sql, names).fetchall()
        rows.sort()
        packed = np.frombuffer(b"".join([row[1] for row in rows]), dtype=">f2").reshape(len(rows), DIMENSIONS + 2)
        order = np.argsort(-(packed[:, 2:].astype(np.float64) @ vector), kind="stable")[:DEPTH]
        return np.array([row[0] for row in rows])[order]


def server_cpu_ms(database_process: int) -> float:
    """Milliseconds of CPU that a server on this machine has used, all its processes together."""
    parent = _stat(database_process)[1]
    every = [_stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return sum(ticks for _, parents, ticks in every if parents == parent) * 1000 / os.sysconf("SC_CLK_TCK")


def _stat(process: int) -> tuple[int, int, int]:
    """A process's id, its parent's, and the ticks it has used."""
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return process, 0, 0
    return process, int(words[1]), int(words[11]) + int(words[12])


async def on_postgres(url: str, docs: list[Any], queries: dict[str, str], rounds: int) -> dict[str, Any]:
    """Bare and ours in turn, with and without the filter."""
    from bench_query import interleaved, ratios, unrecorded
    from common import percentiles

    embedder = HashingEmbedder()
    out: dict[str, Any] = {}
    async with database_of(url) as database:
        world = World(postgres_ports(database), CallableEmbedder(embedder.embed, embedder.dim))
        await world.ingest([incoming(each["id"], each["title"], each["text"], 1) for each in docs])
        parts = world.parts(Spooled(Path(tempfile.mkdtemp())))
        async with database.connection("measuring") as connection:
            process = connection.info.backend_pid
        for name, tree in (("unfiltered", None), ("filtered", parse_filter(FILTER))):
            bare = Bare(database.conninfo, world, embedder, tree)
            for text in queries.values():
                bare.learn(text)

            async def ours(text: str, tree: Filter | None = tree) -> list[str]:
                found = await flow.search(parts, world.question(text, tree))
                return [hit.document_id for hit in found.record.retrieval.hits]

            async def plain(text: str, tree: Filter | None = tree) -> list[str]:
                return await unrecorded(world, text, tree)

            table, answers = await interleaved({"bare": bare.answer, "ours": ours}, list(queries.values()), rounds)
            evidence, _ = await interleaved({"unrecorded": plain, "ours": ours}, list(queries.values()), rounds)
            began = server_cpu_ms(process)
            asked = [await flow.search(parts, world.question(text, tree)) for text in queries.values()]
            server = (server_cpu_ms(process) - began) / len(queries)
            bare.close()
            client, without = (
                statistics.median(each[system]["cpu_mean"] for each in evidence) for system in ("ours", "unrecorded")
            )
            pairs = [(set(answers["bare"][text]), set(answers["ours"][text])) for text in queries.values()]
            share = [len(one & other) / max(1, len(one | other)) for one, other in pairs]
            out[name] = {
                "rounds": table,
                "ratio_to_bare": ratios(table, "ours", "bare"),
                "same_documents": round(sum(share) / len(share), 2),
                "cpu_ms": {"client": client, "client_without_evidence": without, "server": round(server, 3)},
                "evidence_share_of_cpu": round((client - without) / (client + server), 3),
                "stage_ms": percentiles([each.record.stage_ms for each in asked]),
            }
    return {"rows": world.rows, "filter": FILTER, **out}
