"""The outermost layer: trace ids in and out, headers that browsers need, and faults turned into problems."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

from ragstone.entrypoints.api.problems import problem_response
from ragstone.entrypoints.api.trace import trace_id_of, traceparent_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Documents are untrusted: a page of ours runs its own script and nothing else, and nobody frames it.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

logger = logging.getLogger("ragstone.api")


class Edge:
    """ASGI middleware around everything."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; nothing of a fault's inside leaves the process but through the log."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace_id = trace_id_of(Headers(scope=scope).get("traceparent"))
        state = scope.setdefault("state", {})
        state["trace_id"] = trace_id
        started = False

        async def dressed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    headers.setdefault(name, value)
                headers["traceparent"] = traceparent_of(trace_id)
                if "asker" in state:
                    headers["X-Ragstone-As"] = ascii_list(state["asker"].principals)
            await send(message)

        try:
            await self._app(scope, receive, dressed)
        except Exception as error:
            logger.exception("a fault in the program; trace %s", trace_id)
            if not started:
                await problem_response(error, trace_id)(scope, receive, dressed)


def ascii_list(words: frozenset[str]) -> str:
    """Words for a header, which holds ASCII alone."""
    return ",".join(sorted(words)).encode("ascii", "backslashreplace").decode()
