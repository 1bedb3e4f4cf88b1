"""A filter as a condition on a jsonb column, with the meaning that core.filters.matches has."""

from __future__ import annotations

import json
from typing import Any

from ragstone.core.filters import Comparison, Filter, Group, json_type

SIGNS = {"greaterThan": ">", "greaterThanOrEquals": ">=", "lessThan": "<", "lessThanOrEquals": "<="}


def condition(tree: Filter, column: str, params: list[Any]) -> str:
    """SQL that is true exactly where the filter matches, never null; its values are appended to `params`."""
    if isinstance(tree, Group):
        joiner = " and " if tree.joiner == "andAll" else " or "
        return "(" + joiner.join(condition(part, column, params) for part in tree.parts) + ")"
    return f"coalesce({_comparison(tree, column, params)}, false)"


def _comparison(one: Comparison, column: str, params: list[Any]) -> str:
    build = {
        "equals": _equality, "notEquals": _equality, "in": _membership, "notIn": _membership,
        "startsWith": _starts, "stringContains": _contains, "listContains": _list_contains,
    }.get(one.operator, _order)  # fmt: skip
    return build(one, column, params)


def _equality(one: Comparison, column: str, params: list[Any]) -> str:
    params += [one.key, json_type(one.value), one.key, json.dumps(one.value)]
    sign = "=" if one.operator == "equals" else "<>"
    return f"(jsonb_typeof({column}->%s) = %s and {column}->%s {sign} %s::jsonb)"


def _membership(one: Comparison, column: str, params: list[Any]) -> str:
    assert isinstance(one.value, tuple)
    types = sorted({json_type(value) for value in one.value})
    params += [one.key, types, one.key, [json.dumps(value) for value in one.value]]
    test = "= any" if one.operator == "in" else "<> all"
    return f"(jsonb_typeof({column}->%s) = any(%s) and {column}->%s {test}(%s::jsonb[]))"


def _starts(one: Comparison, column: str, params: list[Any]) -> str:
    params += [one.key, one.key, one.value]
    return f"(jsonb_typeof({column}->%s) = 'string' and starts_with({column}->>%s, %s))"


def _contains(one: Comparison, column: str, params: list[Any]) -> str:
    params += [one.key, one.key, one.value, one.key, one.key, one.value]
    return (
        f"case jsonb_typeof({column}->%s) when 'string' then strpos({column}->>%s, %s) > 0"
        f" when 'array' then exists (select 1 from jsonb_array_elements(case when jsonb_typeof({column}->%s) = 'array'"
        f" then {column}->%s end) e where jsonb_typeof(e) = 'string' and strpos(e#>>'{{}}', %s) > 0) else false end"
    )


def _list_contains(one: Comparison, column: str, params: list[Any]) -> str:
    params += [one.key, one.key, json.dumps([one.value])]
    return f"(jsonb_typeof({column}->%s) = 'array' and {column}->%s @> %s::jsonb)"


def _order(one: Comparison, column: str, params: list[Any]) -> str:
    sign = SIGNS[one.operator]
    if isinstance(one.value, str):
        params += [one.key, one.key, one.value]
        return f'(jsonb_typeof({column}->%s) = \'string\' and ({column}->>%s) collate "C" {sign} %s collate "C")'
    # The case keeps the cast away from values that are no numbers: `and` promises no order of evaluation.
    params += [one.key, one.key, repr(one.value)]
    return f"case when jsonb_typeof({column}->%s) = 'number' then ({column}->>%s)::numeric {sign} %s::numeric end"
