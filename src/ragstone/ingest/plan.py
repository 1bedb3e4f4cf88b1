"""The plan of a run: what changed, what vanished, and whether that may be. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ragstone.core.errors import CheckRefused, RagstoneError, Terminal
from ragstone.ingest.records import Fault, Scan, SourceObject

UNSUPPORTED = "unsupported_type"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do. `kept_back` counts deletions left undone as some record's id is unknown."""

    changed: tuple[SourceObject, ...]
    unchanged: int
    deleted: tuple[str, ...]
    faults: tuple[Fault, ...]
    kept_back: int


def make_plan(scan: Scan, published: Mapping[str, str]) -> Plan:
    """Compare a listing with the published object versions by key.

    A key with a fault keeps its last good version.
    """
    changed = tuple(each for each in scan.objects if published.get(each.key) != each.object_version)
    present = {each.key for each in scan.objects} | {fault.key for fault in scan.faults}
    missing = tuple(sorted(key for key in published if key not in present))
    unsure = any(not fault.identified for fault in scan.faults)
    return Plan(
        changed=changed,
        unchanged=len(scan.objects) - len(changed),
        deleted=() if unsure else missing,
        faults=scan.faults,
        kept_back=len(missing) if unsure else 0,
    )


def guard(plan: Plan, scan: Scan, published: int, location: str, *, percent: float, allowed: bool) -> None:
    """Refuse what an unmounted folder would do: CheckRefused for an empty source that has documents or too many
    deletions; Terminal for a source that has nothing at all, or nothing of a type that is read."""
    readable = scan.objects or any(fault.reason != UNSUPPORTED for fault in scan.faults)
    if not readable and not published:
        raise Terminal(
            f"{location} holds no documents",
            doing="ingesting",
            next_step="put .md, .txt or .html files there, or name another folder",
        )
    if allowed or not plan.deleted:
        return
    if not scan.objects or len(plan.deleted) > published * percent / 100:
        raise too_many_deletions(location, len(plan.deleted), published)


def gone(location: str, published: int) -> RagstoneError:
    """The refusal to take a place that is not there for one that was emptied."""
    return CheckRefused(
        f"{location} is gone, and {published} documents of it are published",
        doing="ingesting; nothing was changed",
        next_step="mount it again; if its documents are really gone, put an empty one there and add --allow-delete",
    )


def too_many_deletions(location: str, deleted: int, published: int) -> RagstoneError:
    """The refusal of a mass deletion."""
    return CheckRefused(
        f"this run would delete {deleted} of {published} documents of {location}",
        doing="ingesting; nothing was changed",
        next_step="if they are really gone, run it again with --allow-delete",
    )
