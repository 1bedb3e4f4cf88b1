"""Money: integer micro-USD inside, a decimal string outside."""

from __future__ import annotations

MICRO = 1_000_000


def usd(microusd: int) -> str:
    """A decimal string in US dollars: `usd(1_500_000)` is `"1.500000"`."""
    sign = "-" if microusd < 0 else ""
    whole, part = divmod(abs(microusd), MICRO)
    return f"{sign}{whole}.{part:06d}"
