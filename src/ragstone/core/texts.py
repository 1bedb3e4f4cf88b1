"""The one text that both legs read of a chunk: where it stands, then what it says."""

from __future__ import annotations

from collections.abc import Sequence

NAME_CHARS_MAX = 120
PATH_CHARS_MAX = 240


def passage_input(title: str | None, heading_path: Sequence[str], text: str) -> str:
    """What is embedded and tokenised of a chunk: title and headings on one line, each once and shortened,
    then the text."""
    place = place_line(title, heading_path)
    return f"{place}\n{text}" if place else text


def place_line(title: str | None, heading_path: Sequence[str]) -> str:
    """`Travel guide > Meals > Limits`; the innermost headings are kept when not all fit."""
    names = [_short(title)] if title else []
    room = PATH_CHARS_MAX
    inner: list[str] = []
    for name in reversed(heading_path):
        shown = _short(name)
        if not shown or shown.casefold() in {other.casefold() for other in (*names, *inner)}:
            continue
        room -= len(shown) + 3
        if room < 0:
            break
        inner.append(shown)
    return " > ".join([*names, *reversed(inner)])


def _short(name: str) -> str:
    name = " ".join(name.split())
    if len(name) <= NAME_CHARS_MAX:
        return name
    cut = name[: NAME_CHARS_MAX - 1]
    return f"{cut.rsplit(' ', 1)[0] if ' ' in cut[NAME_CHARS_MAX // 2 :] else cut}…"
