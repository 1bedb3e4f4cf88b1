"""The memory engine's rough comparison leaves out nobody who may be among the nearest."""

from __future__ import annotations

import numpy as np
import pytest

from ragstone.adapters.localmodels.hashing import HashEmbedder
from ragstone.adapters.memory.columns import Index, mask_of
from ragstone.adapters.memory.engine import Selection, _near
from ragstone.core.nouns import ChunkingSpec, LexicalSpec, Recipe
from ragstone.index.vectors import cosines


@pytest.mark.parametrize("share", [1.0, 0.9, 0.1])
def test_the_nearest_are_among_the_near(share):
    """Over vectors of very different lengths, one of length zero, and any share of rows the exact nearest are kept,
    and few others."""
    rng = np.random.default_rng(3)
    index = Index(Recipe(ChunkingSpec(), LexicalSpec(), HashEmbedder(64).spec))
    index.vectors = (rng.normal(size=(2000, 64)) * rng.uniform(0.1, 10, (2000, 1))).astype(np.float32)
    index.vectors[7] = 0
    index.lengths = np.linalg.norm(index.vectors, axis=1)
    seqs = np.flatnonzero(rng.uniform(size=2000) < share)
    selection = Selection.of(index, mask_of(seqs, 2000), seqs, everything=share == 1.0)
    for _ in range(5):
        vector = rng.normal(size=64).astype(np.float32)
        near = _near(index, vector, selection, 50)
        exact = seqs[np.argsort(-cosines(index.vectors[seqs], vector), kind="stable")[:50]]
        assert set(exact.tolist()) <= set(near.tolist()) <= set(seqs.tolist())
        assert len(near) < 60
        assert near.tolist() == sorted(near.tolist())
