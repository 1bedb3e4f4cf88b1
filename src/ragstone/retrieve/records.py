"""What retrieval passes along about one document: where the catalog has it, and what became of it in a question."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ragstone.core.nouns import Metadata

Verdict = Literal[
    "returned", "beyond_page", "duplicate", "not_candidate", "filtered", "not_in_version", "suppressed", "quarantined",
    "never_seen",
]  # fmt: skip
LegReason = Literal["listed", "below_cutoff", "no_words", "missed", "no_chunks"]


def last_part(name: str) -> str:
    """What a name that nothing knows is looked for by: its last part, in lower case and without the suffix."""
    part = name.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return (part.rpartition(".")[0] or part).lower()


@dataclass(frozen=True, slots=True)
class Row:
    """A chunk of a document version as the engine numbers it."""

    seq: int
    chunk_id: str
    ordinal: int
    heading_path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of corpus versions that held one version of a document; `until` is the first without it."""

    since: int
    until: int | None
    object_version: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """An open quarantine entry."""

    object_version: str
    reason: str
    message: str
    field: str
    next_step: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A document that the asker may know of: its rows in the view's version (none when it is not in it), the
    versions that held it, and its quarantine entry.

    `suppressed` says that it was deleted for every version, with the time where it is known.
    """

    document_id: str
    source: str
    key: str
    rows: tuple[Row, ...]
    object_version: str
    metadata: Metadata = field(hash=False)
    history: tuple[Span, ...]
    quarantine: Refusal | None
    suppressed: bool = False
    suppressed_at: str = ""

    @property
    def in_version(self) -> bool:
        """Whether the view's version holds it."""
        return bool(self.object_version)

    @property
    def stale(self) -> bool:
        """Whether an older good version serves while a newer one is in quarantine."""
        entry = self.quarantine
        if not self.in_version or entry is None or entry.reason == "duplicate_id":
            return False
        return entry.object_version != self.object_version


@dataclass(frozen=True, slots=True)
class Failed:
    """A condition of the filter that the document does not meet; `actual` is None when it has no such field."""

    key: str
    operator: str
    value: Any
    actual: Any


@dataclass(frozen=True, slots=True)
class LegStanding:
    """How far a document came in one leg: its best chunk's exact score and rank, and the score that was needed.

    `rank` is None when it is not among the `ranked` best rows that were looked through; `rank_exact` is False
    where the rows were found by a walk. `cutoff` is the score of the last row of a full list, `lost_by` how much
    was missing. `reason`: listed, below_cutoff, no_words (no word of the question is in it), missed (the walk
    passed it by) or no_chunks.
    """

    path: str
    depth: int
    matching: int
    returned: int
    reason: LegReason
    chunk_id: str
    score: float
    rank: int | None
    rank_exact: bool
    ranked: int
    cutoff: float | None
    lost_by: float | None


@dataclass(frozen=True, slots=True)
class ChunkLeg:
    """A chunk's exact score in one leg, what it contributes to the fused score, its rank in the leg's list."""

    score: float
    contribution: float
    rank: int | None


@dataclass(frozen=True, slots=True)
class Twin:
    """The better candidate with the same text that a duplicate collapsed into."""

    document_id: str
    chunk_id: str
    fused_rank: int


@dataclass(frozen=True, slots=True)
class ChunkStanding:
    """One chunk of the document. `fate` is None when no leg listed it: then `score` is what it would have had.

    `rank` counts candidates without duplicates, as hits are numbered; `fused_rank` counts all.
    """

    chunk_id: str
    ordinal: int
    heading_path: tuple[str, ...]
    legs: dict[str, ChunkLeg] = field(hash=False)
    score: float
    fused_rank: int | None
    rank: int | None
    fate: str | None
    duplicate_of: Twin | None


@dataclass(frozen=True, slots=True)
class PageEnd:
    """Where the page ended: hits on it, the last one's score, candidates without duplicates in all."""

    hits: int
    score: float
    candidates: int


@dataclass(frozen=True, slots=True)
class WhyNot:
    """What became of a document: the verdict, the stage that lost it (None when it was returned) and by how much.

    `lost_by` maps `fused` or a leg to what was missing of its score. What was decided before the legs ran leaves
    `legs` and `chunks` empty. `chunks` are the best ones first, at most as many as asked for, of `chunks_total`.
    """

    document: str
    corpus_version: int
    verdict: Verdict
    stage: str | None
    lost_by: dict[str, float] = field(hash=False)
    rank: int | None = None
    standing: Standing | None = None
    near: tuple[str, ...] = ()
    failed: tuple[Failed, ...] = ()
    legs: dict[str, LegStanding] = field(default_factory=dict, hash=False)
    words_missing: tuple[str, ...] = ()
    chunks: tuple[ChunkStanding, ...] = ()
    chunks_total: int = 0
    page_end: PageEnd | None = None
