"""The promises of ingest/chunk: nothing lost, nothing twice, every chunk within its bound, structure kept."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ragstone.core.errors import DocumentRejected
from ragstone.core.nouns import ChunkingSpec
from ragstone.core.texts import passage_input
from ragstone.ingest.chunk import chunk
from ragstone.ingest.parse import ParseLimits, parse
from ragstone.ingest.records import ChunkDraft, ParsedDocument, SourceObject

SMALL = ChunkingSpec(tokens_max=60, tokens_target=30, tokens_min=6)
LIMITS = ParseLimits()


def tokens(text: str) -> int:
    """Words in pieces of four letters, every mark by itself: much like a real tokenizer, and as additive."""
    return len(re.findall(r"\w{1,4}|[^\w\s]", text))


def words(text: str) -> int:
    """A count that does not add up: parts round down."""
    return len(text.split()) * 4 // 3


def document(text: str, media_type: str = "text/markdown", title: str | None = None) -> ParsedDocument:
    listed = SourceObject("doc", "v", "0", 0, media_type, "doc", title)
    return parse(text.encode("utf-8", "replace"), listed, LIMITS)


def chunks(text: str, spec: ChunkingSpec = SMALL, **more: str) -> list[ChunkDraft]:
    return list(chunk(document(text, **more), spec, tokens))


def sentence(n: int) -> str:
    return " ".join(["word"] * (n - 1)) + " end."


WORD = st.sampled_from(["word", "Slack", "3.50", "e.g.", "x" * 30, "é", "**bold**", "[a b](http://c.d/e)", "`code`"])
LINE = st.lists(WORD, min_size=1, max_size=14).map(lambda found: " ".join(found) + ".")
BLOCK = st.one_of(
    st.tuples(st.integers(1, 4), LINE).map(lambda pair: "#" * pair[0] + " " + pair[1]),
    st.lists(LINE, min_size=1, max_size=6).map(" ".join),
    st.lists(st.tuples(st.integers(0, 2), LINE), min_size=1, max_size=9).map(
        lambda items: "\n".join("  " * depth + "- " + line for depth, line in items)
    ),
    st.lists(st.tuples(WORD, WORD), min_size=1, max_size=25).map(
        lambda rows: "\n".join(["| Tool | Days |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])
    ),
    st.lists(LINE, min_size=1, max_size=9).map(lambda lines: "```\n" + "\n".join(lines) + "\n```"),
    st.lists(LINE, min_size=1, max_size=5).map(lambda lines: "\n".join("> " + line for line in lines)),
    st.sampled_from(
        ["<!-- a long comment of many many words that nobody reads -->", "---", "{% x %}", "See:", "x" * 400]
    ),
)
MARKDOWN = st.lists(BLOCK, min_size=1, max_size=14).map("\n\n".join)


def hold(doc: ParsedDocument, found: tuple[ChunkDraft, ...], spec: ChunkingSpec, count: object) -> None:
    """Everything that must be true of any document's chunks."""
    assert [draft.ordinal for draft in found] == list(range(len(found)))
    covered = bytearray(len(doc.text))
    for draft in found:
        assert draft.text == doc.text[draft.start : draft.end]
        assert draft.text == draft.text.rstrip().lstrip("\n")  # an indented code block keeps its indent
        assert draft.text
        assert draft.tokens == count(passage_input(doc.title, draft.heading_path, draft.text))
        assert draft.tokens <= spec.tokens_max
        for at in range(draft.start, draft.end):
            covered[at] += 1
    assert max(covered, default=0) <= 1
    for block in doc.blocks:
        missed = [at for at in range(block.start, block.end) if not covered[at] and not doc.text[at].isspace()]
        assert not missed, doc.text[missed[0] : missed[0] + 20]
    assert [draft.start for draft in found] == sorted(draft.start for draft in found)


@settings(max_examples=150, deadline=None)
@given(MARKDOWN, st.sampled_from([tokens, words]), st.sampled_from([None, "Handbook", "T" * 300]))
@example("# A\n\n" + "x" * 400, tokens, None)
@example("# only a heading", tokens, None)
@example("## a\n\n## b\n\n### c", tokens, None)
@example("See:\n\n- " + "\n- ".join(["word word word word"] * 30), tokens, "Handbook")
def test_any_markdown(text: str, count: object, title: str | None) -> None:
    """Whatever the Markdown: exact slices, all of it once, within the bound, the same every time."""
    try:
        doc = document(text, title=title)
    except DocumentRejected:
        return
    spec = ChunkingSpec(tokens_max=100, tokens_target=40, tokens_min=8)
    found = chunk(doc, spec, count)
    hold(doc, found, spec, count)
    assert found == chunk(doc, spec, count)


@settings(max_examples=80, deadline=None)
@given(
    st.text(alphabet=st.sampled_from("ab. \n#-|>`é1:*<"), max_size=300),
    st.sampled_from(["text/markdown", "text/plain", "text/html"]),
)
def test_any_text(text: str, media_type: str) -> None:
    """Whatever the text and its type, the same holds."""
    try:
        doc = document(text, media_type)
    except DocumentRejected:
        return
    hold(doc, chunk(doc, SMALL, tokens), SMALL, tokens)


def test_a_small_document_is_one_chunk() -> None:
    """What fits the target is not cut, with its headings below it."""
    found = chunks("# Leave\n\nTake some.\n\n## When\n\nAny time.")
    assert [(draft.text[:7], draft.heading_path) for draft in found] == [("# Leave", ("Leave",))]


def test_sections_are_not_mixed() -> None:
    """A chunk does not reach over a heading of equal or higher level."""
    text = "\n\n".join(f"## Part {n}\n\n{sentence(15)}" for n in range(4))
    assert [draft.heading_path for draft in chunks(text)] == [(f"Part {n}",) for n in range(4)]


def test_tiny_sections_join_their_siblings() -> None:
    """Sections below the minimum join, up to the target; their path is their parent's."""
    text = "# Glossary\n\n" + "\n\n".join(f"## T{n}\n\nMeans {n}." for n in range(12))
    found = chunks(text, ChunkingSpec(tokens_max=60, tokens_target=20, tokens_min=12))
    assert 1 < len(found) < 12
    assert all(draft.heading_path == ("Glossary",) for draft in found[:-1])


def test_a_long_section_is_packed() -> None:
    """Paragraphs are packed up to the target, and every piece keeps the section's path."""
    text = "# A\n\n## B\n\n" + "\n\n".join(sentence(10) for _ in range(9))
    found = chunks(text)
    assert len(found) == 5
    assert {draft.heading_path for draft in found} == {("A", "B")}
    assert found[0].text.startswith("# A\n\n## B\n\nword")


def test_a_heading_stays_with_what_follows() -> None:
    """No chunk ends with a heading, even where the next block is as long as a chunk may be."""
    text = f"{sentence(20)}\n\n## Next\n\n{' '.join(sentence(9) for _ in range(6))}"
    found = chunks(text)
    assert found[1].text.startswith("## Next\n\nword")
    assert not any(draft.text.rstrip().endswith("## Next") for draft in found)


def test_what_announces_a_list_stays_with_it() -> None:
    """A paragraph that ends with a colon is in the chunk of the list it announces."""
    items = "\n".join("- one two three" for _ in range(8))
    found = chunks(f"{sentence(25)}\n\nYou need these:\n\n{items}")
    assert found[1].text.startswith("You need these:\n\n- one")


def test_tables_are_whole_or_cut_at_rows() -> None:
    """A table that fits is whole; a longer one is cut between rows, and its header row is in the path."""
    rows = "\n".join(f"| tool{n} | {n} days |" for n in range(30))
    table = f"## Keep\n\n| Tool | Days |\n|------|------|\n{rows}"
    whole = chunks(table, ChunkingSpec(tokens_max=480, tokens_target=256, tokens_min=24))
    assert len(whole) == 1
    cut = chunks(table)
    assert len(cut) > 3
    assert cut[0].heading_path == ("Keep",)
    assert all(draft.heading_path == ("Keep", "Tool | Days") for draft in cut[1:])
    assert all(line.startswith("|") and line.endswith("|") for draft in cut[1:] for line in draft.text.split("\n"))


def test_lists_are_cut_between_items() -> None:
    """A long list is cut before an item's marker; a nested item stays with its parent while it fits."""
    text = "\n".join(f"- item {n} with words\n  - nested {n} as well" for n in range(20))
    assert all(draft.text.startswith("- item") for draft in chunks(text))


def test_an_item_longer_than_a_chunk_is_cut_at_its_nested_items() -> None:
    """One huge item is cut before its nested items, marker and all."""
    text = "- the item\n" + "\n".join(f"  - nested number {n} has words" for n in range(30))
    found = chunks(text)
    assert len(found) > 2
    assert all(re.match(r"- ", draft.text) for draft in found)


def test_a_word_longer_than_a_chunk_is_cut() -> None:
    """A word without end is cut by characters, and nothing of it is lost."""
    found = chunks("x" * 2000)
    assert "".join(draft.text for draft in found) == "x" * 2000


def test_an_endless_title_leaves_room_for_the_text() -> None:
    """Title and headings are shortened before they crowd the text out."""
    text = "\n\n".join(f"{'#' * n} {sentence(40)}" for n in range(1, 6)) + "\n\nThe fact is here."
    found = list(chunk(document(text, title="T" * 5000), ChunkingSpec(), tokens))
    assert any("The fact is here." in draft.text for draft in found)
    assert all(draft.tokens <= 480 for draft in found)


def test_markup_between_blocks_is_counted() -> None:
    """A long comment inside a chunk's slice counts against its bound."""
    text = f"One.\n\n<!-- {'noise ' * 100} -->\n\nTwo."
    assert [draft.text for draft in chunks(text)] == ["One.", "Two."]


@pytest.mark.parametrize(
    ("title", "path", "wanted"),
    [
        ("Guide", ("Setup", "Mac"), "Guide > Setup > Mac\nbody"),
        ("Guide", ("guide", "Setup", "Setup"), "Guide > Setup\nbody"),
        (None, ("Setup",), "Setup\nbody"),
        (None, (), "body"),
        ("", (), "body"),
    ],
)
def test_passage_input(title: str | None, path: tuple[str, ...], wanted: str) -> None:
    """Title and headings on one line, each once, then the text."""
    assert passage_input(title, path, "body") == wanted


def test_embed_text_keeps_the_innermost_headings() -> None:
    """Where not all headings fit, the outermost go; the line stays short."""
    head = passage_input("T" * 500, [f"{n} " + "h" * 90 for n in range(6)], "body").split("\n")[0]
    assert len(head) < 400
    assert "5 h" in head
    assert "0 h" not in head


def test_the_tokenizer_is_called_sparingly() -> None:
    """Each block is counted once and each chunk once more: a long document stays cheap."""
    calls: list[int] = []

    def counted(text: str) -> int:
        calls.append(len(text))
        return tokens(text)

    text = "\n\n".join(sentence(10) for _ in range(300))
    found = chunk(document(text), SMALL, counted)
    assert len(calls) <= 300 + len(found) + 5


def test_a_huge_table_is_chunked_in_time() -> None:
    """20,000 rows take seconds, not minutes."""
    text = "| a | b |\n|---|---|\n" + "| one | two |\n" * 20_000
    started = time.perf_counter()
    assert len(chunks(text)) > 1000
    assert time.perf_counter() - started < 20
