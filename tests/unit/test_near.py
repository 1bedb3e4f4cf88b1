"""What the dense leg has scored is not scored again, and nothing else is taken for it."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from ragstone.index.near import NOTHING_NEAR, Near

SEQS = st.lists(st.integers(0, 30), unique=True, max_size=20).map(sorted)


@given(SEQS, SEQS)
@example([], [3])
@example([3], [])
@example([1, 2], [5, 6])
def test_known_and_new(held, asked):
    """Every row that is held has its cosine, every other one is named as new, in the order asked."""
    seqs = np.array(held, dtype=np.int64)
    found, new = Near(seqs, seqs / 31).known(np.array(asked, dtype=np.int64))
    assert [asked[at] for at in new.tolist()] == [seq for seq in asked if seq not in held]
    for at, seq in enumerate(asked):
        if seq in held:
            assert found[at] == seq / 31


def test_setting_what_is_new_leaves_what_is_held():
    """The cosines handed out are the caller's own: setting the new ones changes nothing that is kept."""
    near = Near(np.array([2, 4]), np.array([0.5, 0.25]))
    found, new = near.known(np.array([2, 3, 4]))
    found[new] = 0.75
    found[0] = -1.0
    assert near.cosines.tolist() == [0.5, 0.25]
    zeros, every = NOTHING_NEAR.known(np.array([7, 9]))
    zeros[every] = 1.0
    assert len(NOTHING_NEAR.cosines) == 0
