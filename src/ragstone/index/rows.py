"""Documents to rows: which rows are new, which are reused, and every id. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from ragstone.core.filters import json_type
from ragstone.core.ids import document_id, make_id, text_hash
from ragstone.core.texts import passage_input
from ragstone.core.tokens import analyze
from ragstone.index import merkle
from ragstone.index.records import Run, StagedDocument, StagedPlacement


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk of an incoming document; spans count in code points of the document's text."""

    text: str
    start: int
    end: int
    heading_path: tuple[str, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class IncomingDocument:
    """A parsed, chunked, valid document on its way into the index."""

    key: str
    object_version: str
    source_order: str
    title: str
    metadata: Mapping[str, Any] = field(hash=False)
    acl: tuple[str, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row that the index does not hold yet, before it has a seq and a vector."""

    row_id: bytes
    chunk_id: bytes
    text_hash: bytes
    input_hash: bytes
    input: str
    text: str
    tokens: int
    joined: Counter[str]
    title: Counter[str]


@dataclass(frozen=True, slots=True)
class DocumentRows:
    """A document's rows in order: the row ids of all, and the new ones in full."""

    document: IncomingDocument
    row_ids: tuple[bytes, ...]
    new: tuple[NewRow, ...]


def document_rows(run: Run, document: IncomingDocument, reusable: Mapping[bytes, int]) -> DocumentRows:
    """Name every row of a document; those that `reusable` knows are not made again.

    A row is what the engine sees of a chunk: its text, its place line and the metadata that filters use. The
    chunk id leaves metadata and headings out, so that judgements keep their joins.
    """
    chunking = run.recipe.chunking.id
    metadata = canonical(document.metadata)
    equals: Counter[str] = Counter()
    row_ids, new = [], []
    title_terms: Counter[str] | None = None
    for piece in document.pieces:
        chunk = make_id("chunk", run.source, document.key, chunking, piece.text, str(equals[piece.text]))
        equals[piece.text] += 1
        row = make_id("row", chunk, document.title, canonical(list(piece.heading_path)), metadata)
        row_ids.append(row)
        if row in reusable:
            continue
        if title_terms is None:
            title_terms = Counter(analyze(document.title))
        text = passage_input(document.title, piece.heading_path, piece.text)
        ids = (row, chunk, text_hash(piece.text), text_hash(text))
        # The place line shortens a long title; its words are all findable nevertheless.
        joined = Counter(analyze(text)) | title_terms
        new.append(NewRow(*ids, text, piece.text, piece.tokens, joined, title_terms))
    return DocumentRows(document, tuple(row_ids), tuple(new))


def staged_document(run: Run, rows: DocumentRows, seqs: Mapping[bytes, int]) -> StagedDocument:
    """The document version with its placements; `seqs` knows the seq of every one of its rows."""
    document = rows.document
    ident = document_id(run.source_id, document.key)
    placements = tuple(
        StagedPlacement(seqs[row], ordinal, piece.start, piece.end, piece.heading_path)
        for ordinal, (row, piece) in enumerate(zip(rows.row_ids, document.pieces, strict=True))
    )
    return StagedDocument(
        document_id=ident,
        docversion_id=make_id("docversion", ident, document.object_version, run.run_id),
        key=document.key,
        object_version=document.object_version,
        source_order=document.source_order,
        title=document.title,
        metadata=document.metadata,
        acl=document.acl,
        leaf=merkle.leaf(run.secret, ident, document.object_version, rows.row_ids),
        placements=placements,
        reused=len(rows.row_ids) - len(rows.new),
    )


def placed_digest(rows: Iterable[tuple[bytes, int, int, bytes]]) -> bytes:
    """What stands for a document's rows where they are: (row id, span start, span end, vector hash) in order."""
    parts: list[bytes | str] = []
    for row_id, start, end, vector_hash in rows:
        parts += [row_id, str(start), str(end), vector_hash]
    return make_id("placed", *parts)


def canonical(value: Any) -> str:
    """One spelling of a JSON value, the same after it has been through a database: there a number has no exponent and
    zero no sign."""
    return json.dumps(_plain(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        # 1e+22 comes back as an integer of 23 digits: those of its decimal spelling, not of its binary value.
        return int(Decimal(repr(value))) if "e+" in repr(value) else value or 0.0
    return value


def field_types(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The JSON type of each metadata field."""
    return {key: json_type(value) for key, value in metadata.items() if value is not None}
