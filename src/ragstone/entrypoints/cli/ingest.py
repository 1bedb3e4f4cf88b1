"""`ragstone ingest`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ragstone.core.errors import RagstoneError, UsageError
from ragstone.entrypoints.cli.common import TENANT, corpus_option, echo, echo_json, guarded, json_option, with_system
from ragstone.entrypoints.cli.progress import Shown
from ragstone.ingest.plan import gone

if TYPE_CHECKING:
    from ragstone.bootstrap import System
    from ragstone.flow import IngestReport

PARTLY = 5
SHOWN_QUARANTINE = 10


@click.command()
@click.argument("source")
@click.option("--source", "name", default=None, metavar="NAME", help="The source's name (default: last part of path).")
@click.option("--allow-delete", is_flag=True, help="Let this run delete more than the guard allows.")
@click.option("--only", multiple=True, metavar="DOCUMENT", help="Look at this document alone (repeatable).")
@click.option("--schema", default=None, hidden=True)
@click.option("--estimate", is_flag=True, hidden=True)
@corpus_option
@json_option
@click.pass_context
@guarded
def ingest(
    ctx: click.Context,
    source: str,
    name: str | None,
    allow_delete: bool,
    only: tuple[str, ...],
    schema: str | None,
    estimate: bool,
    corpus: str,
    as_json: bool,
) -> None:
    """Make the corpus equal to SOURCE: a folder, a .jsonl file, or one document.

    An unchanged source embeds nothing and publishes no version. With --only, some documents are brought up to date
    by their path below SOURCE, beside an ingest of the whole that may be under way. Exit 5: something went to
    quarantine.
    """
    if schema or estimate:
        raise click.UsageError("--schema and --estimate come in a later release")
    progress = Shown("documents")

    async def work(system: System) -> IngestReport:
        from ragstone import flow  # noqa: PLC0415 - a help page needs none of it

        reader = await _open(system, source, name, corpus)
        parts = await system.ingest_parts()
        kind = "jsonl" if source.endswith(".jsonl") else "folder"
        chosen = frozenset(only) if only else None
        request = flow.IngestRequest(reader, TENANT, corpus, name or reader.name, kind, allow_delete, chosen)
        try:
            return await flow.ingest(parts, request, progress)
        finally:
            progress.close()

    report = with_system(ctx, work)
    if as_json:
        echo_json(as_document(report))
    else:
        echo(as_text(report))
    if report.quarantined:
        sys.exit(PARTLY)


async def _open(system: System, location: str, name: str | None, corpus: str) -> Any:
    """Open the source. A place that is gone but has documents here is a mass deletion, not a typing error."""
    try:
        return system.source(location)
    except UsageError as error:
        if location.startswith("s3:") or Path(location).exists():
            raise
        if not (system.settings.database.url or system.home.exists()):
            raise  # nothing was ever ingested here: a typing error starts no database
        source = name or Path(location).name.removesuffix(".jsonl")
        known, place = 0, ""
        try:
            known, place = await (await system.library()).source_documents(TENANT, corpus, source)
        except RagstoneError:
            raise error from None
        if known and place == os.path.abspath(location):  # noqa: PTH100 - as the sources name their place
            raise gone(location, known) from None
        raise


def as_document(report: IngestReport) -> dict[str, Any]:
    """The report under --json."""
    published, tally = report.published, report.tally
    return {
        "corpus": report.corpus,
        "source": report.source,
        "published": published is not None,
        "corpus_version": published.version if published else None,
        "merkle_root": published.merkle_root.hex() if published else None,
        "documents": {
            "scanned": report.scanned,
            "changed": report.changed,
            "unchanged": report.unchanged,
            "deleted": report.deleted,
            "kept_back": report.kept_back,
            "stale": len(tally.stale),
            "withheld": report.withheld,
            "quarantined": len(report.quarantined),
            "left_out": dict(report.left_out),
        },
        "chunks": {"made": tally.chunks, "new": tally.rows, "reused": tally.reused},
        "embeddings": {"made": tally.embedded, "from_cache": tally.cached, "tokens": tally.embedded_tokens},
        "quarantine": [
            {"document_id": e.key, "reason": e.reason, "field": e.field, "message": e.message, "next_step": e.next_step}
            for e in report.quarantined
        ],
        "seconds": round(report.seconds, 3),
    }


def as_text(report: IngestReport) -> str:
    """The report for people."""
    published, tally = report.published, report.tally
    lines = []
    if published:
        lines.append(
            f"Version {published.version} of corpus {report.corpus!r}: {published.added} documents added or changed,"
            f" {published.removed} removed, {published.rows} chunks live."
        )
        if published.maintenance:
            lines.append(f"Published, but the index was not tended, the next run will: {published.maintenance}")
    elif tally.stale:
        lines.append(f"No new version of corpus {report.corpus!r}.")
    else:
        lines.append(f"Nothing changed in {report.source!r}: no new version, nothing embedded.")
    if tally.stale:
        lines.append(f"Left as they are, newer ones are published: {', '.join(tally.stale[:5])}")
    if report.withheld:
        lines.append(f"Left out, deleted with `ragstone documents delete`: {report.withheld} documents.")
    lines.append(
        f"{report.scanned} documents scanned: {tally.documents} read, {report.unchanged} unchanged,"
        f" {len(report.quarantined)} refused; {tally.embedded} chunks embedded,"
        f" {tally.cached} from the cache, {tally.reused} reused; {report.seconds:.1f} s."
    )
    if report.kept_back:
        lines.append(f"{report.kept_back} deletions were left undone: some record's id could not be read.")
    if report.left_out:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(report.left_out.items()))
        lines.append(f"Left out, not a type that is read: {counts}.")
    if report.quarantined:
        lines.append(f"In quarantine: {len(report.quarantined)} documents (ragstone documents quarantine).")
        lines += [f"  {e.key}: {e.reason}: {e.message}" for e in report.quarantined[:SHOWN_QUARANTINE]]
        if len(report.quarantined) > SHOWN_QUARANTINE:
            lines.append(f"  … and {len(report.quarantined) - SHOWN_QUARANTINE} more")
    return "\n".join(lines)
