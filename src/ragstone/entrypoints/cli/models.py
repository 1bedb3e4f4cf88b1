"""`ragstone models list|fetch|verify`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from ragstone.adapters.localmodels.cache import ModelCache, ModelStatus, list_models, verify_models
from ragstone.adapters.localmodels.fetch import Sources, fetch
from ragstone.adapters.localmodels.registry import DEFAULT_MODEL, find_model
from ragstone.entrypoints.cli.common import echo, echo_json, guarded, json_option, models_of, settings_of
from ragstone.entrypoints.cli.progress import Shown


@click.group()
def models() -> None:
    """Model weights, by digest, in a cache that all corpora share."""


def _cache(ctx: click.Context) -> ModelCache:
    return ModelCache(models_of(ctx))


@models.command("list")
@json_option
@click.pass_context
@guarded
def list_all(ctx: click.Context, as_json: bool) -> None:
    """List the models that are known and whether they are here."""
    _show(list_models(_cache(ctx)), as_json=as_json)


@models.command("verify")
@click.argument("name", required=False)
@json_option
@click.pass_context
@guarded
def verify(ctx: click.Context, name: str | None, as_json: bool) -> None:
    """Read every byte of the weights that are here and compare digests. Exit 1 when one is wrong."""
    if name:
        find_model(name)
    found = [status for status in verify_models(_cache(ctx)) if name in {None, status.name}]
    _show(found, as_json=as_json)
    if any(status.state in {"wrong", "incomplete"} for status in found) or (name and found[0].state != "present"):
        sys.exit(1)


@models.command("fetch")
@click.argument("name", required=False)
@click.option("--from", "folder", type=click.Path(), default=None, help="Take the files from a folder instead.")
@json_option
@click.pass_context
@guarded
def fetch_one(ctx: click.Context, name: str | None, folder: str | None, as_json: bool) -> None:
    """Fetch the weights of NAME (default: the model of the configuration) and verify them."""
    model = find_model(name or _configured(ctx))
    progress = Shown("bytes")
    try:
        lines = asyncio.run(
            fetch(model, _cache(ctx), progress, sources=Sources(folder=Path(folder) if folder else None))
        )
    finally:
        progress.close()
    if as_json:
        echo_json({"model": model.name, "path": str(_cache(ctx).path(model)), "steps": lines})
    else:
        echo("\n".join(lines))


def _configured(ctx: click.Context) -> str:
    name = settings_of(ctx).embedder.model
    return DEFAULT_MODEL if name == "hash" else name


def _show(found: list[ModelStatus], *, as_json: bool) -> None:
    if as_json:
        echo_json({"models": [_line(status) for status in found]})
        return
    for status in found:
        size = f"{status.size / 1e6:.0f} MB"
        echo(f"{status.name:26} {status.state:10} {size:>6}  {status.licence}, {status.tokens_max} tokens")
        for finding in status.findings:
            echo(f"  {finding}")


def _line(status: ModelStatus) -> dict[str, Any]:
    return {
        "name": status.name,
        "state": status.state,
        "path": str(status.folder),
        "bytes": status.size,
        "dimensions": status.dimensions,
        "tokens_max": status.tokens_max,
        "licence": status.licence,
        "findings": [str(finding) for finding in status.findings],
    }
