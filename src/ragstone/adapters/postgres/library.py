"""Exact listings from the catalog: documents, versions, quarantine."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from ragstone.adapters.postgres.catalog import kept_version
from ragstone.adapters.postgres.database import Connection, Database, fetch_one
from ragstone.adapters.postgres.runs import OPEN
from ragstone.core.errors import NotFound, UsageError, ambiguous_document, unknown_document
from ragstone.core.ids import corpus_id
from ragstone.core.nouns import Asker
from ragstone.index.listing import (
    ChunkLine,
    DiffLine,
    DocumentDetail,
    DocumentLine,
    Page,
    QuarantineLine,
    VersionDiff,
    VersionLine,
)

MEMBER = """
m.corpus_id = %(corpus)s and m.v_from <= %(v)s and m.v_to > %(v)s and d.suppressed_at is null
and d.acl_id in (select acl_id from acl where corpus_id = %(corpus)s and principals && %(principals)s)
"""
# A document that quarantine knows and that no version holds is listed too: nothing disappears silently.
NEVER_HELD = """
q.corpus_id = %(corpus)s and q.dismissed_at is null
and not exists (select 1 from document d join membership m on m.corpus_id = d.corpus_id
                and m.document_id = d.document_id and m.v_from <= %(v)s and m.v_to > %(v)s
                where d.corpus_id = q.corpus_id and d.source_id = q.source_id and d.key = q.key)
and not exists (select 1 from document d where d.corpus_id = q.corpus_id and d.source_id = q.source_id
                and d.key = q.key and (d.suppressed_at is not null or d.acl_id not in (
                  select acl_id from acl where corpus_id = %(corpus)s and principals && %(principals)s)))
"""
TOTAL = f"""
select (select count(*) from membership m
        join document d on d.corpus_id = m.corpus_id and d.document_id = m.document_id where {MEMBER})
     + (select count(*) from quarantine q where {NEVER_HELD})
"""
# Both arms are cut to the page before they meet: a page costs a page, however large the corpus is.
LISTED = f"""
with page as (
  (select d.source_id, s.name as source, d.key, v.title, v.object_version, v.indexed_at, v.docversion_id
   from membership m
   join document d on d.corpus_id = m.corpus_id and d.document_id = m.document_id
   join docversion v on v.corpus_id = m.corpus_id and v.docversion_id = m.docversion_id
   join source s on s.corpus_id = m.corpus_id and s.source_id = d.source_id
   where {MEMBER} and {{held}} {{order_held}})
  union all
  (select q.source_id, s.name, q.key, '', q.object_version, q.at, null::bytea
   from quarantine q join source s on s.corpus_id = q.corpus_id and s.source_id = q.source_id
   where {NEVER_HELD} and {{refused}} {{order_refused}})
)
select p.source, p.key, p.title,
       case when p.docversion_id is null then 'quarantined'
            when q.reason is null or q.reason = 'duplicate_id' or q.object_version = p.object_version then 'live'
            else 'stale' end,
       p.object_version, p.indexed_at, p.docversion_id, coalesce(q.reason, ''),
       (select count(*) from placement l where l.corpus_id = %(corpus)s and l.docversion_id = p.docversion_id),
       exists (select 1 from document o join membership m on m.corpus_id = o.corpus_id
               and m.document_id = o.document_id and m.v_from <= %(v)s and m.v_to > %(v)s
               where o.corpus_id = %(corpus)s and o.key = p.key and o.source_id <> p.source_id
               and o.suppressed_at is null
               and o.acl_id in (select acl_id from acl where corpus_id = %(corpus)s and principals && %(principals)s))
from page p left join quarantine q on q.corpus_id = %(corpus)s and q.source_id = p.source_id and q.key = p.key
     and q.dismissed_at is null
order by p.key collate "C", p.source collate "C" limit %(limit)s
"""
PAGE = LISTED.format(
    held='(d.key collate "C", s.name collate "C") > (%(key)s, %(source)s)',
    order_held='order by d.key collate "C", s.name collate "C" limit %(limit)s',
    refused='(q.key collate "C", s.name collate "C") > (%(key)s, %(source)s)',
    order_refused='order by q.key collate "C", s.name collate "C" limit %(limit)s',
)
NAMED = LISTED.format(
    held="d.key = any(%(keys)s) and %(document)s in (d.key, s.name || ':' || d.key)",
    order_held="",
    refused="q.key = any(%(keys)s) and %(document)s in (q.key, s.name || ':' || q.key)",
    order_refused="",
)
SOURCES_MAX = 1000
CHUNKS = """
select c.chunk_id, p.ordinal, p.span_start, p.span_end, p.heading_path, t.tokens, t.body from placement p
join chunk c on c.corpus_id = p.corpus_id and c.index_id = p.index_id and c.seq = p.seq
join text t on t.corpus_id = c.corpus_id and t.text_hash = c.text_hash
where p.corpus_id = %(corpus)s and p.docversion_id = %(docversion)s order by p.ordinal
"""
HISTORY = """
select m.v_from, m.v_to, v.object_version, v.indexed_at from membership m
join docversion v on v.corpus_id = m.corpus_id and v.docversion_id = m.docversion_id
where m.corpus_id = %(corpus)s and m.document_id = (select document_id from docversion
      where corpus_id = %(corpus)s and docversion_id = %(docversion)s) order by m.v_from desc limit 50
"""
QUARANTINE = """
select s.name, q.key, q.object_version, q.reason, q.message, q.field, q.next_step, q.at,
       (select count(*) from source o join quarantine r on r.corpus_id = o.corpus_id and r.source_id = o.source_id
        where o.corpus_id = q.corpus_id and r.key = q.key) > 1
from quarantine q join source s on s.corpus_id = q.corpus_id and s.source_id = q.source_id
where q.corpus_id = %(corpus)s and q.dismissed_at is null
"""
VERSIONS = """
select v.v, v.parent, v.kind, v.published_at, v.statistics, v.merkle_root, coalesce(s.name, ''), v.note,
       v.collected_at is null
from version v
left join run r on r.corpus_id = v.corpus_id and r.run_id = v.run_id
left join source s on s.corpus_id = v.corpus_id and s.source_id = r.source_id
where v.corpus_id = %(corpus)s and v.v < %(before)s order by v.v desc limit %(limit)s
"""

# Documents whose version differs, with how many rows each side has and how many they share.
DIFFERS = """
with a as (select document_id, docversion_id from membership
           where corpus_id = %(corpus)s and v_from <= %(a)s and v_to > %(a)s),
     b as (select document_id, docversion_id from membership
           where corpus_id = %(corpus)s and v_from <= %(b)s and v_to > %(b)s),
     differs as (
       select d.document_id, d.key, s.name as source, a.docversion_id as old, b.docversion_id as new,
              case when a.docversion_id is null then 'added' when b.docversion_id is null then 'removed'
                   else 'changed' end as change
       from a full join b on b.document_id = a.document_id
       join document d on d.corpus_id = %(corpus)s and d.document_id = coalesce(a.document_id, b.document_id)
       join source s on s.corpus_id = d.corpus_id and s.source_id = d.source_id
       where a.docversion_id is distinct from b.docversion_id and d.suppressed_at is null
         and d.acl_id in (select acl_id from acl where corpus_id = %(corpus)s and principals && %(principals)s)
     )
"""
DIFF_COUNTS = DIFFERS + "select change, count(*) from differs group by change"
DIFF_LINES = (
    DIFFERS
    + """
select x.source, x.key, x.change, coalesce(o.object_version, ''), coalesce(n.object_version, ''),
       (select count(*) from placement where corpus_id = %(corpus)s and docversion_id = x.old),
       (select count(*) from placement where corpus_id = %(corpus)s and docversion_id = x.new),
       (select count(*) from placement p join placement q on q.corpus_id = p.corpus_id and q.index_id = p.index_id
               and q.seq = p.seq and q.docversion_id = x.new
        where p.corpus_id = %(corpus)s and p.docversion_id = x.old),
       exists (select 1 from document t join membership m on m.corpus_id = t.corpus_id
               and m.document_id = t.document_id and (m.v_from <= %(a)s and m.v_to > %(a)s
               or m.v_from <= %(b)s and m.v_to > %(b)s)
               where t.corpus_id = %(corpus)s and t.key = x.key and t.document_id <> x.document_id
               and t.suppressed_at is null
               and t.acl_id in (select acl_id from acl where corpus_id = %(corpus)s and principals && %(principals)s))
from differs x
left join docversion o on o.corpus_id = %(corpus)s and o.docversion_id = x.old
left join docversion n on n.corpus_id = %(corpus)s and n.docversion_id = x.new
order by x.key collate "C", x.source collate "C" limit %(limit)s
"""
)


class PostgresLibrary:
    """Implements the port Library."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def documents(
        self, tenant: str, corpus: str, asker: Asker, as_of: str | None, after: str, limit: int
    ) -> Page:
        """Documents by source and key, after the cursor."""
        key, source = _place(after)
        async with self._database.connection("listing documents") as connection:
            names = await _names(connection, tenant, corpus, asker, as_of)
            names |= {"key": key, "source": source, "limit": limit + 1}
            total = await fetch_one(connection, TOTAL, names)
            rows = await (await connection.execute(PAGE, names)).fetchall()
        lines = [_document(row) for row in rows[:limit]]
        return Page(lines, int(total[0]), _cursor(lines[-1].key, lines[-1].source) if len(rows) > limit else None)

    async def document(
        self, tenant: str, corpus: str, asker: Asker, as_of: str | None, document: str
    ) -> DocumentDetail:
        """One document by its id, or `SOURCE:ID`."""
        async with self._database.connection("reading a document") as connection:
            names = await _names(connection, tenant, corpus, asker, as_of)
            # Either the whole is a key, or what follows one of its colons is.
            parts = document.split(":")
            keys = [":".join(parts[at:]) for at in range(len(parts))]
            names |= {"document": document, "keys": keys, "limit": SOURCES_MAX}
            rows = await (await connection.execute(NAMED, names)).fetchall()
            row = _only(rows, document, corpus)
            names["docversion"] = row[6]
            chunks = await (await connection.execute(CHUNKS, names)).fetchall()
            history = await (await connection.execute(HISTORY, names)).fetchall()
            found = await (
                await connection.execute(
                    "select metadata from docversion where corpus_id = %(corpus)s and docversion_id = %(docversion)s",
                    names,
                )
            ).fetchone()
        return DocumentDetail(
            line=_document(row),
            metadata=found[0] if found else {},
            chunks=tuple(ChunkLine(bytes(c[0]).hex(), c[1], c[2], c[3], tuple(c[4]), c[5], c[6]) for c in chunks),
            versions=tuple(
                {"from": h[0], "until": h[1] if h[1] < OPEN else None, "object_version": h[2],
                 "indexed_at": h[3].isoformat()}
                for h in history
            ),
        )  # fmt: skip

    async def quarantine(self, tenant: str, corpus: str, after: str, limit: int) -> Page:
        """What is in quarantine."""
        key, source = _place(after)
        names = {"corpus": corpus_id(tenant, corpus), "key": key, "source": source, "limit": limit + 1}
        where = 'and (q.key collate "C", s.name collate "C") > (%(key)s, %(source)s)'
        order = 'order by q.key collate "C", s.name collate "C" limit %(limit)s'
        async with self._database.connection("listing quarantine") as connection:
            await _known(connection, names, corpus)
            total = await (
                await connection.execute(
                    "select count(*) from quarantine where corpus_id = %(corpus)s and dismissed_at is null", names
                )
            ).fetchone()
            rows = await (await connection.execute(f"{QUARANTINE} {where} {order}", names)).fetchall()
        lines = [_quarantined(row) for row in rows[:limit]]
        cursor = _cursor(lines[-1].key, lines[-1].source) if len(rows) > limit else None
        return Page(lines, int(total[0]) if total else 0, cursor)

    async def versions(self, tenant: str, corpus: str, before: int, limit: int) -> Page:
        """Versions, newest first."""
        names = {"corpus": corpus_id(tenant, corpus), "before": before, "limit": limit + 1}
        async with self._database.connection("listing versions") as connection:
            head = await _known(connection, names, corpus)
            rows = await (await connection.execute(VERSIONS, names)).fetchall()
            total = await (
                await connection.execute("select count(*) from version where corpus_id = %(corpus)s", names)
            ).fetchone()
        lines = [_version(row, head) for row in rows[:limit]]
        return Page(lines, int(total[0]) if total else 0, str(lines[-1].version) if len(rows) > limit else None)

    async def diff(
        self, tenant: str, corpus: str, asker: Asker, before: str, after: str | None, limit: int
    ) -> VersionDiff:
        """What changed from version `before` to `after` (None is the head)."""
        async with self._database.transaction("comparing versions") as connection:
            names = await _names(connection, tenant, corpus, asker, before)
            names |= {"a": names["v"], "limit": limit}
            names["b"] = (await _names(connection, tenant, corpus, asker, after))["v"]
            counts = dict(await (await connection.execute(DIFF_COUNTS, names)).fetchall())
            rows = await (await connection.execute(DIFF_LINES, names)).fetchall()
        lines = [DiffLine(f"{r[0]}:{r[1]}" if r[8] else r[1], *r[:8]) for r in rows]
        added, removed, changed = (counts.get(change, 0) for change in ("added", "removed", "changed"))
        return VersionDiff(names["a"], names["b"], added, removed, changed, lines)

    async def source_documents(self, tenant: str, corpus: str, source: str) -> tuple[int, str]:
        """How many live documents a source has, and where it is; (0, "") for an unknown one."""
        sql = """
            select s.location, count(m.document_id) from source s
            left join document d on d.corpus_id = s.corpus_id and d.source_id = s.source_id
            left join membership m on m.corpus_id = d.corpus_id and m.document_id = d.document_id
                 and m.v_to = %s
            where s.corpus_id = %s and s.name = %s group by s.location
        """
        async with self._database.connection("reading a source") as connection:
            row = await (await connection.execute(sql, (OPEN, corpus_id(tenant, corpus), source))).fetchone()
        return (int(row[1]), str(row[0])) if row else (0, "")


def _cursor(key: str, source: str) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([key, source])).decode().rstrip("=")


def _place(cursor: str) -> tuple[str, str]:
    """The key and source that a cursor names; before everything when there is none."""
    if not cursor:
        return "", ""
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=tuple[str, str])
    except (ValueError, msgspec.MsgspecError):
        raise UsageError(
            "the cursor is damaged", doing="reading --cursor", next_step="leave it out to begin at the first page"
        ) from None


async def _known(connection: Connection, names: dict[str, Any], corpus: str) -> int:
    row = await (await connection.execute("select head from corpus where corpus_id = %(corpus)s", names)).fetchone()
    if row is None:
        raise NotFound(
            f"unknown corpus {corpus!r}",
            doing="reading the catalog",
            next_step="ingest something first: ragstone ingest FOLDER",
        )
    return int(row[0])


async def _names(connection: Connection, tenant: str, corpus: str, asker: Asker, as_of: str | None) -> dict[str, Any]:
    names: dict[str, Any] = {"corpus": corpus_id(tenant, corpus), "principals": sorted(asker.principals)}
    head = names["v"] = await _known(connection, names, corpus)
    if as_of is not None:
        names["v"] = (await kept_version(connection, names["corpus"], head, as_of))[0]
    return names


def _only(rows: list[Any], document: str, corpus: str) -> Any:
    if not rows:
        raise unknown_document(document, corpus)
    held = [row for row in rows if row[6] is not None]
    if len(held) == 1:
        return held[0]
    if len(rows) > 1:
        raise ambiguous_document(document, (f"{row[0]}:{row[1]}" for row in rows))
    return rows[0]


def _quarantined(row: Any) -> QuarantineLine:
    source, key, object_version, reason, message, field, next_step, at, shared = row
    ident = f"{source}:{key}" if shared else key
    return QuarantineLine(ident, source, key, object_version, reason, message, field, next_step, at.isoformat())


def _document(row: Any) -> DocumentLine:
    return DocumentLine(
        document_id=f"{row[0]}:{row[1]}" if row[9] else row[1],
        source=row[0],
        key=row[1],
        title=row[2],
        state=row[3],
        object_version=row[4],
        indexed_at=row[5].isoformat(),
        chunks=int(row[8]),
        reason=row[7],
    )


def _version(row: Any, head: int) -> VersionLine:
    return VersionLine(
        version=row[0],
        parent=row[1],
        kind=row[2],
        published_at=row[3].isoformat(),
        documents=int(row[4]["documents"]),
        rows=int(row[4]["rows"]),
        merkle_root=bytes(row[5]).hex(),
        source=row[6],
        head=row[0] == head,
        note=row[7],
        kept=row[8],
    )
