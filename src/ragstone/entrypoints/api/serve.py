"""Serve the application until SIGTERM or SIGINT; then let what runs finish, and ship the evidence."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from ragstone.core.errors import UsageError
from ragstone.entrypoints.api.app import make_app, open_parts
from ragstone.entrypoints.api.trust import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ragstone.bootstrap import System

DRAIN_S = 10
BACKLOG = 512
DOING = "starting the server"


async def serve(system: System, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve on `host` and `port` (0 takes a free one), and `announce` the URL once questions are taken.

    Returns after SIGTERM or SIGINT: requests under way get 10 s, the spool is shipped, the parts are closed.
    UsageError when the address cannot be had; other errors of ours when a part cannot be opened.
    """
    with listening(host, port) as door:
        await open_parts(system)
        address = door.getsockname()
        config = uvicorn.Config(
            make_app(system, loopback_only=is_loopback(address[0])),
            lifespan="on",
            ws="none",
            backlog=BACKLOG,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
        await _Server(config, lambda: announce(url_of(address[0], address[1]))).serve(sockets=[door])


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket; connections are taken only once the server is ready. UsageError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        door = socket.socket(family, kind, protocol)
    except (socket.gaierror, UnicodeError, OverflowError):
        raise UsageError(
            f"{host!r} is no address of this machine", doing=DOING, next_step="use --host 127.0.0.1"
        ) from None
    with door:
        try:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind(address)
            # Bound is not enough to find out: two sockets may share an address until one of them listens.
            door.listen(BACKLOG)
        except OSError as error:
            raise _refused(error, host, port) from None
        yield door


def url_of(host: str, port: int) -> str:
    """The URL of an address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _refused(error: OSError, host: str, port: int) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(
            f"port {port} of {host} is taken by another process",
            doing=DOING,
            next_step="stop that process, or take another port: --port 0 finds a free one",
        )
    if error.errno == errno.EACCES:
        return UsageError(f"port {port} is not allowed to this user", doing=DOING, next_step="take one above 1023")
    return UsageError(
        f"cannot listen on {host}:{port}: {error.strerror}", doing=DOING, next_step="use --host 127.0.0.1"
    )


class _Server(uvicorn.Server):
    """uvicorn, with a signal ending in a return, so that the caller can close what it opened."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at the first signal; a second SIGINT does not wait for what runs."""
        # Signals reach the main thread alone.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self.handle_exit, each, None)
        try:
            yield
        finally:
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(each)
