"""The decision to answer and with what: confidence against a threshold chosen on data, then the best units
and those within a margin of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from ragstone.generate.extract import Scored, logistic
from ragstone.generate.ports import Grounds


@dataclass(frozen=True, slots=True)
class ExtractionSettings:
    """The knobs of extraction."""

    threshold: float = 0.5
    sentences_max: int = 4
    units_max: int = 48
    margin: float = 0.6

    def as_record(self) -> dict[str, float]:
        """For the release."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided: the chosen units in reading order, or an abstention and why."""

    abstained: bool
    reason: str
    confidence: float
    chosen: tuple[Scored, ...]
    features: dict[str, float]
    fates: Mapping[int, str] = field(default_factory=dict)


# Intercept, best unit's cosine, its coverage with headings, best passage cosine.
CONFIDENCE = (-10.0, 8.0, 2.0, 4.0)


def confidence(scored: Sequence[Scored], grounds: Grounds) -> tuple[float, dict[str, float]]:
    """The probability that the passages answer, and the features it was made from."""
    features = {
        "unit_cosine": max((each.cosine for each in scored), default=0.0),
        "unit_coverage": max((each.place_coverage for each in scored), default=0.0),
        "passage_cosine": max(grounds.cosines, default=0.0),
    }
    value = CONFIDENCE[0] + sum(w * f for w, f in zip(CONFIDENCE[1:], features.values(), strict=True))
    return logistic(value), features


def choose(scored: Sequence[Scored], grounds: Grounds, settings: ExtractionSettings) -> Choice:
    """Abstain below the threshold; else take the best units within the margin of the best."""
    value, features = confidence(scored, grounds)
    if not scored:
        return Choice(True, "no_passages", 0.0, (), features)
    order = sorted(range(len(scored)), key=lambda at: (-scored[at].score, at))
    best = scored[order[0]].score
    kept = [at for at in order if scored[at].score >= settings.margin * best][: settings.sentences_max]
    fates = dict.fromkeys(kept, "chosen")
    abstained = value < settings.threshold
    reason = "below_threshold" if abstained else "answered"
    if abstained:
        fates = dict.fromkeys(kept, "abstained")
    return Choice(abstained, reason, value, tuple(scored[at] for at in sorted(kept)), features, fates)
