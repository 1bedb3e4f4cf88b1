"""`ragstone versions list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ragstone.entrypoints.cli.common import TENANT, corpus_option, echo, echo_json, guarded, json_option, with_system
from ragstone.index.listing import Page
from ragstone.observe.lists import versions_page

if TYPE_CHECKING:
    from ragstone.bootstrap import System

LATER = ("diff", "rollback")


class Versions(click.Group):
    """Knows the words that come later."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or one that says it comes later."""
        if cmd_name in LATER:
            from ragstone.entrypoints.cli.main import later  # noqa: PLC0415 - main imports this module lazily

            return later(f"versions {cmd_name}")
        return super().get_command(ctx, cmd_name)


@click.group(cls=Versions)
def versions() -> None:
    """Versions of the corpus: each ingest that changed something made one."""


@versions.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--before", type=click.IntRange(min=1), default=None, help="Only versions below this number.")
@corpus_option
@json_option
@click.pass_context
@guarded
def list_versions(ctx: click.Context, limit: int, before: int | None, corpus: str, as_json: bool) -> None:
    """List versions, newest first, with their Merkle roots."""

    async def work(system: System) -> Page:
        return await (await system.library()).versions(TENANT, corpus, before or 2147483647, limit)

    page = with_system(ctx, work)
    if as_json:
        echo_json(page)
    else:
        echo(versions_page(page))
