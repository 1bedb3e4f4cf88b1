"""What every command shares: options, output, the edge where errors become words and exit codes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import msgspec

from ragstone.bootstrap import System, environment
from ragstone.core.errors import RagstoneError
from ragstone.core.nouns import Asker
from ragstone.settings import Settings, load

TENANT = "default"
INTERRUPTED = 130
Result = TypeVar("Result")
Command = Callable[..., Any]


def json_option(command: Command) -> Command:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(command)


def corpus_option(command: Command) -> Command:
    """`--corpus`."""
    return click.option("--corpus", default="default", show_default=True, help="The corpus.")(command)


def asker_option(command: Command) -> Command:
    """`--as`."""
    text = "Who asks, like user:ann,group:hr (default public)."
    return click.option("--as", "asker", default=None, metavar="PRINCIPALS", help=text)(command)


def as_of_option(command: Command) -> Command:
    """`--as-of`."""
    text = "Read a version by number, or the one that served at an ISO time."
    return click.option("--as-of", "as_of", default=None, metavar="V|TIME", help=text)(command)


def settings_of(ctx: click.Context) -> Settings:
    """The effective settings of this call."""
    return load(Path(ctx.find_root().obj) if ctx.find_root().obj else None, environment())[0]


def asker_of(words: str | None) -> Asker:
    """Who asks."""
    return Asker.of(words)


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """The edge: an error of ours becomes words on stderr, a JSON document under --json, and its exit code."""

    @wraps(command)
    def inner(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except RagstoneError as error:
            fail(error, as_json=bool(kwargs.get("as_json")))
        except KeyboardInterrupt:
            click.echo("ragstone: stopped; nothing is half done, run the same command again to go on", err=True)
            sys.exit(INTERRUPTED)

    return inner


def fail(error: RagstoneError, *, as_json: bool) -> NoReturn:
    """Say what is wrong and end."""
    click.echo(f"ragstone: {error}", err=True)
    if as_json:
        document = {
            "error": {"code": error.code, "what": error.what, "doing": error.doing, "next_step": error.next_step}
        }
        echo_json(document)
    sys.exit(error.exit_code)


def with_system(ctx: click.Context, work: Callable[[System], Awaitable[Result]]) -> Result:
    """Open the parts, do the work, ship what evidence it left, close."""

    async def inside() -> Result:
        async with System(settings_of(ctx), environment()) as system:
            return await work(system)

    return asyncio.run(inside())


async def ship(system: System) -> None:
    """Move evidence into the catalog; when the catalog is away it waits in the spool, and that is said."""
    try:
        await system.ship()
    except RagstoneError as error:
        click.echo(f"ragstone: the evidence waits in {system.home / 'spool'}: {error.what}", err=True)


def echo_json(document: Any) -> None:
    """One JSON document on stdout."""
    text = json.dumps(msgspec.to_builtins(document), ensure_ascii=False, indent=2)
    sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")
    sys.stdout.buffer.flush()


def echo(text: str) -> None:
    """Text on stdout; characters that the terminal lacks are replaced, never a crash."""
    stream = sys.stdout
    encoding = stream.encoding or "utf-8"
    click.echo(text.encode(encoding, "replace").decode(encoding))
