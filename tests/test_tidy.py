"""House rules that no linter knows. An allow-list names its exceptions with a reason, and may only shrink: an
entry that is not needed any more fails the test as a violation does."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "ragstone"
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 400

LONG_FUNCTIONS: Mapping[str, str] = {}
LONG_FILES: Mapping[str, str] = {}
# Test functions without a first line, by file: the numbers only go down.
SILENT_TESTS = {"tests/integration/test_embedded_postgres.py": 21}
READS_THE_ENVIRONMENT = {
    "src/ragstone/bootstrap.py": "the one place that reads it, for the settings",
    "src/ragstone/adapters/localmodels/fetch.py": "sets variables of the download's own process before an import",
}
SQL_OUTSIDE: Mapping[str, str] = {}

Function = ast.FunctionDef | ast.AsyncFunctionDef
FORBIDDEN_NAMES = re.compile(r"(?:utils?|helpers?|manager|base|misc)")
# Put together, so that this file does not break its own rules.
MARKERS = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "NotImplemented" + "Error")))
REGISTRIES = re.compile(
    r"\b(?:pypi[.]org|files[.]pythonhosted|huggingface[.]co|hf[.]co|repo1?[.]maven|registry[.]npmjs|ghcr[.]io"
    r"|docker[.]io|crates[.]io|proxy[.]golang)"
    r"|https?://[\w.-]*(?:artifactory|nexus|mirror|proxy|registry)[\w.-]*\b"
)
MACHINE_PATHS = re.compile(r"(?<![\w.~/-])/(?:root|work|home|Users|mnt|workspace|data\d?)/[\w.]")
SQL = re.compile(
    r"\A\s*(?:select\b.+\bfrom\b|insert\s+into\b|update\s+\w+(?:\s+\w+)?\s+set\b|delete\s+from\b"
    r"|(?:create|drop|alter|truncate)\s+(?:temp\s+)?(?:table|index|schema|extension)\b|with\s+\w+\s+as\s*\()",
    re.IGNORECASE | re.DOTALL,
)
HEAVY = ("psycopg", "numpy", "onnxruntime", "starlette", "uvicorn", "tokenizers", "yaml", "markdown_it")


@cache
def tracked() -> tuple[Path, ...]:
    """Every file of the repository, new ones that are not ignored included; the example pages are other people's."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        found = subprocess.run(words, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the files of the repository are named by git, and this is no clone")
    paths = [ROOT / name for name in found.split("\0") if name and not name.startswith("examples/handbook/")]
    return tuple(path for path in paths if path.is_file())


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_files(*, below: Path = ROOT) -> tuple[Path, ...]:
    return tuple(path for path in tracked() if path.suffix == ".py" and path.is_relative_to(below))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, Function))


def only_allowed(found: Mapping[str, object] | set[str], allowed: Mapping[str, str]) -> None:
    """Everything found is allowed, and everything allowed is found."""
    new = {name: found[name] if not isinstance(found, set) else "" for name in found if name not in allowed}
    assert not new, f"against the rule: {new}"
    assert not set(allowed) - set(found), "not needed any more: take it off the list"


def test_functions_are_short():
    """A function has at most 60 lines: it fits a screen."""
    lengths = {
        f"{name_of(path)}:{node.name}": length
        for path in python_files()
        for node in functions(path)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    only_allowed(lengths, LONG_FUNCTIONS)


def test_files_are_short():
    """A file of code has at most 400 lines: it has one subject."""
    code = [path for path in tracked() if path.suffix in {".py", ".sql", ".js", ".css"}]
    lengths = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in code}
    only_allowed({name: n for name, n in lengths.items() if n > FILE_LINES_MAX}, LONG_FILES)


def test_what_is_public_says_what_it_does():
    """Every module, and every public class, function and method of the package has a docstring."""
    silent = []
    for path in python_files(below=SOURCE):
        if not ast.get_docstring(tree_of(path)):
            silent.append(name_of(path))
        silent += [f"{name_of(path)}:{name}" for name in _undocumented(tree_of(path), "")]
    assert not silent


def _undocumented(node: ast.Module | ast.ClassDef, within: str) -> Iterator[str]:
    for each in node.body:
        if isinstance(each, Function | ast.ClassDef) and not each.name.startswith("_"):
            if not ast.get_docstring(each):
                yield within + each.name
            if isinstance(each, ast.ClassDef):
                yield from _undocumented(each, f"{within}{each.name}.")


def test_every_test_says_what_it_promises():
    """Every test function begins with a sentence that says what is promised."""
    silent = Counter(
        name_of(path)
        for path in python_files(below=ROOT / "tests")
        for node in functions(path)
        if node.name.startswith("test_") and not ast.get_docstring(node)
    )
    assert silent == SILENT_TESTS


def test_nothing_is_left_for_later():
    """No marker of unfinished work in code: what is not built yet is said in words to the user."""
    marked = [name_of(path) for path in python_files() if MARKERS.search(path.read_text("utf-8"))]
    assert not marked


def test_the_environment_is_read_in_one_place():
    """Only the composition root reads the environment; all else gets settings."""
    readers = {
        name_of(path)
        for path in python_files(below=SOURCE)
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "getenvb"})
        or (isinstance(node, ast.ImportFrom) and {each.name for each in node.names} & {"environ", "getenv"})
    }
    only_allowed(readers, READS_THE_ENVIRONMENT)


@pytest.mark.parametrize("pattern", [REGISTRIES, MACHINE_PATHS], ids=["registry", "path"])
def test_nothing_points_at_one_machine(pattern):
    """No file names a package registry's host or a path of somebody's machine: both are the user's business."""
    found = []
    for path in tracked():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name_of(path)}: {match.group()}" for match in pattern.finditer(text)]
    assert not found


def test_names_say_what_is_inside():
    """No module or folder is called utils, helpers, manager, base or the like."""
    paths = {path.relative_to(ROOT) for path in python_files()}
    names = {part for path in paths for part in (path.stem, *path.parts[:-1])}
    assert not {name for name in names if FORBIDDEN_NAMES.fullmatch(name)}


def test_sql_is_in_its_adapter():
    """SQL stands in adapters/postgres alone."""
    found = {
        name_of(path): node.value[:60]
        for path in python_files(below=SOURCE)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.match(node.value)
    }
    home = "src/ragstone/adapters/postgres/"
    assert any(name.startswith(home) for name in found), "the rule sees no SQL even where it is"
    only_allowed({name: sql for name, sql in found.items() if not name.startswith(home)}, SQL_OUTSIDE)


def packages() -> list[str]:
    """Every package below src/ragstone, as a path."""
    return sorted(p.parent.relative_to(SOURCE).as_posix() for p in SOURCE.rglob("*/__init__.py"))


def test_the_map_names_every_package():
    """ARCHITECTURE.md has a line for every package, and none for one that is not there."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    block = text.partition("```text\nsrc/ragstone/\n")[2].partition("```")[0]
    assert block, "the folder map begins with src/ragstone/"
    mapped, above = [], ""
    for line in block.splitlines():
        found = re.match(r"( +)([\w/]+)/ ", line)
        if not found:
            continue
        name = found.group(2)
        inner = len(found.group(1)) > len("  ")
        above = above if inner else name
        mapped.append(f"{above}/{name}" if inner else name)
    assert sorted(mapped) == packages()


def anchors(path: Path) -> set[str]:
    """The anchors that a page's headings make."""
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#{1,6} +(.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere():
    """Every link of a Markdown file to another file, or to a heading, finds it."""
    broken = []
    for path in (each for each in tracked() if each.suffix == ".md"):
        text = re.sub(r"^```.*?^```$|`[^`\n]+`", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(<?([^)>\s]+)>?\)", text):
            if re.match(r"[a-z]+:", link):
                continue
            place, _, anchor = link.partition("#")
            target = (path.parent / place).resolve() if place else path
            if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
                broken.append(f"{name_of(path)}: {link}")
    assert not broken


def test_help_loads_nothing_heavy():
    """`ragstone --help` imports no database client, no numbers, no model runtime, no web stack, no parser."""
    program = (
        "import sys\nfrom ragstone.entrypoints.cli.main import ragstone\n"
        "ragstone(['--help'], standalone_mode=False)\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    assert not done.stderr.split()
