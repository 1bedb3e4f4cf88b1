"""Retention in memory: what no kept version holds is removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragstone.adapters.memory.runs import sweep
from ragstone.index.records import Collected, Retention

if TYPE_CHECKING:
    from ragstone.adapters.memory.state import Corpus, State


def collect(state: State, corpus: Corpus, retention: Retention, *, force: bool) -> Collected:
    """Remove what no kept version holds; without `force` only when enough versions have expired."""
    held = next((one.version for one in corpus.versions if not one.collected), 1)
    if not force and not retention.due(corpus.head, held):
        return Collected(held)
    for run_id, line in corpus.runs.items():
        if line.state == "running" and state.held.get((line.source_id, line.scope)) != run_id:
            sweep(corpus, run_id, "dead")
    running = {run_id: line.base for run_id, line in corpus.runs.items() if line.state == "running"}
    oldest = min([retention.oldest(corpus.head), *running.values()])
    if not force and oldest - held < retention.batch:
        return Collected(held)
    for document in corpus.documents.values():
        document.memberships = [one for one in document.memberships if one.v_to > oldest]
    rows = 0
    for index in corpus.indexes.values():
        rows += len(index.collect(oldest, frozenset(running)))
    documents = _docversions(corpus, frozenset(running))
    texts = 0
    if not running:
        used = {row.text_hash for index in corpus.indexes.values() for row in index.rows.values()}
        unused = [each for each in corpus.texts if each not in used]
        texts = len(unused)
        for each in unused:
            del corpus.texts[each]
    expired = [one for one in corpus.versions if one.version < oldest and not one.collected]
    for one in expired:
        one.collected = True
    return Collected(max(held, oldest), len(expired), rows, documents, texts)


def _docversions(corpus: Corpus, running: frozenset[bytes]) -> int:
    """Drop document versions that no version holds; how many."""
    held = {member.docversion_id for document in corpus.documents.values() for member in document.memberships}
    unheld = [key for key, one in corpus.docversions.items() if key not in held and one.run_id not in running]
    for key in unheld:
        one = corpus.docversions.pop(key)
        for index in corpus.indexes.values():
            for seq in one.seqs.tolist():
                if key in index.placed_in.get(seq, ()):
                    index.placed_in[seq].remove(key)
    return len(unheld)
