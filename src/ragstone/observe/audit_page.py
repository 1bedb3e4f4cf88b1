"""What an audit found and what a repair did, for people and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ragstone.index.audit.records import STORES

if TYPE_CHECKING:
    from ragstone.index.audit.records import AuditReport, Mended

SHOWN_MAX = 20
RESTORE = "restore the state directory and the database from a backup"
UNITS = {
    "source": "documents", "manifest": "manifests", "catalog": "documents", "rows": "rows", "postings": "rows",
    "vectors": "vectors", "embedding_cache": "embeddings",
}  # fmt: skip


def audit_document(report: AuditReport) -> dict[str, Any]:
    """The report under --json: every difference up to the bound of an audit, with the total."""
    return {
        "corpus": report.corpus,
        "corpus_version": report.version,
        "head": report.head,
        "merkle_root": report.merkle_root.hex(),
        "clean": report.clean,
        "compared": {store: report.compared.get(store, 0) for store in STORES},
        "differences": {
            "total": sum(report.totals.values()),
            "by_store": {store: report.totals.get(store, 0) for store in STORES},
            "items": [
                {
                    "store": each.store,
                    "kind": each.kind,
                    "name": each.name,
                    "detail": each.detail,
                    "repairable": each.remedy is not None,
                }
                for each in report.findings
            ],
        },
        "notes": list(report.notes),
    }


def audit_page(report: AuditReport, *, repaired: bool = False) -> str:
    """The report for people: a line a store, then the first differences by name. `repaired`: a repair has just
    done what it could."""
    serves = "which serves" if report.version == report.head else f"version {report.head} serves"
    lines = [
        f"Corpus {report.corpus!r}, version {report.version}, {serves}. Merkle root {report.merkle_root.hex()}",
        f"{'store':16}{'compared':>10}{'differ':>8}",
    ]
    lines += [
        f"{store:16}{report.compared.get(store, 0):>10}{report.totals.get(store, 0):>8}  {UNITS[store]}"
        for store in STORES
    ]
    lines += [f"{each.store} {each.kind}: {each.name}: {each.detail}" for each in report.findings[:SHOWN_MAX]]
    total = sum(report.totals.values())
    if total > SHOWN_MAX:
        lines.append(f"… and {total - SHOWN_MAX} more (--json lists them)")
    lines += [f"Note: {note}" for note in report.notes]
    if report.clean:
        lines.append("Nothing differs.")
    else:
        step = "ragstone audit --repair" if report.remedies else RESTORE
        if repaired:
            step = f"do what is said above, then repair again; else {RESTORE}"
        lines.append(f"{total} {'difference' if total == 1 else 'differences'}. Next: {step}")
    return "\n".join(lines)


def repair_document(done: Mended) -> dict[str, Any]:
    """What a repair did, under --json."""
    return asdict(done)


def repair_page(done: Mended) -> str:
    """What a repair did, for people."""
    parts = [
        (done.documents, "documents made again"),
        (done.rows, "rows written"),
        (done.embedded, "chunks embedded"),
        (done.postings, "rows' postings rewritten"),
        (done.forgotten, "cached embeddings dropped"),
        (done.restored, "catalog rows restored"),
        (done.manifests, "manifests made again"),
    ]
    said = ", ".join(f"{count} {what}" for count, what in parts if count) or "nothing could be mended"
    lines = [f"Repair: {said}."]
    if done.versions:
        lines.append(f"Published as version {', '.join(map(str, done.versions))}.")
    if done.checkpoint:
        lines.append("A checkpoint was sealed: the manifests are proven from here on.")
    lines += [f"Left: {each}" for each in done.left]
    return "\n".join(lines)
