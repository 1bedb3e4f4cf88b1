"""The extractive answerer: cut units, embed the likely ones, score, choose, cite. Returns what it decided."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ragstone.core.deadline import Deadline
from ragstone.core.evidence import AnswerRecord, AnswerSentence, Citation
from ragstone.core.ports import Embedder
from ragstone.generate.choice import Choice, ExtractionSettings, choose
from ragstone.generate.extract import Scored, likely, question_parts, score_units, unit_input
from ragstone.generate.ports import Grounds, Usage
from ragstone.generate.units import Unit, units

MODEL = "extractive/1"
BATCH = 8


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
        worth = likely(units(grounds.passages), grounds, self._settings.units_max, self._settings.fitted)
        inputs = [unit_input(unit, grounds) for unit in worth]
        vectors = await self._vectors(inputs, deadline)
        texts = question_parts(grounds.question)
        parts = []
        for part, text in enumerate(texts):
            asked = grounds.query.vector if len(texts) == 1 else await self._embedder.embed_query(text)
            cosines = (vectors @ asked).astype(float).tolist() if worth else []
            parts.append(score_units(worth, cosines, grounds, part, text, self._settings.fitted))
        choice = choose(parts, grounds, self._settings)
        tokens = sum(self._embedder.count_tokens(text) for text in inputs)
        return _record(choice, parts, grounds, self._settings), Usage({"sentence_embedding": tokens}, 0)

    async def _vectors(self, inputs: list[str], deadline: Deadline) -> npt.NDArray[np.float32]:
        vectors: list[npt.NDArray[np.float32]] = []
        for at in range(0, len(inputs), BATCH):
            deadline.check("choosing sentences")
            vectors.append(await self._embedder.embed_passages(inputs[at : at + BATCH]))
        return np.concatenate(vectors) if vectors else np.zeros((0, 0), dtype=np.float32)


def _record(choice: Choice, parts: list[list[Scored]], grounds: Grounds, settings: ExtractionSettings) -> AnswerRecord:
    """Everything the choice was made from: a row a unit and part of the question, so that it can be made again."""
    rows = [(at, each) for scored in parts for at, each in enumerate(scored)]
    scored = [each for _, each in rows]
    sentences = [] if choice.abstained else [cited(each, grounds) for each in choice.chosen]
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
            "words": [each.unit.words for each in scored],
            "unit": [at for at, _ in rows],
            "part": [each.part for each in scored],
            "kind": [each.unit.kind for each in scored],
            "cosine": [each.cosine for each in scored],
            "coverage": [each.coverage for each in scored],
            "number_missing": [each.number_missing for each in scored],
            "score": [each.score for each in scored],
            "fate": [choice.fates.get((each.part, at), "below_margin") for at, each in rows],
        },
        model=MODEL,
        prompt="",
        settings=settings.as_record(),
    )


def cited(scored: Scored, grounds: Grounds) -> AnswerSentence:
    """One sentence of the answer: the unit's words, a citation for each of its spans."""
    unit = scored.unit
    citations = [_citation(unit, span, grounds) for span in unit.spans]
    joiner = "\n" if unit.kind == "list" else " "
    return AnswerSentence(joiner.join(each.quote for each in citations), citations, round(scored.score, 6))


def _citation(unit: Unit, span: tuple[int, int], grounds: Grounds) -> Citation:
    passage = grounds.passages[unit.passage]
    return Citation(
        chunk_id=passage.chunk_id.hex(),
        document_id=passage.document_id,
        source=passage.source,
        key=passage.key,
        source_version=passage.source_version,
        start=passage.start + span[0],
        end=passage.start + span[1],
        quote=passage.text[span[0] : span[1]],
    )
