"""`ragstone trace show|list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ragstone.core.evidence import Evidence, EvidenceText
from ragstone.core.ids import corpus_id
from ragstone.entrypoints.cli.common import (
    TENANT,
    corpus_option,
    echo,
    echo_json,
    guarded,
    json_option,
    ship,
    with_system,
)
from ragstone.entrypoints.documents import evidence_document
from ragstone.observe.lists import traces_page
from ragstone.observe.page import trace_page

if TYPE_CHECKING:
    from ragstone.bootstrap import System


@click.group()
def trace() -> None:
    """The evidence behind answers and searches."""


@trace.command("show")
@click.argument("ident", metavar="ID")
@json_option
@click.pass_context
@guarded
def show(ctx: click.Context, ident: str, as_json: bool) -> None:
    """Show the record ID: question, stages, candidates with reasons, what was cut and why, answer, cost."""

    async def work(system: System) -> tuple[Evidence, EvidenceText | None]:
        return await system.find_evidence(ident)

    record, words = with_system(ctx, work)
    if as_json:
        echo_json(evidence_document(record, words))
    else:
        echo(trace_page(record, words))


@trace.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@corpus_option
@json_option
@click.pass_context
@guarded
def list_traces(ctx: click.Context, limit: int, corpus: str, as_json: bool) -> None:
    """List the newest records."""

    async def work(system: System) -> list[dict[str, Any]]:
        await ship(system)
        return await (await system.evidence()).recent(corpus_id(TENANT, corpus), limit)

    lines = with_system(ctx, work)
    if as_json:
        echo_json({"items": lines})
    else:
        echo(traces_page(lines))
