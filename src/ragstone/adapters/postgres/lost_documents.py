"""Where one document is: the version's rows, the versions that held it, quarantine, suppression. Never a search."""

from __future__ import annotations

from typing import Any

from ragstone.adapters.postgres.database import Connection, Database
from ragstone.adapters.postgres.runs import OPEN
from ragstone.core.errors import ambiguous_document
from ragstone.core.ports import View
from ragstone.retrieve.records import Refusal, Row, Span, Standing, last_part

NAMED_MAX = 20
SPANS_MAX = 100
READABLE = "d.acl_id in (select acl_id from acl where corpus_id = %(corpus)s and principals && %(principals)s)"
# A document that was staged and never published is known by nobody yet.
FOUND = f"""
with named as (
  select d.source_id, d.key from document d
  join source s on s.corpus_id = d.corpus_id and s.source_id = d.source_id
  where d.corpus_id = %(corpus)s and d.key = any(%(keys)s) and %(document)s in (d.key, s.name || ':' || d.key)
  union
  select q.source_id, q.key from quarantine q
  join source s on s.corpus_id = q.corpus_id and s.source_id = q.source_id
  where q.corpus_id = %(corpus)s and q.key = any(%(keys)s) and %(document)s in (q.key, s.name || ':' || q.key)
    and q.dismissed_at is null
)
select s.name, n.key, d.document_id, d.suppressed_at, v.docversion_id, v.object_version, v.metadata,
       q.object_version, q.reason, q.message, q.field, q.next_step,
       exists (select 1 from document o
               join membership m on m.corpus_id = o.corpus_id and m.document_id = o.document_id
                    and m.v_from <= %(v)s and m.v_to > %(v)s
               where o.corpus_id = %(corpus)s and o.key = n.key and o.source_id <> n.source_id
                 and o.suppressed_at is null and {READABLE.replace("d.acl_id", "o.acl_id")})
from named n
join source s on s.corpus_id = %(corpus)s and s.source_id = n.source_id
left join document d on d.corpus_id = %(corpus)s and d.source_id = n.source_id and d.key = n.key
left join membership m on m.corpus_id = d.corpus_id and m.document_id = d.document_id
     and m.v_from <= %(v)s and m.v_to > %(v)s
left join docversion v on v.corpus_id = m.corpus_id and v.docversion_id = m.docversion_id
left join quarantine q on q.corpus_id = %(corpus)s and q.source_id = n.source_id and q.key = n.key
     and q.dismissed_at is null
where (d.document_id is null or {READABLE})
  and (q.key is not null or d.suppressed_at is not null
       or exists (select 1 from membership h where h.corpus_id = d.corpus_id
                  and h.document_id = d.document_id))
order by n.key collate "C", s.name collate "C" limit %(limit)s
"""
ROWS = """
select c.seq, c.chunk_id, p.ordinal, p.heading_path from placement p
join chunk c on c.corpus_id = p.corpus_id and c.index_id = p.index_id and c.seq = p.seq
where p.corpus_id = %(corpus)s and p.index_id = %(index)s and p.docversion_id = %(docversion)s order by p.ordinal
"""
SPANS = """
select m.v_from, m.v_to, v.object_version from membership m
join docversion v on v.corpus_id = m.corpus_id and v.docversion_id = m.docversion_id
where m.corpus_id = %(corpus)s and m.document_id = %(ident)s order by m.v_from desc limit %(limit)s
"""
NEAR = f"""
select s.name, d.key from document d
join membership m on m.corpus_id = d.corpus_id and m.document_id = d.document_id
     and m.v_from <= %(v)s and m.v_to > %(v)s
join source s on s.corpus_id = d.corpus_id and s.source_id = d.source_id
where d.corpus_id = %(corpus)s and d.suppressed_at is null and {READABLE}
  and strpos(lower(regexp_replace(d.key, '^.*/', '')), %(part)s) > 0
order by length(d.key), d.key collate "C", s.name collate "C" limit %(limit)s
"""


class PostgresWhereabouts:
    """Implements the port Whereabouts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, view: View, document: str) -> Standing | None:
        """A document by its id, or `SOURCE:ID`."""
        # Either the whole is a key, or what follows one of its colons is.
        parts = document.split(":")
        names = _names(view) | {
            "document": document, "keys": [":".join(parts[at:]) for at in range(len(parts))], "limit": NAMED_MAX,
        }  # fmt: skip
        async with self._database.connection("looking for a document") as connection:
            rows = await (await connection.execute(FOUND, names)).fetchall()
            row = _only(rows, document)
            if row is None:
                return None
            return await _standing(connection, names, row)

    async def near(self, view: View, document: str, limit: int) -> tuple[str, ...]:
        """Ids of documents in the version with a name like it, shortest first."""
        part = last_part(document)
        if not part:
            return ()
        names = _names(view) | {"part": part, "limit": limit}
        async with self._database.connection("looking for near names") as connection:
            rows = await (await connection.execute(NEAR, names)).fetchall()
        keys = [row[1] for row in rows]
        return tuple(f"{row[0]}:{row[1]}" if keys.count(row[1]) > 1 else row[1] for row in rows)


def _names(view: View) -> dict[str, Any]:
    return {
        "corpus": view.corpus_id, "index": view.index_id, "v": view.version,
        "principals": sorted(view.asker.principals),
    }  # fmt: skip


def _only(rows: list[Any], document: str) -> Any:
    """The document that is meant: the one in the version when there is one, else the only one that is known."""
    held = [row for row in rows if row[4] is not None] or rows
    if len(held) > 1:
        raise ambiguous_document(document, (f"{row[0]}:{row[1]}" for row in held))
    return held[0] if held else None


async def _standing(connection: Connection, names: dict[str, Any], row: Any) -> Standing:
    source, key, ident, suppressed_at, docversion, object_version, metadata = row[:7]
    rows = spans = []
    if docversion is not None and suppressed_at is None:
        found = await connection.execute(ROWS, names | {"docversion": docversion})
        rows = await found.fetchall()
    if ident is not None:
        found = await connection.execute(SPANS, names | {"ident": ident, "limit": SPANS_MAX})
        spans = await found.fetchall()
    return Standing(
        document_id=f"{source}:{key}" if row[12] else key,
        source=source,
        key=key,
        rows=tuple(Row(one[0], bytes(one[1]).hex(), one[2], tuple(one[3])) for one in rows),
        object_version=object_version or "",
        metadata=metadata or {},
        history=tuple(Span(one[0], one[1] if one[1] < OPEN else None, one[2]) for one in reversed(spans)),
        quarantine=Refusal(*row[7:12]) if row[8] is not None else None,
        suppressed=suppressed_at is not None,
        suppressed_at=suppressed_at.isoformat() if suppressed_at else "",
    )
