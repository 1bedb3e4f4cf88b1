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
    duplicate_of = _duplicates([scores.text_hashes[at] for at in order]) if collapse else [-1] * len(order)
    kept = [place for place, original in enumerate(duplicate_of) if original < 0]
    returned = tuple(kept[offset : offset + limit])
    fate = ["beyond_page" if original < 0 else "duplicate" for original in duplicate_of]
    for place in returned:
        fate[place] = "returned"
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
    return Selected(columns, returned, fused.record, len(kept) > offset + limit)


def _duplicates(texts: list[bytes]) -> list[int]:
    """For each place the first one with an equal text, -1 where it is the first itself."""
    if len(set(texts)) == len(texts):
        return [-1] * len(texts)
    first: dict[bytes, int] = {}
    originals = [first.setdefault(text, place) for place, text in enumerate(texts)]
    return [-1 if original == place else original for place, original in enumerate(originals)]
