"""Fitted numbers of extraction, one set an embedder: cosines of one model say nothing about another's.

Fitted by logistic regression on the even half of ClapNQ's dev split and the `tune` half of `evals/handbook`;
`benchmarks/bench_answers.py` measures what they do on the other halves (figures in docs/benchmarks.md).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

BGE_SMALL = "bge-small-en-v1.5-int8"
MINILM = "all-minilm-l6-v2-int8"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Weights before the logistic function, and the threshold with equal errors on the fitting half.

    `unit_*` score a unit: its cosine with the question, the share of the question's idf it covers, the logarithm
    of its length, how far its passage's cosine is below the best one's, whether a number is asked for that it
    does not hold. `answer_*` give the probability that the passages answer at all, from the best unit's cosine
    and the best passage's: fused scores compare passages with each other and cannot tell that none answers.
    """

    threshold: float
    unit_intercept: float
    unit_cosine: float
    unit_coverage: float
    unit_length: float
    unit_passage_gap: float
    unit_number_missing: float
    answer_intercept: float
    answer_unit_cosine: float
    answer_passage_cosine: float

    def as_record(self) -> dict[str, float]:
        """For the release and the evidence."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def of_record(cls, record: dict[str, float]) -> Calibration:
        """From the evidence."""
        return cls(**{each.name: record[each.name] for each in fields(cls)})


_BGE = Calibration(
    threshold=0.575,
    unit_intercept=-9.272,
    unit_cosine=7.598,
    unit_coverage=2.626,
    unit_length=0.465,
    unit_passage_gap=13.942,
    unit_number_missing=-1.281,
    answer_intercept=-16.195,
    answer_unit_cosine=5.634,
    answer_passage_cosine=16.965,
)
_MINILM = Calibration(
    threshold=0.592,
    unit_intercept=-5.811,
    unit_cosine=3.274,
    unit_coverage=3.299,
    unit_length=0.444,
    unit_passage_gap=9.8,
    unit_number_missing=-1.243,
    answer_intercept=-6.484,
    answer_unit_cosine=3.011,
    answer_passage_cosine=8.221,
)
# The hash embedder is for tests: any numbers do, and these are as good as others.
FITTED = {BGE_SMALL: _BGE, MINILM: _MINILM, "hash": _BGE}


def calibration_of(model: str) -> tuple[Calibration, bool]:
    """The numbers for an embedder, and whether they were fitted to it."""
    return FITTED.get(model, _BGE), model in FITTED
