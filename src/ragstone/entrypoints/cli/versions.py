"""`ragstone versions list|diff|rollback|resume`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ragstone.entrypoints.cli.common import (
    TENANT,
    asker_of,
    asker_option,
    corpus_option,
    echo,
    echo_json,
    guarded,
    json_option,
    with_system,
)
from ragstone.index.listing import Page, VersionDiff
from ragstone.observe.lists import diff_page, versions_page

if TYPE_CHECKING:
    from ragstone.bootstrap import System
    from ragstone.index.records import Published

LIMIT_MAX = 1000


@click.group()
def versions() -> None:
    """Corpus versions: what there is, what changed, and the way back."""


@versions.command("list")
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=50, show_default=True)
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


@versions.command()
@click.argument("before", metavar="V|TIME")
@click.argument("after", metavar="[V|TIME]", required=False)
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=100, show_default=True, help="Documents shown.")
@asker_option
@corpus_option
@json_option
@click.pass_context
@guarded
def diff(
    ctx: click.Context, before: str, after: str | None, limit: int, asker: str | None, corpus: str, as_json: bool
) -> None:
    """Show which documents were added, removed or changed from one version to another (default: the one that
    serves)."""

    async def work(system: System) -> VersionDiff:
        return await (await system.library()).diff(TENANT, corpus, asker_of(asker), before, after, limit)

    found = with_system(ctx, work)
    if as_json:
        echo_json(found)
    else:
        echo(diff_page(found))


@versions.command()
@click.argument("to", metavar="V|TIME")
@click.option("--note", default="", help="Why: kept with the version and shown to whoever ingests meanwhile.")
@corpus_option
@json_option
@click.pass_context
@guarded
def rollback(ctx: click.Context, to: str, note: str, corpus: str, as_json: bool) -> None:
    """Serve again what version V held, as a new version.

    Ingests are refused (exit 3) until `ragstone versions resume`: the next one would publish again what was rolled
    back. Deletions and access lists are not rolled back.
    """

    async def work(system: System) -> Published | None:
        from ragstone.index.stage import rollback as roll  # noqa: PLC0415 - a help page needs none of it

        return await roll(await system.history(), system.objects, TENANT, corpus, to, note)

    published = with_system(ctx, work)
    if as_json:
        echo_json({
            "corpus": corpus,
            "rolled_back_to": to,
            "published": published is not None,
            "corpus_version": published.version if published else None,
            "documents_restored": published.added if published else 0,
            "documents_removed": published.removed if published else 0,
            "merkle_root": published.merkle_root.hex() if published else None,
            "held": published is not None,
        })  # fmt: skip
    elif published:
        echo(
            f"Version {published.version} of corpus {corpus!r} holds what version {to} held:"
            f" {published.added} documents restored, {published.removed} removed.\n"
            "Ingests are refused until: ragstone versions resume"
        )
    else:
        echo(f"The corpus holds what version {to} held already: nothing was changed.")


@versions.command()
@corpus_option
@json_option
@click.pass_context
@guarded
def resume(ctx: click.Context, corpus: str, as_json: bool) -> None:
    """Let ingests publish again after a rollback. The next one makes the corpus equal to its source."""

    async def work(system: System) -> str:
        return await (await system.history()).resume(TENANT, corpus)

    said = with_system(ctx, work)
    if as_json:
        echo_json({"corpus": corpus, "was_held": bool(said), "note": said})
    else:
        echo(f"Ingests may publish again; the hold said: {said}" if said else f"Corpus {corpus!r} was not held.")
