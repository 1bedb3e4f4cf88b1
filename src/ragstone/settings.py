"""Every knob, typed and frozen, read once from `ragstone.toml` and the environment.

flag > environment > file > default. A field `b` of section `[a]` is `RAGSTONE_A_B` in the environment;
`RAGSTONE_HOME`, `RAGSTONE_MODEL_CACHE` and `DATABASE_URL` are short names. Secrets stand in the environment only.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ragstone.core.errors import UsageError

FILE = "ragstone.toml"
DOING = "reading the configuration"
SHORT_NAMES = {
    "RAGSTONE_HOME": ("state", "path"),
    "RAGSTONE_MODEL_CACHE": ("models", "cache"),
    "DATABASE_URL": ("database", "url"),
}


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where Ragstone keeps what it must not lose."""

    path: str = ".ragstone"
    """The state directory: embedded database, manifests, evidence spool."""


class Database(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The catalog and the first engine."""

    url: str = ""
    """A PostgreSQL URL (with pgvector); empty starts the embedded one. Put passwords into DATABASE_URL."""
    pool_size: int = 8
    """Connections a process holds at most."""
    connect_timeout_s: float = 10.0
    """How long to wait for a connection."""


class Models(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Model weights."""

    cache: str = ""
    """Where weights are kept; empty is the XDG cache (`~/.cache/ragstone/models`)."""


class Embedder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What makes vectors."""

    model: str = "bge-small-en-v1.5-int8"
    """A name of `ragstone models list`, or `hash` (no weights, for tests)."""


class Chunking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How documents are cut."""

    tokens_max: int = 480
    """Bound of a chunk, its heading line included; never more than the embedder reads."""
    tokens_target: int = 256
    """Small blocks are packed together up to this."""
    tokens_min: int = 24
    """A smaller chunk joins its neighbour."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on what comes in."""

    document_bytes: int = 20_000_000
    """Larger documents go to quarantine."""
    question_chars: int = 8_000
    """Longer questions are refused."""
    deletes_percent: float = 20.0
    """An ingest that would delete more of a source stops, unless --allow-delete."""


class Versions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of the past stays readable."""

    keep: int = 100
    """So many of the newest versions can be read with --as-of and rolled back to; older ones are removed."""


class Retrieval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The default retrieval profile."""

    fusion: str = "z"
    """z, rrf, minmax, bm25 or dense."""
    depth: int = 100
    """Candidates from each leg."""
    bm25_weight: float = 1.0
    """Weight of the lexical leg."""
    dense_weight: float = 1.0
    """Weight of the vector leg."""
    exact_rows_max: int = 5_000
    """Up to so many rows every vector is compared; beyond, HNSW."""
    cache_mb: int = 256
    """Memory for postings and masks."""


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answers by extraction."""

    threshold: float = 0.0
    """Below this confidence the answer is an abstention; 0 takes the one fitted to the embedder."""
    sentences_max: int = 3
    """Sentences quoted at most."""
    passages: int = 8
    """Passages read for an answer."""
    deadline_ms: int = 30_000
    """Time for one question when the caller names none."""


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ragstone up`."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    workers: int = 1
    """Processes that answer questions side by side, over one socket."""
    concurrency: int = 8
    """Requests that a process works on at once."""
    queue: int = 32
    """Requests waiting beyond that; more get 503 with Retry-After."""


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The record behind every answer."""

    spool_mb: int = 256
    """Bound of the local spool; when it is full, questions are refused rather than left without a record."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration."""

    state: State = State()
    database: Database = Database()
    models: Models = Models()
    embedder: Embedder = Embedder()
    chunking: Chunking = Chunking()
    limits: Limits = Limits()
    versions: Versions = Versions()
    retrieval: Retrieval = Retrieval()
    answer: Answer = Answer()
    server: Server = Server()
    evidence: Evidence = Evidence()


def load(file: Path | None, environment: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    """The effective settings and where each field that is not a default came from.

    `file` None is `ragstone.toml` in the working directory, if there is one. UsageError names file and field.
    """
    raw, origin = _from_file(file)
    for name, (section, key) in _names().items():
        value = environment.get(name)
        if value:
            fields = raw.setdefault(section, {})
            if not isinstance(fields, dict):
                continue  # no section at all: said below, with its name
            fields[key] = value
            origin[f"{section}.{key}"] = name
    try:
        settings = msgspec.convert(raw, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"the configuration is wrong: {error}",
            doing=DOING,
            next_step=f"mend the field in {file or FILE} or the environment; all fields: docs/reference/settings.md",
        ) from None
    _check(settings)
    return settings, origin


def _from_file(file: Path | None) -> tuple[dict[str, Any], dict[str, str]]:
    path = file or Path(FILE)
    if file is None and not path.exists():
        return {}, {}
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", doing=DOING, next_step="check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}", doing=DOING, next_step="mend that line") from None
    origin = {}
    for section, fields in raw.items():
        if isinstance(fields, dict):
            origin.update({f"{section}.{key}": str(path) for key in fields})
    return raw, origin


def _names() -> dict[str, tuple[str, str]]:
    names = {
        f"RAGSTONE_{section.name}_{field.name}".upper(): (section.name, field.name)
        for section in msgspec.structs.fields(Settings)
        for field in msgspec.structs.fields(section.type)
    }
    return {**names, **SHORT_NAMES}


def _check(settings: Settings) -> None:
    for section in msgspec.structs.fields(Settings):
        for field, value in msgspec.structs.asdict(getattr(settings, section.name)).items():
            if isinstance(value, float) and not math.isfinite(value):
                name = f"{section.name}.{field}"
                raise UsageError(f"{name} is {value}", doing=DOING, next_step=f"make {name} a finite number")
    positive = {
        "database.pool_size": settings.database.pool_size,
        "versions.keep": settings.versions.keep,
        "chunking.tokens_max": settings.chunking.tokens_max,
        "chunking.tokens_target": settings.chunking.tokens_target,
        "retrieval.depth": settings.retrieval.depth,
        "answer.sentences_max": settings.answer.sentences_max,
        "server.workers": settings.server.workers,
        "server.concurrency": settings.server.concurrency,
    }
    for name, value in positive.items():
        if value < 1:
            step = f"make it at least 1, in {FILE} or {'RAGSTONE_' + name.upper().replace('.', '_')}"
            raise UsageError(f"{name} is {value}", doing=DOING, next_step=step)
    if settings.chunking.tokens_target > settings.chunking.tokens_max:
        raise UsageError(
            "chunking.tokens_target is greater than chunking.tokens_max", doing=DOING, next_step="make it smaller"
        )


def model_cache(settings: Settings, environment: Mapping[str, str]) -> Path:
    """Where model weights are kept."""
    if settings.models.cache:
        return Path(settings.models.cache).expanduser()
    base = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or "~").expanduser() / ".cache")
    return Path(base) / "ragstone" / "models"
