"""What the dense leg of a request has scored, for the stage that scores every candidate: no vector twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ragstone.core.ports import Scores, Seqs


@dataclass(frozen=True, slots=True)
class Near:
    """Rows near one vector, by ascending seq, and their exact cosines."""

    seqs: Seqs
    cosines: Scores

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.seqs.nbytes + self.cosines.nbytes)

    def known(self, seqs: Seqs) -> tuple[Scores, Seqs]:
        """The cosines of the given rows, and the positions of those that are not known: their cosine is to be set."""
        if not len(self.seqs):
            return np.zeros(len(seqs)), np.arange(len(seqs))
        place = np.minimum(np.searchsorted(self.seqs, seqs), len(self.seqs) - 1)
        return self.cosines[place], np.flatnonzero(self.seqs[place] != seqs)


NOTHING_NEAR = Near(np.zeros(0, np.int64), np.zeros(0))
