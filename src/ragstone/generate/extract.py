"""Which units answer: features and score of each. Pure; the weights are in `calibration.py`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ragstone.core.texts import place_line
from ragstone.core.tokens import analyze
from ragstone.generate.calibration import Calibration
from ragstone.generate.ports import Grounds
from ragstone.generate.units import Unit

# Words of a question that say what is asked for, not what about: an answer need not repeat them.
ASKING = frozenset({
    "i", "do", "what", "how", "when", "who", "which", "whose", "where", "my", "me", "you", "your", "have", "has",
    "had", "can", "could", "should", "would", "did", "doe", "we", "our", "am", "it", "is", "are", "there", "mani",
    "much", "long",
})  # fmt: skip
ASKS_NUMBER = re.compile(
    r"\bhow (?:many|much|long|often|soon|far|old|big|large|high|late|early|fast)\b"
    r"|\bwhat(?:'s| is| was| are|) ?(?:the |an? |my |our )?(?:\w+ )?(?:year|time|date|percentage|percent|number"
    r"|amount|price|cost|fee|salary|rate|deadline|budget|limit|phone)\b"
    r"|\b(?:which|what) (?:number|year|floor|month|day|line)\b|\bwhen\b|\bcosts?\b",
    re.IGNORECASE,
)
HOLDS_NUMBER = re.compile(
    r"\d|[½¼¾]|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|half|once|twice|hundred"
    r"|thousand|million|billion|first|second|third|daily|weekly|monthly|annual(?:ly)?|yearly|quarterly|hourly"
    r"|mondays?|tuesdays?|wednesdays?|thursdays?|fridays?|saturdays?|sundays?|january|february|march|april|may"
    r"|june|july|august|september|october|november|december|days?|hours?|century)\b",
    re.IGNORECASE,
)


# "…, and how long …": where a question begins a second question.
_SECOND = re.compile(
    r",?\s+and\s+(?=(?:what|how|which|when|who|whose|whom|where|why|does|do|did|is|are|was|were|can|could|must|may"
    r"|should|will|would)\b|(?:for|in|on|at|by|to|with|from) (?:what|which|whom|how)\b)",
    re.IGNORECASE,
)
PARTS_MAX = 3


@dataclass(frozen=True, slots=True)
class Scored:
    """A unit with its features and its score (0 to 1) for one part of the question."""

    unit: Unit
    part: int
    cosine: float
    coverage: float
    number_missing: bool
    score: float


def unit_input(unit: Unit, grounds: Grounds) -> str:
    """What is embedded of a unit: where it stands, then what it says."""
    passage = grounds.passages[unit.passage]
    place = place_line(passage.title, passage.heading_path)
    return f"{place}\n{unit.input}" if place else unit.input


def likely(found: Sequence[Unit], grounds: Grounds, limit: int, fitted: Calibration) -> list[Unit]:
    """The `limit` units worth embedding, in reading order: best by term coverage and place."""
    if len(found) <= limit:
        return list(found)
    value = [
        fitted.unit_coverage * coverage(grounds.terms, unit.terms | unit.context_terms)
        + fitted.unit_length * math.log1p(unit.words)
        + fitted.unit_passage_gap * passage_gap(unit.passage, grounds.cosines)
        for unit in found
    ]
    order = sorted(range(len(found)), key=lambda at: (-value[at], at))
    return [found[at] for at in sorted(order[:limit])]


def question_parts(question: str) -> tuple[str, ...]:
    """The questions that a question is made of, at most three: `How many, and where?` is two."""
    parts = [part.strip() for part in _SECOND.split(question.strip(), maxsplit=PARTS_MAX - 1)]
    return tuple(part for part in parts if part)


def score_units(
    found: Sequence[Unit], cosines: Sequence[float], grounds: Grounds, part: int, text: str, fitted: Calibration
) -> list[Scored]:
    """Features and score of each unit for one part of the question, in the order given."""
    asks_number = bool(ASKS_NUMBER.search(text))
    own = frozenset(analyze(text))
    terms = [term for term in grounds.terms if term[0] in own] or list(grounds.terms)
    scored = []
    for unit, cosine in zip(found, cosines, strict=True):
        covered = coverage(terms, unit.terms | unit.context_terms)
        missing = asks_number and not HOLDS_NUMBER.search(unit.text)
        gap = passage_gap(unit.passage, grounds.cosines)
        score = unit_score(fitted, float(cosine), covered, unit.words, gap, number_missing=missing)
        scored.append(Scored(unit, part, float(cosine), covered, missing, score))
    return scored


def unit_score(
    fitted: Calibration, cosine: float, covered: float, words: int, gap: float, *, number_missing: bool
) -> float:
    """The score of a unit from its features alone; a replay calls it with the recorded ones."""
    return logistic(
        fitted.unit_intercept
        + fitted.unit_cosine * cosine
        + fitted.unit_coverage * covered
        + fitted.unit_length * math.log1p(words)
        + fitted.unit_passage_gap * gap
        + fitted.unit_number_missing * number_missing
    )


def passage_gap(passage: int, cosines: Sequence[float]) -> float:
    """How far a passage's cosine is below the best one's.

    The gap and not the fused rank: a passage that repeats the question's words comes first, and the answer
    often stands in the next one.
    """
    return cosines[passage] - max(cosines)


def coverage(terms: Sequence[tuple[str, int, float]], present: frozenset[str]) -> float:
    """The share of the question's idf that the present terms hold, 0 to 1; words of asking do not count."""
    about = [(term, idf) for term, _, idf in terms if term not in ASKING] or [(term, idf) for term, _, idf in terms]
    total = math.fsum(idf for _, idf in about)
    return math.fsum(idf for term, idf in about if term in present) / total if total > 0 else 0.0


def logistic(value: float) -> float:
    """1 / (1 + e^-value), safe for any value."""
    return 1.0 / (1.0 + math.exp(-value)) if value >= 0 else math.exp(value) / (1.0 + math.exp(value))
