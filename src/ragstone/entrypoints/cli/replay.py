"""`ragstone replay`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ragstone.core.errors import CheckRefused
from ragstone.entrypoints.cli.common import echo, echo_json, guarded, json_option, with_system

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragstone.bootstrap import System
    from ragstone.core.evidence import Evidence
    from ragstone.evaluate.engine_replay import EngineReplay, LegReplay
    from ragstone.evaluate.replay_record import Difference, Replay

DEADLINE_S = 60.0
SHOWN = 20
LISTED_MAX = 1000
CHUNKS_SHOWN = 3
ID_SHOWN = 12


@click.command()
@click.argument("ident", metavar="ID")
@click.option("--engine", "on_engine", is_flag=True, help="Also search the recorded version again and compare.")
@json_option
@click.pass_context
@guarded
def replay(ctx: click.Context, ident: str, on_engine: bool, as_json: bool) -> None:
    """Decide the record ID again, from what was recorded: it must come out equal to the last bit.

    Exit 3 when something comes out otherwise. With --engine the recorded query searches the recorded version
    again for the recorded asker; nothing is embedded.
    """

    async def work(system: System) -> tuple[Evidence, Replay, EngineReplay | None]:
        from ragstone.evaluate.replay import replay as decide_again  # noqa: PLC0415 - a help page needs none of it

        record, words = await system.find_evidence(ident)
        again = decide_again(record, words)
        return record, again, await _on_engine(system, record) if on_engine else None

    record, again, engine = with_system(ctx, work)
    if as_json:
        echo_json(_document(record, again, engine))
    else:
        echo("\n".join(_page(record, again, engine)))
    if not again.equal or (engine is not None and not engine.agrees):
        sys.exit(CheckRefused.exit_code)


async def _on_engine(system: System, record: Evidence) -> EngineReplay | None:
    from ragstone.core.deadline import Deadline  # noqa: PLC0415 - a help page needs none of it
    from ragstone.evaluate.engine_replay import replay_on_engine  # noqa: PLC0415 - as above

    catalog, engine = await system.catalog(), await system.engine()
    return await replay_on_engine(record, catalog, engine, system.profile(), Deadline.after(DEADLINE_S))


def _document(record: Evidence, again: Replay, engine: EngineReplay | None) -> dict[str, Any]:
    return {
        "id": record.id,
        "kind": record.kind,
        "schema": record.schema,
        "corpus": record.corpus,
        "corpus_version": record.corpus_version,
        "decided": again.decided,
        "equal": again.equal,
        **_listed(again.differences),
        "notes": again.notes,
        "error": record.error,
        "engine": None if engine is None else _engine_document(engine),
    }


def _engine_document(engine: EngineReplay) -> dict[str, Any]:
    return {
        "agrees": engine.agrees,
        "corpus_version": engine.corpus_version,
        "legs": {leg.name: _leg_document(leg) for leg in engine.legs},
        "scored": engine.scored,
        "largest_dense_difference": engine.largest_dense_difference,
        **_listed(engine.differences),
        "hidden": engine.hidden,
        "access_changed": engine.access_changed,
        "page": engine.page,
        "changed": {name: {"recorded": was, "now": now} for name, (was, now) in engine.changed.items()},
    }


def _leg_document(leg: LegReplay) -> dict[str, Any]:
    return {
        "path": {"recorded": leg.path_recorded, "now": leg.path_now},
        "comparable": leg.comparable,
        "agrees": leg.agrees,
        "depth": leg.depth,
        "recorded": leg.recorded,
        "same": leg.same,
        "overlap": leg.overlap,
        "came": leg.came,
        "went": leg.went,
        "largest_difference": leg.largest_difference,
        "matching": {"recorded": leg.matching_recorded, "now": leg.matching_now},
    }


def _listed(differences: tuple[Difference, ...]) -> dict[str, Any]:
    return {"differences": differences[:LISTED_MAX], "differences_total": len(differences)}


def _page(record: Evidence, again: Replay, engine: EngineReplay | None) -> Iterator[str]:
    yield f"{record.kind} {record.id}  {record.at}"
    if record.error is not None:
        yield f"failed     {record.error.get('what', '')}"
        yield "There is nothing to decide again: the question ended in an error."
        return
    retrieval = record.retrieval
    yield f"corpus     {record.corpus!r} version {record.corpus_version}, asked by {', '.join(record.asker)}"
    yield f"recorded   {len(retrieval.candidates.seq)} candidates, {len(retrieval.hits)} returned" + (
        f", {len(record.answer.considered['score'])} sentences considered" if record.answer else ""
    )
    yield f"decided    {', '.join(again.decided)}"
    yield from (f"note       {note}" for note in again.notes)
    yield "result     equal, bit for bit" if again.equal else f"result     NOT equal: {_count(again.differences)}"
    yield from _differences(again.differences)
    if engine is not None:
        yield from _engine_page(engine)


def _engine_page(engine: EngineReplay) -> Iterator[str]:
    yield ""
    yield f"engine     the legs again on version {engine.corpus_version}, with the recorded query"
    for leg in engine.legs:
        yield from _leg_page(leg)
    within = engine.largest_dense_difference
    yield f"  scores   {engine.scored} candidates scored again, dense scores within {within:.1g}"
    page = engine.page
    order = "in the same order" if page.same_order else "in another order"
    yield f"  page     {page.same} of {page.recorded} passages again" + (f", {order}" if not page.went else "")
    if engine.hidden:
        yield f"  hidden   {len(engine.hidden)} candidates are no longer visible to the asker: {_ids(engine.hidden)}"
    if engine.access_changed:
        yield "  access   was changed since: rows may have come and gone for that"
    for name, (was, now) in engine.changed.items():
        yield f"  changed  {name}: recorded {was!r}, now {now!r}"
    agrees = "agrees" if engine.agrees else f"does NOT agree: {_count(engine.differences)} of rows and scores"
    yield f"  result   the engine {agrees}"
    yield from _differences(engine.differences)


def _leg_page(leg: LegReplay) -> Iterator[str]:
    path = leg.path_now if leg.path_now == leg.path_recorded else f"{leg.path_recorded}, now {leg.path_now}"
    if not leg.comparable:
        says = f"{leg.same} of {leg.recorded} rows again (overlap {leg.overlap:.3f}); a walk may differ"
    elif leg.agrees:
        says = f"the same rows, order and scores: {leg.same} of {leg.recorded}"
    else:
        says = f"NOT the same list: {leg.same} of {leg.recorded} rows, scores differ by {leg.largest_difference:.1g}"
    yield f"  {leg.name:8} {path}: {says}"
    if leg.came:
        yield f"           came: {_ids(leg.came)}"
    if leg.went:
        yield f"           went: {_ids(leg.went)}"


def _differences(differences: tuple[Difference, ...]) -> Iterator[str]:
    for each in differences[:SHOWN]:
        yield f"  {each.where}: recorded {each.recorded!r}, now {each.replayed!r}"
    if len(differences) > SHOWN:
        yield f"  … and {len(differences) - SHOWN} more (--json lists {LISTED_MAX})"


def _count(differences: tuple[Difference, ...]) -> str:
    return f"{len(differences)} difference" + ("" if len(differences) == 1 else "s")


def _ids(chunk_ids: tuple[str, ...]) -> str:
    shown = ", ".join(each[:ID_SHOWN] for each in chunk_ids[:CHUNKS_SHOWN])
    return shown + (f" and {len(chunk_ids) - CHUNKS_SHOWN} more" if len(chunk_ids) > CHUNKS_SHOWN else "")
