"""The reasons of a hit, read off the record that made the decision. Nothing is computed anew."""

from __future__ import annotations

from typing import Any

from ragstone.core.evidence import HitRecord, RetrievalRecord


def why(record: RetrievalRecord, hit: HitRecord) -> dict[str, Any]:
    """`why` of one hit: each leg's rank, score and contribution, how they were fused, why it was selected.

    `score == sum of the contributions`, and each contribution follows from the leg's score (or rank) and the
    statistics under `fusion`; a rank of None means that the leg's own list did not hold it.
    """
    columns, at = record.candidates, hit.candidate
    duplicates = [columns.chunk_id[place] for place, original in enumerate(columns.duplicate_of) if original == at]
    return {
        "legs": {
            "bm25": {
                "rank": columns.bm25_rank[at] or None,
                "score": columns.bm25[at],
                "contribution": columns.bm25_contribution[at],
                "terms": hit.terms,
            },
            "dense": {
                "rank": columns.dense_rank[at] or None,
                "score": columns.dense[at],
                "contribution": columns.dense_contribution[at],
            },
        },
        "fusion": {
            "method": record.fusion.method,
            "weights": record.fusion.weights,
            "n": record.fusion.n,
            "mean": record.fusion.mean,
            "deviation": record.fusion.deviation,
            "minimum": record.fusion.minimum,
            "maximum": record.fusion.maximum,
            "rank_constant": record.fusion.rank_constant,
        },
        "rerank": None,
        "selected": {"code": columns.fate[at], "fused_rank": at + 1, "duplicates": duplicates},
    }


def hit_json(record: RetrievalRecord, hit: HitRecord, text: str) -> dict[str, Any]:
    """A hit as `search --json` and the API show it."""
    return {
        "rank": hit.rank,
        "source": hit.source,
        "document_id": hit.document_id,
        "chunk_id": hit.chunk_id,
        "score": record.candidates.score[hit.candidate],
        "title": hit.title,
        "text": text,
        "span": {"start": hit.start, "end": hit.end},
        "heading_path": hit.heading_path,
        "metadata": hit.metadata,
        "source_version": hit.source_version,
        "indexed_at": hit.indexed_at,
        "why": why(record, hit),
    }
