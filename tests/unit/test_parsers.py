"""The promises of ingest/parse and its parsers: exact spans, right headings and titles, or a stated reason."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ragstone.core.errors import DocumentRejected
from ragstone.ingest.parse import ParseLimits, parse
from ragstone.ingest.records import ParsedDocument, SourceObject

LIMITS = ParseLimits()


def markdown(
    text: str | bytes, key: str = "guide.md", title: str | None = None, limits: ParseLimits = LIMITS
) -> ParsedDocument:
    return parse_as("text/markdown", text, key, title, limits)


def html(text: str | bytes, limits: ParseLimits = LIMITS) -> ParsedDocument:
    return parse_as("text/html", text, "page.html", None, limits)


def plain(text: str | bytes, key: str = "note.txt") -> ParsedDocument:
    return parse_as("text/plain", text, key, None, LIMITS)


def parse_as(media_type: str, text: str | bytes, key: str, title: str | None, limits: ParseLimits) -> ParsedDocument:
    data = text.encode() if isinstance(text, str) else text
    return parse(data, SourceObject(key, "v", "0", len(data), media_type, key, title), limits)


def shown(doc: ParsedDocument) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(block.kind, doc.text[block.start : block.end], block.heading_path) for block in doc.blocks]


def parts(doc: ParsedDocument, at: int = 0) -> list[str]:
    return [doc.text[start:end] for start, end in doc.blocks[at].parts]


# -- Markdown


def test_markdown_blocks_are_exact_slices() -> None:
    """Every kind of block is the text as written, below the right headings."""
    text = (
        "Intro.\n\n# One #\n\nPara *one*.\nGoes on.\n\n## Two\n\n- a\n  - b\n- c\n\n| H | I |\n|---|---|\n| 1 | 2 |\n\n"
        "Three\n-----\n\n> quote\n> more\n\n```py\nx = 1\n\n# no heading\n```\n\n    indented\n\nSet\n===\n\n1. x\n2. y\n"
    )
    assert shown(markdown(text)) == [
        ("paragraph", "Intro.", ()),
        ("heading", "# One #", ()),
        ("paragraph", "Para *one*.\nGoes on.", ("One",)),
        ("heading", "## Two", ("One",)),
        ("list", "- a\n  - b\n- c", ("One", "Two")),
        ("table", "| H | I |\n|---|---|\n| 1 | 2 |", ("One", "Two")),
        ("heading", "Three\n-----", ("One",)),
        ("quote", "> quote\n> more", ("One", "Three")),
        ("code", "```py\nx = 1\n\n# no heading\n```", ("One", "Three")),
        ("code", "    indented", ("One", "Three")),
        ("heading", "Set\n===", ()),
        ("list", "1. x\n2. y", ("Set",)),
    ]


def test_markdown_parts() -> None:
    """Lists are cut at top-level items, tables at rows (the separator with its header), code at lines."""
    assert parts(markdown("- a\n  - b\n\n  more\n- c\n")) == ["- a\n  - b\n\n  more", "- c"]
    assert parts(markdown("| H |\n|---|\n| 1 |\n| 2 |")) == ["| H |\n|---|", "| 1 |", "| 2 |"]
    assert parts(markdown("```\na\n\nb\n```")) == ["```", "a", "b", "```"]
    assert parts(markdown("One. Two.")) == ["One.", "Two."]
    assert parts(markdown("> One.\n>\n> - a\n> - b")) == ["> One.", "> - a\n> - b"]


def test_heading_paths_follow_levels() -> None:
    """A heading closes those of its level and below, also where levels are left out."""
    doc = markdown("# A\n\n### C\n\nx\n\n## B\n\ny\n\n# D\n\nz")
    assert [path for kind, _, path in shown(doc) if kind == "paragraph"] == [("A", "C"), ("A", "B"), ("D",)]


def test_heading_names_are_plain() -> None:
    """Marks, anchors and attributes are no part of a heading's name."""
    doc = markdown('## <a id="x">The *big* [link](u)</a> {#anchor}\n\nx')
    assert doc.blocks[-1].heading_path == ("The big link",)


def test_markup_alone_is_no_content() -> None:
    """Liquid, attributes, comments, rules, empty tags and link definitions are no blocks; the text stays."""
    text = (
        "{% include a.html x='1' %}\n\n{:.note}\n\n<!-- a\n\ncomment -->\n\n---\n\n<div class='x'>\n\n[a]: http://b.example\n\n"
        "* TOC\n{:toc}\n\n{{ page.x }}\n\n<script>\nvar x = 1;\n</script>\n\nReal.\n{: .last}\n\n</div>\n"
    )
    doc = markdown(text)
    assert (shown(doc), doc.text) == ([("paragraph", "Real.\n{: .last}", ())], text)


def test_html_in_markdown_is_a_paragraph() -> None:
    """A block of HTML with something to read is content."""
    assert shown(markdown("<div>\nRead <b>me</b>.\n</div>"))[0][:2] == (
        "paragraph",
        "<div>\nRead <b>me</b>.\n</div>",
    )
    assert shown(markdown("<https://a.example>"))[0][0] == "paragraph"


def test_front_matter_becomes_metadata() -> None:
    """Scalars, lists of scalars and dates are kept with YAML 1.2's meaning; what filters cannot compare is not."""
    doc = markdown(
        "---\ntitle: The guide\ntags:\n  - a\n  - 2\ncountry: NO\nat: 12:30\nzip: 0123\nyear: 2020\nrate: 1.5\n"
        "draft: true\nsince: 2024-1-5\nseen: 2024-01-05 10:00:00\nnone:\nnested: {a: 1}\n---\n# Other\n\nText.",
    )
    assert doc.title == "The guide"
    assert doc.metadata == {
        "tags": ["a", 2],
        "country": "NO",
        "at": "12:30",
        "zip": "0123",
        "year": 2020,
        "rate": 1.5,
        "draft": True,
        "since": "2024-01-05",
        "seen": "2024-01-05T10:00:00",
    }
    assert [doc.text[block.start : block.end] for block in doc.blocks] == ["# Other", "Text."]


@pytest.mark.parametrize(
    "text", ["---\n\nJust a rule: above\n\n---\n\nText.", "---\nprose, no keys\n---\nText.", "---\n\nText."]
)
def test_a_rule_is_no_front_matter(text: str) -> None:
    """A document that opens with a rule loses nothing."""
    assert "Text." in shown(markdown(text))[-1][1]


@pytest.mark.parametrize("body", ["a: b: c\n", "a: [1\n", "a: 2024-13-45\n", "a: " + "[" * 5000 + "\n"])
def test_broken_front_matter_is_refused(body: str) -> None:
    """Metadata that cannot be read is a reason, never silently dropped."""
    with pytest.raises(DocumentRejected) as refused:
        markdown(f"---\n{body}---\nText.")
    assert refused.value.reason == "invalid_front_matter"
    assert "guide.md" in str(refused.value)


# -- titles


@pytest.mark.parametrize(
    ("text", "key", "title", "wanted"),
    [
        ("---\ntitle: Front\n---\n# H\n\nx", "a.md", "Listed", "Listed"),
        ("---\ntitle: Front\n---\n# H\n\nx", "a.md", None, "Front"),
        ("---\ntitle: 2024\n---\nx", "a.md", None, "2024"),
        ("x\n\n# The *Head* {#id}\n\ny", "a.md", None, "The Head"),
        ("## Opens\n\ny", "a.md", None, "Opens"),
        ("x\n\n## Setup\n\ny", "guides/time-off_policy.md", None, "Time off policy"),
        ("x", "guides/index.md", None, "Guides"),
        ("x", "317cf884", None, None),
    ],
)
def test_titles(text: str, key: str, title: str | None, wanted: str | None) -> None:
    """The source's title, else the document's, else its first heading, else its file's name; no id as a title."""
    assert markdown(text, key, title).title == wanted


# -- plain text


def test_plain_text_is_paragraphs() -> None:
    """Blank lines part paragraphs; a line of spaces is blank."""
    doc = plain("  One.\nTwo.\n \t\n\n\nThree.\n")
    assert shown(doc) == [("paragraph", "One.\nTwo.", ()), ("paragraph", "Three.", ())]
    assert parts(doc) == ["One.", "Two."]


# -- HTML


def test_html_becomes_light_markdown() -> None:
    """What a reader sees is written out block by block; spans count in this text."""
    doc = html(
        "<html><head><title> The\n page </title><style>p{}</style></head><body><nav>Home</nav><h1>One <i>big</i></h1>"
        "<p>Text with <b>bold</b>&nbsp;and &amp;.<br>Next</p><ul><li>a<ul><li>b</li></ul></li><li><p>c</p><p>d</p></li></ul>"
        "<ol><li>x<li>y</ol><h2>Two</h2><table><caption>Cap</caption><tr><th>H</th><th>I</th></tr><tr><td>1</td><td><p>2</p>"
        "</td></tr></table><pre>x = 1\n\n  y</pre><blockquote><p>Quote</p></blockquote><dl><dt>T</dt><dd>D</dd></dl>"
        "<script>no()</script><template>no</template><noscript>no</noscript><p hidden>no</p>"
        "<div style='display: none'>no <p>no</p></div><!-- no -->tail</body></html>",
    )
    assert doc.title == "The page"
    assert shown(doc) == [
        ("paragraph", "Home", ()),
        ("heading", "# One big", ()),
        ("paragraph", "Text with bold and &.  \nNext", ("One big",)),
        ("list", "- a\n  - b\n- c\n  d", ("One big",)),
        ("list", "1. x\n2. y", ("One big",)),
        ("heading", "## Two", ("One big",)),
        ("paragraph", "Cap", ("One big", "Two")),
        ("table", "H | I\n--- | ---\n1 | 2", ("One big", "Two")),
        ("code", "```\nx = 1\n\n  y\n```", ("One big", "Two")),
        ("quote", "Quote", ("One big", "Two")),
        ("list", "- T\n  D", ("One big", "Two")),
        ("paragraph", "tail", ("One big", "Two")),
    ]
    assert doc.text == "\n\n".join(text for _, text, _ in shown(doc))
    assert parts(doc, 3) == ["- a\n  - b", "- c\n  d"]
    assert parts(doc, 7) == ["H | I\n--- | ---", "1 | 2"]


def test_a_layout_table_is_read_through() -> None:
    """A table that holds headings or tables is layout: what is in it is read like any other element."""
    doc = html("<table><tr><td><h2>Head</h2><p>Text.</p><table><tr><td>1<td>2</table></td></tr></table>")
    assert shown(doc) == [
        ("heading", "## Head", ()),
        ("paragraph", "Text.", ("Head",)),
        ("table", "1 | 2", ("Head",)),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "<li>stray<li>items</ul>x",
        "</p></div>x",
        "<table><li>a",
        "<dl><dd>x",
        "<tr><td>x",
        "<pre>a<p>b",
        "<ul>text<li>x<h2>y",
    ],
)
def test_broken_html_is_read(text: str) -> None:
    """Stray and unclosed tags lose no text."""
    doc = html(text)
    wanted = {char for char in ("x", "a", "b", "y") if f">{char}" in text or f"{char}<" in text}
    assert wanted <= set(doc.text)


def test_html_in_a_declared_encoding() -> None:
    """A page that is not UTF-8 but says what it is, is read as that."""
    page = '<meta charset="windows-1252"><p>Größe €</p>'
    assert "Größe €" in html(page.encode("cp1252")).text
    with pytest.raises(DocumentRejected, match="0xf6"):
        html("<p>Größe</p>".encode("cp1252"))


# -- bytes


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings(codec: str) -> None:
    """UTF-8, and UTF-8, UTF-16 and UTF-32 with their mark, give the same text."""
    assert plain("Grüße\r\nan alle\rhier".encode(codec)).text == "Grüße\nan alle\nhier"


def test_spans_count_after_newlines_are_made_one() -> None:
    """CRLF and CR become LF before anything is counted."""
    doc = markdown(b"# A\r\n\r\nText.\r\n\r\n- a\r\n- b\r\n")
    assert [text for _, text, _ in shown(doc)] == ["# A", "Text.", "- a\n- b"]


@pytest.mark.parametrize(
    ("data", "reason", "said"),
    [
        (b"", "empty", "guide.md"),
        (b" \n\t\r\n", "empty", "guide.md"),
        (b"ok\nline two \xff here", "invalid_utf8", "byte 12 (line 2)"),
        (b"\xff\xfea", "invalid_utf8", "guide.md"),
        (b"%PDF-1.7 text", "binary", "a PDF"),
        (b"PK\x03\x04 text", "binary", "ZIP"),
        (bytes(range(32)) * 3, "binary", "control characters"),
        (("a" + "\0" * 20).encode("utf-16"), "binary", "NUL"),
        (b"<!-- only -->\n\n---\n", "no_text", "markup"),
        (b"---\ntitle: x\n---\n", "no_text", "markup"),
        (b"x" * 101, "too_large", "101 bytes"),
        (b"x\n\n" * 8, "too_large", "8 blocks"),
        (b">" * 60, "too_deep", "levels"),
        (b"".join(b" " * 2 * n + b"- x\n" for n in range(30)), "too_large", "bytes"),
    ],
)
def test_what_is_refused(data: bytes, reason: str, said: str) -> None:
    """What cannot be used is refused with a stable reason, the place and a next step."""
    with pytest.raises(DocumentRejected) as refused:
        markdown(data, limits=ParseLimits(bytes_max=100, depth_max=20, blocks_max=5))
    assert refused.value.reason == reason
    assert said in refused.value.what
    assert refused.value.next_step


def test_a_few_control_characters_are_no_binary() -> None:
    """A stray NUL becomes the replacement character, in equal length."""
    assert plain(b"a\0b").text == "a\ufffdb"
    assert plain(b"\x1b[31mred\x1b[0m" * 20).text.startswith("\x1b[31mred")


# -- bounds

DEEP = {
    "quotes": ("text/markdown", ">" * 200_000 + " x"),
    "items": ("text/markdown", "- " * 200_000 + "x"),
    "nested list": ("text/markdown", "".join("  " * n + "- x\n" for n in range(400))),
    "div": ("text/html", "<div>" * 300_000 + "x"),
    "inline": ("text/html", "<b>" * 300_000 + "x"),
    "list": ("text/html", "<ul><li>" * 100_000 + "x"),
    "table": ("text/html", "<table><tr><td>" * 50_000 + "x"),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_nesting_is_refused_in_time(name: str) -> None:
    """Nesting without end is refused within seconds, not computed."""
    media_type, text = DEEP[name]
    started = time.perf_counter()
    with pytest.raises(DocumentRejected) as refused:
        parse_as(media_type, text, "x", None, LIMITS)
    assert refused.value.reason == "too_deep"
    assert time.perf_counter() - started < 5


HOSTILE = [
    "[",
    "`",
    "<!-- ",
    "{% ",
    "{{ ",
    "{: ",
    "{% comment %} ",
    "<a ",
    "*a _b ",
    "[a](b ",
    "\n \t",
    " ",
    "x",
    "a | ",
    "# a\n",
    "<p>x",
    "&",
    "<![CDATA[",
]


@pytest.mark.parametrize("media_type", ["text/markdown", "text/html", "text/plain"])
@pytest.mark.parametrize("opener", HOSTILE)
def test_hostile_text_stays_linear(media_type: str, opener: str) -> None:
    """200 kB of any opener is parsed or refused within seconds."""
    started = time.perf_counter()
    try:
        parse_as(media_type, "a" + opener * (200_000 // len(opener)) + "b", "x", None, LIMITS)
    except DocumentRejected as refused:
        assert refused.reason in {"too_large", "too_deep", "no_text"}  # noqa: PT017 - either outcome is right
    assert time.perf_counter() - started < 5


def test_a_huge_table_is_read() -> None:
    """20,000 rows are one block with 20,001 parts."""
    doc = markdown("| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 20_000)
    assert [len(block.parts) for block in doc.blocks] == [20_001]


TEXT = st.text(alphabet=st.sampled_from("ab \n#-|>`*_[]{}%<>/=!:1.\t\r\u00e9\u2028\x0b\x0c"), max_size=200) | st.text(
    max_size=60
)


@settings(deadline=None, max_examples=300)
@given(TEXT, st.sampled_from(["text/markdown", "text/html", "text/plain"]))
@example("a\x0bb\u2028c\n\n# d\x0ce", "text/markdown")
@example("- \n\n  a", "text/markdown")
@example("|a|\n|-|\n", "text/markdown")
def test_blocks_are_sound(text: str, media_type: str) -> None:
    """Whatever the text: blocks are in order, apart, not blank, and their parts lie inside them in order."""
    try:
        doc = parse_as(media_type, text.encode("utf-8", "replace"), "x", None, LIMITS)
    except DocumentRejected as refused:
        assert refused.reason in {"empty", "no_text", "binary", "invalid_front_matter"}  # noqa: PT017 - either is right
        return
    before = 0
    for block in doc.blocks:
        assert before <= block.start < block.end <= len(doc.text)
        assert doc.text[block.start : block.end].strip()
        before = block.end
        inside = block.start
        for start, end in block.parts:
            assert inside <= start < end <= block.end
            inside = end


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Whatever the bytes: a document or a reason, never another error."""
    for media_type in ("text/markdown", "text/html", "text/plain"):
        try:
            assert parse_as(media_type, data, "x", None, LIMITS).blocks
        except DocumentRejected:
            continue
