"""What every command shares: options, output, the edge where errors become words and exit codes."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
import msgspec

from ragstone.core.errors import RagstoneError, ResourceExhausted, Unavailable
from ragstone.core.nouns import Asker
from ragstone.settings import Settings, load, model_cache

if TYPE_CHECKING:
    from ragstone.bootstrap import System

TENANT = "default"
INTERRUPTED = 130
STOPPED = "stopped; nothing is half done, run the same command again to go on"
# Documents are not to be trusted: what would move the cursor or colour the terminal is shown as a mark.
CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
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


def settings_and_origin(ctx: click.Context) -> tuple[Settings, dict[str, str]]:
    """The effective settings of this call, and where each that is not a default came from."""
    from ragstone.bootstrap import environment  # noqa: PLC0415 - a help page needs none of it

    file = ctx.find_root().obj
    return load(Path(file) if file else None, environment())


def settings_of(ctx: click.Context) -> Settings:
    """The effective settings of this call."""
    return settings_and_origin(ctx)[0]


def models_of(ctx: click.Context) -> Path:
    """Where model weights are kept."""
    from ragstone.bootstrap import environment  # noqa: PLC0415 - a help page needs none of it

    return model_cache(settings_of(ctx), environment())


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
            stopped(as_json=bool(kwargs.get("as_json")))

    return inner


def fail(error: RagstoneError, *, as_json: bool) -> NoReturn:
    """Say what is wrong and end."""
    click.echo(f"ragstone: {error}", err=True)
    if as_json:
        echo_json(error_document(error.code, error.what, error.doing, error.next_step))
    sys.exit(error.exit_code)


def stopped(*, as_json: bool) -> NoReturn:
    """Ctrl-C: say what it means and end."""
    click.echo(f"ragstone: {STOPPED}", err=True)
    if as_json:
        echo_json(error_document("interrupted", STOPPED, "", "run the same command again"))
    sys.exit(INTERRUPTED)


def error_document(code: str, what: str, doing: str, next_step: str) -> dict[str, Any]:
    """What stands on stdout under --json when a command does not succeed."""
    return {"error": {"code": code, "what": what, "doing": doing, "next_step": next_step}}


def with_system(ctx: click.Context, work: Callable[[System], Awaitable[Result]]) -> Result:
    """Open the parts, do the work, ship what evidence it left, close."""
    from ragstone.bootstrap import System, environment  # noqa: PLC0415 - a help page needs none of it

    # One error says it; the pool would say it at every attempt to connect again.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)

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
    _out(text.encode("utf-8", "replace"))


def echo(text: str) -> None:
    """Text on stdout; characters that the terminal lacks are replaced, never a crash."""
    _out(text.translate(CONTROLS).encode(sys.stdout.encoding or "utf-8", "replace"))


def _out(line: bytes) -> None:
    try:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
    except OSError as error:
        # What follows, and what Python flushes at the end, goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            kind = ResourceExhausted if error.errno == errno.ENOSPC else Unavailable
            step = "free space, or send the output elsewhere"
            raise kind(f"the output cannot be written: {error.strerror}", next_step=step) from None
