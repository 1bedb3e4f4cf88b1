"""`ragstone documents list|show|quarantine`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from ragstone.entrypoints.cli.common import (
    TENANT,
    as_of_option,
    asker_of,
    asker_option,
    corpus_option,
    echo,
    echo_json,
    guarded,
    json_option,
    with_system,
)
from ragstone.index.listing import DocumentDetail, Page
from ragstone.observe.lists import document_page, documents_page, quarantine_page

if TYPE_CHECKING:
    from ragstone.adapters.postgres.library import PostgresLibrary
    from ragstone.bootstrap import System

LIMIT_MAX = 1000
LATER = ("delete", "erase", "redrive")


class Documents(click.Group):
    """Knows the words that come later."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or one that says it comes later."""
        if cmd_name in LATER:
            from ragstone.entrypoints.cli.main import later  # noqa: PLC0415 - main imports this module lazily

            return later(f"documents {cmd_name}")
        return super().get_command(ctx, cmd_name)


@click.group(cls=Documents)
def documents() -> None:
    """Documents of the corpus, with exact totals; nothing that was ingested or refused is left out."""


def listing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Paging."""
    command = click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=100, show_default=True)(command)
    return click.option("--cursor", default="", help="Where the last page ended.")(command)


@documents.command("list")
@listing_options
@as_of_option
@asker_option
@corpus_option
@json_option
@click.pass_context
@guarded
def list_documents(
    ctx: click.Context, limit: int, cursor: str, as_of: str | None, asker: str | None, corpus: str, as_json: bool
) -> None:
    """List documents with their state: live, stale or quarantined."""
    page = _listing(ctx, lambda library: library.documents(TENANT, corpus, asker_of(asker), as_of, cursor, limit))
    _show(page, documents_page, as_json=as_json)


@documents.command("show")
@click.argument("document")
@as_of_option
@asker_option
@corpus_option
@json_option
@click.pass_context
@guarded
def show(ctx: click.Context, document: str, as_of: str | None, asker: str | None, corpus: str, as_json: bool) -> None:
    """Show DOCUMENT (its id, or SOURCE:ID): metadata, chunks with their places, and its versions."""
    detail: DocumentDetail = _listing(
        ctx, lambda library: library.document(TENANT, corpus, asker_of(asker), as_of, document)
    )
    if as_json:
        echo_json(detail)
    else:
        echo(document_page(detail))


@documents.command("quarantine")
@listing_options
@corpus_option
@json_option
@click.pass_context
@guarded
def quarantine(ctx: click.Context, limit: int, cursor: str, corpus: str, as_json: bool) -> None:
    """List what could not be used, why, and what to do."""
    page = _listing(ctx, lambda library: library.quarantine(TENANT, corpus, cursor, limit))
    _show(page, quarantine_page, as_json=as_json)


def _listing(ctx: click.Context, read: Callable[[PostgresLibrary], Awaitable[Any]]) -> Any:
    async def work(system: System) -> Any:
        return await read(await system.library())

    return with_system(ctx, work)


def _show(page: Page, render: Callable[[Page], str], *, as_json: bool) -> None:
    if as_json:
        echo_json(page)
    else:
        echo(render(page))
        if page.next_cursor:
            sys.stderr.write(f"more: --cursor {page.next_cursor!r}\n")
