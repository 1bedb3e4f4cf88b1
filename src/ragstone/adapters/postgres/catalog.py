"""Reads of the catalog: the serving view, passages as a version places them, and exact listings.

Listings come from here and never from a search: totals are exact and a document in quarantine is in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from ragstone.adapters.postgres.database import Connection, Database, fetch_one
from ragstone.adapters.postgres.runs import acl_id
from ragstone.core.deadline import Deadline
from ragstone.core.errors import NotFound, UsageError
from ragstone.core.ids import corpus_id
from ragstone.core.nouns import PUBLIC, Asker, EmbeddingSpec, Passage
from ragstone.core.ports import View

# The least and the greatest access list, from the index: asked for one below or above the public one, a plan for any
# value reads every document, which a prepared statement does from its tenth run on.
HEAD = """
select c.corpus_id, c.head, c.epoch, c.access,
       exists (select 1 from document d where d.corpus_id = c.corpus_id and d.suppressed_at is not null)
       or coalesce((select d.acl_id <> %(public)s from document d where d.corpus_id = c.corpus_id
                    order by d.acl_id limit 1), false)
       or coalesce((select d.acl_id <> %(public)s from document d where d.corpus_id = c.corpus_id
                    order by d.acl_id desc limit 1), false)
from corpus c where c.corpus_id = %(corpus)s
"""
VERSION = """
select v.v, v.index_id, v.statistics, v.published_at, i.recipe->'embedding'
from version v join index i on i.corpus_id = v.corpus_id and i.index_id = v.index_id
where v.corpus_id = %(corpus)s and v.v = %(at)s
"""
PASSAGES = """
select c.seq, c.chunk_id, s.name, d.key, v.title, t.body, p.span_start, p.span_end, p.heading_path, v.metadata,
       v.object_version, v.indexed_at, p.ordinal,
       (select count(*) from document o
        join membership n on n.corpus_id = o.corpus_id and n.document_id = o.document_id
             and n.v_from <= %(v)s and n.v_to > %(v)s
        where o.corpus_id = d.corpus_id and o.key = d.key and o.suppressed_at is null
          and o.acl_id in (select acl_id from acl where corpus_id = %(corpus)s and principals && %(principals)s)) > 1
from unnest(%(seqs)s::int[]) w(seq)
join chunk c on c.corpus_id = %(corpus)s and c.index_id = %(index)s and c.seq = w.seq
join text t on t.corpus_id = c.corpus_id and t.text_hash = c.text_hash
join placement p on p.corpus_id = c.corpus_id and p.index_id = c.index_id and p.seq = c.seq
join docversion v on v.corpus_id = c.corpus_id and v.docversion_id = p.docversion_id
join membership m on m.corpus_id = c.corpus_id and m.docversion_id = p.docversion_id
     and m.v_from <= %(v)s and m.v_to > %(v)s
join document d on d.corpus_id = c.corpus_id and d.document_id = v.document_id
join source s on s.corpus_id = c.corpus_id and s.source_id = d.source_id
where d.suppressed_at is null
  and d.acl_id in (select acl_id from acl where corpus_id = %(corpus)s and principals && %(principals)s)
"""


class PostgresCatalog:
    """Implements the port Catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def view(self, tenant: str, corpus: str, as_of: str | None, asker: Asker) -> tuple[View, EmbeddingSpec]:
        """The corpus as it serves now, or as of a version number or an ISO time."""
        names: dict[str, Any] = {"corpus": corpus_id(tenant, corpus), "public": acl_id((PUBLIC,))}
        async with self._database.connection("reading the serving version") as connection:
            head = await (await connection.execute(HEAD, names)).fetchone()
            if head is None or head[1] == 0:
                raise NotFound(
                    f"corpus {corpus!r} has no documents" if head else f"unknown corpus {corpus!r}",
                    doing="reading the serving version",
                    next_step="ingest something first: ragstone ingest FOLDER",
                )
            row = await _version(connection, names, int(head[1]), as_of)
        statistics = row[2]
        view = View(
            corpus_id=bytes(head[0]),
            index_id=bytes(row[1]),
            version=int(row[0]),
            epoch=int(head[2]),
            restricted=bool(head[4]) or head[3] != "public",
            asker=asker,
            rows=int(statistics["rows"]),
            norms=(float(statistics["norms"][0]), float(statistics["norms"][1])),
            published_at=row[3].isoformat(),
            fields=statistics["fields"],
        )
        return view, msgspec.convert(row[4], EmbeddingSpec)

    async def passages(self, view: View, seqs: Sequence[int], deadline: Deadline) -> Mapping[int, Passage]:
        """The passages of the given rows as this version places them."""
        deadline.check("reading passages")
        names = {
            "corpus": view.corpus_id, "index": view.index_id, "v": view.version, "seqs": list(seqs),
            "principals": sorted(view.asker.principals),
        }  # fmt: skip
        async with self._database.reading("reading passages", deadline.left_s) as connection:
            rows = await (await connection.execute(PASSAGES, names)).fetchall()
        return {row[0]: _passage(row) for row in rows}


def _passage(row: Any) -> Passage:
    return Passage(
        seq=row[0],
        chunk_id=bytes(row[1]),
        source=row[2],
        key=row[3],
        document_id=f"{row[2]}:{row[3]}" if row[13] else row[3],
        title=row[4],
        text=row[5],
        start=row[6],
        end=row[7],
        heading_path=tuple(row[8]),
        metadata=row[9],
        source_version=row[10],
        indexed_at=row[11].isoformat(),
        ordinal=row[12],
    )


async def _version(connection: Connection, names: dict[str, Any], head: int, as_of: str | None) -> Any:
    """The version row that serves: the head, or the newest at or before what was asked."""
    names["at"] = head if as_of is None else (await kept_version(connection, names["corpus"], head, as_of))[0]
    return await fetch_one(connection, VERSION, names)


async def kept_version(connection: Connection, corpus: bytes, head: int, as_of: str) -> tuple[int, bytes]:
    """The number and the index of the version that `as_of` means. NotFound when there is none, or retention has
    let it go."""
    at = as_of_value(as_of)
    which = "v = %(at)s" if isinstance(at, int) else "published_at <= %(at)s"
    cursor = await connection.execute(
        "select v, index_id, collected_at is not null,"
        " (select min(v) from version where corpus_id = %(corpus)s and collected_at is null)"
        f" from version where corpus_id = %(corpus)s and {which} order by v desc limit 1",
        {"corpus": corpus, "at": at},
    )
    row = await cursor.fetchone()
    if row is None or row[2]:
        raise NotFound(
            f"version {row[0]} is no longer kept; the oldest that is is {row[3]}" if row else
            f"there is no version {as_of!r}; the newest is {head}",
            doing="reading the version",
            next_step="see which there are: ragstone versions list"
            + ("; [versions] keep says how many stay readable" if row else ""),
        )  # fmt: skip
    return int(row[0]), bytes(row[1])


def as_of_value(as_of: str) -> int | datetime:
    """A version number or a moment. UsageError for anything else."""
    if as_of.isdecimal():
        # Beyond the column's range there is no version, and the database would call it an error.
        digits = as_of.lstrip("0") or "0"
        return min(int(digits[:11]), 2_147_483_647)
    try:
        moment = datetime.fromisoformat(as_of)
        return (moment if moment.tzinfo else moment.astimezone()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{as_of!r} is neither a version number nor an ISO 8601 time",
            doing="reading --as-of",
            next_step="write it like --as-of 3 or --as-of 2026-01-31T12:00:00Z",
        ) from None
