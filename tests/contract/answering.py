"""What questions are answered with over a stack, their evidence going straight into its store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contract_stacks import EMBEDDER

from ragstone.core.evidence import Evidence, EvidenceEnvelope, EvidenceText
from ragstone.flow import AnswerParts
from ragstone.generate.calibration import calibration_of
from ragstone.generate.choice import ExtractionSettings
from ragstone.generate.stage import ExtractiveAnswerer
from ragstone.retrieve.stage import Retriever

if TYPE_CHECKING:
    from contract_stacks import Stack

    from ragstone.retrieve.profile import Profile


class Kept:
    """Takes evidence straight into a stack's store."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    async def write(self, record: Evidence, words: EvidenceText, ledger: list[list[Any]]) -> None:
        await self.stack.evidence.append([EvidenceEnvelope(record, words, ledger)])


def parts(stack: Stack, profile: Profile, threshold: float) -> AnswerParts:
    async def retriever(_: Any) -> Retriever:
        return Retriever(stack.catalog, stack.engine, EMBEDDER, profile)

    async def answerer(_: Any) -> ExtractiveAnswerer:
        return ExtractiveAnswerer(EMBEDDER, ExtractionSettings(calibration_of("hash")[0], threshold))

    return AnswerParts(stack.catalog, retriever, answerer, Kept(stack), {}, 8_000, 8)
