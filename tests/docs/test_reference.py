"""The generated reference pages say what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ragstone.core import evidence, money

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_up_to_date(generate):
    """Every page under docs/reference is what docs/generate.py makes of the code, and there is no other page."""
    pages = generate.pages()
    stale = [path.name for path, text in pages.items() if not path.exists() or path.read_text("utf-8") != text]
    assert not stale, f"{', '.join(stale)}: run `make docs`"
    assert set((ROOT / "docs" / "reference").glob("*.md")) == set(pages)


def test_every_setting_has_a_sentence(generate):
    """No field of the settings is without the sentence that says what it does."""
    notes = generate.field_notes(generate.settings)
    sections = {name: fields for name, fields in notes.items() if name != "Settings"}
    assert sections
    assert not [f"{name}.{field}" for name, fields in sections.items() for field, said in fields.items() if not said]


def test_every_error_has_a_meaning(generate):
    """Every exit code that an error has is explained, and the drawn tree names every error with its codes."""
    drawn = generate.errors.__doc__
    for kind in generate._tree(generate.errors.RagstoneError):
        assert kind.exit_code in generate.MEANINGS
        line = next(line for line in drawn.splitlines() if f" {kind.__name__} " in line)
        assert f"exit {kind.exit_code}," in line
        assert line.rstrip().endswith(f"HTTP {kind.http_status}")


def test_the_page_names_the_schema_that_is_written(generate):
    """The page of the evidence record is of the schema that this program writes, and money is what it says."""
    assert generate.evidence_page().startswith(f"# Evidence, schema {evidence.SCHEMA}\n")
    assert money.usd(1_500_000) == "1.500000"
