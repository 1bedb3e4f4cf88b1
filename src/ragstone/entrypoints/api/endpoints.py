"""The endpoints, one function each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ragstone.core.deadline import Deadline
from ragstone.core.errors import NotFound, RagstoneError
from ragstone.core.nouns import PUBLIC
from ragstone.entrypoints.api.problems import HttpError, problem_response
from ragstone.entrypoints.api.requests import AnswerRequest, SearchRequest, body_of, query_of
from ragstone.entrypoints.api.service import document_response, in_time, service_of
from ragstone.entrypoints.api.stream import EVENT_STREAM, stream_response
from ragstone.entrypoints.api.trust import is_believed
from ragstone.entrypoints.documents import (
    answer_document,
    cursor_after,
    evidence_document,
    search_document,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.requests import Request
    from starlette.responses import Response

    from ragstone.bootstrap import System
    from ragstone.flow import Outcome

READY_WITHIN_S = 3.0


async def search(request: Request) -> Response:
    """`POST /v1/search` and `GET /v1/search?q=`: the document of `ragstone search --json`."""
    wanted = query_of(request) if request.method != "POST" else await body_of(request, SearchRequest)
    outcome = await service_of(request).search(request, wanted)
    return document_response(search_document(outcome, cursor_after(outcome)), headers=named(outcome))


async def answers(request: Request) -> Response:
    """`POST /v1/answers`: the document of `ragstone ask --json`, or its making as an event stream."""
    wanted = await body_of(request, AnswerRequest)
    work = service_of(request).answer(request, wanted)
    if wanted.stream or (wanted.stream is None and EVENT_STREAM in request.headers.get("accept", "")):
        return await stream_response(work, request.state.trace_id)
    outcome = await work
    return document_response(answer_document(outcome), headers=named(outcome))


async def evidence(request: Request) -> Response:
    """`GET /v1/evidence/{id}`: the record behind an answer, with its words.

    What was not answered to the public is shown only to a caller who may say who asks.
    """
    service, ident = service_of(request), request.path_params["ident"]
    deadline = service.deadline(None)
    async with service.gate.place(deadline):
        record, words = await in_time(service.system.find_evidence(ident), deadline, "reading evidence")
    if record.asker != [PUBLIC] and not is_believed(request, loopback_only=service.loopback_only):
        raise NotFound(f"no evidence with id {ident}", doing="reading evidence", next_step="ask on the machine itself")
    return document_response(evidence_document(record, words))


async def healthz(_: Request) -> Response:
    """`GET /healthz`: the process is alive."""
    return document_response({"status": "ok"})


async def readyz(request: Request) -> Response:
    """`GET /readyz`: the database and the embedder really answer, or 503 with what is missing."""
    system = service_of(request).system
    parts = {"database": ping(system), "embedder": _embed(system)}
    results = await asyncio.gather(*(_missing(name, work) for name, work in parts.items()))
    missing = [result for result in results if result]
    if not missing:
        return document_response({"status": "ready", **dict.fromkeys(parts, "ok")})
    names = " and ".join(each["part"] for each in missing)
    fault = HttpError(
        f"{names} did not answer",
        status=503,
        fault="not_ready",
        doing="checking readiness",
        next_step=missing[0]["next_step"] or "see the log of the server",
    )
    return problem_response(fault, request.state.trace_id, {"missing": missing}, {"Retry-After": "1"})


async def ping(system: System) -> None:
    """One real query. Unavailable when the database does not answer."""
    database = await system.database()
    async with database.connection("checking the database") as connection:
        await connection.execute("select 1")


async def _embed(system: System) -> None:
    embedder = await system.embedder(system.settings.embedder.model)
    await embedder.embed_query("ready?")


async def _missing(name: str, work: Awaitable[None]) -> dict[str, Any] | None:
    try:
        await in_time(work, Deadline.after(READY_WITHIN_S), f"checking the {name}")
    except RagstoneError as error:
        return {"part": name, "detail": error.what, "next_step": error.next_step}
    return None


def named(outcome: Outcome) -> dict[str, str]:
    """The header that names the evidence."""
    return {"X-Ragstone-Id": outcome.record.id}
