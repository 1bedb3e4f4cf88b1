"""Makes docs/reference/ anew from the code: `make docs`. tests/docs/test_reference.py fails when it is out of date."""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import msgspec

from ragstone import settings
from ragstone.core import errors, evidence
from ragstone.entrypoints.cli import common, ingest, main, questions

REFERENCE = Path(__file__).parent / "reference"
WIDTH = 100
MADE = "<!-- Made by docs/generate.py. Edit the code, then run `make docs`. -->\n"
SETTINGS = """
A setting comes from a flag, else from the environment, else from `ragstone.toml` in the working directory
(another file: `ragstone --config FILE`), else it is the default. An unknown section or field is an error.
`ragstone doctor` prints the effective values and where each came from.

Passwords belong in the environment (`DATABASE_URL`), not in the file.
"""
EVIDENCE = """
One record (`Evidence`) is behind every answer and every search. `ragstone trace show ID` prints it for people,
`ragstone trace show ID --json` and `GET /v1/evidence/{id}` as JSON, with its words (`EvidenceText`) under `words`
and the cost in dollars under `cost_usd`.

The schema number is in the record. Later versions of Ragstone read every schema that was ever written and leave
out fields they do not know. Scores are float64; `query_vector` is base64 of little-endian half precision; times
are ISO 8601 in UTC; money is integer micro-dollars.
"""
ERRORS = """
An error is printed on stderr: what is wrong, what was being done, and the next step. Under `--json` stdout is one
document, `{"error": {"code", "what", "doing", "next_step"}}`.
"""
MEANINGS = {
    0: "done; also when an answer is degraded or an abstention",
    1: "failed",
    2: "the command or its words are wrong",
    3: "a check said no; nothing was changed",
    questions.DEGRADED: "degraded, and `--fail-on degraded` was given",
    ingest.PARTLY: "done in part: something is in quarantine",
    75: "busy: a lock or a lease is held; try again",
    common.INTERRUPTED: "stopped with Ctrl-C",
}


def field_notes(module: ModuleType) -> dict[str, dict[str, str]]:
    """The sentence under each field, by class and field."""
    notes: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef):
            notes[node.name] = dict(_notes(node))
    return notes


def _notes(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            said = text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else ""
            yield field.target.id, " ".join(said.split())


def annotations(module: ModuleType) -> dict[str, dict[str, str]]:
    """The type of each field as it is written, by class and field."""
    return {
        node.name: {
            each.target.id: ast.unparse(each.annotation)
            for each in node.body
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
        }
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef)
    }


def settings_page() -> str:
    """Every knob: default, environment variable, sentence."""
    notes = field_notes(settings)
    short = {place: name for name, place in settings.SHORT_NAMES.items()}
    lines = [
        "# Settings",
        "",
        MADE,
        SETTINGS.strip(),
    ]
    for section in msgspec.structs.fields(settings.Settings):
        kind = section.type
        lines += ["", f"## `[{section.name}]`", "", inspect.getdoc(kind) or "", ""]
        lines += ["| field | default | environment | meaning |", "|---|---|---|---|"]
        for field in msgspec.structs.fields(kind):
            name = short.get((section.name, field.name), f"RAGSTONE_{section.name}_{field.name}".upper())
            said = notes[kind.__name__][field.name].replace("|", "\\|")
            lines.append(f"| `{field.name}` | `{_toml(field.default)}` | `{name}` | {said} |")
    return "\n".join(lines) + "\n"


def _toml(value: str | float) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


Named = tuple[str, click.Command]


def cli_page() -> str:
    """The help of every command."""
    lines = ["# Commands", "", MADE]
    for path in sorted(_paths(("ragstone", main.ragstone)), key=lambda path: [name for name, _ in path]):
        lines += [f"## {' '.join(name for name, _ in path)}", "", "```text", _help(path), "```", ""]
    later = ", ".join(f"`{name}`" for name in main.LATER)
    lines += ["## Later", "", f"Named in the interface and not built yet; each answers exit 2 and says so: {later}."]
    return "\n".join(lines) + "\n"


def _paths(*path: Named) -> Iterator[tuple[Named, ...]]:
    """Every command below the last of `path`, as the way to it."""
    yield path
    command = path[-1][1]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _paths(*path, (name, found))


def _help(path: tuple[Named, ...]) -> str:
    context: click.Context | None = None
    for name, command in path:
        context = click.Context(
            command,
            parent=context,
            info_name=name,
            terminal_width=WIDTH,
            max_content_width=WIDTH,
            help_option_names=["-h", "--help"],
        )
    assert context is not None
    return context.get_help()


def evidence_page() -> str:
    """Every struct of the record, with its fields."""
    lines = [
        f"# Evidence, schema {evidence.SCHEMA}",
        "",
        MADE,
        EVIDENCE.strip(),
    ]
    types = annotations(evidence)
    first = ("Evidence", "EvidenceText")
    for name in (*first, *(each for each in types if each not in {*first, "EvidenceEnvelope"})):
        lines += ["", f"## {name}", "", " ".join((inspect.getdoc(getattr(evidence, name)) or "").split()), ""]
        lines += ["| field | type |", "|---|---|"]
        lines += [f"| `{field}` | {_linked(kind, types)} |" for field, kind in types[name].items()]
    return "\n".join(lines) + "\n"


def _linked(kind: str, types: dict[str, dict[str, str]]) -> str:
    shown = f"`{kind}`".replace("|", "\\|")
    named = [name for name in types if name in kind.replace("[", " ").replace("]", " ").split()]
    return shown + "".join(f" (see [{name}](#{name.lower()}))" for name in named)


def exit_codes_page() -> str:
    """What a command ends with, and the tree of errors."""
    lines = ["# Exit codes and errors", "", MADE, "| exit code | meaning |", "|---|---|"]
    lines += [f"| {code} | {said} |" for code, said in sorted(MEANINGS.items())]
    lines += [
        ERRORS,
        "| error | code | exit | HTTP | meaning |",
        "|---|---|---|---|---|",
    ]
    for kind in _tree(errors.RagstoneError):
        said = (inspect.getdoc(kind) or "").split("\n")[0]
        lines.append(f"| `{kind.__name__}` | `{kind.code}` | {kind.exit_code} | {kind.http_status} | {said} |")
    drawn = (errors.__doc__ or "").partition("\n\n")[2].strip()
    lines += ["", "## The tree", "", "```text", drawn, "```"]
    return "\n".join(lines) + "\n"


def _tree(kind: type[errors.RagstoneError]) -> Iterator[type[errors.RagstoneError]]:
    if kind not in {errors.RagstoneError, errors.Transient, errors.Terminal, errors.DocumentRejected}:
        yield kind
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from _tree(below)


def pages() -> dict[Path, str]:
    """Every generated page and its text."""
    return {
        REFERENCE / "settings.md": settings_page(),
        REFERENCE / "cli.md": cli_page(),
        REFERENCE / "evidence.md": evidence_page(),
        REFERENCE / "exit-codes.md": exit_codes_page(),
    }


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, "utf-8")
        print(path.relative_to(REFERENCE.parent.parent))
