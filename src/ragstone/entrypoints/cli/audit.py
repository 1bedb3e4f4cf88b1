"""`ragstone audit`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ragstone.entrypoints.cli.common import (
    TENANT,
    as_of_option,
    corpus_option,
    echo,
    echo_json,
    guarded,
    json_option,
    with_system,
)
from ragstone.entrypoints.cli.progress import Shown

if TYPE_CHECKING:
    from ragstone.bootstrap import System
    from ragstone.core.progress import Progress
    from ragstone.index.audit.records import AuditReport, Mended
    from ragstone.index.audit.stage import AuditParts

DIFFERS = 3


@click.command()
@click.option("--repair", "mend", is_flag=True, help="Do again exactly what differs, then audit again.")
@as_of_option
@corpus_option
@json_option
@click.pass_context
@guarded
def audit(ctx: click.Context, mend: bool, as_of: str | None, corpus: str, as_json: bool) -> None:
    """Prove the index equal to its source: sources, manifests, catalog, rows, postings, vectors, embeddings.

    Reads everything, changes nothing, and names what differs. Exit 3: something differs.
    """
    if mend and as_of is not None:
        raise click.UsageError("--repair mends the version that serves; leave --as-of out")
    progress = Shown("entries")

    async def work(system: System) -> tuple[AuditReport, Mended | None]:
        from ragstone.entrypoints.repair import audit_parts  # noqa: PLC0415 - a help page needs none of it
        from ragstone.index.audit import stage as audit_stage  # noqa: PLC0415 - as above

        try:
            parts = await audit_parts(system)
            found = await audit_stage.audit(parts, TENANT, corpus, as_of, progress)
            if not mend or found.clean:
                return found, None
            done, after = await _mended(system, parts, corpus, found, progress)
        finally:
            progress.close()
        return after, done

    report, done = with_system(ctx, work)
    _print(report, done, as_json=as_json)
    if not report.clean:
        sys.exit(DIFFERS)


def _print(report: AuditReport, done: Mended | None, *, as_json: bool) -> None:
    from ragstone.observe.audit_page import (  # noqa: PLC0415 - a help page needs none of it
        audit_document,
        audit_page,
        repair_document,
        repair_page,
    )

    if as_json:
        echo_json(audit_document(report) | {"repair": repair_document(done) if done else None})
    else:
        if done:
            echo(repair_page(done))
        echo(audit_page(report, repaired=done is not None))


async def _mended(
    system: System, parts: AuditParts, corpus: str, found: AuditReport, progress: Progress
) -> tuple[Mended, AuditReport]:
    from ragstone.entrypoints.repair import RepairParts, repair  # noqa: PLC0415 - only a repair pays for the embedder

    repair_parts = RepairParts(parts, await system.ingest_parts(), await system.mender(), system.source)
    return await repair(repair_parts, TENANT, corpus, found, progress)
