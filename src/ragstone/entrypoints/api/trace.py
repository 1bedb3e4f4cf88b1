"""Trace context (W3C): the trace id of a request, and the `traceparent` that goes back."""

from __future__ import annotations

import os
import re

# Versions beyond 00 may carry more fields after a dash; ff is forbidden, and so are ids of zeros.
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


def trace_id_of(traceparent: str | None) -> str:
    """The caller's trace id; a new one when there is none or it is not valid."""
    found = TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    return found.group(1) if found else os.urandom(16).hex()


def traceparent_of(trace_id: str) -> str:
    """The header that goes back: the trace, and a span of ours."""
    return f"00-{trace_id}-{os.urandom(8).hex()}-01"
