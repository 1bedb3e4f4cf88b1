"""Lucene's one-byte field length (org.apache.lucene.util.SmallFloat.intToByte4), so that a length counts the
same on PostgreSQL and on OpenSearch: exact below 40, then four significant bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_FREE = 24  # 255 - int4 code of 2^31 - 1: lengths below it stand for themselves


def encode(length: int) -> int:
    """The byte for a field length."""
    if length < _FREE:
        return max(0, length)
    rest = length - _FREE
    bits = rest.bit_length()
    if bits < 4:  # noqa: PLR2004 - three bits of mantissa and the implicit one
        return _FREE + rest
    shift = bits - 4
    return _FREE + ((rest >> shift & 7) | (shift + 1) << 3)


def decode(code: int) -> int:
    """The length that a byte stands for."""
    if code < _FREE:
        return code
    rest = code - _FREE
    shift = (rest >> 3) - 1
    return _FREE + (rest & 7 if shift < 0 else (rest & 7 | 8) << shift)


LENGTHS: npt.NDArray[np.float64] = np.array([decode(code) for code in range(256)], dtype=np.float64)
