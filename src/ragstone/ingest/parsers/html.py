"""HTML: the visible text, written as light Markdown (`## ` headings, `- ` items, ` | ` between cells), so
that sentences, quotes and chunks are found in it as in any other document. Spans count in this text.

The tree is walked without recursion and its depth is bounded before it is built: the HTML algorithm looks up
the stack of open elements at every tag, so that unclosed tags cost quadratic time.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from selectolax.lexbor import LexborHTMLParser, LexborNode

from ragstone.core.errors import DocumentRejected
from ragstone.core.sentences import sentences
from ragstone.ingest.records import Block, BlockKind, ParsedDocument

if TYPE_CHECKING:
    from collections.abc import Iterator

INLINE_DEPTH_FACTOR = 10
_TAGS = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Elements that end by themselves when the next one starts: however many stay open, nothing gets deeper.
_SELF_CLOSING = _words(
    "area base br col embed hr img input link meta param source track wbr "
    "p li dt dd tr td th thead tbody tfoot colgroup caption option optgroup rb rt rp html head body",
)
_UNSEEN = _words("script style template noscript head iframe svg canvas object title")
_BLOCKS = _words(
    "address article aside blockquote body center dd details dialog div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 header hgroup hr legend li main menu nav ol optgroup option p pre section "
    "summary table caption tbody td tfoot th thead tr ul",
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LISTS = frozenset({"ul", "ol", "menu", "dl"})
_LAYOUT = "h1, h2, h3, h4, h5, h6, pre, blockquote, form"
_HIDDEN_STYLE = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\n\f\u00a0]+")

Event = tuple[Literal["open", "close", "text"], LexborNode]


def parse_html(text: str, place: str, depth_max: int) -> ParsedDocument:
    """The visible text of a page and its blocks; raises DocumentRejected with `too_deep`."""
    _refuse_unclosed(text, place, depth_max)
    tree = LexborHTMLParser(text)
    writer = _Writer()
    depth = 0
    for kind, node in _events(tree.root):
        if kind == "text":
            writer.text(node.text_content or "")
            continue
        tag = node.tag or ""
        if tag not in _BLOCKS and tag != "br":
            continue
        if kind == "open":
            depth += 1
            if depth > depth_max:
                raise _too_deep(place, depth_max)
            writer.open(tag, node)
        else:
            depth -= 1
            writer.close(tag)
    writer.flush()
    title = tree.css_first("title")
    name = _SPACE.sub(" ", title.text(deep=True)).strip() if title is not None else ""
    return ParsedDocument("".join(writer.out), name or None, tuple(writer.blocks))


def _too_deep(place: str, depth_max: int) -> DocumentRejected:
    return DocumentRejected(
        f"{place} nests elements deeper than {depth_max} levels",
        reason="too_deep",
        next_step="close the elements that stay open, or save the page as text, then ingest again",
    )


def _refuse_unclosed(text: str, place: str, depth_max: int) -> None:
    depth = deepest = 0
    for match in _TAGS.finditer(text):
        if match[2].lower() not in _SELF_CLOSING:
            depth = max(0, depth - 1) if match[1] else depth + 1
            deepest = max(deepest, depth)
    if deepest > depth_max * INLINE_DEPTH_FACTOR:
        raise _too_deep(place, depth_max)


def _unseen(node: LexborNode) -> bool:
    if node.tag in _UNSEEN:
        return True
    attributes = node.attributes
    return "hidden" in attributes or bool(_HIDDEN_STYLE.search(attributes.get("style") or ""))


def _events(root: LexborNode | None) -> Iterator[Event]:
    """The visible nodes in document order, elements twice."""
    node = root
    open_nodes: list[LexborNode] = []
    while node is not None:
        if node.is_text_node:
            yield "text", node
        elif node.is_element_node and not _unseen(node):
            yield "open", node
            if node.child is not None:
                open_nodes.append(node)
                node = node.child
                continue
            yield "close", node
        while node is not None and node.next is None:
            node = open_nodes.pop() if open_nodes else None
            if node is not None:
                yield "close", node
        node = node.next if node is not None else None


class _Writer:
    """Takes opening tags, text and closing tags in; puts text and blocks out.

    A list or a table is gathered whole, line by line, and written when its outermost tag closes.
    """

    def __init__(self) -> None:
        self.out: list[str] = []
        self.blocks: list[Block] = []
        self.headings: list[tuple[int, str]] = []
        self.length = 0
        self.inline: list[str] = []
        self.pre = 0
        self.quote = 0
        self.heading = 0
        self.lists: list[tuple[str, int]] = []
        self.marker = ""
        self.lines: list[str] = []
        self.starts: list[int] = []
        self.tables: list[bool] = []
        self.cells: list[str] | None = None
        self.header_row = False
        self.rows_done = 0

    def text(self, text: str) -> None:
        """Inline text."""
        self.inline.append(text)

    def open(self, tag: str, node: LexborNode) -> None:
        """An element starts."""
        if tag == "br":
            self.inline.append("\n" if self.pre else "\v")
            return
        if self.in_row() and tag not in ("td", "th", "tr"):
            self.inline.append(" ")
            return
        self.flush()
        if tag == "pre":
            self.pre += 1
        elif tag == "blockquote":
            self.quote += 1
        elif tag in _HEADINGS:
            self.heading = _HEADINGS[tag]
        elif tag in _LISTS:
            self.lists.append((tag, 0))
        elif tag in ("li", "dt"):
            self.item()
        else:
            self.open_table(tag, node)

    def open_table(self, tag: str, node: LexborNode) -> None:
        """A table with block content in its cells is layout: its cells are read like any other element."""
        if tag == "table":
            # A node's own selection holds the node itself.
            layout = len(node.css("table")) > 1 or node.css_first(_LAYOUT) is not None
            self.tables.append(not layout)
            self.rows_done = 0
        elif tag == "tr" and self.tables and self.tables[-1]:
            self.cells, self.header_row = [], True
        elif tag in ("td", "th") and self.cells is not None:
            self.header_row = self.header_row and tag == "th"

    def close(self, tag: str) -> None:
        """An element ends."""
        if tag == "br":
            return
        if self.in_row():
            self.close_in_row(tag)
            return
        self.flush()
        if tag == "pre":
            self.pre -= 1
        elif tag == "blockquote":
            self.quote -= 1
        elif tag in _HEADINGS:
            self.heading = 0
        elif tag in _LISTS and self.lists:
            self.lists.pop()
            self.marker = ""
            if not self.lists:
                self.write_lines("list")
        elif tag == "table":
            self.tables.pop()
            if not self.lists:
                self.write_lines("table")

    def close_in_row(self, tag: str) -> None:
        """The end of a cell or of a row."""
        assert self.cells is not None
        if tag in ("td", "th"):
            self.cells.append(_SPACE.sub(" ", "".join(self.inline).replace("\v", " ")).strip())
            self.inline.clear()
        elif tag == "tr":
            cells, self.cells = self.cells, None
            self.inline.clear()
            if any(cells):
                self.row(cells)
        else:
            self.inline.append(" ")

    def in_row(self) -> bool:
        """Whether a table row is open."""
        return self.cells is not None

    def row(self, cells: list[str]) -> None:
        """One line a row; below a header row the separator that Markdown has, so that it is known as one."""
        line = " | ".join(cells) if len(cells) > 1 else cells[0]
        if self.header_row and not self.rows_done and len(cells) > 1:
            line += "\n" + " | ".join(["---"] * len(cells))
        self.rows_done += 1
        if self.lists:
            self.list_line(line)
        else:
            self.starts.append(len(self.lines))
            self.lines.append(line)

    def item(self) -> None:
        """A list item starts."""
        if not self.lists:
            return  # a stray item is a paragraph
        tag, number = self.lists[-1]
        self.lists[-1] = (tag, number + 1)
        self.marker = f"{number + 1}. " if tag == "ol" else "- "
        if len(self.lists) == 1:
            self.starts.append(len(self.lines))

    def list_line(self, text: str) -> None:
        """A line of the current list, behind its marker or indented below it."""
        indent = "  " * (len(self.lists) - 1)
        first, *rest = text.split("\n")
        self.lines.append(f"{indent}{self.marker}{first}" if self.marker else f"{indent}  {first}")
        self.lines.extend(f"{indent}  {line}" for line in rest)
        self.marker = ""

    def flush(self) -> None:
        """Write the inline text gathered so far, in the shape of what it stands in."""
        raw = "".join(self.inline)
        self.inline.clear()
        if self.pre:
            body = raw.strip("\n").rstrip()
            fence = "`" * max([3, *(len(run.group()) + 1 for run in re.finditer("`{3,}", body))])
            fenced = f"{fence}\n{body}\n{fence}" if body else ""
        else:
            # Two spaces before the newline: Markdown's own sign for a break that was meant.
            body = "  \n".join(_SPACE.sub(" ", line).strip() for line in raw.split("\v")).strip()
            fenced = ""
        if not body:
            return
        if self.lists:
            self.list_line(fenced or body)
        elif self.pre:
            self.write(fenced, "code", _lines(fenced))
        elif self.heading:
            self.write_heading(" ".join(body.split()))
        else:
            self.write(body, "quote" if self.quote else "paragraph", sentences(body))

    def write(self, text: str, kind: BlockKind, parts: tuple[tuple[int, int], ...], level: int = 0) -> None:
        """Put a block out."""
        if self.length:
            self.out.append("\n\n")
            self.length += 2
        start = self.length
        self.out.append(text)
        self.length += len(text)
        path = tuple(name for _, name in self.headings)
        moved = tuple((start + first, start + last) for first, last in parts)
        self.blocks.append(Block(kind, start, self.length, heading_path=path, level=level, parts=moved))

    def write_heading(self, name: str) -> None:
        """Put a heading out; what follows stands below it."""
        while self.headings and self.headings[-1][0] >= self.heading:
            self.headings.pop()
        self.write(f"{'#' * self.heading} {name}", "heading", (), self.heading)
        self.headings.append((self.heading, name))

    def write_lines(self, kind: BlockKind) -> None:
        """Put the gathered list or table out."""
        lines, starts = self.lines, sorted({0, *self.starts})
        self.lines, self.starts = [], []
        if not lines:
            return
        at = [0]
        for line in lines:
            at.append(at[-1] + len(line) + 1)
        bounds = pairwise([start for start in starts if start < len(lines)] + [len(lines)])
        parts = tuple((at[first], at[last] - 1) for first, last in bounds)
        self.write("\n".join(lines), kind, parts)


def _lines(text: str) -> tuple[tuple[int, int], ...]:
    return tuple((match.start(), match.end()) for match in re.finditer(r"[^\n]+", text))
