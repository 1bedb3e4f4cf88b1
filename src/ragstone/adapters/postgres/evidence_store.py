"""Evidence, its words, the documents it cites and the ledger: one transaction a batch, safe to repeat."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from ragstone.adapters.postgres.database import Connection, Database
from ragstone.core import evidence as ev
from ragstone.core.errors import NotFound
from ragstone.core.ids import document_id, source_id, uuid7_unix_ms

PARTITION_LOCK = 0x6576_6964
PARTITIONED = ("evidence", "evidence_text", "evidence_document")


def moment(ident: uuid.UUID) -> datetime:
    """When a record was made: its id says."""
    try:
        return datetime.fromtimestamp(uuid7_unix_ms(ident) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise NotFound(
            f"{ident} is no evidence id: it carries no time",
            doing="reading evidence",
            next_step="the id is printed by ask and search (`id` in --json)",
        ) from None


class PostgresEvidence:
    """Implements the port EvidenceStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, envelopes: Sequence[ev.EvidenceEnvelope]) -> None:
        """Write records that may have been written before."""
        if not envelopes:
            return
        async with self._database.transaction("storing evidence") as connection:
            days = {moment(uuid.UUID(e.record.id)).date() for e in envelopes}
            for day in sorted(days):
                await _partition(connection, datetime(day.year, day.month, day.day, tzinfo=UTC))
            for envelope in envelopes:
                await _insert(connection, envelope)

    async def get(self, tenant_corpora: bytes | None, ident: uuid.UUID) -> tuple[ev.Evidence, ev.EvidenceText | None]:
        """A record by its id, with its words unless they were erased. NotFound."""
        sql = """
            select e.body, t.question, t.answer, t.context from evidence e
            left join evidence_text t on t.corpus_id = e.corpus_id and t.at = e.at and t.id = e.id
            where e.at = %s and e.id = %s and (%s::bytea is null or e.corpus_id = %s)
        """
        async with self._database.connection("reading evidence") as connection:
            cursor = await connection.execute(sql, (moment(ident), ident, tenant_corpora, tenant_corpora))
            row = await cursor.fetchone()
        if row is None:
            raise NotFound(
                f"no evidence with id {ident}",
                doing="reading evidence",
                next_step="the id is printed by ask and search (`id` in --json)",
            )
        words = ev.EvidenceText(row[1], row[2], **row[3]) if row[1] is not None else None
        return ev.decode(bytes(row[0]), words), words

    async def recent(self, corpus: bytes, limit: int) -> list[dict[str, Any]]:
        """The newest records, a line each."""
        sql = """
            select e.id, e.at, e.kind, e.status, e.v, t.question from evidence e
            left join evidence_text t on t.corpus_id = e.corpus_id and t.at = e.at and t.id = e.id
            where e.corpus_id = %s order by e.at desc, e.id desc limit %s
        """
        async with self._database.connection("reading evidence") as connection:
            rows = await (await connection.execute(sql, (corpus, limit))).fetchall()
        names = ("id", "at", "kind", "status", "corpus_version", "question")
        return [dict(zip(names, (str(r[0]), r[1].isoformat(), *r[2:]), strict=True)) for r in rows]


async def _partition(connection: Connection, day: datetime) -> None:
    suffix = day.strftime("%Y%m%d")
    known = await connection.execute("select to_regclass(%s) is not null", (f"ragstone.evidence_document_{suffix}",))
    row = await known.fetchone()
    if row and row[0]:
        return
    await connection.execute("select pg_advisory_xact_lock(%s)", (PARTITION_LOCK,))
    for table in PARTITIONED:
        await connection.execute(
            f"create table if not exists {table}_{suffix} partition of {table}"
            f" for values from ('{day.isoformat()}') to ('{(day + timedelta(days=1)).isoformat()}')"
        )


async def _insert(connection: Connection, envelope: ev.EvidenceEnvelope) -> None:
    record, words = envelope.record, ev.storable(envelope.text)
    ident = uuid.UUID(record.id)
    corpus = bytes.fromhex(record.corpus_id)
    place = (corpus, moment(ident), ident)
    await connection.execute(
        "insert into evidence (corpus_id, at, id, kind, schema, release, v, trace_id, status, degraded, stage_ms,"
        " tokens, cost_microusd, body) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb, %s::jsonb, %s::jsonb,"
        " %s, %s) on conflict do nothing",
        (*place, record.kind, record.schema, record.release, record.corpus_version, record.trace_id, record.status,
         _json(record.degraded), _json(record.stage_ms), _json(record.tokens), record.cost_microusd,
         ev.encode(record)),
    )  # fmt: skip
    await connection.execute(
        "insert into evidence_text (corpus_id, at, id, question, answer, context)"
        " values (%s, %s, %s, %s, %s, %s::jsonb) on conflict do nothing",
        (*place, words.question, words.answer, _json(_kept(words))),
    )
    for cited in _cited(record):
        await connection.execute(
            "insert into evidence_document (corpus_id, document_id, at, id) values (%s, %s, %s, %s)"
            " on conflict do nothing",
            (corpus, cited, place[1], ident),
        )
    for stage, unit, quantity, cost in envelope.ledger:
        await connection.execute(
            "insert into ledger (corpus_id, at, id, stage, unit, quantity, cost_microusd)"
            " values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            (*place, stage, unit, quantity, cost),
        )


def _kept(words: ev.EvidenceText) -> dict[str, Any]:
    return {"context": words.context, "sentences": words.sentences, "quotes": words.quotes}


def _cited(record: ev.Evidence) -> set[bytes]:
    corpus = bytes.fromhex(record.corpus_id)
    cited = set()
    for sentence in record.answer.sentences if record.answer else ():
        for citation in sentence.citations:
            cited.add(document_id(source_id(corpus, citation.source), citation.key))
    return cited


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
