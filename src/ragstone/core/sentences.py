"""A chunk's answerable units: prose sentences, list items, table rows, code blocks; as spans, so that a quote
is always verbatim. Knows Markdown's line shapes and English abbreviations; regular expressions only.

Spans never overlap, are in order, carry no surrounding white space, and hold at least one letter or digit.
Headings, table headers, separators and markup are no units: none of them answers anything.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Span = tuple[int, int]

_LINE = re.compile(r"[^\n]*\n?")
_WORDISH = re.compile(r"[^\W_]")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r"#{1,6}(?:[ \t]|$)")
_UNDERLINE = re.compile(r"(?:=+|-{2,})[ \t]*$")
_RULE = re.compile(r"(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$")
_ITEM = re.compile(r"(?:[-*+•]|\d{1,9}[.)])[ \t]+(?:\[[ xX]\][ \t]+)?")
_QUOTE = re.compile(r"(?:[ \t]*>)+[ \t]?")
_FOOTNOTE = re.compile(r"\[\^[^\]\s]{1,40}\]:[ \t]*")
_LINK_DEFINITION = re.compile(r"\[[^\]]{1,200}\]:[ \t]*\S+(?:[ \t]+[\"'(].*)?$")
_SEPARATOR = re.compile(r"\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")

# Markup that says nothing: blanked out, in equal length, before lines are judged.
_MARKUP = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|\{%[^{}]*%\}"
    r"|\{:[^{}\n]*\}"
    r"|</?[a-zA-Z][a-zA-Z0-9-]{0,20}(?:\s[^<>]{0,500})?/?>",
    re.DOTALL,
)
_INK = re.compile(r"[^\n]")
_BREAKING_TAG = re.compile(r"</?(?:br|p|li|ul|ol|d[ldt]|div|t[rdh]|h[1-6]|hr|blockquote|summary)\b", re.IGNORECASE)
# A full stop inside a link's text, a link's address or inline code ends no sentence.
_SHELTERED = re.compile(r"`[^`\n]{1,300}`|\[[^\[\]]{1,300}\](?=[\[(])|\]\([^()\s]{0,600}[^()]{0,200}\)")
_STOPS_INSIDE = re.compile(r"[.!?](?=\s)")

# Possessive repeats and the look-behind keep a long run of dots or spaces from being tried at every start.
_END = re.compile(
    r"(?<![.!?\u2026])(?P<mark>[.!?\u2026]++)"
    r"(?P<close>(?:[\"'\u201d\u2019)\]*_`]|\]\([^()\s]*\)|\[\^?\w{1,4}\]){0,8})"
    r"(?P<space>\s+)"
    r"|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d\uff09]?"
    r"|(?P<break>(?:  |\\)\n|\v)"
)
_WORD_BEFORE = re.compile(r"[^\W_](?:[\w.'\u2019-]{0,24}[^\W_])?$")
_WORD_AFTER = re.compile(r"[A-Za-z]+")
_OPENERS = "\"'\u201c\u2018([*_`<!"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Never the last word of a sentence.
_TITLES = _words(
    "mr mrs ms dr prof sr st ste rev hon gen col maj capt lt sgt sen rep gov pres "
    "vs e.g eg i.e ie cf viz ca approx fig figs eq eqs sec ch vol nos pp ed eds trans "
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri",
)
# Last words only when what follows reads like the start of a sentence.
_MAYBE = _words("etc al inc ltd co corp dept univ assn bros jr ph.d m.d a.m p.m u.s u.k u.n d.c no")
_STARTERS = _words(
    "the this that these those it he she we you they there i in if a an however but and when for please to "
    "as at on what how who why where our your all some each not no so then after before while since with "
    "from by one its his her their my do does is are can see use new most many also although because once",
)


def _blank(match: re.Match[str]) -> str:
    raw = match.group()
    blank = _INK.sub(" ", raw)
    # A vertical tab marks where a tag breaks the line: no sentence runs across it.
    return f"\v{blank[1:]}" if _BREAKING_TAG.match(raw) else blank


def _shelter(match: re.Match[str]) -> str:
    return _STOPS_INSIDE.sub(",", match.group())


def _judged(text: str) -> str:
    """`text` in equal length, markup blanked and sheltered stops hidden: what boundaries are sought in."""
    if "<" in text or "{" in text:
        text = _MARKUP.sub(_blank, text)
    if "[" in text or "`" in text:
        text = _SHELTERED.sub(_shelter, text)
    return text


def _ends_here(text: str, begin: int, match: re.Match[str], limit: int) -> bool:
    """Whether the mark found really ends a sentence."""
    if match["mark"] is None:
        return True
    after = match.end()
    if after >= limit:
        return True
    if text[after].islower():
        return False
    if match["mark"] != "." or match["close"]:
        return True
    return not _abbreviated(text, max(begin, match.start() - 26), match.start(), after)


def _abbreviated(text: str, begin: int, dot: int, after: int) -> bool:
    found = _WORD_BEFORE.search(text, begin, dot)
    if found is None:
        return False
    word = found.group().lower()
    if word in _TITLES:
        return True
    single = len(word) == 1 and word.isalpha()
    if not (single or word in _MAYBE or re.fullmatch(r"(?:[a-z]\.)+[a-z]", word)):
        return False
    at = after
    while at < len(text) and text[at] in _OPENERS:
        at += 1
    following = _WORD_AFTER.match(text, at)
    if word == "no":
        return following is None
    return not (following and following.group().lower() in _STARTERS)


def _trimmed(text: str, start: int, end: int) -> Span | None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end and _WORDISH.search(text, start, end) else None


def _prose(text: str, start: int, end: int) -> Iterator[Span]:
    """The sentences of one run of prose."""
    begin = start
    for match in _END.finditer(text, start, end):
        if not _ends_here(text, begin, match, end):
            continue
        stop = match.end() - len(match["space"] or match["break"] or "")
        if (span := _trimmed(text, begin, stop)) is not None:
            yield span
        begin = match.end()
    if (span := _trimmed(text, begin, end)) is not None:
        yield span


def _is_row(line: str) -> bool:
    return (line.startswith("|") and line.count("|") > 1) or " | " in line


class _Reader:
    """Sorts lines into runs of prose, items, rows and code; `units` collects what they hold."""

    def __init__(self, text: str, judged: str) -> None:
        self.text = text
        self.judged = judged
        self.units: list[Span] = []
        self.run: Span | None = None
        self.row: Span | None = None
        self.fence = ""
        self.code: Span | None = None
        self.after_blank = True
        self.in_list = False

    def close(self) -> None:
        """What was open ends here."""
        if self.run is not None:
            self.units.extend(_prose(self.judged, *self.run))
        self._keep(self.row)
        self._keep(self.code)
        self.run = self.row = self.code = None

    def _keep(self, span: Span | None) -> None:
        if span is not None and (kept := _trimmed(self.judged, *span)) is not None:
            self.units.append(kept)

    def fenced(self, start: int, end: int) -> bool:
        """Whether the line belongs to a fenced block."""
        line = self.text[start:end]
        found = _FENCE.match(line)
        if self.fence:
            if found and found.group(1).startswith(self.fence) and not line.strip("`~ \t\n"):
                self.fence = ""
                self.close()
            else:
                self.code = (self.code[0] if self.code else start, end)
            return True
        if found is None:
            return False
        self.close()
        self.fence = found.group(1)
        return True

    def line(self, start: int, end: int) -> None:
        """Take one line in."""
        if self.fenced(start, end):
            return
        at = start
        if (quote := _QUOTE.match(self.judged, start, end)) is not None:
            at = quote.end()
        body = self.judged[at:end]
        line = body.strip()
        if not line:
            self.close()
            self.after_blank = True
            return
        self.sort(at, end, line, indent=len(body) - len(body.lstrip()))
        self.after_blank = False

    def sort(self, at: int, end: int, line: str, *, indent: int) -> None:
        """Decide what the line is; the more telling shapes first."""
        if self.ruled(line):
            return
        first = at + indent
        if (item := _ITEM.match(line)) is not None:
            self.close()
            self.in_list = True
            self.run = (first + item.end(), end)
        elif _is_row(line):
            self.close()
            self.row = self.cells(first, first + len(line))
        elif (note := _FOOTNOTE.match(line)) is not None:
            self.close()
            self.run = (first + note.end(), end)
        elif indent >= 4 and self.after_blank and not self.in_list:  # noqa: PLR2004 - CommonMark's indented code
            self.close()
            self.code = (at, end)
        elif self.code is not None and indent >= 4:  # noqa: PLR2004 - as above
            self.code = (self.code[0], end)
        else:
            self.prose(at, end, indent=indent)

    def ruled(self, line: str) -> bool:
        """Headings, rules, separators and link definitions: they end what was open and are no units."""
        if _SEPARATOR.match(line) and "|" in line:
            self.row = None  # the row above was the table's header
            self.close()
            return True
        if self.run is not None and not self.in_list and _UNDERLINE.match(line):
            self.run = None  # the prose above was a heading, underlined
            return True
        if _HEADING.match(line) or _RULE.match(line) or _LINK_DEFINITION.match(line):
            self.close()
            self.in_list = False
            return True
        return False

    def prose(self, at: int, end: int, *, indent: int) -> None:
        """A line of running text."""
        if self.after_blank and indent == 0:
            self.in_list = False
        if self.row is not None or self.code is not None:
            self.close()
        self.run = (self.run[0] if self.run else at, end)

    def cells(self, start: int, end: int) -> Span:
        """A row without its outer pipes."""
        while start < end and self.judged[start] in "| \t":
            start += 1
        while end > start and self.judged[end - 1] in "| \t":
            end -= 1
        return (start, end)


def sentences(text: str) -> tuple[Span, ...]:
    """The spans of the answerable units of `text`, in order."""
    reader = _Reader(text, _judged(text))
    for match in _LINE.finditer(text):
        if match.start() == match.end():
            break
        reader.line(match.start(), match.end())
    reader.close()
    return tuple(reader.units)


_PLAIN: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"<!--.*?(?:-->|\Z)|\{%[^{}]*%\}|\{\{[^{}]*\}\}|\{:[^{}\n]*\}", re.DOTALL),
        " ",
    ),
    (re.compile(r"^(?:[ \t]*>)+[ \t]?", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*(?:`{3,}|~{3,})[^\n`]*$", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*#{1,6}[ \t]+|(?<![ \t])[ \t]++#++[ \t]*$", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*(?:[-*+•]|\d{1,9}[.)])[ \t]+(?:\[[ xX]\][ \t]+)?", re.MULTILINE), ""),
    (
        re.compile(
            r"!?\[([^\[\]]{0,300})\]\((?:[^()\s]|\([^()\s]{0,200}\)){0,600}(?:\s+[\"'][^\"'\n]{0,200}[\"'])?\s*\)"
        ),
        r"\1",
    ),
    (re.compile(r"!?\[([^\[\]]{1,300})\]\[[^\[\]]{0,100}\]"), r"\1"),
    (re.compile(r"\[\^[^\]\s]{1,40}\]:?"), ""),
    (re.compile(r"<((?:https?://|mailto:)[^<>\s]{1,500})>"), r"\1"),
    (re.compile(r"</?[a-zA-Z][a-zA-Z0-9-]{0,20}(?:\s[^<>]{0,500})?/?>"), " "),
    (re.compile(r"(?<![\w\\])(\*{1,3}|_{1,3}|~~)(?=\S)"), ""),
    (re.compile(r"(?<=\S)(?<!\\)(\*{1,3}|_{1,3}|~~)(?!\w)"), ""),
    (re.compile(r"`+"), ""),
    (re.compile(r"\\([!-/:-@\[-`{-~])"), r"\1"),
)
_SPACES = re.compile(r"\s+")
_MARKS = re.compile(r"[*_`\[\]<>#~{}\\&|]|^[ \t]*(?:[-+•]|\d{1,9}[.)])[ \t]", re.MULTILINE)


def plain(text: str) -> str:
    """`text` without Markdown's marks, on one line: for embedding and tokenising, never for quoting."""
    if _MARKS.search(text):
        for pattern, put in _PLAIN:
            text = pattern.sub(put, text)
        if "&" in text:
            text = html.unescape(text)
    return _SPACES.sub(" ", text).strip()
