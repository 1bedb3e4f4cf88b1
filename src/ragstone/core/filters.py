"""The one filter language over document metadata, the same on every engine.

Two spellings of one tree: JSON in Bedrock's shape (`{"equals": {"key": "lang", "value": "en"}}`) and text
(`lang = "en" and (year >= 2020 or tags listContains "hr")`). Every operator, the negative ones included, is
false on a missing value and on a value of another type. Strings compare by code point.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, get_args

from ragstone.core.errors import UsageError

Operator = Literal[
    "equals", "notEquals", "in", "notIn", "greaterThan", "greaterThanOrEquals", "lessThan", "lessThanOrEquals",
    "startsWith", "stringContains", "listContains",
]  # fmt: skip
Joiner = Literal["andAll", "orAll"]
Scalar = str | int | float | bool

OPERATORS: tuple[str, ...] = get_args(Operator)
LIST_OPERATORS = frozenset({"in", "notIn"})
TEXT_OPERATORS = frozenset({"startsWith", "stringContains"})
ORDER_OPERATORS = frozenset({"greaterThan", "greaterThanOrEquals", "lessThan", "lessThanOrEquals"})
SYMBOLS = {
    "=": "equals", "==": "equals", "!=": "notEquals", "<>": "notEquals",
    ">": "greaterThan", ">=": "greaterThanOrEquals", "<": "lessThan", "<=": "lessThanOrEquals",
}  # fmt: skip

# In this order: a boolean is an int in Python.
JSON_TYPES: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("boolean", (bool,)),
    ("number", (int, float)),
    ("string", (str,)),
    ("array", (list, tuple)),
    ("object", (Mapping,)),
)

DEPTH_MAX = 8
NODES_MAX = 100
TEXT_CHARS_MAX = 8_000
DIGITS_MAX = 300
NUMBER_MAX = 1.7976931348623157e308
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
DOING = "reading the filter"
NEXT = 'write it like: year >= 2020 and lang = "en"   or as JSON: {"equals":{"key":"lang","value":"en"}}'


@dataclass(frozen=True, slots=True)
class Comparison:
    """`key operator value`; the value is a tuple for `in` and `notIn`."""

    operator: Operator
    key: str
    value: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """All (`andAll`) or any (`orAll`) of at least one part."""

    joiner: Joiner
    parts: tuple[Filter, ...]


Filter = Comparison | Group


def parse_filter(text: str | Mapping[str, Any] | None) -> Filter | None:
    """A filter from text, from JSON text or from a JSON object; None or blank is no filter. UsageError if wrong."""
    if text is None:
        return None
    if isinstance(text, Mapping):
        return _checked(_from_json(text, 0))
    if not text.strip():
        return None
    if len(text) > TEXT_CHARS_MAX:
        raise _wrong(f"the filter has {len(text)} characters, at most {TEXT_CHARS_MAX} are allowed")
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _wrong(f"the filter is not valid JSON: {error}") from None
        return _checked(_from_json(value, 0))
    return _checked(_TextParser(text).parse())


def comparisons(tree: Filter) -> Iterator[Comparison]:
    """Every comparison in the tree, left to right."""
    if isinstance(tree, Comparison):
        yield tree
    else:
        for part in tree.parts:
            yield from comparisons(part)


def check_fields(tree: Filter, fields: Mapping[str, list[str]]) -> None:
    """UsageError unless every key is a known field that holds a type the operator and value can meet.

    `fields` maps a field to the JSON types seen in it (`string`, `number`, `boolean`, `array`).
    """
    for one in comparisons(tree):
        if one.key not in fields:
            known = ", ".join(sorted(fields)) or "none"
            raise UsageError(
                f"unknown filter field {one.key!r}",
                doing="checking the filter",
                next_step=f"use one of the fields of this corpus: {known}",
            )
        wanted = _types_wanted(one)
        if not wanted & set(fields[one.key]):
            raise UsageError(
                f"filter field {one.key!r} holds {'/'.join(fields[one.key])}, "
                f"and {one.operator} was given {'/'.join(sorted(wanted))}",
                doing="checking the filter",
                next_step="compare it with a value of the type it holds",
            )


def matches(tree: Filter, metadata: Mapping[str, Any]) -> bool:
    """Whether metadata passes the filter."""
    if isinstance(tree, Group):
        results = (matches(part, metadata) for part in tree.parts)
        return all(results) if tree.joiner == "andAll" else any(results)
    actual = metadata.get(tree.key)
    return actual is not None and _holds(tree, actual)


def to_json(tree: Filter) -> dict[str, Any]:
    """The tree in Bedrock's shape."""
    if isinstance(tree, Group):
        return {tree.joiner: [to_json(part) for part in tree.parts]}
    value = list(tree.value) if isinstance(tree.value, tuple) else tree.value
    return {tree.operator: {"key": tree.key, "value": value}}


def json_type(value: Any) -> str:
    """The JSON type name of a metadata value."""
    for name, kinds in JSON_TYPES:
        if isinstance(value, kinds):
            return name
    return "null"


def _types_wanted(one: Comparison) -> set[str]:
    if one.operator == "listContains":
        return {"array"}
    if one.operator == "stringContains":
        return {"string", "array"}
    values = one.value if isinstance(one.value, tuple) else (one.value,)
    return {json_type(value) for value in values}


def _same(left: Any, right: Any) -> bool:
    if json_type(left) != json_type(right):
        return False
    left, right = _comparable(left, right)
    return bool(left == right)


def _comparable(left: Any, right: Any) -> tuple[Any, Any]:
    # An int and a float compare as they are written: 1e23 is 10^23 to a database, and to a reader.
    if isinstance(left, float) is isinstance(right, float):
        return left, right
    written = [Decimal(repr(value)) if isinstance(value, float) else Decimal(value) for value in (left, right)]
    return written[0], written[1]


def _holds(one: Comparison, actual: Any) -> bool:  # noqa: PLR0911 - one return an operator reads best
    value = one.value
    match one.operator:
        case "in" | "notIn":
            assert isinstance(value, tuple)
            if not any(json_type(actual) == json_type(each) for each in value):
                return False
            return any(_same(actual, each) for each in value) is (one.operator == "in")
        case "equals":
            return _same(actual, value)
        case "notEquals":
            return json_type(actual) == json_type(value) and not _same(actual, value)
        case "startsWith":
            return isinstance(actual, str) and actual.startswith(str(value))
        case "stringContains":
            members = actual if isinstance(actual, list | tuple) else [actual]
            return any(isinstance(member, str) and str(value) in member for member in members)
        case "listContains":
            return isinstance(actual, list | tuple) and any(_same(member, value) for member in actual)
        case _:
            return json_type(actual) == json_type(value) and _ordered(one.operator, actual, value)


def _ordered(operator: str, left: Any, right: Any) -> bool:
    left, right = _comparable(left, right)
    if operator == "greaterThan":
        return bool(left > right)
    if operator == "greaterThanOrEquals":
        return bool(left >= right)
    return bool(left < right) if operator == "lessThan" else bool(left <= right)


def _wrong(what: str) -> UsageError:
    return UsageError(what, doing=DOING, next_step=NEXT)


def _checked(tree: Filter) -> Filter:
    count = sum(1 for _ in comparisons(tree))
    if count > NODES_MAX:
        raise _wrong(f"the filter has {count} comparisons, at most {NODES_MAX} are allowed")
    return tree


def _from_json(value: Any, depth: int) -> Filter:
    if depth > DEPTH_MAX:
        raise _wrong(f"the filter is nested deeper than {DEPTH_MAX}")
    if not isinstance(value, Mapping) or len(value) != 1:
        raise _wrong("a filter is an object with exactly one operator")
    operator, body = next(iter(value.items()))
    if operator in {"andAll", "orAll"}:
        if not isinstance(body, list) or not body:
            raise _wrong(f"{operator} takes a list of filters")
        return Group(operator, tuple(_from_json(part, depth + 1) for part in body))
    if operator not in OPERATORS:
        raise _wrong(f"unknown filter operator {operator!r}; known: {', '.join(OPERATORS)}, andAll, orAll")
    if not isinstance(body, Mapping) or set(body) != {"key", "value"} or not isinstance(body["key"], str):
        raise _wrong(f'{operator} takes {{"key": FIELD, "value": VALUE}}')
    return make_comparison(operator, body["key"], body["value"])


def make_comparison(operator: str, key: str, value: Any) -> Comparison:
    """A comparison whose value fits its operator, or UsageError."""
    _refuse_unstorable(key, (key, *value) if isinstance(value, list | tuple) else (key, value))
    if operator in LIST_OPERATORS:
        if not isinstance(value, list | tuple) or not value or not all(_is_scalar(each) for each in value):
            raise _wrong(f"{operator} on {key!r} takes a list of values")
        return Comparison(operator, key, tuple(value))  # type: ignore[arg-type]  # checked against OPERATORS
    if not _is_scalar(value):
        raise _wrong(f"{operator} on {key!r} takes one string, number or boolean")
    if operator in TEXT_OPERATORS and not isinstance(value, str):
        raise _wrong(f"{operator} on {key!r} takes a string")
    if operator in ORDER_OPERATORS and isinstance(value, bool):
        raise _wrong(f"{operator} on {key!r} takes a number or a string")
    return Comparison(operator, key, value)  # type: ignore[arg-type]  # checked against OPERATORS


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _refuse_unstorable(key: str, values: Iterable[Any]) -> None:
    """UsageError for what no engine can hold: then it could not compare with it either."""
    for value in values:
        if isinstance(value, str) and UNSTORABLE.search(value):
            raise _wrong(f"the filter on {key!r} has a character that no text can hold: {value!r}")
        if isinstance(value, int | float) and not -NUMBER_MAX <= value <= NUMBER_MAX:
            raise _wrong(f"the filter on {key!r} has a number beyond {NUMBER_MAX:g}")


TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<symbol>==|!=|<>|>=|<=|=|>|<|\(|\)|\[|\]|,)
      | (?P<word>[^\W\d][\w.\-]*)
    )""",
    re.VERBOSE,
)


class _TextParser:
    """Recursive descent over `or`, `and`, comparisons and parentheses."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        at = 0
        end = len(text.rstrip())
        while at < end:
            found = TOKEN.match(text, at)
            if not found:
                at += len(text[at:]) - len(text[at:].lstrip())
                raise _wrong(f"cannot read the filter at character {at + 1}: {text[at : at + 20]!r}")
            kind = str(found.lastgroup)
            self.tokens.append((kind, found.group(kind), found.start(kind)))
            at = found.end()
        self.at = 0

    def parse(self) -> Filter:
        tree = self._any(0)
        if self.at < len(self.tokens):
            raise self._unexpected("'and', 'or' or the end")
        return tree

    def _any(self, depth: int) -> Filter:
        if depth > DEPTH_MAX:
            raise _wrong(f"the filter is nested deeper than {DEPTH_MAX}")
        parts = [self._all(depth)]
        while self._word("or"):
            parts.append(self._all(depth))
        return parts[0] if len(parts) == 1 else Group("orAll", tuple(parts))

    def _all(self, depth: int) -> Filter:
        parts = [self._one(depth)]
        while self._word("and"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else Group("andAll", tuple(parts))

    def _one(self, depth: int) -> Filter:
        if self._symbol("("):
            tree = self._any(depth + 1)
            if not self._symbol(")"):
                raise self._unexpected("')'")
            return tree
        kind, key, _ = self._next("a field")
        if kind == "string":
            key = self._unquote(key)
        elif kind != "word":
            raise self._unexpected("a field", back=True)
        operator = self._operator(key)
        return make_comparison(operator, key, self._values() if operator in LIST_OPERATORS else self._value())

    def _operator(self, key: str) -> str:
        kind, text, _ = self._next(f"an operator after {key}")
        if kind == "symbol" and text in SYMBOLS:
            return SYMBOLS[text]
        lowered = text.lower()
        if kind == "word" and lowered == "not" and self._word("in"):
            return "notIn"
        for known in OPERATORS:
            if kind == "word" and lowered == known.lower():
                return known
        raise _wrong(f"unknown filter operator {text!r} after {key!r}; known: = != > >= < <= {' '.join(OPERATORS)}")

    def _values(self) -> list[Any]:
        closing = ")" if self._symbol("(") else "]" if self._symbol("[") else ""
        if not closing:
            raise self._unexpected("'(' and a list of values")
        values = [self._value()]
        while self._symbol(","):
            values.append(self._value())
        if not self._symbol(closing):
            raise self._unexpected(f"'{closing}'")
        return values

    def _value(self) -> Any:
        kind, text, _ = self._next("a value")
        if kind == "string":
            return self._unquote(text)
        if kind == "number":
            whole = not any(mark in text for mark in ".eE") and len(text) <= DIGITS_MAX
            return int(text) if whole else float(text)
        if kind == "word" and text.lower() in {"true", "false"}:
            return text.lower() == "true"
        raise _wrong(f'{text!r} is not a value: put strings in quotes, like "{text}"')

    @staticmethod
    def _unquote(text: str) -> str:
        return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)

    def _next(self, wanted: str) -> tuple[str, str, int]:
        if self.at >= len(self.tokens):
            raise _wrong(f"the filter ends where {wanted} is expected")
        self.at += 1
        return self.tokens[self.at - 1]

    def _word(self, word: str) -> bool:
        return self._take("word", word)

    def _symbol(self, symbol: str) -> bool:
        return self._take("symbol", symbol)

    def _take(self, kind: str, text: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at][0] == kind and self.tokens[self.at][1].lower() == text:
            self.at += 1
            return True
        return False

    def _unexpected(self, wanted: str, *, back: bool = False) -> UsageError:
        index = self.at - 1 if back else self.at
        if index >= len(self.tokens):
            return _wrong(f"the filter ends where {wanted} is expected")
        _, text, at = self.tokens[index]
        return _wrong(f"the filter has {text!r} at character {at + 1} where {wanted} is expected")
