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
from ragstone.generate.ports import Grounds

UNIT_CHARS_MIN = 8

# Intercept, cosine, coverage, coverage with headings, passage cosine, ln(1 + passage rank).
WEIGHTS = (-6.0, 6.0, 1.0, 1.0, 2.0, -0.5)


@dataclass(frozen=True, slots=True)
class Unit:
    """A quotable piece of a passage: `passage.text[start:end]`; `input` is what is embedded of it."""

    passage: int
    start: int
    end: int
    text: str
    input: str
    terms: frozenset[str]


@dataclass(frozen=True, slots=True)
class Scored:
    """A unit with its features and its score (0 to 1)."""

    unit: Unit
    cosine: float
    coverage: float
    place_coverage: float
    score: float


def units(passages: Sequence[Passage]) -> list[Unit]:
    """Every quotable unit of the passages, in order; equal texts once."""
    seen: set[str] = set()
    found = []
    for at, passage in enumerate(passages):
        place = place_line(passage.title, passage.heading_path)
        for start, end in sentences(passage.text):
            text = plain(passage.text[start:end])
            if len(text) < UNIT_CHARS_MIN or text in seen:
                continue
            seen.add(text)
            found.append(Unit(at, start, end, text, f"{place}\n{text}" if place else text, frozenset(analyze(text))))
    return found


def prescore(found: Sequence[Unit], grounds: Grounds, limit: int) -> list[Unit]:
    """The `limit` units worth embedding, in reading order: best by term coverage, then by passage rank."""
    if len(found) <= limit:
        return list(found)
    order = sorted(
        range(len(found)), key=lambda at: (-coverage(grounds.terms, found[at].terms) + 0.1 * found[at].passage, at)
    )
    return [found[at] for at in sorted(order[:limit])]


def score_units(found: Sequence[Unit], cosines: Sequence[float], grounds: Grounds) -> list[Scored]:
    """Features and score of each unit."""
    places = [place_terms(passage) for passage in grounds.passages]
    scored = []
    for unit, cosine in zip(found, cosines, strict=True):
        own = coverage(grounds.terms, unit.terms)
        with_place = coverage(grounds.terms, unit.terms | places[unit.passage])
        value = WEIGHTS[0] + WEIGHTS[1] * cosine + WEIGHTS[2] * own + WEIGHTS[3] * with_place
        value += WEIGHTS[4] * grounds.cosines[unit.passage] + WEIGHTS[5] * math.log1p(unit.passage)
        scored.append(Scored(unit, float(cosine), own, with_place, logistic(value)))
    return scored


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
