"""`eval retrieval`: every judged question through the real retriever, documents ranked by their best chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ragstone.core.deadline import Deadline
from ragstone.core.ports import View
from ragstone.core.progress import Progress, silent
from ragstone.evaluate.metrics import averages
from ragstone.retrieve.stage import Ask, Clock, Retriever

DOCUMENTS = 100
CANDIDATES = 1000


@dataclass(frozen=True, slots=True)
class RetrievalEvaluation:
    """What was measured: metrics over the judged questions, the run, and every question's stage times."""

    queries: int
    metrics: dict[str, float]
    runs: dict[str, list[tuple[str, float]]]
    stage_ms: list[dict[str, float]]


async def evaluate_retrieval(
    retriever: Retriever,
    view: View,
    queries: Mapping[str, str],
    judgements: Mapping[str, Mapping[str, int]],
    deadline_s: float,
    progress: Progress = silent,
) -> RetrievalEvaluation:
    """Ask every question that has a relevant document; a document's best chunk counts."""
    asked = [q for q in queries if any(relevance > 0 for relevance in judgements.get(q, {}).values())]
    runs: dict[str, list[tuple[str, float]]] = {}
    times = []
    for done, query in enumerate(asked, 1):
        clock = Clock()
        with clock.stage("total"):
            ask = Ask(queries[query], None, CANDIDATES, 0, Deadline.after(deadline_s))
            found = await retriever.retrieve(view, ask, clock)
        best: dict[str, float] = {}
        for hit in found.record.hits:
            best.setdefault(hit.document_id, found.record.candidates.score[hit.candidate])
        runs[query] = list(best.items())[:DOCUMENTS]
        times.append(clock.ms)
        progress("questions", done, len(asked))
    ranked = {query: [document for document, _ in run] for query, run in runs.items()}
    return RetrievalEvaluation(len(asked), averages(ranked, judgements), runs, times)
