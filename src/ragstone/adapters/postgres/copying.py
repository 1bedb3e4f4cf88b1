"""Rows as PostgreSQL takes them in bulk: vectors and postings for COPY, and ranges of seqs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ragstone.adapters.postgres.database import Connection


def halfvec_bytes(vectors: npt.NDArray[np.float16]) -> list[bytes]:
    """pgvector's binary format of halfvec, one string a row: dimension u16, 0 u16, big-endian halves."""
    head = vectors.shape[1].to_bytes(2, "big") + b"\0\0"
    return [head + row.tobytes() for row in vectors.astype(">f2")]


def multirange(spans: Sequence[range]) -> str:
    """PostgreSQL's spelling of an int4multirange."""
    return "{" + ",".join(f"[{span.start},{span.stop})" for span in spans) + "}"


async def copy_postings(
    connection: Connection, corpus: bytes, index: bytes, segment: int, postings: Iterable[tuple[str, int, bytes]]
) -> None:
    """Stream one segment's postings into the table."""
    columns = "corpus_id, index_id, term, segment_id, n, bytes"
    async with connection.cursor().copy(f"copy posting ({columns}) from stdin (format binary)") as copy:
        copy.set_types(["bytea", "bytea", "text", "int4", "int4", "bytea"])
        for term, n, packed in postings:
            await copy.write_row((corpus, index, term, segment, n, packed))
