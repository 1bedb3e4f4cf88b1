"""`ragstone why-not`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ragstone.core.deadline import Deadline
from ragstone.core.errors import UsageError
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
    with_system,
)

if TYPE_CHECKING:
    from ragstone.bootstrap import System
    from ragstone.core.filters import Filter
    from ragstone.retrieve.records import WhyNot

LIMIT_MAX = 100
CHUNKS_MAX = 100
DEADLINE_S = 60.0


@click.command("why-not")
@click.argument("question")
@click.argument("document")
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=10, show_default=True, help="Hits on the page.")
@click.option("--filter", "filters", default=None, metavar="EXPR", help='Like: tags listContains "hr".')
@as_of_option
@asker_option
@corpus_option
@json_option
@click.pass_context
@guarded
def why_not(
    ctx: click.Context, question: str, document: str, limit: int, filters: str | None, as_json: bool, **options: Any
) -> None:
    """Why is DOCUMENT (its id, or SOURCE:ID) not among the hits for QUESTION: which stage lost it, and by how much.

    A document that the asker may not read is as if it had never been.
    """
    tree = parse_filter(filters)
    if not document.strip():
        step = "name one: ragstone documents list"
        raise UsageError("the document has no name", doing="reading the document's id", next_step=step)

    async def work(system: System) -> WhyNot:
        return await _explained(system, ctx, question, document, limit, tree, options)

    found = with_system(ctx, work)
    if as_json:
        from ragstone.observe.why_not_page import why_not_document  # noqa: PLC0415 - a help page needs none of it

        echo_json({"query": question, "corpus": options["corpus"], **why_not_document(found)})
    else:
        from ragstone.observe.why_not_page import why_not_page  # noqa: PLC0415 - as above

        echo(why_not_page(question, found))


async def _explained(
    system: System,
    ctx: click.Context,
    question: str,
    document: str,
    limit: int,
    tree: Filter | None,
    options: dict[str, Any],
) -> WhyNot:
    from ragstone.flow import check_question  # noqa: PLC0415 - a help page needs none of it
    from ragstone.retrieve.stage import Ask  # noqa: PLC0415 - as above
    from ragstone.retrieve.why_not import WhyNotParts  # noqa: PLC0415 - as above
    from ragstone.retrieve.why_not import why_not as explain  # noqa: PLC0415 - as above

    check_question(question, settings_of(ctx).limits.question_chars)
    parts = await system.answer_parts()
    view, embedding = await parts.catalog.view(TENANT, options["corpus"], options["as_of"], asker_of(options["asker"]))
    followed = WhyNotParts(
        parts.catalog, await system.whereabouts(), await system.engine(), await parts.retriever(embedding)
    )
    return await explain(
        followed, view, Ask(question, tree, limit, 0, Deadline.after(DEADLINE_S)), document, CHUNKS_MAX
    )
