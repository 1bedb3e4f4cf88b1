"""`ragstone documents list|show|quarantine|delete`."""

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
    from ragstone.index.records import Published

LIMIT_MAX = 1000
LATER = ("erase", "redrive")


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


@documents.command()
@click.argument("document")
@click.option("--undo", is_flag=True, help="Take the deletion back.")
@click.option("--note", default="", help="Why: kept with the version.")
@corpus_option
@json_option
@click.pass_context
@guarded
def delete(ctx: click.Context, document: str, undo: bool, note: str, corpus: str, as_json: bool) -> None:
    """Take DOCUMENT (its id, or SOURCE:ID) out of every answer, of old versions too, at once.

    It stays out though its source still has it, until --undo: then old versions show it again, and the next ingest
    publishes it again.
    """

    async def work(system: System) -> Published | bool | None:
        from ragstone.index.stage import delete as remove  # noqa: PLC0415 - a help page needs none of it

        history = await system.history()
        if undo:
            return await history.restore(TENANT, corpus, document)
        return await remove(history, system.objects, TENANT, corpus, document, note)

    done = with_system(ctx, work)
    version = None if done is None or isinstance(done, bool) else done.version
    if as_json:
        echo_json({"corpus": corpus, "document_id": document, "deleted": not undo, "corpus_version": version})
    elif undo:
        said = "is shown again; the next ingest publishes it again" if done else "was not deleted"
        echo(f"{document} {said}.")
    else:
        where = f"version {version} is without it" if version else "the version that serves did not hold it"
        echo(f"{document} is out of every answer; {where}. Take it back with --undo.")


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
