"""The world of the HTTP tests: one ingested corpus and one server a module."""

from __future__ import annotations

import pytest
from api_world import World


@pytest.fixture(scope="module")
def world():
    """An ingested corpus in a state directory of its own."""
    made = World()
    try:
        made.ingest()
        yield made
    finally:
        made.clean()


@pytest.fixture(scope="module")
def server(world):
    """A server over it."""
    return world.server()
