"""The plan of a run: what changed, what vanished, and whether that may be. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ragstone.core.errors import CheckRefused, RagstoneError, Terminal, UsageError
from ragstone.ingest.records import Fault, Scan, SourceObject

UNSUPPORTED = "unsupported_type"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do. `kept_back` counts deletions left undone as some record's id is unknown, `withheld`
    documents that were deleted on purpose and are left out although the source has them."""

    changed: tuple[SourceObject, ...]
    unchanged: int
    deleted: tuple[str, ...]
    faults: tuple[Fault, ...]
    kept_back: int
    withheld: int = 0


def make_plan(
    scan: Scan,
    published: Mapping[str, str],
    withheld: Collection[str] = (),
    only: Collection[str] | None = None,
    redo: Collection[str] = (),
) -> Plan:
    """Compare a listing with the published object versions by key.

    A key with a fault keeps its last good version. `withheld` keys are left out, `only` bounds the plan to some
    keys, `redo` takes keys for changed whatever their version says.
    """
    looked_at = [each for each in scan.objects if only is None or each.key in only]
    wanted = [each for each in looked_at if each.key not in withheld]
    changed = tuple(each for each in wanted if published.get(each.key) != each.object_version or each.key in redo)
    present = {each.key for each in scan.objects} | {fault.key for fault in scan.faults}
    missing = tuple(sorted(key for key in published if key not in present and (only is None or key in only)))
    unsure = any(not fault.identified for fault in scan.faults)
    return Plan(
        changed=changed,
        unchanged=len(wanted) - len(changed),
        deleted=() if unsure else missing,
        faults=tuple(fault for fault in scan.faults if only is None or fault.key in only),
        kept_back=len(missing) if unsure else 0,
        withheld=len(looked_at) - len(wanted),
    )


def unknown_keys(only: Collection[str], scan: Scan, published: Collection[str]) -> None:
    """UsageError when a key to look at is neither in the source nor published."""
    known = {each.key for each in scan.objects} | {fault.key for fault in scan.faults} | set(published)
    missing = sorted(set(only) - known)
    if missing:
        raise UsageError(
            f"neither the source nor the corpus knows {', '.join(map(repr, missing[:5]))}",
            doing="ingesting some documents; nothing was changed",
            next_step="name documents by their path below the source, as `ragstone documents list` shows them",
        )


def guard(
    plan: Plan, scan: Scan, published: int, location: str, *, percent: float, allowed: bool, named: bool = False
) -> None:
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
    # Documents that were named one by one may go, unless everything is gone.
    if not scan.objects or (not named and len(plan.deleted) > published * percent / 100):
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
