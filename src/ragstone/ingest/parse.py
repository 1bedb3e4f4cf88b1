"""One object's bytes to a parsed document: decoded, cut into blocks, with a title, or refused with a reason.

Pure. The reasons are `empty`, `invalid_utf8`, `binary`, `too_large`, `too_deep`, `no_text` and
`invalid_front_matter`; each message names the place and what to do next.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from ragstone.core.errors import DocumentRejected
from ragstone.core.sentences import plain
from ragstone.ingest.parsers.decode import decode
from ragstone.ingest.parsers.html import parse_html
from ragstone.ingest.parsers.markdown import parse_markdown
from ragstone.ingest.parsers.plain import blocks_of
from ragstone.ingest.records import ParsedDocument, SourceObject

# A suffix in a key that says "this is a file's name", so that a record's opaque id never becomes a title.
SUFFIXES = frozenset({".md", ".markdown", ".txt", ".text", ".html", ".htm"})
_FOLDER_PAGES = frozenset({"index", "readme", "_index"})


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """What one document may be at most: a bound for time and memory."""

    bytes_max: int = 20_000_000
    """The object's size."""
    depth_max: int = 100
    """Open quotes, lists and items (Markdown) or block elements (HTML) at one place."""
    blocks_max: int = 200_000
    """Headings, paragraphs, lists, tables and code blocks together."""


def parse(data: bytes, listed: SourceObject, limits: ParseLimits) -> ParsedDocument:
    """The document in `data`; raises DocumentRejected."""
    place = listed.place
    if len(data) > limits.bytes_max:
        raise DocumentRejected(
            f"{place} has {len(data)} bytes, more than {limits.bytes_max}",
            reason="too_large",
            next_step="split it into several documents, then ingest again",
        )
    if not data.strip():
        raise DocumentRejected(
            f"{place} is empty",
            reason="empty",
            next_step="write something into it or delete it, then ingest again",
        )
    text = decode(data, place, html=listed.media_type == "text/html")
    document = _parsed(text, listed, limits)
    if not document.blocks:
        raise DocumentRejected(
            f"{place} holds only markup, no text",
            reason="no_text",
            next_step="write something into it or delete it, then ingest again",
        )
    if len(document.blocks) > limits.blocks_max:
        raise DocumentRejected(
            f"{place} has {len(document.blocks)} blocks, more than {limits.blocks_max}",
            reason="too_large",
            field="blocks",
            next_step="split it into several documents, then ingest again",
        )
    return replace(document, title=_title(listed, document))


def _parsed(text: str, listed: SourceObject, limits: ParseLimits) -> ParsedDocument:
    if listed.media_type == "text/markdown":
        return parse_markdown(text, listed.place, limits.depth_max)
    if listed.media_type == "text/html":
        return parse_html(text, listed.place, limits.depth_max)
    return ParsedDocument(text, None, blocks_of(text))


def _title(listed: SourceObject, document: ParsedDocument) -> str | None:
    """What the source says, else the document itself, else its first heading, else its file name."""
    for said in (listed.title, document.title):
        if said and said.strip():
            return " ".join(said.split())
    return _first_heading(document) or _readable(listed.key)


def _first_heading(document: ParsedDocument) -> str | None:
    """The first level-one heading; a lower one only where the document opens with it.

    A page without a title whose third paragraph is followed by `## Setup` is not about setup.
    """
    headings = [block for block in document.blocks if block.kind == "heading"]
    first = next((block for block in headings if block.level == 1), None)
    if first is None and headings and headings[0] is document.blocks[0]:
        first = headings[0]
    if first is None:
        return None
    lines = document.text[first.start : first.end].split("\n")
    return plain(re.sub(r"\{[:#.][^{}]*\}\s*$", "", lines[0])) or None


def _readable(key: str) -> str | None:
    """`guides/time-off_policy.md` → `Time off policy`; an index page has its folder's name."""
    path = PurePosixPath(key)
    if path.suffix.lower() not in SUFFIXES:
        return None
    stem = path.parent.name if path.stem.lower() in _FOLDER_PAGES and path.parent.name else path.stem
    words = re.sub(r"[-_\s]+", " ", stem).strip()
    return words[:1].upper() + words[1:] if words else None
