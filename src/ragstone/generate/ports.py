"""Who answers: the extractive answerer here, a chat model behind another adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ragstone.core.deadline import Deadline
from ragstone.core.evidence import AnswerRecord
from ragstone.core.nouns import Passage
from ragstone.core.ports import Query


@dataclass(frozen=True, slots=True)
class Grounds:
    """What an answer may be made from: the passages in rank order, with the retrieval's own numbers.

    `cosines` is parallel to `passages`; `terms` holds (term, count, idf) of the question.
    """

    question: str
    query: Query
    terms: tuple[tuple[str, int, float], ...]
    passages: tuple[Passage, ...]
    cosines: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost: tokens by kind, and micro-USD."""

    tokens: dict[str, int]
    cost_microusd: int


class Answerer(Protocol):
    """Answers from passages alone.

    Promise: every sentence cites quotes that stand verbatim in a passage given; when the passages do not
    answer, it abstains with a reason rather than guess.
    """

    @property
    def settings(self) -> dict[str, float]:
        """The knobs that the answer depends on, for the release."""

    async def answer(self, grounds: Grounds, deadline: Deadline) -> tuple[AnswerRecord, Usage]:
        """The answer and what it cost."""


def passages_in_order(passages: Sequence[Passage]) -> dict[str, Passage]:
    """Passages by chunk id, in rank order."""
    return {passage.chunk_id.hex(): passage for passage in passages}
