"""`ragstone ask` and `ragstone search`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ragstone.core.deadline import Deadline
from ragstone.core.filters import parse_filter
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
    settings_of,
    ship,
    with_system,
)
from ragstone.entrypoints.documents import answer_document, begin_page, cursor_after, search_document
from ragstone.observe.page import answer_page, search_page

if TYPE_CHECKING:
    from ragstone.bootstrap import System
    from ragstone.flow import Outcome, Question

DEGRADED = 4
LIMIT_MAX = 100


def question_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What both commands take."""
    for option in (
        click.option("--filter", "filters", default=None, metavar="EXPR", help='Like: tags listContains "hr".'),
        click.option("--deadline-ms", type=click.IntRange(min=1), default=None, help="Time for the whole question."),
        click.option("--fail-on", type=click.Choice(["degraded"]), default=None, help="Exit 4 when cut short."),
        as_of_option,
        asker_option,
        corpus_option,
        json_option,
    ):
        command = option(command)
    return command


@click.command()
@click.argument("question")
@click.option("--why", is_flag=True, help="Show the reasons of every passage.")
@question_options
@click.pass_context
@guarded
def ask(ctx: click.Context, question: str, why: bool, as_json: bool, fail_on: str | None, **options: Any) -> None:
    """Answer QUESTION from the documents alone, quoting them, or say that they do not answer it."""

    async def work(system: System) -> Outcome:
        from ragstone import flow  # noqa: PLC0415 - a help page needs none of it

        outcome = await flow.ask(await system.answer_parts(), _question(ctx, question, options))
        await ship(system)
        return outcome

    outcome = with_system(ctx, work)
    if as_json:
        echo_json(answer_document(outcome))
    else:
        echo(answer_page(outcome.record, outcome.words, why=why))
    _end(outcome, fail_on)


@click.command()
@click.argument("question")
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=10, show_default=True, help="Hits on a page.")
@click.option("--cursor", default=None, help="Where the last page ended (`next_cursor`).")
@question_options
@click.pass_context
@guarded
def search(
    ctx: click.Context,
    question: str,
    limit: int,
    cursor: str | None,
    as_json: bool,
    fail_on: str | None,
    **options: Any,
) -> None:
    """Find the passages for QUESTION, each with the reasons it was chosen."""
    filters = parse_filter(options["filters"])
    offset, options["as_of"] = begin_page(cursor, options["as_of"], question, filters, options["corpus"])

    async def work(system: System) -> Outcome:
        from ragstone import flow  # noqa: PLC0415 - a help page needs none of it

        asked = _question(ctx, question, options, limit=limit, offset=offset)
        outcome = await flow.search(await system.answer_parts(), asked)
        await ship(system)
        return outcome

    outcome = with_system(ctx, work)
    following = cursor_after(outcome)
    if as_json:
        echo_json(search_document(outcome, following))
    else:
        echo(search_page(outcome.record, outcome.words, following))
    _end(outcome, fail_on)


def _question(ctx: click.Context, text: str, options: dict[str, Any], limit: int = 10, offset: int = 0) -> Question:
    from ragstone.flow import Question  # noqa: PLC0415 - a help page needs none of it

    settings = settings_of(ctx)
    return Question(
        text=text,
        tenant=TENANT,
        corpus=options["corpus"],
        asker=asker_of(options["asker"]),
        filters=parse_filter(options["filters"]),
        as_of=options["as_of"],
        deadline=Deadline.after((options["deadline_ms"] or settings.answer.deadline_ms) / 1000),
        limit=limit,
        offset=offset,
    )


def _end(outcome: Outcome, fail_on: str | None) -> None:
    if fail_on == "degraded" and outcome.record.degraded:
        sys.exit(DEGRADED)
