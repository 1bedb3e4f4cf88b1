"""The promises of core/sentences: units are verbatim, in order, and what a reader would call an answer."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ragstone.core.sentences import plain, sentences


def units(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Smith met Mr. J. R. Jones. They left.", ["Dr. Smith met Mr. J. R. Jones.", "They left."]),
        ("It costs 3.50 dollars. Version 1.2.3 is out.", ["It costs 3.50 dollars.", "Version 1.2.3 is out."]),
        ("Use tools, e.g. Slack, i.e. Chat. Then go.", ["Use tools, e.g. Slack, i.e. Chat.", "Then go."]),
        ("The U.S. Government pays. Nobody else.", ["The U.S. Government pays.", "Nobody else."]),
        ("He lives in the U.S. The rest moved.", ["He lives in the U.S.", "The rest moved."]),
        ("Pens, paper, etc. The shop has them.", ["Pens, paper, etc.", "The shop has them."]),
        ("See https://a.example/b.c?d=e. Then stop.", ["See https://a.example/b.c?d=e.", "Then stop."]),
        (
            'She said "Stop." He left. (Late. Really.) Yes.',
            ['She said "Stop."', "He left.", "(Late.", "Really.)", "Yes."],
        ),
        ('"Really?" he asked. Nobody knew.', ['"Really?" he asked.', "Nobody knew."]),
        ("Wait... what? Oh… Well.", ["Wait... what?", "Oh…", "Well."]),
        ("See fig. 3 and No. 5 on p. 7. Good.", ["See fig. 3 and No. 5 on p. 7.", "Good."]),
        ("**Note.** The rest. _Aside._ More.", ["**Note.**", "The rest.", "_Aside._", "More."]),
        ("[Read this. Now.](http://a/b) Then that.", ["[Read this. Now.](http://a/b)", "Then that."]),
        ("Run `a. B` first. Then stop.", ["Run `a. B` first.", "Then stop."]),
        ("It was said.[1] And again.[^2] End.", ["It was said.[1]", "And again.[^2]", "End."]),
        ("これは文です。次の文です。", ["これは文です。", "次の文です。"]),
        ("One line\nwraps here. Next\none too.", ["One line\nwraps here.", "Next\none too."]),
        ("First line  \nSecond line", ["First line", "Second line"]),
        ("<p>One</p><p>Two</p>", ["One", "Two"]),
    ],
)
def test_prose(text: str, wanted: list[str]) -> None:
    """Prose is cut where a reader would stop, and nowhere else."""
    assert units(text) == wanted


def test_lists() -> None:
    """Each item is a unit of its own, without its marker; an item of two sentences is two units."""
    text = "Do this:\n\n- First thing. With more.\n- [ ] Second\n  goes on\n  1. Nested one\n  2) Nested two\n\n* Last"
    assert units(text) == [
        "Do this:",
        "First thing.",
        "With more.",
        "Second\n  goes on",
        "Nested one",
        "Nested two",
        "Last",
    ]


def test_tables() -> None:
    """Each row is a unit without outer pipes; header and separator are none."""
    text = "| Tool | Days |\n|------|:----:|\n| Slack | 90 |\n| Mail | 7. Or more |\n\na | b\n--- | ---\nc | d\n"
    assert units(text) == ["Slack | 90", "Mail | 7. Or more", "c | d"]


def test_a_table_without_its_header_still_has_rows() -> None:
    """A chunk that goes on with a table gives its rows."""
    assert units("| Slack | 90 |\n| Mail | 7 |") == ["Slack | 90", "Mail | 7"]


def test_headings_and_markup_are_no_units() -> None:
    """Headings, rules, comments, Liquid, attributes and link definitions answer nothing."""
    text = (
        "# Title\n\nSetext\n======\n\nText.\n{: .note}\n\n---\n\n<!-- a\ncomment. Here. -->\n\n{% include x.html %}\n\n"
        "## Two ##\n[a]: http://x.example\n\nMore.\n"
    )
    assert units(text) == ["Text.", "More."]


def test_code_is_one_unit() -> None:
    """A code block is one unit, without its fence, whatever it holds."""
    text = "Run:\n\n```sh\n# no heading\nls. Then\n\n- no item\n```\n\nDone.\n\n    indented. Code\n    too\n"
    assert units(text) == ["Run:", "# no heading\nls. Then\n\n- no item", "Done.", "indented. Code\n    too"]


def test_quotes_are_read_through() -> None:
    """A block quote's marks are no part of a unit's ends."""
    assert units("> One. Two\n> goes on.\n>\n> - item\n") == ["One.", "Two\n> goes on.", "item"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("**Bold** and _it_ and ~~gone~~ and `code`", "Bold and it and gone and code"),
        ("[text](http://a.example/x_(y)) and ![alt](b.png)", "text and alt"),
        ("[text][ref] and <https://a.example>", "text and https://a.example"),
        ("- item\n- [x] done", "item done"),
        ("## Head ##", "Head"),
        ("> quoted\n> text", "quoted text"),
        ("snake_case stays, 2 * 3 * 4 too", "snake_case stays, 2 * 3 * 4 too"),
        ("R&amp;D <b>now</b>\\*", "R&D now *"),
        ("See {{ site.url }}/x{: .y}", "See /x"),
        ("already  plain\ntext", "already plain text"),
    ],
)
def test_plain(text: str, wanted: str) -> None:
    """Marks go, words stay."""
    assert plain(text) == wanted


MARKUP = st.text(alphabet=st.sampled_from("aB. \n|-#>`*_[](){}%!:<>/\"'1\t\u00e9。~=+\\&;"), max_size=120)


@given(MARKUP | st.text(max_size=80))
@example("a\n---\n| b |\n")
@example("<br>. A")
def test_spans_are_sound(text: str) -> None:
    """Spans are in order, never overlap, carry no outer white space and hold a letter or digit."""
    before = 0
    for start, end in sentences(text):
        assert before <= start < end <= len(text)
        assert text[start:end] == text[start:end].strip()
        assert any(char.isalnum() for char in text[start:end])
        before = end


@given(MARKUP | st.text(max_size=80))
def test_plain_is_one_line(text: str) -> None:
    """`plain` leaves no line break and no outer white space."""
    assert plain(text) == " ".join(plain(text).split())


def test_a_chunk_is_split_well_below_a_millisecond() -> None:
    """A chunk of 2,000 characters is split in well under a millisecond (best of ten, for a noisy machine)."""
    text = ("Dr. Smith met [us](http://a.example/b) on 3.5. at noon, e.g. in the U.S. office. It was fine!\n" * 16)[
        :1000
    ]
    text += "\n\n- item one\n- item two. Two sentences.\n\n| a | b |\n|---|---|\n| c | d |\n" * 13
    best = min(_seconds(text) for _ in range(10))
    assert best < 0.001, f"{best * 1000:.2f} ms"


HOSTILE = [
    "<a ",
    "`",
    "[",
    "]",
    "{% ",
    "{:",
    ".",
    ".)",
    "![a](b ",
    "* ",
    " ",
    " #",
    "\\",
    "-",
    "- ",
    "|",
    "a | ",
    "<!--",
    "_a",
    "a.b",
]


@pytest.mark.parametrize("opener", HOSTILE)
def test_hostile_text_stays_linear(opener: str) -> None:
    """No text makes the expressions wander: 50,000 openers take less than two seconds."""
    text = f"a{opener * 50_000}b"
    started = time.perf_counter()
    sentences(text)
    plain(text)
    assert time.perf_counter() - started < 2


def _seconds(text: str) -> float:
    started = time.perf_counter()
    sentences(text)
    return time.perf_counter() - started
