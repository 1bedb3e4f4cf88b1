"""A source as it lists its objects now against what the manifests say the index holds of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ragstone.core.ids import document_id
from ragstone.index.audit.records import Differences, IngestAgain, Listing, SourceLine, Subject
from ragstone.index.records import ChangedDocument


def compare_source(
    subject: Subject,
    source: SourceLine,
    listing: Listing,
    lines: Mapping[bytes, ChangedDocument],
    out: Differences,
) -> None:
    """Missing, changed and extra documents by name. One in quarantine with that very object version, and one that
    was deleted on purpose, is as it should be and only counted."""
    refused = withheld = 0
    for key, listed in listing.objects.items():
        ident = document_id(source.source_id, key)
        line = lines.get(ident)
        out.compared["source"] += 1
        if line is not None and line.object_version == listed.object_version:
            continue
        if ident in subject.withheld:
            withheld += 1
        elif subject.quarantine.get((source.source_id, key)) == listed.object_version:
            refused += 1
        elif line is None:
            _add(out, source, key, "missing", "the source holds it, the index does not")
        else:
            detail = f"the source holds object version {listed.object_version}, the index {line.object_version}"
            _add(out, source, key, "changed", detail)
    if refused:
        out.notes.append(f"{refused} objects of {source.name!r} are in quarantine: ragstone documents quarantine")
    if withheld:
        out.notes.append(f"{withheld} objects of {source.name!r} were deleted on purpose and are left out.")
    _vanished(source, listing, lines, out)


def _vanished(source: SourceLine, listing: Listing, lines: Mapping[bytes, ChangedDocument], out: Differences) -> None:
    present = set(listing.objects) | listing.faulty
    vanished = [
        line.key
        for ident, line in lines.items()
        if line.key not in present and document_id(source.source_id, line.key) == ident
    ]
    if listing.complete:
        for key in sorted(vanished):
            _add(out, source, key, "extra", "the index holds it, the source does not")
    elif vanished:
        out.notes.append(f"{len(vanished)} documents of {source.name!r} may be gone: some record's id cannot be read.")


def _add(out: Differences, source: SourceLine, key: str, kind: str, detail: str) -> None:
    out.add("source", kind, f"{source.name}:{key}", detail, IngestAgain(source.name))
