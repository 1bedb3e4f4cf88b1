"""What a repair writes in place, in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ragstone.adapters.memory.columns import OPEN, Segment
from ragstone.adapters.memory.state import Document
from ragstone.core.ids import source_id
from ragstone.index.postings import LexicalRow, build, pack, without

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from ragstone.adapters.memory.state import State
    from ragstone.adapters.memory.stores import MemoryEmbeddingCache
    from ragstone.core.ports import Seqs
    from ragstone.index.audit.records import RestoreDocument, VersionRow


class MemoryMender:
    """Implements the port Mender."""

    def __init__(self, state: State, cache: Callable[[bytes], MemoryEmbeddingCache]) -> None:
        self._state = state
        self._cache = cache

    async def restore_document(self, corpus_id: bytes, truth: RestoreDocument, acl: tuple[str, ...] | None) -> None:
        """Write a document's row again, and its access list when it is given."""
        corpus = self._state.corpus(corpus_id)
        source = source_id(corpus_id, truth.source)
        document = corpus.documents.get(truth.document_id)
        if document is None:
            document = corpus.documents[truth.document_id] = Document(
                truth.document_id, source, truth.key, frozenset(acl or ())
            )
        elsewhere = corpus.by_key.get(document.key, [])
        if document in elsewhere:
            elsewhere.remove(document)
        document.source_id, document.key = source, truth.key
        corpus.by_key.setdefault(truth.key, []).append(document)
        if acl is not None:
            document.acl = frozenset(acl)
        corpus.restricted = None
        corpus.epoch += 1

    async def settle(self, corpus_id: bytes, index_id: bytes) -> None:
        """Let what counts at the head end with the next version where it ends beyond it; drop second entries."""
        corpus = self._state.corpus(corpus_id)
        index, following = corpus.indexes[index_id], corpus.head + 1
        for document in corpus.documents.values():
            for member in document.memberships:
                if following < member.v_to < OPEN:
                    member.v_to = following
        entries = set()
        keep = np.zeros(len(index.live_seq), dtype=np.bool_)
        for at in np.argsort(index.live_from, kind="stable").tolist():
            if following < index.live_to[at] < OPEN:
                index.live_to[at] = following
            entry = (int(index.live_seq[at]), int(index.live_to[at]))
            keep[at] = index.live_from[at] < following and (entry[1] != OPEN or entry not in entries)
            entries.add(entry)
        index.live_seq, index.live_from, index.live_to = (
            column[keep] for column in (index.live_seq, index.live_from, index.live_to)
        )

    async def restore_version(self, corpus_id: bytes, truth: VersionRow) -> None:
        """Write a version's row again."""
        version = self._state.corpus(corpus_id).versions[truth.version - 1]
        version.parent, version.kind, version.note = truth.parent, truth.kind, truth.note  # type: ignore[assignment]
        version.index_id = truth.index_id
        version.sealed = replace(
            version.sealed,
            manifest_key=truth.manifest_key,
            manifest_digest=truth.manifest_digest,
            merkle_root=truth.merkle_root,
            buckets=truth.buckets,
            statistics=truth.statistics,
        )

    async def rewrite_postings(
        self,
        corpus_id: bytes,
        index_id: bytes,
        seqs: Seqs,
        segments: frozenset[int],
        rows: AsyncIterator[Sequence[LexicalRow]],
    ) -> int:
        """Take rows out of every segment that has them and write them again in a new one."""
        corpus = self._state.corpus(corpus_id)
        index = corpus.indexes[index_id]
        fresh = sorted([row async for page in rows for row in page], key=lambda row: row.seq)
        gone = set(seqs.tolist())
        corpus.epoch += 1
        for number, segment in list(index.segments.items()):
            left = {term: without(pack(piece), seqs) or piece for term, piece in segment.terms.items()}
            if number not in segments and all(left[term] is piece for term, piece in segment.terms.items()):
                continue
            del index.segments[number]
            spans = tuple(range(seq, seq + 1) for span in segment.spans for seq in span if seq not in gone)
            index.next_segment += 1
            kept = {term: piece for term, piece in left.items() if len(piece.seqs)}
            index.segments[index.next_segment] = Segment(segment.run_id, spans, kept)
        if fresh:
            run = max(key for key, line in corpus.runs.items() if line.state == "published")
            index.add_segment(run, [range(row.seq, row.seq + 1) for row in fresh], build(fresh).packed())
        return len(fresh)

    async def forget(self, corpus_id: bytes, embedding_id: bytes, hashes: Sequence[bytes]) -> None:
        """Drop entries of the embedding cache."""
        self._cache(corpus_id).forget(embedding_id, hashes)

    async def changes_since_checkpoint(self, corpus_id: bytes) -> int:
        """How many documents came and went since the newest checkpoint."""
        corpus = self._state.corpus(corpus_id)
        newest = max((one.version for one in corpus.versions if one.checkpoint_key), default=0)
        members = [member for document in corpus.documents.values() for member in document.memberships]
        return sum((one.v_from > newest) + (newest < one.v_to < OPEN) for one in members)

    async def keep_checkpoint(self, corpus_id: bytes, version: int, key: str, digest: bytes) -> None:
        """Let a version name the manifest that lists everything it holds."""
        line = self._state.corpus(corpus_id).versions[version - 1]
        line.checkpoint_key, line.checkpoint_digest = key, digest
