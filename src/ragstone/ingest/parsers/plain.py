"""Plain text: paragraphs between blank lines, sentences inside them."""

from __future__ import annotations

import re

from ragstone.core.sentences import sentences
from ragstone.ingest.records import Block

# The blank-line class stays on one line, so that the match cannot wander back and forth over many of them.
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


def blocks_of(text: str) -> tuple[Block, ...]:
    """The paragraphs of `text`."""
    found: list[Block] = []
    start = 0
    for match in _BLANK_LINES.finditer(text):
        _add(found, text, start, match.start())
        start = match.end()
    _add(found, text, start, len(text))
    return tuple(found)


def _add(found: list[Block], text: str, start: int, end: int) -> None:
    if (block := paragraph(text, start, end)) is not None:
        found.append(block)


def paragraph(text: str, start: int, end: int, path: tuple[str, ...] = ()) -> Block | None:
    """The paragraph in `text[start:end]`, or None when there is only white space."""
    raw = text[start:end]
    body = raw.strip()
    if not body:
        return None
    start += len(raw) - len(raw.lstrip())
    parts = tuple((start + first, start + last) for first, last in sentences(body))
    return Block("paragraph", start, start + len(body), heading_path=path, parts=parts)
