"""The application: routes, error handlers, and the life of the parts."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from ragstone.bootstrap import together
from ragstone.core.errors import NotFound, RagstoneError
from ragstone.entrypoints.api import endpoints
from ragstone.entrypoints.api.admission import Gate
from ragstone.entrypoints.api.edge import Edge
from ragstone.entrypoints.api.problems import HttpError, problem_response
from ragstone.entrypoints.api.service import Service
from ragstone.entrypoints.api.shipper import Shipper
from ragstone.entrypoints.console import routes as console_routes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

    from ragstone.bootstrap import System
    from ragstone.flow import AnswerParts

NOT_FOUND = 404
METHOD_NOT_ALLOWED = 405


def make_app(system: System, *, loopback_only: bool = False) -> Starlette:
    """The application over a system, which it opens when it starts and closes when it ends.

    `loopback_only` says that the server listens on loopback addresses alone: then, and only then, a caller
    may say who asks (`as`); see `trust.py`. It is closed by default.
    """

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        async with system:
            server = system.settings.server
            parts = await open_parts(system)
            app.state.service = Service(system, parts, Gate(server.concurrency, server.queue), loopback_only)
            # The shipper says once that the database is away; the pool would say so at every attempt.
            logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
            shipper = Shipper(system)
            shipping = asyncio.create_task(shipper.run())
            try:
                yield
            finally:
                shipping.cancel()
                with suppress(asyncio.CancelledError):
                    await shipping
                await shipper.finish()

    return Starlette(
        routes=[
            Route("/v1/search", endpoints.search, methods=["GET", "POST"]),
            Route("/v1/answers", endpoints.answers, methods=["POST"]),
            Route("/v1/evidence/{ident}", endpoints.evidence),
            Route("/healthz", endpoints.healthz),
            Route("/readyz", endpoints.readyz),
            *console_routes(),
        ],
        middleware=[Middleware(Edge)],
        exception_handlers={RagstoneError: _problem, HTTPException: _http_problem},
        lifespan=life,
    )


async def open_parts(system: System) -> AnswerParts:
    """Open the database and load the embedder, so that what is missing is said before anybody asks."""
    await together(system.database(), system.embedder(system.settings.embedder.model))
    return await system.answer_parts()


async def _problem(request: Request, error: Exception) -> Response:
    return problem_response(error, request.state.trace_id)


async def _http_problem(request: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown path, or a method that a path does not know."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    path = request.url.path
    ours: RagstoneError
    if error.status_code == NOT_FOUND:
        ours = NotFound(
            f"there is nothing at {path}",
            next_step="the paths are /v1/search, /v1/answers, /v1/evidence/{id}",
        )
    elif error.status_code == METHOD_NOT_ALLOWED:
        allowed = headers.get("Allow", "another method")
        ours = HttpError(
            f"{path} does not take {request.method}",
            status=METHOD_NOT_ALLOWED,
            fault="method_not_allowed",
            next_step=f"use {allowed}",
        )
    else:
        ours = HttpError(str(error.detail), status=error.status_code, next_step="mend the request")
    return problem_response(ours, request.state.trace_id, headers=headers)
