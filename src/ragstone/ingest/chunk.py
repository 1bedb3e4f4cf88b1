"""A parsed document to chunks: contiguous slices of its text that follow its structure.

A section that fits `tokens_target` with everything below it is one chunk; else its own blocks are packed in
order, and a chunk never reaches over a heading of equal or higher level, except that a section below
`tokens_min` joins its nearest sibling while both stay under the target. Headings, and paragraphs that
announce a list, a table or code with a colon, stay with what follows. Lists, tables and code are whole when
they fit `tokens_max`, else cut at their parts, then at sentences, words, characters.

A chunk's heading path is what its content blocks have in common: for one section that section's path, its
own heading included; for merged siblings their parent's, since their headings stand in the text. A chunk that
goes on with a section keeps that section's path, whatever joins it at its end. A table's continuation has the
header row as its last element, since a slice cannot repeat it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from ragstone.core.sentences import plain, sentences
from ragstone.core.texts import passage_input, place_line
from ragstone.ingest.records import Block, ChunkDraft, ParsedDocument

if TYPE_CHECKING:
    from ragstone.core.nouns import ChunkingSpec

Path = tuple[str, ...]
Span = tuple[int, int]
Count = Callable[[str], int]

_LEAD_IN = re.compile(r":[*_`]{0,3}\s*$")
_MARKER = re.compile(r"(?:^|\n)[ \t>]*(?:(?:[-*+•]|\d{1,9}[.)])[ \t]+)?(?:\[[ xX]\][ \t]+)?\|?[ \t]*$")


def chunk(document: ParsedDocument, spec: ChunkingSpec, count_tokens: Count) -> tuple[ChunkDraft, ...]:
    """The chunks of `document`, in order.

    Every block's characters are in exactly one chunk, and `passage_input` of a chunk counts at most
    `spec.tokens_max` tokens; only a single character that alone counts more is let through.
    """
    chunker = _Chunker(document, spec, count_tokens)
    drafts = [draft for low, high in chunker.groups() for draft in chunker.drafts(low, high)]
    return tuple(
        ChunkDraft(document.text[start:end], start, end, path, ordinal, tokens)
        for ordinal, (start, end, path, tokens) in enumerate(drafts)
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """The smallest thing that is packed: a block, or a part of one that is too long.

    `gap` is what the markup between it and the piece before costs when both share a chunk; `level` is above 0
    for a heading; `leads` binds it to the next piece; `header` is the row a table's continuation has lost.
    """

    start: int
    end: int
    tokens: int
    gap: int
    path: Path
    level: int = 0
    leads: bool = False
    header: str = ""


class _Chunker:
    """One document on its way: pieces, then ranges of pieces, then drafts."""

    def __init__(self, document: ParsedDocument, spec: ChunkingSpec, count: Count) -> None:
        self.text = document.text
        self.title = document.title
        self.spec = spec
        self.count = count
        self._heads: dict[Path, int] = {}
        self.pieces = list(self._pieces(document.blocks))
        self._sums = [0, *accumulate(piece.gap + piece.tokens for piece in self.pieces)]

    # -- budgets

    def fitting_path(self, path: Path) -> Path:
        """`path` without its outermost headings while title and headings leave the text too little room."""
        while path and self.head_tokens(path) > self.spec.tokens_max // 2:
            path = path[1:]
        return path

    def head_tokens(self, path: Path) -> int:
        """Tokens of title and headings."""
        if path not in self._heads:
            head = place_line(self.title, path)
            self._heads[path] = self.count(head) if head else 0
        return self._heads[path]

    def budget(self, path: Path) -> int:
        """Tokens that the text of a chunk may have below `path`."""
        return max(1, self.spec.tokens_max - self.head_tokens(self.fitting_path(path)))

    def total(self, low: int, high: int) -> int:
        """Tokens of the pieces from `low` to before `high`, with the markup between them."""
        return self._sums[high] - self._sums[low] - self.pieces[low].gap

    # -- pieces

    def _pieces(self, blocks: Sequence[Block]) -> Iterator[_Piece]:
        before, waiting = 0, 0
        for at, block in enumerate(blocks):
            between = self.text[before : block.start].strip() if before else ""
            gap = self.count(between) if between else 0
            following = blocks[at + 1] if at + 1 < len(blocks) else None
            cut = list(self._cut(block, waiting))
            for number, (start, end, tokens) in enumerate(cut):
                last = number == len(cut) - 1
                yield _Piece(
                    start,
                    end,
                    tokens,
                    gap if number == 0 else 0,
                    block.heading_path,
                    level=block.level if number == 0 else 0,
                    leads=last and self._leads(block, following),
                    header=self._header(block) if number else "",
                )
            before = block.end
            waiting = waiting + sum(tokens for _, _, tokens in cut) if block.level else 0

    def _leads(self, block: Block, following: Block | None) -> bool:
        if block.level:
            return True
        announced = following is not None and following.kind in ("list", "table", "code", "quote")
        return announced and bool(_LEAD_IN.search(self.text, max(block.start, block.end - 8), block.end))

    def _header(self, block: Block) -> str:
        if block.kind != "table" or not block.parts:
            return ""
        row = self.text[slice(*block.parts[0])].split("\n", 1)[0]
        return plain(row.strip().strip("|").strip())

    def _cut(self, block: Block, waiting: int) -> Iterator[tuple[int, int, int]]:
        """The block whole, or cut as finely as its longest parts need; `waiting` headings come before it."""
        budget = self.budget(block.heading_path)
        limit = budget - waiting if waiting <= budget // 2 else budget
        tokens = self.count(self.text[block.start : block.end])
        if tokens <= limit:
            yield block.start, block.end, tokens
            return
        # The header row of a table goes into the path of its continuations, and takes room there.
        header = self._header(block)
        inner = min(limit, self.budget((*block.heading_path, header))) if header else limit
        for start, end in self._tiles(block.start, block.end, [part[0] for part in block.parts]):
            yield from self._cut_part(start, end, inner)

    def _cut_part(self, start: int, end: int, limit: int) -> Iterator[tuple[int, int, int]]:
        tokens = self.count(self.text[start:end])
        if tokens <= limit:
            yield start, end, tokens
            return
        cuts = [self._line_start(start, start + unit[0]) for unit in sentences(self.text[start:end])]
        for low, high in self._tiles(start, end, cuts):
            yield from self._halved(low, high, limit)

    def _line_start(self, start: int, at: int) -> int:
        """A cut before an item takes the item's marker along."""
        found = _MARKER.search(self.text, max(start, at - 40), at)
        if found is None:
            return at
        return found.start() + (1 if self.text.startswith("\n", found.start()) else 0)

    def _tiles(self, start: int, end: int, cuts: Sequence[int]) -> Iterator[Span]:
        """`[start, end)` cut before each of `cuts`, white space around the pieces left out."""
        for low, high in zip([start, *cuts], [*cuts, end], strict=True):
            span = _stripped(self.text, max(low, start), min(high, end))
            if span is not None:
                yield span

    def _halved(self, start: int, end: int, limit: int) -> Iterator[tuple[int, int, int]]:
        tokens = self.count(self.text[start:end])
        if tokens <= limit or end - start <= 1:
            yield start, end, tokens
            return
        for low, high in self._halves(start, end):
            yield from self._halved(low, high, limit)

    def _halves(self, start: int, end: int) -> Iterator[Span]:
        """Two halves, parted at the white space nearest the middle, else between two characters."""
        middle = (start + end) // 2
        right = next((at for at in range(middle, end) if self.text[at].isspace()), end)
        left = next((at for at in range(middle, start, -1) if self.text[at].isspace()), start)
        at = right if right - middle < middle - left else left
        yield from self._tiles(start, end, [at if start < at < end else max(start + 1, middle)])

    # -- ranges of pieces

    def groups(self) -> list[Span]:
        """Ranges of pieces, one a chunk."""
        return self._joined(list(self._packed())) if self.pieces else []

    def _packed(self) -> Iterator[Span]:
        starts = [at for at, piece in enumerate(self.pieces) if piece.level or at == 0]
        ends = self._section_ends(starts)
        low, at = 0, 0
        while at < len(starts):
            # A heading with nothing of its own goes along with the first section below it.
            own = starts[at + 1] if at + 1 < len(starts) else len(self.pieces)
            whole = starts[ends[at]] if ends[at] < len(starts) else len(self.pieces)
            if self._fits_target(low, whole):
                yield low, whole
                at, low = ends[at], whole
                continue
            at += 1
            if any(not piece.level for piece in self.pieces[starts[at - 1] : own]) or own == len(self.pieces):
                yield from self._linear(low, own)
                low = own
        if low < len(self.pieces):
            yield low, len(self.pieces)

    def _section_ends(self, starts: Sequence[int]) -> list[int]:
        """For each section, the index of the first one after it that is not below it."""
        ends = [len(starts)] * len(starts)
        waiting: list[int] = []
        for at, start in enumerate(starts):
            while waiting and self.pieces[start].level <= self.pieces[starts[waiting[-1]]].level:
                ends[waiting.pop()] = at
            waiting.append(at)
        return ends

    def _fits_target(self, low: int, high: int) -> bool:
        total = self.total(low, high)
        return total <= self.spec.tokens_target and total <= self.budget(self._path(low, high))

    def _linear(self, low: int, high: int) -> Iterator[Span]:
        """Pieces of one section in order, packed up to the target."""
        budget = self.budget(self.pieces[high - 1].path)
        start = at = low
        while at < high:
            unit = at + 1
            while unit < high and self.pieces[unit - 1].leads and self.total(at, unit + 1) <= budget:
                unit += 1
            room = min(self.spec.tokens_target, budget)
            if start < at and self.total(start, at) < self.spec.tokens_min:
                room = budget
            if start < at and self.total(start, unit) > room:
                yield start, at
                start = at
            at = unit
        yield start, high

    def _joined(self, groups: list[Span]) -> list[Span]:
        """Groups below `tokens_min` joined with the neighbour that shares more headings, else the next."""
        joined: list[Span] = []
        at = 0
        while at < len(groups):
            low, high = groups[at]
            at += 1
            while self._tiny(low, high):
                follows = groups[at] if at < len(groups) else None
                ahead = self._affinity((low, high), follows) if follows else -1
                behind = self._affinity(joined[-1], (low, high)) if joined else -1
                if follows and ahead >= 0 and (ahead >= behind or not joined):
                    high = follows[1]
                    at += 1
                elif joined and behind >= 0:
                    low = joined.pop()[0]
                else:
                    break
            joined.append((low, high))
        return joined

    def _tiny(self, low: int, high: int) -> bool:
        bare = all(piece.level for piece in self.pieces[low:high])
        return bare or self.total(low, high) < self.spec.tokens_min

    def _affinity(self, left: Span, right: Span) -> int:
        """How many headings two neighbours share, or -1 when they may not be joined."""
        first, second = self.pieces[left[1] - 1], self.pieces[right[0]]
        bare = all(piece.level for piece in self.pieces[slice(*left)]) or all(
            piece.level for piece in self.pieces[slice(*right)]
        )
        low, high = left[0], right[1]
        if self.total(low, high) > self.spec.tokens_max:
            return -1
        same_section = not second.level and first.path == second.path
        room = self.budget(self._path(low, high))
        if not (same_section or bare):
            room = min(room, self.spec.tokens_target)
        return len(_common(self._path(*left), self._path(*right))) if self.total(low, high) <= room else -1

    # -- drafts

    def _path(self, low: int, high: int) -> Path:
        """What the content among the pieces has in common, unless that hides a heading the slice lacks."""
        content = [piece.path for piece in self.pieces[low:high] if not piece.level]
        first = self.pieces[low]
        if not content:
            return first.path
        path = content[0]
        for other in content[1:]:
            if other != path:
                path = _common(path, other)
        shown = first.level > 0 and len(first.path) <= len(path)
        return path if shown else content[0]

    def drafts(self, low: int, high: int) -> Iterator[tuple[int, int, Path, int]]:
        """The chunk of a range; more than one only where adding up tokens has told too little."""
        path = self._path(low, high)
        first = next((piece for piece in self.pieces[low:high] if not piece.level), self.pieces[low])
        if first.header:
            path = (*path, first.header)
        path = self.fitting_path(path)
        start, end = self.pieces[low].start, self.pieces[high - 1].end
        tokens = self.count(passage_input(self.title, path, self.text[start:end]))
        if tokens <= self.spec.tokens_max:
            yield start, end, path, tokens
            return
        if high - low == 1:
            yield from self._finer(start, end, path)
            return
        middle = (low + high) // 2
        while middle < high - 1 and self.pieces[middle - 1].leads:
            middle += 1
        yield from self.drafts(low, middle)
        yield from self.drafts(middle, high)

    def _finer(self, start: int, end: int, path: Path) -> Iterator[tuple[int, int, Path, int]]:
        for low, high in self._halves(start, end):
            tokens = self.count(passage_input(self.title, path, self.text[low:high]))
            if tokens <= self.spec.tokens_max or high - low <= 1:
                yield low, high, path, tokens
            else:
                yield from self._finer(low, high, path)


def _stripped(text: str, start: int, end: int) -> Span | None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


def _common(left: Path, right: Path) -> Path:
    shared = 0
    while shared < min(len(left), len(right)) and left[shared] == right[shared]:
        shared += 1
    return left[:shared]
