"""`ragstone up`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ragstone.entrypoints.cli.common import guarded, with_system

if TYPE_CHECKING:
    from ragstone.bootstrap import System


@click.command()
@click.option("--host", default=None, help="Address to listen on (default 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="Port (default 8000; 0 takes a free one).")
@click.option("--workers", type=click.IntRange(min=1), default=None, help="Processes that share the port (default 1).")
@click.pass_context
@guarded
def up(ctx: click.Context, host: str | None, port: int | None, workers: int | None) -> None:
    """Serve the API and the page to ask from, until stopped."""

    async def work(system: System) -> None:
        server = system.settings.server
        address = (host or server.host, server.port if port is None else port)
        count = workers or server.workers
        if count == 1:
            from ragstone.entrypoints.api.serve import serve  # noqa: PLC0415 - the web stack is for this command only

            await serve(system, *address, announce)
        else:
            from ragstone.entrypoints.api.workers import serve_with_workers  # noqa: PLC0415 - as above

            await serve_with_workers(system, count, *address, announce, say)

    with_system(ctx, work)


def announce(url: str) -> None:
    """Say where the server is."""
    click.echo(f"ragstone is up: {url}  (stop with Ctrl-C)", err=True)


def say(notice: str) -> None:
    """Tell the operator something on stderr."""
    click.echo(f"ragstone: {notice}", err=True)
