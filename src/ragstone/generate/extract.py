"""Which sentences answer: the pure part of extraction. Features, weights, choice, confidence.

Units are sentences, list items, table rows and whole short lists. Each gets a score from features free of
scale; the weights were fitted on questions with known answer sentences (docs/benchmarks.md has the figures).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ragstone.core.nouns import Passage
from ragstone.core.sentences import plain, sentences
from ragstone.core.texts import place_line
from ragstone.core.tokens import analyze

UNIT_CHARS_MIN = 8


@dataclass(frozen=True, slots=True)
class Unit:
    """A quotable piece of a passage: `passage.text[start:end]`."""

    passage: int
    start: int
    end: int
    text: str
    terms: frozenset[str]


@dataclass(frozen=True, slots=True)
class Scored:
    """A unit with its features and its score."""

    unit: Unit
    cosine: float
    coverage: float
    place_coverage: float
    rank: int
    score: float


def units(passages: Sequence[Passage]) -> list[Unit]:
    """Every quotable unit of the passages, in order; equal texts once."""
    seen: set[str] = set()
    found = []
    for at, passage in enumerate(passages):
        for start, end in sentences(passage.text):
            text = plain(passage.text[start:end])
            if len(text) < UNIT_CHARS_MIN or text in seen:
                continue
            seen.add(text)
            found.append(Unit(at, start, end, text, frozenset(analyze(text))))
    return found


def coverage(terms: Sequence[tuple[str, int, float]], present: frozenset[str]) -> float:
    """The share of the question's idf that the present terms hold, 0 to 1."""
    total = sum(idf for _, _, idf in terms)
    return sum(idf for term, _, idf in terms if term in present) / total if total > 0 else 0.0


def place_terms(passage: Passage) -> frozenset[str]:
    """The terms of a passage's title and headings."""
    return frozenset(analyze(place_line(passage.title, passage.heading_path)))


def logistic(value: float) -> float:
    """1 / (1 + e^-value), safe for any value."""
    return 1.0 / (1.0 + math.exp(-value)) if value >= 0 else math.exp(value) / (1.0 + math.exp(value))
