"""`ragstone doctor`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import click
import msgspec

from ragstone.entrypoints.cli.common import echo, echo_json, guarded, json_option, settings_and_origin, with_system

if TYPE_CHECKING:
    from ragstone.entrypoints.health import Check

MARKS = {"ok": "ok  ", "warning": "warn", "failed": "FAIL"}


@click.command()
@json_option
@click.pass_context
@guarded
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Print the effective configuration and check every part it names. Exit 1 when one does not work."""
    from ragstone.entrypoints.health import examine  # noqa: PLC0415 - a help page needs none of it

    settings, origin = settings_and_origin(ctx)
    checks: list[Check] = with_system(ctx, examine)
    effective = _hidden(msgspec.to_builtins(settings))
    if as_json:
        echo_json({"configuration": effective, "origin": origin, "checks": checks})
    else:
        for section, fields in effective.items():
            for name, value in fields.items():
                where = origin.get(f"{section}.{name}", "default")
                echo(f"{section}.{name} = {value!r}  ({where})")
        echo("")
        for check in checks:
            echo(f"{MARKS[check.state]} {check.name}: {check.detail}")
            if check.next_step:
                echo(f"       next: {check.next_step}")
    if any(check.state == "failed" for check in checks):
        sys.exit(1)


def _hidden(effective: dict[str, Any]) -> dict[str, Any]:
    """A password in the database's URL is not for the screen."""
    parts = urlsplit(effective["database"]["url"])
    if parts.password:
        netloc = parts.netloc.replace(f":{parts.password}@", ":***@")
        effective["database"]["url"] = urlunsplit(parts._replace(netloc=netloc))
    return effective
