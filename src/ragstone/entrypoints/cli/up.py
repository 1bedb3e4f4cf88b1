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
@click.pass_context
@guarded
def up(ctx: click.Context, host: str | None, port: int | None) -> None:
    """Serve the API and the page to ask from, until stopped."""

    async def work(system: System) -> None:
        from ragstone.entrypoints.api.serve import serve  # noqa: PLC0415 - the web stack is for this command only

        server = system.settings.server
        await serve(
            system,
            host or server.host,
            server.port if port is None else port,
            lambda url: click.echo(f"ragstone is up: {url}  (stop with Ctrl-C)", err=True),
        )

    with_system(ctx, work)
