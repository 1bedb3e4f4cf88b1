"""The page to ask from: one HTML file, one style sheet, one script, served from the package."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

FILES = {
    "/": ("index.html", "text/html"),
    "/console.css": ("console.css", "text/css"),
    "/console.js": ("console.js", "text/javascript"),
}


def routes() -> list[Route]:
    """One route a file, and no icon."""
    found = [Route(path, _file(name, media)) for path, (name, media) in FILES.items()]
    return [*found, Route("/favicon.ico", _no_icon)]


def _file(name: str, media: str) -> Callable[[Request], Awaitable[Response]]:
    body = (files(__name__) / "static" / name).read_bytes()

    async def endpoint(_: Request) -> Response:
        return Response(body, media_type=media, headers={"Cache-Control": "no-cache"})

    return endpoint


async def _no_icon(_: Request) -> Response:
    return Response(status_code=204)
