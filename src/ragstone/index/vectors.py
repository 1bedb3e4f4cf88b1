"""Vectors as they are kept: half precision. Scores are computed from what is kept, in double precision, so
that both engines and every path give the same number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ragstone.core.ids import make_id


def stored(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """What is kept of unit vectors."""
    return vectors.astype(np.float16)


def vector_hash(vector: npt.NDArray[np.float16]) -> bytes:
    """What the bytes of a kept vector hash to."""
    return make_id("vector", vector.astype("<f2").tobytes())


def cosines(vectors: npt.NDArray[np.float32], query: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Cosine of each row with the query, float64; zero for a zero vector.

    Row by row in one fixed order of addition: a row's score must not depend on its neighbours.
    """
    wide = vectors.astype(np.float64)
    q = query.astype(np.float64)
    dots = np.einsum("ij,j->i", wide, q)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide)) * np.sqrt(q @ q)
    found: npt.NDArray[np.float64] = np.divide(dots, lengths, out=np.zeros(len(vectors)), where=lengths > 0)
    return found
