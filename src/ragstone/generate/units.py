"""Quotable units of passages: sentences, list items, table rows, and whole short lists with what announces them.

A unit is one or more verbatim spans of one passage. Its context is what a reader sees above it: the sentence
that announces a list, the header row of a table; the context counts for relevance and is not quoted with it,
except in a whole list, where the announcing sentence is part of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ragstone.core.nouns import Passage
from ragstone.core.sentences import plain, sentences
from ragstone.core.texts import place_line
from ragstone.core.tokens import analyze

CHARS_MIN = 3
LIST_CHARS_MAX = 1_200
LIST_ITEMS_MAX = 15
CONTEXT_CHARS_MAX = 300

_MARKER = re.compile(r"[ \t>]*(?:[-*+•]|\d{1,9}[.)])[ \t]+(?:\[[ xX]\][ \t]+)?\Z")
_SEPARATOR = re.compile(r"^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)+\|?[ \t]*$", re.MULTILINE)
_ANNOUNCES = re.compile(r":[\s*_`]*\Z")


@dataclass(frozen=True, slots=True)
class Unit:
    """A quotable piece: `passage.text[start:end]` of each span; `text` is what it says without markup.

    `kind` is sentence, item, row or list; `terms` are its own, `context_terms` those of its context and place.
    """

    passage: int
    spans: tuple[tuple[int, int], ...]
    kind: str
    text: str
    context: str
    terms: frozenset[str]
    context_terms: frozenset[str]

    @property
    def words(self) -> int:
        """Its length."""
        return len(self.text.split())

    @property
    def start(self) -> int:
        """Where its first span begins."""
        return self.spans[0][0]

    @property
    def end(self) -> int:
        """Where its last span ends."""
        return self.spans[-1][1]

    @property
    def input(self) -> str:
        """What is embedded of it."""
        return f"{self.context} {self.text}" if self.context else self.text


def units(passages: Sequence[Passage]) -> list[Unit]:
    """Every unit of the passages, in reading order; equal texts in equal places once."""
    seen: set[tuple[str, str]] = set()
    found = []
    for at, passage in enumerate(passages):
        for unit in _of_passage(at, passage):
            if (unit.text, unit.context) not in seen and len(unit.text) >= CHARS_MIN:
                seen.add((unit.text, unit.context))
                found.append(unit)
    return found


def _of_passage(at: int, passage: Passage) -> list[Unit]:
    text = passage.text
    place = frozenset(analyze(place_line(passage.title, passage.heading_path)))
    header = _header(passage)
    lead: tuple[int, int] | None = None
    items: list[tuple[int, int]] = []
    found: list[Unit] = []

    def unit(spans: list[tuple[int, int]], kind: str, context: str) -> Unit:
        said = " ".join(plain(text[start:end]) for start, end in spans)
        context = context[:CONTEXT_CHARS_MAX]
        return Unit(
            at, tuple(spans), kind, said, context, frozenset(analyze(said)), frozenset(analyze(context)) | place
        )

    def close_list() -> None:
        if lead is not None and items:
            spans = [lead, *items]
            size = sum(end - start for start, end in spans)
            if len(items) <= LIST_ITEMS_MAX and size <= LIST_CHARS_MAX:
                # A sentence that announces a list answers nothing without it: the whole takes its place.
                at_lead = len(found) - len(items) - 1
                found[at_lead] = unit(spans, "list", "")
        items.clear()

    for span in sentences(text):
        kind = _kind(text, span)
        announces = bool(_ANNOUNCES.search(text[span[0] : span[1]]))
        if kind == "item" and not announces:
            items.append(span)
            context = plain(text[lead[0] : lead[1]]) if lead else ""
            found.append(unit([span], "item", context))
            continue
        close_list()
        lead = span if announces else None
        found.append(unit([span], kind, header if kind == "row" else ""))
    close_list()
    return found


def _kind(text: str, span: tuple[int, int]) -> str:
    line = text.rfind("\n", 0, span[0]) + 1
    if _MARKER.match(text[line : span[0]]):
        return "item"
    return "row" if "|" in text[span[0] : span[1]] else "sentence"


def _header(passage: Passage) -> str:
    """The header row of the passage's table; a table that goes on has it at the end of its heading path."""
    separator = _SEPARATOR.search(passage.text)
    if separator:
        above = passage.text[: separator.start()].rstrip("\n").rpartition("\n")[2]
        return plain(above)
    last = passage.heading_path[-1] if passage.heading_path else ""
    return plain(last) if "|" in last else ""
