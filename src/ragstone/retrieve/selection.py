"""Selection: which fused candidates are returned, and what became of the others. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ragstone.core.evidence import CandidateColumns, FusionRecord
from ragstone.core.ports import RowScores
from ragstone.retrieve.fusion import Fused


@dataclass(frozen=True, slots=True)
class Selected:
    """All candidates in fused order, and the positions of the returned ones in them."""

    columns: CandidateColumns
    returned: tuple[int, ...]
    fusion: FusionRecord
    has_more: bool


def select(
    seqs: npt.NDArray[np.int64],
    scores: RowScores,
    ranks: dict[str, npt.NDArray[np.int64]],
    fused: Fused,
    offset: int,
    limit: int,
    *,
    collapse: bool,
) -> Selected:
    """Walk the candidates in fused order: equal texts collapse into the first, then the page is cut."""
    order = fused.order.tolist()
    fate: list[str] = []
    duplicate_of: list[int] = []
    returned: list[int] = []
    first: dict[bytes, int] = {}
    kept = 0
    for place, at in enumerate(order):
        original = first.setdefault(scores.text_hashes[at], place) if collapse else place
        duplicate_of.append(original if original != place else -1)
        if original != place:
            fate.append("duplicate")
            continue
        inside = offset <= kept < offset + limit
        fate.append("returned" if inside else "beyond_page")
        if inside:
            returned.append(place)
        kept += 1
    columns = CandidateColumns(
        seq=seqs[fused.order].tolist(),
        chunk_id=[scores.chunk_ids[at].hex() for at in order],
        bm25=scores.bm25[fused.order].tolist(),
        bm25_rank=ranks["bm25"][fused.order].tolist(),
        bm25_contribution=fused.contributions["bm25"][fused.order].tolist(),
        dense=scores.dense[fused.order].tolist(),
        dense_rank=ranks["dense"][fused.order].tolist(),
        dense_contribution=fused.contributions["dense"][fused.order].tolist(),
        score=fused.score[fused.order].tolist(),
        fate=fate,
        duplicate_of=duplicate_of,
    )
    return Selected(columns, tuple(returned), fused.record, kept > offset + limit)
