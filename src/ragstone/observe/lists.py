"""Listings as tables for people."""

from __future__ import annotations

from typing import Any

from ragstone.index.listing import DocumentDetail, Page, VersionDiff


def documents_page(page: Page) -> str:
    """Documents, a line each, with the exact total."""
    lines = [f"{'state':12}{'chunks':>7}  document"]
    lines += [
        f"{each.state:12}{each.chunks:>7}  {each.document_id}" + (f"  ({each.reason})" if each.reason else "")
        for each in page.items
    ]
    return "\n".join([*lines, f"{len(page.items)} of {page.total} documents"])


def document_page(detail: DocumentDetail) -> str:
    """A document with its chunks."""
    line = detail.line
    lines = [
        f"{line.document_id}  {line.title!r}",
        f"state {line.state}" + (f" ({line.reason})" if line.reason else ""),
        f"source {line.source}, object version {line.object_version}, indexed {line.indexed_at}",
    ]
    lines += [f"{key}: {value}" for key, value in sorted(detail.metadata.items())]
    for each in detail.versions:
        until = f"to {each['until'] - 1}" if each["until"] else "on"
        lines.append(f"in corpus versions {each['from']} {until}: {each['object_version'][:12]}")
    for chunk in detail.chunks:
        place = " > ".join(chunk.heading_path) or "–"
        lines += ["", f"[{chunk.ordinal}] {chunk.start}–{chunk.end}, {chunk.tokens} tokens, {place}", chunk.text]
    return "\n".join(lines)


def quarantine_page(page: Page) -> str:
    """What is in quarantine and what to do."""
    if not page.items:
        return "Nothing is in quarantine."
    lines = []
    for each in page.items:
        field = f" (field {each.field})" if each.field else ""
        lines += [f"{each.document_id}: {each.reason}{field}", f"  {each.message}", f"  next: {each.next_step}"]
    return "\n".join([*lines, f"{len(page.items)} of {page.total} entries"])


def versions_page(page: Page) -> str:
    """Versions, newest first."""
    lines = [f"{'version':>8} {'published':32} {'documents':>9} {'chunks':>8}  merkle root        from"]
    lines += [
        f"{each.version:>7}{'*' if each.head else ' ' if each.kept else '-'} {each.published_at:32}"
        f" {each.documents:>9} {each.rows:>8}  {each.merkle_root[:16]}…  {each.source or each.note}"
        for each in page.items
    ]
    gone = "; - no longer kept" if any(not each.kept for each in page.items) else ""
    return "\n".join([*lines, f"{len(page.items)} of {page.total} versions; * serves{gone}"])


def diff_page(diff: VersionDiff) -> str:
    """What changed between two versions, a line a document."""
    counts = f"{diff.added} documents added, {diff.removed} removed, {diff.changed} changed"
    lines = [f"version {diff.before} to {diff.after}: {counts}"]
    marks = {"added": "+", "removed": "-", "changed": "~"}
    for each in diff.items:
        chunks = f"{each.chunks_before} to {each.chunks_after} chunks, {each.chunks_shared} the same"
        size = {"added": f"{each.chunks_after} chunks", "removed": f"{each.chunks_before} chunks"}
        lines.append(f"  {marks[each.change]} {each.document_id}  ({size.get(each.change, chunks)})")
    rest = diff.added + diff.removed + diff.changed - len(diff.items)
    return "\n".join([*lines, *([f"  … and {rest} more"] if rest else [])])


def traces_page(lines: list[dict[str, Any]]) -> str:
    """Records, newest first."""
    if not lines:
        return "No records yet."
    return "\n".join(
        f"{each['id']}  {each['at'][:19]}  {each['kind']:6} {each['status']:9} v{each['corpus_version']}"
        f"  {' '.join((each['question'] or '(erased)').split())[:70]}"
        for each in lines
    )
