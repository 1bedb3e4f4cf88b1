"""What an audit reads of a corpus: one read-only transaction that sees one moment, everything in pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import numpy as np

from ragstone.adapters.postgres.catalog import kept_version
from ragstone.adapters.postgres.database import Connection, Database, fetch_one, translated
from ragstone.adapters.postgres.runs import OPEN
from ragstone.core.errors import IntegrityError, NotFound
from ragstone.core.ids import corpus_id
from ragstone.core.nouns import Recipe
from ragstone.core.ports import Seqs
from ragstone.index.audit.documents import line_of
from ragstone.index.audit.records import (
    Delta,
    HeldDocument,
    HeldVersion,
    OtherRow,
    PackedPostings,
    PlacedRow,
    SourceLine,
    StoredRow,
    Subject,
    VersionRow,
)
from ragstone.index.records import ChangedDocument, VersionStatistics

PAGE_DOCUMENTS = 200
PAGE_ROWS = 1000
PAGE_POSTINGS = 2000

CORPUS = """
select c.secret, c.head, c.hold,
       (select min(v) from version where corpus_id = c.corpus_id and collected_at is null)
from corpus c where c.corpus_id = %s
"""
INDEX = """
select recipe, next_seq, (select count(*) from posting p where p.corpus_id = i.corpus_id and p.index_id = i.index_id)
from index i where i.corpus_id = %s and i.index_id = %s
"""
VERSIONS = """
select v, parent, kind, note, index_id, merkle_root, buckets, manifest_key, manifest_digest, statistics,
       collected_at is not null, coalesce(checkpoint_key, ''), coalesce(checkpoint_digest, ''::bytea)
from version where corpus_id = %(corpus)s and v <= %(v)s order by v
"""
LIVE = """
select coalesce(string_agg(int4send(seq), ''::bytea), ''::bytea) from (
  select seq from live
  where corpus_id = %(corpus)s and index_id = %(index)s and v_from <= %(v)s and v_to > %(v)s
  union all
  select seq from live cross join generate_series(1, case when v_from > %(head)s then 2 else 1 end)
  where corpus_id = %(corpus)s and index_id = %(index)s and %(v)s = %(head)s
    and (v_to > %(head)s and v_to < %(open)s or v_from > %(head)s)) entries
"""
HELD = """
select m.document_id, m.docversion_id, m.v_from, d.source_id, d.key, d.acl_id, a.principals,
       dv.document_id, dv.object_version, dv.title, dv.metadata, dv.leaf, m.v_to > %(head)s and m.v_to < %(open)s
from membership m
left join document d on d.corpus_id = m.corpus_id and d.document_id = m.document_id
left join acl a on a.corpus_id = d.corpus_id and a.acl_id = d.acl_id
left join docversion dv on dv.corpus_id = m.corpus_id and dv.docversion_id = m.docversion_id
where m.corpus_id = %(corpus)s
"""
PAGE = f"""
{HELD} and m.v_from <= %(v)s and m.v_to > %(v)s and (m.document_id, m.v_from) > (%(after)s, %(after_v)s)
order by m.document_id, m.v_from limit %(limit)s
"""
ROWS = """
select p.docversion_id, p.seq, p.ordinal, p.span_start, p.span_end, p.heading_path, c.row_id, c.chunk_id, c.text_hash,
       c.joined_terms, c.title_terms, coalesce(c.vector_hash, ''::bytea), t.body, halfvec_send(v.embedding)
from placement p
left join chunk c on c.corpus_id = p.corpus_id and c.index_id = p.index_id and c.seq = p.seq
left join text t on t.corpus_id = c.corpus_id and t.text_hash = c.text_hash
left join vector v on v.corpus_id = p.corpus_id and v.index_id = p.index_id and v.seq = p.seq
where p.corpus_id = %(corpus)s and p.index_id = %(index)s and p.docversion_id = any(%(docversions)s)
order by p.docversion_id, p.ordinal
"""
OTHER_SEQS = """
select coalesce(string_agg(int4send(seq), ''::bytea), ''::bytea) from (
  select p.seq from membership m
  join placement p on p.corpus_id = m.corpus_id and p.docversion_id = m.docversion_id and p.index_id = %(index)s
  where m.corpus_id = %(corpus)s and m.v_to > %(oldest)s
  except
  select p.seq from membership m
  join placement p on p.corpus_id = m.corpus_id and p.docversion_id = m.docversion_id and p.index_id = %(index)s
  where m.corpus_id = %(corpus)s and m.v_from <= %(v)s and m.v_to > %(v)s
  order by seq
) others
"""
OTHERS = """
select distinct on (c.seq) c.seq, s.name, d.key, dv.title, dv.metadata, p.heading_path, c.row_id, c.chunk_id,
       c.text_hash, t.body
from chunk c
join placement p on p.corpus_id = c.corpus_id and p.index_id = c.index_id and p.seq = c.seq
join docversion dv on dv.corpus_id = p.corpus_id and dv.docversion_id = p.docversion_id
join document d on d.corpus_id = dv.corpus_id and d.document_id = dv.document_id
join source s on s.corpus_id = d.corpus_id and s.source_id = d.source_id
left join text t on t.corpus_id = c.corpus_id and t.text_hash = c.text_hash
where c.corpus_id = %(corpus)s and c.index_id = %(index)s and c.seq = any(%(seqs)s::int[])
order by c.seq, p.docversion_id
"""
POSTINGS = """
select p.term, p.segment_id, p.n, p.bytes from posting p
join segment s on s.corpus_id = p.corpus_id and s.index_id = p.index_id and s.segment_id = p.segment_id
where p.corpus_id = %(corpus)s and p.index_id = %(index)s and (p.term, p.segment_id) > (%(term)s, %(segment)s)
order by p.term, p.segment_id limit %(limit)s
"""
CACHED = """
select text_hash, embedding from embedding_cache
where corpus_id = %(corpus)s and embedding_id = %(embedding)s and text_hash = any(%(hashes)s)
"""
ADDED = f"{HELD} and m.v_from = %(at)s order by d.key"
REMOVED = f"""
{HELD} and m.v_to = %(at)s and not exists (
  select 1 from membership n where n.corpus_id = m.corpus_id and n.document_id = m.document_id and n.v_from = %(at)s)
order by d.key
"""
ORDERS = """
select s.name, array[r.source_order] from version v
join run r on r.corpus_id = v.corpus_id and r.run_id = v.run_id
join source s on s.corpus_id = r.corpus_id and s.source_id = r.source_id
where v.corpus_id = %(corpus)s and v.v = %(at)s
"""


class PostgresInspector:
    """Implements the port Inspector."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def inspecting(self, tenant: str, corpus: str, as_of: str | None) -> AsyncIterator[PostgresInspection]:
        """The corpus at one version, in one snapshot."""
        ident = corpus_id(tenant, corpus)
        with translated("auditing"):
            # A connection of its own: an audit takes long, and a repair writes beside it.
            async with await self._database.dedicated() as connection, connection.transaction():
                await connection.execute("set transaction isolation level repeatable read, read only")
                await connection.execute("set local statement_timeout = 0")
                yield PostgresInspection(connection, await _subject(connection, ident, corpus, as_of))

    async def head(self, corpus_id: bytes) -> int:
        """The version that serves now."""
        async with self._database.connection("reading the head") as connection:
            row = await fetch_one(connection, "select head from corpus where corpus_id = %s", (corpus_id,))
        return int(row[0])


async def _subject(connection: Connection, ident: bytes, corpus: str, as_of: str | None) -> Subject:
    row = await (await connection.execute(CORPUS, (ident,))).fetchone()
    if row is None or not row[1]:
        raise NotFound(
            f"corpus {corpus!r} has no documents" if row else f"unknown corpus {corpus!r}",
            doing="opening an audit",
            next_step="ingest something first: ragstone ingest FOLDER",
        )
    head = int(row[1])
    version, index = await kept_version(connection, ident, head, as_of or str(head))
    recipe = await fetch_one(connection, INDEX, (ident, index))
    sources = await connection.execute(
        "select source_id, name, location from source where corpus_id = %s order by name", (ident,)
    )
    faults = await connection.execute(
        "select source_id, key, object_version from quarantine where corpus_id = %s", (ident,)
    )
    withheld = await connection.execute(
        "select document_id from document where corpus_id = %s and suppressed_at is not null", (ident,)
    )
    return Subject(
        corpus_id=ident,
        index_id=index,
        secret=bytes(row[0]),
        recipe=_recipe(recipe[0]),
        version=version,
        head=head,
        oldest=int(row[3]),
        size=int(recipe[1]),
        postings=int(recipe[2]),
        hold=row[2],
        sources={bytes(each[0]): SourceLine(bytes(each[0]), each[1], each[2]) for each in await sources.fetchall()},
        quarantine={(bytes(each[0]), each[1]): each[2] for each in await faults.fetchall()},
        withheld=frozenset(bytes(each[0]) for each in await withheld.fetchall()),
    )


class PostgresInspection:
    """Implements the port Inspection on one connection inside one transaction."""

    def __init__(self, connection: Connection, subject: Subject) -> None:
        self._connection = connection
        self.subject = subject
        self._names: dict[str, Any] = {
            "corpus": subject.corpus_id, "index": subject.index_id, "v": subject.version, "oldest": subject.oldest,
            "embedding": subject.recipe.embedding.id, "head": subject.head, "open": OPEN,
        }  # fmt: skip

    async def _all(self, sql: str, **more: Any) -> list[Any]:
        return await (await self._connection.execute(sql, self._names | more)).fetchall()

    async def versions(self) -> Sequence[VersionRow]:
        """Every version up to the inspected one, ascending."""
        return [
            VersionRow(
                version=row[0], parent=row[1], kind=row[2], note=row[3], index_id=bytes(row[4]),
                merkle_root=bytes(row[5]), buckets=bytes(row[6]), manifest_key=row[7], manifest_digest=bytes(row[8]),
                statistics=_statistics(row[9]), collected=row[10], checkpoint_key=row[11],
                checkpoint_digest=bytes(row[12]),
            )
            for row in await self._all(VERSIONS)
        ]  # fmt: skip

    async def live(self) -> Seqs:
        """The seqs that are live in the version."""
        return _seqs((await self._all(LIVE))[0][0])

    async def documents(self) -> AsyncIterator[Sequence[HeldDocument]]:
        """The documents of the version with all their rows, by document id."""
        after, after_v = b"", 0
        while rows := await self._all(PAGE, after=after, after_v=after_v, limit=PAGE_DOCUMENTS):
            yield await self._held(rows)
            after, after_v = rows[-1][0], rows[-1][2]

    async def _held(self, rows: list[Any]) -> list[HeldDocument]:
        placed: dict[bytes, list[PlacedRow]] = {}
        for row in await self._all(ROWS, docversions=[row[1] for row in rows]):
            placed.setdefault(bytes(row[0]), []).append(_placed(row))
        return [_document(row, placed.get(bytes(row[1]), [])) for row in rows]

    async def others(self) -> AsyncIterator[Sequence[OtherRow]]:
        """The rows that other kept versions hold and this one does not."""
        seqs = _seqs((await self._all(OTHER_SEQS))[0][0])
        for at in range(0, len(seqs), PAGE_ROWS):
            rows = await self._all(OTHERS, seqs=seqs[at : at + PAGE_ROWS].tolist())
            yield [_other(row) for row in rows]

    async def postings(self) -> AsyncIterator[Sequence[PackedPostings]]:
        """The postings of every segment of the index, by term."""
        term, segment = "", -1
        while rows := await self._all(POSTINGS, term=term, segment=segment, limit=PAGE_POSTINGS):
            yield [PackedPostings(row[0], row[1], row[2], bytes(row[3])) for row in rows]
            term, segment = rows[-1][0], rows[-1][1]

    async def cached(self, hashes: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """The embedding cache's entries by input hash."""
        return {bytes(row[0]): bytes(row[1]) for row in await self._all(CACHED, hashes=list(hashes))}

    async def delta(self, version: VersionRow) -> Delta | None:
        """What came and went with a version; None once retention has removed its rows."""
        if version.collected:
            return None
        lines: list[tuple[ChangedDocument, ...]] = []
        for sql in (ADDED, REMOVED):
            held = await self._held(await self._all(sql, at=version.version))
            if any(one.version is None or any(row.stored is None for row in one.version.rows) for one in held):
                return None
            lines.append(tuple(line_of(one) for one in held))
        made = await self._all(ORDERS, at=version.version)
        sources, orders = (made[0][0], tuple(made[0][1])) if made else ("", ())
        return Delta(version, (sources,), orders, lines[0], lines[1])


def _statistics(kept: Any) -> VersionStatistics:
    """Statistics that cannot be read are none, which is a difference."""
    with suppress(msgspec.ValidationError):
        return msgspec.convert(kept, VersionStatistics)
    return VersionStatistics()


def _recipe(kept: Any) -> Recipe:
    try:
        return msgspec.convert(kept, Recipe)
    except msgspec.ValidationError as error:
        raise IntegrityError(
            f"the recipe of the index cannot be read: {error}",
            doing="opening an audit",
            next_step="restore the database from a backup",
        ) from None


def _seqs(packed: bytes) -> Seqs:
    return np.frombuffer(packed, dtype=">i4").astype(np.int64)


def _placed(row: Any) -> PlacedRow:
    _, seq, ordinal, start, end, heading_path, row_id, chunk_id, text, joined, title, hashed, body, vector = row
    stored = None
    if row_id is not None:
        # pgvector sends a dimension and a zero, two bytes each, before the numbers.
        numbers = np.frombuffer(vector[4:], dtype=">f2").astype(np.float16) if vector is not None else None
        ids = (bytes(row_id), bytes(chunk_id), bytes(text))
        stored = StoredRow(*ids, joined, title, bytes(hashed), body, numbers)
    return PlacedRow(seq, ordinal, start, end, tuple(heading_path), stored)


def _other(row: Any) -> OtherRow:
    seq, source, key, title, metadata, heading_path, row_id, chunk_id, text_hash, text = row
    ids = (bytes(row_id), bytes(chunk_id), bytes(text_hash))
    return OtherRow(seq, source, key, title, metadata, tuple(heading_path), *ids, text)


def _document(row: Any, placed: list[PlacedRow]) -> HeldDocument:
    ident, _, _, source, key, acl, principals, owner, object_version, title, metadata, leaf, ends = row
    version = None
    if owner is not None:
        version = HeldVersion(bytes(owner), object_version, title, metadata, bytes(leaf), tuple(placed))
    return HeldDocument(
        document_id=bytes(ident),
        source_id=bytes(source) if source is not None else None,
        key=key or "",
        acl_id=bytes(acl or b""),
        principals=frozenset(principals) if principals is not None else None,
        version=version,
        ends=ends,
    )
