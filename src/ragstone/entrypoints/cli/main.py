"""`ragstone`: the table of commands. Each is imported when it is used, so that `--help` stays fast."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from ragstone import __version__
from ragstone.entrypoints.cli.common import echo_json, error_document, stopped

COMMANDS: dict[str, tuple[str, str]] = {
    "ask": ("questions:ask", "Answer a question from the documents, with citations and reasons."),
    "search": ("questions:search", "Find passages, each with the reasons it was chosen."),
    "why-not": ("why_not:why_not", "Say which stage lost a document for a question, and by how much."),
    "ingest": ("ingest:ingest", "Make the corpus equal to a folder or a .jsonl file."),
    "documents": ("documents:documents", "List, show and delete documents, and what is in quarantine."),
    "versions": ("versions:versions", "List and compare versions of the corpus, and roll back."),
    "audit": ("audit:audit", "Prove the index equal to its source, and repair what differs."),
    "index": ("index:index", "Remove what no kept version holds."),
    "eval": ("evaluation:evaluation", "Measure retrieval against judged questions."),
    "trace": ("trace:trace", "Show the evidence behind an answer or a search."),
    "replay": ("replay:replay", "Decide a recorded answer or search again, and compare."),
    "models": ("models:models", "List, fetch and verify model weights."),
    "doctor": ("doctor:doctor", "Print the effective configuration and check every part."),
    "up": ("up:up", "Serve the API and the page to ask from."),
}
# Named in the interface, built later: they answer exit 2 and say so, and `--help` leaves them out.
LATER = (
    "profile", "prompt", "route", "release", "tune", "vitals", "cost",
    "backup", "restore", "rig",
)  # fmt: skip


class Commands(click.Group):
    """Looks a command up in the table and imports its module then."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or one that says it comes later."""
        del ctx
        if cmd_name in LATER:
            return later(cmd_name)
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(import_module(f"ragstone.entrypoints.cli.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table itself: no module is imported for a help page."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def later(name: str) -> click.Command:
    """A command of the interface that this release does not have."""

    @click.command(name, hidden=True, context_settings={"ignore_unknown_options": True})
    @click.argument("rest", nargs=-1, type=click.UNPROCESSED)
    def command(rest: tuple[str, ...]) -> None:
        """Comes in a later release."""
        del rest
        raise click.UsageError(f"`ragstone {name}` comes in a later release; see what there is: ragstone --help")

    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ragstone")
@click.option("--config", type=click.Path(), default=None, help="Configuration file (default ragstone.toml).")
@click.pass_context
def ragstone(ctx: click.Context, config: str | None) -> None:
    """Retrieval-augmented answers that do not degrade in silence.

    Every answer names what made it; every passage says why it was chosen. Begin with:
    ragstone models fetch, ragstone ingest FOLDER, ragstone ask "…".
    """
    ctx.obj = config


def run() -> None:
    """The console script: an error of usage becomes a JSON document under --json as every other does."""
    as_json = "--json" in sys.argv
    try:
        _refuse_unreadable(sys.argv[1:])
        code = ragstone.main(prog_name="ragstone", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        if as_json:
            echo_json(error_document("usage", error.format_message(), "", "ragstone --help"))
        sys.exit(error.exit_code)
    except click.Abort:
        stopped(as_json=as_json)
    sys.exit(code if isinstance(code, int) else 0)


def _refuse_unreadable(words: list[str]) -> None:
    """Bytes that are no text have no place in a name, a question or a filter."""
    for word in words:
        if any("\ud800" <= char <= "\udfff" for char in word):
            raise click.UsageError(f"{word!a} is not valid UTF-8; write it, or name the file, in UTF-8")
