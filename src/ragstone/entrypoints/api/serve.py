"""Serve the application until SIGTERM or SIGINT; then let what runs finish, and ship the evidence.

One process serves by itself here; several share a socket in `workers.py` and `worker.py`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import uvicorn
from starlette.datastructures import MutableHeaders

from ragstone.core.errors import UsageError
from ragstone.entrypoints.api.app import make_app, open_parts
from ragstone.entrypoints.api.trust import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ragstone.bootstrap import System

DRAIN_S = 10
BACKLOG = 512
# How long callers hear `Connection: close` before the door shuts: their next request would meet a closed one.
FAREWELL_S = 0.3
# Who came through the door last has this long to say what it wants.
LAST_REQUEST_S = 0.5
POLL_S = 0.02
ACCEPT_AGAIN_S = 1.0
# A worker yields so long for each connection it has, at most 5 ms: other workers need less to wake.
YIELD_S = 0.001
YIELD_MAX_S = 0.005
DOING = "starting the server"

logger = logging.getLogger("ragstone.api")


async def serve(system: System, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve on `host` and `port` (0 takes a free one), and `announce` the URL once questions are taken.

    Returns after SIGTERM or SIGINT: requests under way get 10 s, the spool is shipped, the parts are closed.
    UsageError when the address cannot be had; other errors of ours when a part cannot be opened.
    """
    with listening(host, port) as door:
        await open_parts(system)
        address = door.getsockname()
        await DrainingServer(system, door, lambda: announce(url_of(address[0], address[1]))).run_until_stopped()


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


def waiting_at(door: socket.socket) -> Iterator[socket.socket]:
    """The connections that wait at a door that does not block, at most a backlog of them."""
    with suppress(OSError):  # nobody waits any more
        for _ in range(BACKLOG):
            connection, _ = door.accept()
            connection.setblocking(False)
            yield connection


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


class DrainingServer(uvicorn.Server):
    """uvicorn behind a socket that listens already, with a signal ending in a return, so that the caller can close
    what it opened. `started` is called once questions are taken; `shared` says that others accept from the socket.

    It accepts by itself: asyncio's own server drops a connection without a word when it closes at the wrong moment.
    """

    def __init__(
        self, system: System, door: socket.socket, started: Callable[[], None], *, shared: bool = False
    ) -> None:
        door.setblocking(False)
        self._door = door
        self._shared = shared
        self._on_started = started
        self._farewell = Farewell(make_app(system, loopback_only=is_loopback(door.getsockname()[0])))
        self._greetings: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        super().__init__(
            uvicorn.Config(
                self._farewell,
                lifespan="on",
                ws="none",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=DRAIN_S,
            )
        )

    async def run_until_stopped(self) -> None:
        """Serve; returns after the drain that a signal or `stop` began."""
        await self.serve(sockets=[])

    def stop(self, request: signal.Signals = signal.SIGTERM) -> None:
        """Begin the drain; a second SIGINT ends the wait for what runs."""
        self.handle_exit(request, None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets=sockets)
        if self.started:
            self._open_door()
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell the callers to come on no open connection again, then close the door and wait for what runs."""
        self._farewell.begun = True
        if not self.force_exit:
            await asyncio.sleep(FAREWELL_S)
        await self._close_door()
        await self._hear_the_last()
        await super().shutdown(sockets=sockets)

    def _open_door(self) -> None:
        asyncio.get_running_loop().add_reader(self._door, self._take_in)

    def _take_in(self) -> None:
        """Accept one connection. The more a worker has, the longer it leaves the next to the others: whoever wakes
        first would else take in a whole burst, and keep it."""
        pause_s = min(YIELD_MAX_S, YIELD_S * len(self.server_state.connections)) if self._shared else 0.0
        try:
            connection, _ = self._door.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # another worker was faster, or the caller has left
        except OSError as error:
            logger.warning("a connection could not be taken in: %s", error)
            pause_s = ACCEPT_AGAIN_S
        else:
            connection.setblocking(False)
            self._greet(connection)
        if pause_s:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._door)
            self._pause = loop.call_later(pause_s, self._open_door)

    def _greet(self, connection: socket.socket) -> None:
        greeting = asyncio.create_task(self._connect(connection))
        self._greetings.add(greeting)
        greeting.add_done_callback(self._greetings.discard)

    async def _connect(self, connection: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn makes its own
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def _close_door(self) -> None:
        """Take in who waits at the door, then close it: a closed door resets those before it."""
        if self._pause is not None:
            self._pause.cancel()
        asyncio.get_running_loop().remove_reader(self._door)
        for late in waiting_at(self._door):
            self._greet(late)
        self._door.close()
        await asyncio.gather(*self._greetings, return_exceptions=True)

    async def _hear_the_last(self) -> None:
        """Give time to connections that have not asked yet; none are open in vain, for answers now end them."""
        end = time.monotonic() + LAST_REQUEST_S
        while self.server_state.connections and time.monotonic() < end and not self.force_exit:  # noqa: ASYNC110 - uvicorn keeps a set
            await asyncio.sleep(POLL_S)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at the first signal; a second SIGINT does not wait for what runs."""
        # Signals reach the main thread alone.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self.stop, each)
        try:
            yield
        finally:
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(each)


class Farewell:
    """ASGI middleware: once `begun`, every response says `Connection: close`, so that no caller sends a request
    on a connection that is about to be closed, which would get no answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def closing(message: Message) -> None:
            if self.begun and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, closing)
