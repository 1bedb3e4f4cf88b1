"""Retrieval metrics over ranked document ids. Pure.

nDCG with gain 2^rel - 1 and discount log2(rank + 1) (Järvelin & Kekäläinen 2002, as trec_eval's ndcg_cut with
exponential gain; equal to linear gain for relevance 0 and 1); recall, reciprocal rank and hit at a depth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Judgements = Mapping[str, int]


def ndcg(ranked: Sequence[str], judged: Judgements, depth: int) -> float:
    """Normalised discounted cumulative gain of the first `depth`."""
    gains = [2.0 ** max(0, judged.get(each, 0)) - 1 for each in ranked[:depth]]
    ideal = sorted((2.0 ** max(0, rel) - 1 for rel in judged.values()), reverse=True)[:depth]
    best = _discounted(ideal)
    return _discounted(gains) / best if best > 0 else 0.0


def recall(ranked: Sequence[str], judged: Judgements, depth: int) -> float:
    """Share of the relevant documents among the first `depth`."""
    relevant = {each for each, rel in judged.items() if rel > 0}
    return len(relevant & set(ranked[:depth])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranked: Sequence[str], judged: Judgements, depth: int) -> float:
    """1 / rank of the first relevant document among the first `depth`, else 0."""
    for rank, each in enumerate(ranked[:depth], 1):
        if judged.get(each, 0) > 0:
            return 1.0 / rank
    return 0.0


def hit(ranked: Sequence[str], judged: Judgements, depth: int) -> float:
    """1 if any of the first `depth` is relevant, else 0."""
    return float(any(judged.get(each, 0) > 0 for each in ranked[:depth]))


def averages(runs: Mapping[str, Sequence[str]], judgements: Mapping[str, Judgements]) -> dict[str, float]:
    """Means over the questions that have a relevant document."""
    asked = [query for query, judged in judgements.items() if query in runs and any(r > 0 for r in judged.values())]
    if not asked:
        return {}
    measures = {
        "ndcg@10": lambda q: ndcg(runs[q], judgements[q], 10),
        "recall@100": lambda q: recall(runs[q], judgements[q], 100),
        "mrr@10": lambda q: reciprocal_rank(runs[q], judgements[q], 10),
        "hit@10": lambda q: hit(runs[q], judgements[q], 10),
    }
    return {name: math.fsum(map(measure, asked)) / len(asked) for name, measure in measures.items()}


def _discounted(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))
