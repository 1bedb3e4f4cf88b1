"""The filter language: what is read, what is refused and in which words, what matches."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ragstone.core.errors import UsageError
from ragstone.core.filters import (
    DEPTH_MAX,
    NODES_MAX,
    OPERATORS,
    TEXT_CHARS_MAX,
    Comparison,
    Group,
    check_fields,
    comparisons,
    json_type,
    matches,
    parse_filter,
    to_json,
)

ALIKE = {
    'lang = "en"': {"equals": {"key": "lang", "value": "en"}},
    "lang == 'en'": {"equals": {"key": "lang", "value": "en"}},
    "year != 2020": {"notEquals": {"key": "year", "value": 2020}},
    "year <> -1.5e2": {"notEquals": {"key": "year", "value": -150.0}},
    "year>=2020": {"greaterThanOrEquals": {"key": "year", "value": 2020}},
    "a.b-c < 1": {"lessThan": {"key": "a.b-c", "value": 1}},
    '"two words" <= "x"': {"lessThanOrEquals": {"key": "two words", "value": "x"}},
    "done = TRUE": {"equals": {"key": "done", "value": True}},
    'lang in ("en", "de")': {"in": {"key": "lang", "value": ["en", "de"]}},
    "n NOT IN [1, 2.5]": {"notIn": {"key": "n", "value": [1, 2.5]}},
    'title startswith "The"': {"startsWith": {"key": "title", "value": "The"}},
    r'title stringContains "a \"quote\" \\"': {"stringContains": {"key": "title", "value": 'a "quote" \\'}},
    'tags listContains "hr"': {"listContains": {"key": "tags", "value": "hr"}},
    "ключ = 'значение'": {"equals": {"key": "ключ", "value": "значение"}},
    'a = 1 and b = 2 or c = "x"': {
        "orAll": [
            {"andAll": [{"equals": {"key": "a", "value": 1}}, {"equals": {"key": "b", "value": 2}}]},
            {"equals": {"key": "c", "value": "x"}},
        ]
    },
    "a = 1 AND (b = 2 Or c = 3)": {
        "andAll": [
            {"equals": {"key": "a", "value": 1}},
            {"orAll": [{"equals": {"key": "b", "value": 2}}, {"equals": {"key": "c", "value": 3}}]},
        ]
    },
}
# What is written, and the word that the message must hold.
REFUSED = {
    "year": "after year",
    "year =": "a value",
    "= 3": "'='",
    "year ~ 3": "character 6",
    "year like 3": "'like'",
    "year = en": '"en"',
    "year in 3": "'3'",
    "year in ()": "')'",
    "year in (1 2)": "'2'",
    "year in (1, 2": "')'",
    "(year = 3": "')'",
    "year = 3)": "')'",
    "year = 3 lang = 4": "'lang'",
    "year = 3 and": "a field",
    "year not 3": "'not'",
    "year = 3and lang = 4": "character 8",
    'year = "open': "character 8",
    "year startsWith 3": "'year'",
    "year > true": "'year'",
    "a = 1e999": "'a'",
    "a = " + "9" * 5000: "'a'",
    'a = "\0"': "'a'",
    "(" * (DEPTH_MAX + 2) + "a = 1" + ")" * (DEPTH_MAX + 2): str(DEPTH_MAX),
    " and ".join(["a = 1"] * (NODES_MAX + 1)): str(NODES_MAX),
    "a = 1" + " " * TEXT_CHARS_MAX + "and b = 2": str(TEXT_CHARS_MAX),
    "{": "JSON",
    '{"a":' * 1500: "JSON",
    '{"equals": {"key": "a", "value": 1}, "in": {}}': "exactly one operator",
    "{}": "exactly one operator",
    '{"like": {"key": "a", "value": 1}}': "'like'",
    '{"equals": {"key": "a"}}': "equals",
    '{"equals": {"key": 1, "value": 1}}': "equals",
    '{"equals": {"key": "a", "value": 1, "more": 2}}': "equals",
    '{"equals": {"key": "a", "value": null}}': "'a'",
    '{"equals": {"key": "a", "value": [1]}}': "'a'",
    '{"equals": {"key": "a", "value": NaN}}': "'a'",
    '{"equals": {"key": "a", "value": Infinity}}': "'a'",
    '{"in": {"key": "a", "value": []}}': "'a'",
    '{"in": {"key": "a", "value": "x"}}': "'a'",
    '{"in": {"key": "a", "value": [null]}}': "'a'",
    '{"stringContains": {"key": "a", "value": 1}}': "'a'",
    '{"equals": {"key": "a", "value": "\\u0000"}}': "'a'",
    '{"equals": {"key": "a", "value": "\\ud800"}}': "'a'",
    '{"equals": {"key": "\\u0000", "value": "x"}}': "character",
    '{"andAll": []}': "andAll",
    '{"orAll": {"equals": {}}}': "orAll",
    '{"andAll": [1]}': "object",
}


@pytest.mark.parametrize("text", ALIKE)
def test_both_spellings_are_one_tree(text):
    """Text, JSON text and a JSON object give the same tree, and the tree gives the JSON back."""
    wanted = ALIKE[text]
    tree = parse_filter(text)
    assert to_json(tree) == wanted
    assert parse_filter(wanted) == parse_filter(f"  {json.dumps(wanted)} ") == tree


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_blank_is_no_filter(text):
    """Nothing is no filter, and not an error."""
    assert parse_filter(text) is None


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_a_wrong_filter_is_refused_by_name(text):
    """Every fault is a usage error that names the thing and shows how a filter is written."""
    with pytest.raises(UsageError) as caught:
        parse_filter(text)
    assert REFUSED[text] in caught.value.what
    assert caught.value.doing == "reading the filter"
    assert caught.value.next_step.startswith("write it like")


@given(st.text(max_size=40))
@example('a = "\\')
@example("\x1c")
@example("a = ²")
def test_any_text_is_a_filter_or_a_usage_error(text):
    """No text makes the parser fail in any other way."""
    with suppress(UsageError):
        parse_filter(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.sampled_from(["key", "value", "a"]), parts),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*OPERATORS, "andAll", "orAll", "x"]), VALUES, max_size=2))
@example({"equals": {"key": "a", "value": 10**400}})
def test_any_json_is_a_filter_or_a_usage_error(value):
    """No JSON makes the parser fail in any other way, and what it takes it gives back."""
    try:
        tree = parse_filter(value)
    except UsageError:
        return
    assert parse_filter(to_json(tree)) == tree


def test_comparisons_are_read_left_to_right():
    """Every comparison of a tree is listed once, in reading order."""
    tree = parse_filter("a = 1 and (b = 2 or c = 3) and d = 4")
    assert [one.key for one in comparisons(tree)] == ["a", "b", "c", "d"]
    assert isinstance(tree, Group)
    assert tree.parts[0] == Comparison("equals", "a", 1)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (True, "boolean"), (0, "number"), (0.5, "number"), ("", "string"), ([], "array"), ((), "array"),
        ({}, "object"), (None, "null"),
    ],
)  # fmt: skip
def test_json_types(value, name):
    """Every JSON value has the type name that JSON Schema gives it."""
    assert json_type(value) == name


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("metadata", [{}, {"k": None}, {"other": 1}])
def test_a_missing_value_never_matches(operator, metadata):
    """Every operator, the negative ones included, is false where the value is missing or null."""
    value = ["x", 1] if operator in {"in", "notIn"} else "x"
    assert not matches(parse_filter({operator: {"key": "k", "value": value}}), metadata)


@pytest.mark.parametrize("actual", [1, True, {"a": "x"}, {}, [{}]])
@pytest.mark.parametrize("operator", OPERATORS)
def test_another_type_never_matches(operator, actual):
    """Every operator is false on a value of another type, and compares without an error."""
    value = ["x"] if operator in {"in", "notIn"} else "x"
    assert not matches(parse_filter({operator: {"key": "k", "value": value}}), {"k": actual})


def test_strings_compare_by_code_point():
    """Order is the order of code points: capitals first, no locale, no normal form."""
    assert matches(parse_filter('k > "Z"'), {"k": "a"})
    assert matches(parse_filter('k > "\ufffd"'), {"k": "\U0001faa8"})
    assert not matches(parse_filter('k = "é"'), {"k": "e\u0301"})


def test_fields_are_checked_against_the_corpus():
    """An unknown field lists the known ones; a known one that cannot hold the value says what it holds."""
    fields = {"year": ["number"], "tags": ["array"], "lang": ["number", "string"]}
    for good in ("year = 1", 'tags listContains "x"', 'tags stringContains "x"', 'lang in ("x")', "lang = 1"):
        check_fields(parse_filter(good), fields)
    with pytest.raises(UsageError, match="unknown filter field 'yaer'") as caught:
        check_fields(parse_filter("year = 1 and yaer = 1"), fields)
    assert "lang, tags, year" in caught.value.next_step
    with pytest.raises(UsageError, match="'year' holds number, and equals was given string"):
        check_fields(parse_filter('year = "1"'), fields)
    with pytest.raises(UsageError, match="'lang' holds number/string, and listContains was given array"):
        check_fields(parse_filter("lang listContains 1"), fields)
    with pytest.raises(UsageError, match="unknown") as caught:
        check_fields(parse_filter("year = 1"), {})
    assert "none" in caught.value.next_step
