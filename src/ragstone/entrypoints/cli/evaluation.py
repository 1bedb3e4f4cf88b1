"""`ragstone eval retrieval`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ragstone.core.errors import UsageError
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
from ragstone.entrypoints.cli.progress import Shown
from ragstone.evaluate.judgements import read_qrels, read_queries, run_lines
from ragstone.retrieve.profile import METHODS, checked_method

if TYPE_CHECKING:
    from ragstone.bootstrap import System
    from ragstone.evaluate.retrieval import RetrievalEvaluation

LATER = ("answers", "compare", "gate")
DEADLINE_S = 30.0


class Evaluation(click.Group):
    """Knows the words that come later."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or one that says it comes later."""
        if cmd_name in LATER:
            from ragstone.entrypoints.cli.main import later  # noqa: PLC0415 - main imports this module lazily

            return later(f"eval {cmd_name}")
        return super().get_command(ctx, cmd_name)


@click.group(cls=Evaluation)
def evaluation() -> None:
    """Measure against judged questions."""


@evaluation.command()
@click.option("--queries", "queries_file", required=True, type=click.Path(), help='A .jsonl of {"_id", "text"}.')
@click.option("--qrels", "qrels_file", required=True, type=click.Path(), help="BEIR or TREC judgements.")
@click.option("--run-file", default=None, type=click.Path(), help="Write the ranking in TREC format.")
@click.option("--fusion", default=None, type=click.Choice(METHODS), help="Another fusion than the profile's.")
@as_of_option
@asker_option
@corpus_option
@json_option
@click.pass_context
@guarded
def retrieval(
    ctx: click.Context,
    queries_file: str,
    qrels_file: str,
    run_file: str | None,
    fusion: str | None,
    as_of: str | None,
    asker: str | None,
    corpus: str,
    as_json: bool,
) -> None:
    """Ask every judged question and print nDCG@10, recall@100, MRR@10 and hit@10 over documents."""
    queries, judgements = read_queries(Path(queries_file)), read_qrels(Path(qrels_file))
    if not any(query in judgements for query in queries):
        raise UsageError(
            f"no question of {queries_file} is judged in {qrels_file}",
            doing="reading judged questions",
            next_step="give the files of one set",
        )
    progress = Shown("questions")

    async def work(system: System) -> RetrievalEvaluation:
        from ragstone.evaluate.retrieval import evaluate_retrieval  # noqa: PLC0415 - a help page needs none of it

        profile = system.profile()
        if fusion:
            profile = replace(profile, name=f"{profile.name}+{fusion}", fusion=checked_method(fusion))
        parts = await system.answer_parts(profile)
        view, embedding = await parts.catalog.view(TENANT, corpus, as_of, asker_of(asker))
        return await evaluate_retrieval(
            await parts.retriever(embedding), view, queries, judgements, DEADLINE_S, progress
        )

    try:
        found = with_system(ctx, work)
    finally:
        progress.close()
    if run_file:
        _write(Path(run_file), run_lines(found.runs, "ragstone"))
    metrics = {name: round(value, 4) for name, value in found.metrics.items()}
    if as_json:
        echo_json({"queries": found.queries, "metrics": metrics, "stage_ms": _percentiles(found.stage_ms)})
    else:
        echo(f"{found.queries} questions  " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))


def _percentiles(times: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    stages = sorted({stage for each in times for stage in each})
    table = {}
    for stage in stages:
        values = sorted(each[stage] for each in times if stage in each)
        table[stage] = {"p50": values[len(values) // 2], "p95": values[min(len(values) - 1, int(len(values) * 0.95))]}
    return table


def _write(path: Path, lines: list[str]) -> None:
    try:
        path.write_text("\n".join(lines) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}", doing="writing the run", next_step="name another file"
        ) from None
