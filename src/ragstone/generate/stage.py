"""The extractive answerer: cut units, embed the likely ones, score, choose, cite. Returns what it decided."""

from __future__ import annotations

import numpy as np

from ragstone.core.deadline import Deadline
from ragstone.core.evidence import AnswerRecord, AnswerSentence, Citation
from ragstone.core.ports import Embedder
from ragstone.generate.choice import Choice, ExtractionSettings, choose
from ragstone.generate.extract import Scored, Unit, prescore, score_units, units
from ragstone.generate.ports import Grounds, Usage

MODEL = "extractive/1"


class ExtractiveAnswerer:
    """Implements the port Answerer without a language model."""

    def __init__(self, embedder: Embedder, settings: ExtractionSettings) -> None:
        self._embedder = embedder
        self._settings = settings

    @property
    def settings(self) -> dict[str, float]:
        """The knobs that the answer depends on."""
        return self._settings.as_record()

    async def answer(self, grounds: Grounds, deadline: Deadline) -> tuple[AnswerRecord, Usage]:
        """Quotes that answer, or an abstention; embeds at most `units_max` units."""
        found = units(grounds.passages)
        likely = prescore(found, grounds, self._settings.units_max)
        deadline.check("choosing sentences")
        cosines = await self._cosines(likely, grounds)
        scored = score_units(likely, cosines, grounds)
        choice = choose(scored, grounds, self._settings)
        tokens = sum(self._embedder.count_tokens(unit.text) for unit in likely)
        return _record(choice, scored, grounds, self._settings), Usage({"sentence_embedding": tokens}, 0)

    async def _cosines(self, likely: list[Unit], grounds: Grounds) -> np.ndarray:
        if not likely:
            return np.zeros(0)
        vectors = await self._embedder.embed_passages([unit.input for unit in likely])
        return (vectors @ grounds.query.vector).astype(np.float64)


def _record(choice: Choice, scored: list[Scored], grounds: Grounds, settings: ExtractionSettings) -> AnswerRecord:
    sentences = [] if choice.abstained else [_sentence(each, grounds) for each in choice.chosen]
    return AnswerRecord(
        abstained=choice.abstained,
        reason=choice.reason,
        confidence=choice.confidence,
        threshold=settings.threshold,
        features=choice.features,
        sentences=sentences,
        considered={
            "chunk_id": [grounds.passages[each.unit.passage].chunk_id.hex() for each in scored],
            "start": [each.unit.start for each in scored],
            "end": [each.unit.end for each in scored],
            "cosine": [each.cosine for each in scored],
            "coverage": [each.coverage for each in scored],
            "score": [each.score for each in scored],
            "fate": [choice.fates.get(at, "below_margin") for at in range(len(scored))],
        },
        model=MODEL,
        prompt="",
    )


def _sentence(scored: Scored, grounds: Grounds) -> AnswerSentence:
    passage = grounds.passages[scored.unit.passage]
    quote = passage.text[scored.unit.start : scored.unit.end]
    citation = Citation(
        chunk_id=passage.chunk_id.hex(),
        document_id=passage.document_id,
        source=passage.source,
        source_version=passage.source_version,
        start=passage.start + scored.unit.start,
        end=passage.start + scored.unit.end,
        quote=quote,
    )
    return AnswerSentence(text=quote, citations=[citation], support=round(scored.score, 6))
