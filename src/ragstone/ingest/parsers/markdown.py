"""Markdown: CommonMark with tables and strikethrough; blocks are exact slices of the text as it was written.

Only markdown-it's block phase runs: its line maps give the spans, and inline text is never rendered, so
nothing between a document and its quotes can change a character. Front matter is YAML with the scalars of
YAML 1.2 (`NO` is a country and `12:30` a time, not False and 750).
"""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]
from markdown_it import MarkdownIt

from ragstone.core.errors import DocumentRejected
from ragstone.core.sentences import plain, sentences
from ragstone.ingest.records import Block, BlockKind, ParsedDocument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markdown_it.token import Token

FRONT_MATTER_MAX = 65_536
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?P<body>(?:.*\n)*?)(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_KEY_LINE = re.compile(r"\s*[\w-]+[ \t]*:(?:\s|$)")
_CONTAINERS: Mapping[str, BlockKind] = {
    "bullet_list_open": "list",
    "ordered_list_open": "list",
    "table_open": "table",
    "blockquote_open": "quote",
}
# Every alternative either cannot fail or stops at the next brace or line: text full of openers stays linear.
# What a reader never sees: comments, Liquid, kramdown attributes and its table of contents, scripts, styles.
_UNSEEN = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|\{%-?\s*comment\s*-?%\}.*?(?:\{%-?\s*endcomment\s*-?%\}|\Z)"
    r"|\{%[^{}]*%\}|\{\{[^{}]*\}\}"
    r"|^[ \t]*(?:[-*+]|\d{1,9}\.)[ \t]+[^\n]*\n[ \t]*\{:[ \t]*toc\b[^{}\n]*\}"
    r"|\{:[^{}\n]*\}"
    r"|<(?P<raw>script|style|template|noscript)\b.*?(?:</(?P=raw)\s*>|\Z)",
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<[!?][^<>]*>")
_HEADING_ATTRIBUTES = re.compile(r"\{[:#.][^{}\n]*\}[ \t]*$")


def parse_markdown(text: str, place: str, depth_max: int) -> ParsedDocument:
    """The blocks of `text`; raises DocumentRejected with `too_deep` or `invalid_front_matter`."""
    metadata, body_at = _front_matter(text, place)
    body = text[body_at:]
    if _markers(depth_max).search(body):
        raise _too_deep(place, depth_max)
    try:
        tokens = _parser(depth_max).parse(body)
    except RecursionError:
        raise _too_deep(place, depth_max) from None
    if any(token.nesting == 1 and token.level >= depth_max - 1 for token in tokens):
        # At this level markdown-it leaves the rest out without a word.
        raise _too_deep(place, depth_max)
    title = metadata.pop("title", None)
    blocks = _Walk(text, body_at, tokens).blocks()
    return ParsedDocument(text, str(title).strip() if title is not None else None, blocks, metadata)


@lru_cache(maxsize=4)
def _parser(depth_max: int) -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"maxNesting": depth_max}).enable(["table", "strikethrough"])
    parser.core.ruler.disable(["inline", "text_join"])
    return parser


@lru_cache(maxsize=4)
def _markers(depth_max: int) -> re.Pattern[str]:
    """A line that opens too many quotes and items: markdown-it would read all of it at every level."""
    opener = r"(?:>[ \t]*|(?:[-*+]|\d{1,9}[.)])[ \t]+)"
    return re.compile(rf"^[ \t]*(?![-*_ \t]+$){opener}{{{depth_max + 1}}}", re.MULTILINE)


def _too_deep(place: str, depth_max: int) -> DocumentRejected:
    return DocumentRejected(
        f"{place} nests quotes or lists deeper than {depth_max} levels",
        reason="too_deep",
        next_step="flatten the lists and quotes, then ingest again",
    )


class _Walk:
    """From tokens with line maps to blocks with character spans."""

    def __init__(self, text: str, body_at: int, tokens: Sequence[Token]) -> None:
        self.text = text
        self.tokens = tokens
        self.lines = [body_at]
        at = text.find("\n", body_at)
        while at >= 0:
            self.lines.append(at + 1)
            at = text.find("\n", at + 1)
        self.lines.append(len(text) + 1)
        self.headings: list[tuple[int, str]] = []
        self.found: list[Block] = []

    def blocks(self) -> tuple[Block, ...]:
        """All blocks, in order."""
        at = 0
        while at < len(self.tokens):
            end = at + 1
            if self.tokens[at].nesting == 1:
                while self.tokens[end - 1].level or self.tokens[end - 1].nesting != -1:
                    end += 1
            self.take(self.tokens[at:end])
            at = end
        return tuple(self.found)

    def span(self, lines: Sequence[int]) -> tuple[int, int]:
        """The characters of some lines, without blank lines around them and white space behind."""
        start, end = self.lines[lines[0]], min(self.lines[lines[1]] - 1, len(self.text))
        raw = self.text[start:end]
        start += len(raw) - len(raw.lstrip("\n"))
        return start, max(start, start + len(raw.strip("\n").rstrip()))

    def take(self, group: Sequence[Token]) -> None:
        """One top-level construct: its opening token, what is inside, its closing token."""
        head = group[0]
        if head.map is None or head.type == "hr":
            return
        start, end = self.span(head.map)
        if start >= end:
            return
        if head.type == "heading_open":
            self.heading(start, end, int(head.tag[1:]), group[1].content)
        elif head.type in ("fence", "code_block"):
            if head.content.strip():
                self.add("code", start, end, _line_spans(self.text, start, end))
        elif self.visible(start, end):
            kind = _CONTAINERS.get(head.type, "paragraph")
            start += len(self.text[start:end]) - len(self.text[start:end].lstrip())
            self.add(kind, start, end, self.parts(kind, group, start, end))

    def visible(self, start: int, end: int) -> bool:
        """Whether a reader sees anything of it."""
        raw = self.text[start:end]
        if "{" in raw or "<" in raw:
            raw = _UNSEEN.sub("", raw)
            # An autolink is content and looks like a tag; a block of nothing but real tags is none.
            raw = _TAG.sub(lambda tag: tag.group() if "://" in tag.group() and "=" not in tag.group() else "", raw)
        return bool(raw.strip(" \t\n>|*+-"))

    def heading(self, start: int, end: int, level: int, content: str) -> None:
        """A heading: what follows stands below it."""
        name = plain(_HEADING_ATTRIBUTES.sub("", content))
        if not name:
            return
        while self.headings and self.headings[-1][0] >= level:
            self.headings.pop()
        start += len(self.text[start:end]) - len(self.text[start:end].lstrip())
        self.found.append(Block("heading", start, end, heading_path=self.path(), level=level))
        self.headings.append((level, name))

    def path(self) -> tuple[str, ...]:
        """The headings above."""
        return tuple(name for _, name in self.headings)

    def add(self, kind: BlockKind, start: int, end: int, parts: tuple[tuple[int, int], ...]) -> None:
        """Keep a block; its first part starts behind the same indent as the block."""
        parts = tuple((max(first, start), last) for first, last in parts)
        self.found.append(Block(kind, start, end, heading_path=self.path(), parts=parts))

    def parts(self, kind: BlockKind, group: Sequence[Token], start: int, end: int) -> tuple[tuple[int, int], ...]:
        """Where the block may be cut."""
        if kind == "paragraph":
            return tuple((start + a, start + b) for a, b in sentences(self.text[start:end]))
        if kind == "table":
            # The separator row belongs to the header: a part reaches up to the next row.
            rows = [token.map[0] for token in group if token.type == "tr_open" and token.map]
            bounds = [*rows[1:], group[0].map[1] if group[0].map else rows[-1] + 1]
            return tuple(self.span(pair) for pair in zip(rows, bounds, strict=True))
        return tuple(
            self.span(token.map)
            for token in group
            if token.level == 1 and token.nesting >= 0 and token.map and token.type != "inline"
        )


def _line_spans(text: str, start: int, end: int) -> tuple[tuple[int, int], ...]:
    spans = []
    while start < end:
        stop = text.find("\n", start, end)
        stop = end if stop < 0 else stop
        if text[start:stop].strip():
            spans.append((start, stop))
        start = stop + 1
    return tuple(spans)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML with YAML 1.2's scalars: no octal, no sexagesimal, no `yes` and `no`."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute, filled below


_TIME = r"(?:[Tt]|[ \t]+)\d\d?:\d\d:\d\d(?:\.\d*)?(?:[ \t]*(?:Z|[-+]\d\d?(?::?\d\d)?))?"
for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,17})$", list("-+0123456789")),
    ("float", r"[-+]?[0-9]+\.[0-9]+(?:[eE][-+]?[0-9]{1,2})?$", list("-+0123456789")),
    ("timestamp", rf"\d{{4}}-\d\d?-\d\d?(?:{_TIME})?$", list("0123456789")),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def _front_matter(text: str, place: str) -> tuple[dict[str, Any], int]:
    """The metadata at the top, and where the body starts."""
    found = _FRONT_MATTER.match(text, 0, FRONT_MATTER_MAX) if text.startswith("---") else None
    if found is None:
        return {}, 0
    body = found["body"]
    try:
        loaded = yaml.load(body, Loader=_Loader)  # noqa: S506 - a SafeLoader with fewer types
    except (yaml.YAMLError, ValueError, RecursionError) as fault:
        if not _KEY_LINE.match(body):
            return {}, 0  # a rule above ordinary text
        raise _bad_front_matter(fault, place) from None
    if loaded is None:
        return {}, found.end()
    if not isinstance(loaded, dict):
        return {}, 0
    kept = {str(key): _value(value) for key, value in loaded.items()}
    return {key: value for key, value in kept.items() if value is not None}, found.end()


def _bad_front_matter(fault: Exception, place: str) -> DocumentRejected:
    mark = getattr(fault, "problem_mark", None)
    line = f" line {mark.line + 2}" if mark is not None else ""
    problem = getattr(fault, "problem", None) or str(fault) or type(fault).__name__
    return DocumentRejected(
        f"{place}{line}: the front matter is not valid YAML: {problem}",
        reason="invalid_front_matter",
        field="front matter",
        next_step="put the value in quotes, or remove the lines between the two `---`, then ingest again",
    )


def _value(value: Any) -> Any:
    """A scalar, a list of scalars, or None: metadata is what filters can compare."""
    if isinstance(value, list):
        return [item for item in map(_value, value) if item is not None and not isinstance(item, list)]
    if isinstance(value, date):  # a datetime is a date as well
        return value.isoformat()
    return value if isinstance(value, str | int | float | bool) else None
