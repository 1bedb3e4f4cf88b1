"""The decision to answer and with what: confidence against a threshold chosen on data, then the best units
and those within a margin of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ragstone.generate.calibration import Calibration
from ragstone.generate.extract import Scored, logistic
from ragstone.generate.ports import Grounds


@dataclass(frozen=True, slots=True)
class ExtractionSettings:
    """The knobs of extraction. `margin`: a unit joins the best one when its score is at least this share of it."""

    fitted: Calibration
    threshold: float
    sentences_max: int = 3
    units_max: int = 48
    margin: float = 0.6

    def as_record(self) -> dict[str, float]:
        """For the release and the evidence: everything that a choice depends on."""
        knobs = {"sentences_max": self.sentences_max, "units_max": self.units_max, "margin": self.margin}
        return {**self.fitted.as_record(), **knobs, "threshold": self.threshold}

    @classmethod
    def of_record(cls, record: dict[str, float]) -> ExtractionSettings:
        """From the evidence."""
        return cls(
            fitted=Calibration.of_record(record),
            threshold=record["threshold"],
            sentences_max=int(record["sentences_max"]),
            units_max=int(record["units_max"]),
            margin=record["margin"],
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided: the chosen units, best passage first and in reading order, or an abstention and why.

    `fates` maps (part, position among the scored units) to what became of it; one left out lost by the margin.
    """

    abstained: bool
    reason: str
    confidence: float
    chosen: tuple[Scored, ...]
    features: dict[str, float]
    fates: Mapping[tuple[int, int], str] = field(default_factory=dict)


def confidence(scored: Sequence[Scored], grounds: Grounds, fitted: Calibration) -> tuple[float, dict[str, float]]:
    """The probability that the passages answer, and the features it was made from."""
    features = {
        "unit_cosine": max(scored, key=lambda each: each.score).cosine if scored else 0.0,
        "passage_cosine": max(grounds.cosines, default=0.0),
    }
    value = (
        fitted.answer_intercept
        + fitted.answer_unit_cosine * features["unit_cosine"]
        + fitted.answer_passage_cosine * features["passage_cosine"]
    )
    return logistic(value), features


def choose(parts: Sequence[Sequence[Scored]], grounds: Grounds, settings: ExtractionSettings) -> Choice:
    """Abstain below the threshold; else take, for each part of the question, the best units within the margin
    of its best, no words twice. Every part's list holds the same units in the same order."""
    everything = [each for scored in parts for each in scored]
    value, features = confidence(everything, grounds, settings.fitted)
    if not everything:
        return Choice(True, "no_passages", 0.0, (), features)
    kept: dict[int, Scored] = {}
    fates: dict[tuple[int, int], str] = {}
    share = max(1, settings.sentences_max // len(parts))
    for scored in parts:
        _take(scored, share, settings.margin, kept, fates)
    chosen = tuple(kept[at] for at in sorted(kept))
    if value < settings.threshold:
        fates = {place: "abstained" if fate == "chosen" else fate for place, fate in fates.items()}
        return Choice(True, "below_threshold", value, chosen, features, fates)
    return Choice(False, "answered", value, chosen, features, fates)


def _take(
    scored: Sequence[Scored], limit: int, margin: float, kept: dict[int, Scored], fates: dict[tuple[int, int], str]
) -> None:
    """Add the best units of one part to `kept`, and what became of those that were near."""
    order = sorted(range(len(scored)), key=lambda at: (-scored[at].score, at))
    floor = margin * scored[order[0]].score
    taken = 0
    for at in order:
        if scored[at].score < floor:
            break
        if at in kept:
            fates[scored[at].part, at] = "chosen_for_another_part"
            taken += 1
        elif any(_overlap(scored[at], other) for other in kept.values()):
            fates[scored[at].part, at] = "inside_another"
        elif taken >= limit:
            fates[scored[at].part, at] = "beyond_limit"
        else:
            kept[at] = scored[at]
            fates[scored[at].part, at] = "chosen"
            taken += 1


def _overlap(one: Scored, other: Scored) -> bool:
    left, right = one.unit, other.unit
    return left.passage == right.passage and left.start < right.end and right.start < left.end
