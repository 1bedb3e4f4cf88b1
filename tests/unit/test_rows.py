"""The canonical spelling of metadata is the same before and after a database has spelt it its own way."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ragstone.index.rows import canonical


def as_database(value: float) -> int | float:
    """A number as jsonb gives it back: decimal digits, no exponent, no sign of zero."""
    digits = format(Decimal(repr(value)), "f")
    found = json.loads(digits)
    return 0.0 if found == 0 and isinstance(found, float) else found


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(1e22)
@example(1.1e22)
@example(-2.5e17)
@example(-0.0)
@example(1e-7)
@example(1e16)
@example(1e15)
def test_a_number_is_spelt_alike_on_both_sides(value: float):
    """A float has the spelling of what a database makes of it, alone and inside a list."""
    assert canonical({"a": value, "b": [value]}) == canonical({"a": as_database(value), "b": [as_database(value)]})


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (True, 1), (1e22, 1.1e22), ("1", 1), ([], {}), (0.5, 0.25)])
def test_what_differs_is_spelt_differently(one, other):
    """Values that a filter tells apart have spellings of their own."""
    assert canonical({"a": one}) != canonical({"a": other})
