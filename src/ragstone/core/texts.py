"""The one text that both legs read of a chunk: where it stands, then what it says."""

from __future__ import annotations

from collections.abc import Iterable


def place_line(title: str, heading_path: Iterable[str]) -> str:
    """Title and headings on one line, each once: `Travel guide > Meals > Limits`."""
    kept: list[str] = []
    for part in (title, *heading_path):
        flat = " ".join(part.split())
        if flat and flat not in kept:
            kept.append(flat)
    return " > ".join(kept)


def passage_input(title: str, heading_path: Iterable[str], text: str) -> str:
    """What is embedded and tokenised of a chunk."""
    place = place_line(title, heading_path)
    return f"{place}\n{text}" if place else text
