"""NumPy integers as a parameter: thousands of seqs as one binary array, not a Python object each."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

INT4_OID, INT4_ARRAY_OID = 23, 1007
HEAD = struct.Struct(">iiIii")  # dimensions, whether there are nulls, element type, length, lower bound
EMPTY = struct.pack(">iiI", 0, 0, INT4_OID)


@dataclass(frozen=True, slots=True)
class Int4Array:
    """Integers of at most 31 bits, to be bound to an `int[]`."""

    values: npt.NDArray[np.int64]


class Int4ArrayDumper(Dumper):
    """Writes PostgreSQL's binary form of `int4[]`: every element after its length of four bytes."""

    format = Format.BINARY
    oid = INT4_ARRAY_OID

    def dump(self, obj: Int4Array) -> bytes:
        """The bytes of an array."""
        count = len(obj.values)
        if not count:
            return EMPTY
        body = np.full((count, 2), 4, dtype=">i4")
        body[:, 1] = obj.values
        return HEAD.pack(1, 0, INT4_OID, count, 1) + body.tobytes()


psycopg.adapters.register_dumper(Int4Array, Int4ArrayDumper)
