"""The plan of a run: what counts as changed, what is left out, what a guard refuses."""

from __future__ import annotations

import pytest

from ragstone.core.errors import CheckRefused, UsageError
from ragstone.ingest.plan import guard, make_plan, unknown_keys
from ragstone.ingest.records import Fault, Scan, SourceObject


def scan(versions: dict[str, str], *faults: Fault) -> Scan:
    objects = tuple(SourceObject(key, version, "1", 1, "text/plain", key) for key, version in versions.items())
    return Scan(objects, faults, "1")


def keys(plan) -> set[str]:
    return {each.key for each in plan.changed}


def test_changed_new_and_gone():
    """Compared by object version; what is not listed is deleted."""
    plan = make_plan(scan({"a": "1", "b": "2", "n": "1"}), {"a": "1", "b": "1", "g": "1"})
    assert (keys(plan), plan.unchanged, plan.deleted, plan.withheld) == ({"b", "n"}, 1, ("g",), 0)


def test_withheld_documents_are_neither_changed_nor_deleted():
    """A document that was deleted on purpose is in the source and stays out."""
    plan = make_plan(scan({"a": "1", "b": "1"}), {"b": "1"}, withheld={"a"})
    assert (keys(plan), plan.unchanged, plan.deleted, plan.withheld) == (set(), 1, (), 1)


def test_bounded_to_some_keys():
    """Nothing else is looked at, deleted or complained of."""
    faults = (Fault("x", "1", "too_large", "", ""), Fault("b", "2", "too_large", "", ""))
    plan = make_plan(
        scan({"a": "2", "c": "2"}, *faults), {"a": "1", "b": "1", "c": "1", "g": "1"}, only={"a", "b", "g"}
    )
    assert (keys(plan), plan.unchanged, plan.deleted) == ({"a"}, 0, ("g",))
    assert [fault.key for fault in plan.faults] == ["b"]


def test_redone_documents_count_as_changed():
    """Whatever their object version says."""
    plan = make_plan(scan({"a": "1", "b": "1"}), {"a": "1", "b": "1"}, only={"a"}, redo={"a"})
    assert (keys(plan), plan.unchanged) == ({"a"}, 0)


def test_the_guard_lets_named_documents_go_but_not_an_empty_source():
    """Half of the source may be named one by one; a source that has nothing left may not be believed."""
    listed, published = scan({"a": "1"}), {"a": "1", "b": "1"}
    plan = make_plan(listed, published, only={"b"})
    guard(plan, listed, 2, "/docs", percent=20, allowed=False, named=True)
    with pytest.raises(CheckRefused, match="would delete 1 of 2"):
        guard(plan, listed, 2, "/docs", percent=20, allowed=False)
    empty = scan({})
    with pytest.raises(CheckRefused):
        guard(make_plan(empty, published, only={"b"}), empty, 2, "/docs", percent=20, allowed=False, named=True)


def test_unknown_keys_are_named():
    """A name that nobody knows is a typing error."""
    unknown_keys({"a", "b"}, scan({"a": "1"}), {"b"})
    with pytest.raises(UsageError, match="'y', 'z'"):
        unknown_keys({"a", "z", "y"}, scan({"a": "1"}), {})
