"""`ragstone index gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from ragstone.core.ids import corpus_id
from ragstone.entrypoints.cli.common import TENANT, corpus_option, echo, echo_json, guarded, json_option, with_system

if TYPE_CHECKING:
    from ragstone.bootstrap import System
    from ragstone.index.records import Collected

LATER = ("build", "list", "compare")


class Index(click.Group):
    """Knows the words that come later."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or one that says it comes later."""
        if cmd_name in LATER:
            from ragstone.entrypoints.cli.main import later  # noqa: PLC0415 - main imports this module lazily

            return later(f"index {cmd_name}")
        return super().get_command(ctx, cmd_name)


@click.group(cls=Index)
def index() -> None:
    """The rows behind the versions."""


@index.command()
@click.option("--keep", type=click.IntRange(min=1), default=None, help="Versions to keep (default: versions.keep).")
@corpus_option
@json_option
@click.pass_context
@guarded
def gc(ctx: click.Context, keep: int | None, corpus: str, as_json: bool) -> None:
    """Remove what no kept version holds: rows, vectors, postings, texts.

    Ingests do this by themselves once a tenth of `versions.keep` has expired. What is removed can no longer be read
    with --as-of, nor rolled back to.
    """

    async def work(system: System) -> Collected:
        from ragstone.index.records import Retention  # noqa: PLC0415 - a help page needs none of it

        retention = Retention(keep) if keep else system.retention
        # Asked first: an unknown corpus is said as such.
        await (await system.library()).versions(TENANT, corpus, 2147483647, 1)
        return await system.collect(corpus_id(TENANT, corpus), retention)

    collected = with_system(ctx, work)
    if as_json:
        echo_json({"corpus": corpus, **msgspec.to_builtins(collected)})
    else:
        echo(
            f"{collected.versions} versions let go; the oldest that can be read is {collected.oldest}.\n"
            f"Removed: {collected.rows} chunks, {collected.documents} document versions, {collected.texts} texts."
        )
