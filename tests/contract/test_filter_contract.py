"""Filters mean the same on every backend, and in SQL exactly what `core.filters.matches` says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from contract_stacks import Ingest, ask, document, found, fresh, legs
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ragstone.adapters.postgres.filter_sql import condition
from ragstone.core.filters import matches, parse_filter

if TYPE_CHECKING:
    from collections.abc import Iterator

METADATA: dict[str, dict[str, Any]] = {
    "one": {"n": 1, "s": "alpha", "b": True, "l": ["x", "y", 3]},
    "two": {"n": 2.5, "s": "Beta", "b": False, "l": []},
    "minus": {"n": -3, "s": "", "l": ["xylophone"]},
    "text": {"n": "1", "s": 1, "b": "true", "l": "x"},
    "null": {"n": None, "s": None, "b": None, "l": None},
    "object": {"n": {"n": 1}, "s": {"s": "alpha"}, "l": {"x": 1}},
    "missing": {},
    "wide": {"n": 10**20, "s": "\U0001faa8 ünï", "l": [True, None, ["x"]]},
}
FILTERS: dict[str, set[str]] = {
    "n = 1": {"one"},
    "n = 1.0": {"one"},
    'n = "1"': {"text"},
    "n != 1": {"two", "minus", "wide"},
    'n != "2"': {"text"},
    "n > 1": {"two", "wide"},
    "n >= 1": {"one", "two", "wide"},
    "n < 1": {"minus"},
    "n <= 2.5": {"one", "two", "minus"},
    "n > 1e19": {"wide"},
    'n > "0"': {"text"},
    'n in (1, 2.5, "1")': {"one", "two", "text"},
    "n not in (1, 2.5)": {"minus", "wide"},
    'n not in ("7")': {"text"},
    's = "alpha"': {"one"},
    's != "alpha"': {"two", "minus", "wide"},
    "s = 1": {"text"},
    's > "Beta"': {"one", "wide"},
    's < "a"': {"two", "minus"},
    's startsWith "al"': {"one"},
    's startsWith ""': {"one", "two", "minus", "wide"},
    's stringContains "ET"': set(),
    's stringContains "et"': {"two"},
    's startsWith "\U0001faa8 ü"': {"wide"},
    's startsWith "%"': set(),
    "b = true": {"one"},
    "b != true": {"two"},
    'b = "true"': {"text"},
    "b in (true, false)": {"one", "two"},
    'l listContains "x"': {"one"},
    "l listContains 3": {"one"},
    "l listContains true": {"wide"},
    'l stringContains "xy"': {"minus"},
    'l stringContains "x"': {"one", "minus", "text"},
    'l = "x"': {"text"},
    'l != "y"': {"text"},
    'n = 1 and s = "alpha"': {"one"},
    "n = 1 or n = 2.5": {"one", "two"},
    'n = 1 or n = 2.5 and s = "nothing"': {"one"},
    '(n = 1 or n = 2.5) and s != "alpha"': {"two"},
    'nothing != "x"': set(),
    'nothing not in ("x")': set(),
}


@pytest.mark.asyncio(loop_scope="session")
async def test_every_operator(stack):
    """Every operator, the negative ones included, is false on a missing value and on one of another type."""
    corpus = fresh()
    await Ingest(corpus, [document(k, "oak", metadata=m) for k, m in METADATA.items()]).into(stack)
    view = await stack.view(corpus)
    for text, wanted in FILTERS.items():
        assert await found(stack, view, "oak", text) == wanted, text
        bm25, dense = await legs(stack, view, await ask("oak"), 100, text)
        assert bm25.matching == dense.matching == len(wanted)
        assert dense.path == "exact(filtered)"


@pytest.mark.asyncio(loop_scope="session")
async def test_fields_are_known(stack):
    """A view lists the fields of all versions so far with every type seen in them."""
    corpus = fresh()
    await Ingest(corpus, [document("a", "oak", metadata={"n": 1, "none": None})]).into(stack)
    await Ingest(corpus, [document("b", "oak", metadata={"n": "1", "l": ["x"]})], order="2").into(stack)
    view = await stack.view(corpus)
    assert view.fields == {"l": ["array"], "n": ["number", "string"]}


def test_expectations_are_the_meaning():
    """The table of expected documents is what `matches` says."""
    for text, wanted in FILTERS.items():
        tree = parse_filter(text)
        assert {key for key, metadata in METADATA.items() if matches(tree, metadata)} == wanted, text


@pytest.fixture(scope="module")
def connection(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as opened:
        yield opened


KEYS = st.sampled_from(["k", "a.b", "k'\"\\", "ключ", "%s"])
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6) | st.sampled_from(
    ["", "a", "ab", "B", "\U0001faa8", "\ufffd", "%", "\\", "1"]
)
NUMBERS = (
    st.integers(-3, 3)
    | st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.1, 1.0, -0.0, 1e22, 1e23, 10**23, 2**53 + 1, 9007199254740992.0, 5e-324, 1e308])
)
SCALARS = st.booleans() | NUMBERS | TEXT
VALUES = SCALARS | st.none() | st.lists(SCALARS | st.none() | st.lists(SCALARS, max_size=1), max_size=4)
METADATAS = st.dictionaries(KEYS, VALUES | st.dictionaries(TEXT, SCALARS, max_size=1), max_size=3)


def _comparison(operator: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(lambda key, value: {operator: {"key": key, "value": value}}, KEYS, values)


COMPARISONS = st.one_of(
    *(_comparison(name, SCALARS) for name in ("equals", "notEquals", "listContains")),
    *(_comparison(name, st.lists(SCALARS, min_size=1, max_size=3)) for name in ("in", "notIn")),
    *(
        _comparison(name, NUMBERS | TEXT)
        for name in ("greaterThan", "greaterThanOrEquals", "lessThan", "lessThanOrEquals")
    ),
    *(_comparison(name, TEXT) for name in ("startsWith", "stringContains")),
)
TREES = st.recursive(
    COMPARISONS,
    lambda parts: st.builds(
        lambda joiner, some: {joiner: some},
        st.sampled_from(["andAll", "orAll"]),
        st.lists(parts, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


def sql_matches(connection: psycopg.Connection, trees: list[Any], metadata: list[Any]) -> list[list[bool]]:
    """What the database says of every filter on every metadata, in one query."""
    params: list[Any] = []
    columns = [condition(tree, "m.value", params) for tree in trees]
    rows = connection.execute(
        f"select {', '.join(columns)} from unnest(%s::jsonb[]) with ordinality m(value, at) order by at",
        [*params, [json.dumps(one) for one in metadata]],
    )
    return [list(row) for row in rows]


def equals(key: str, value: Any) -> dict[str, Any]:
    return {"equals": {"key": key, "value": value}}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees=st.lists(TREES, min_size=1, max_size=6), metadata=st.lists(METADATAS, min_size=1, max_size=6))
@example([{"notEquals": {"key": "k", "value": "a"}}], [{"k": {"a": 1}}])
@example([{"greaterThan": {"key": "k", "value": "a"}}], [{"k": {"a": 1}}, {"k": None}])
@example([{"notIn": {"key": "k", "value": ["a", 1]}}], [{"k": 1.0}, {"k": "b"}, {"k": True}])
@example([equals("k", 1e23), equals("k", 10**23)], [{"k": 10**23}, {"k": 1e23}])
@example([{"lessThan": {"key": "k", "value": 1e23}}], [{"k": 10**23}, {"k": 10**23 - 1}])
@example([{"lessThan": {"key": "k", "value": "\ufffd"}}], [{"k": "\U0001faa8"}])
@example([{"listContains": {"key": "k", "value": 1}}], [{"k": [[1]]}, {"k": [True]}, {"k": ["1"]}, {"k": [1.0]}])
@example([{"stringContains": {"key": "k", "value": ""}}], [{"k": ""}, {"k": []}, {"k": [""]}, {"k": [1]}])
def test_sql_means_what_matches_means(connection, trees, metadata):
    """On any filter and any metadata the database and `matches` give one answer."""
    parsed = [parse_filter(tree) for tree in trees]
    expected = [[matches(tree, one) for tree in parsed] for one in metadata]
    assert sql_matches(connection, parsed, metadata) == expected
