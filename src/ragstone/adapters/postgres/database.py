"""The connection pool, the translation of database errors, and the numbered migrations."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.resources import files
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

import ragstone.adapters.postgres.arrays  # noqa: F401 - a connection knows the types registered before its first use
from ragstone.core.errors import (
    Busy,
    DeadlineExceeded,
    RagstoneError,
    ResourceExhausted,
    Unavailable,
    UsageError,
)

Connection = psycopg.AsyncConnection[TupleRow]

MIGRATION_LOCK = 0x7261_6773_746F_6E65  # "ragstone"
OPTIONS = "-c search_path=ragstone,public -c jit=off -c timezone=UTC -c lock_timeout=60s"
PGVECTOR_HNSW_MIN = (0, 8, 4)
# Joins are written in the order to take them: looking for a better one takes longer than the query. An HNSW walk
# goes on until there are rows enough.
READING = {"join_collapse_limit": "1", "hnsw.iterative_scan": "relaxed_order"}
CONNECTING = "connecting to the database"
NEXT = "check the database with: ragstone doctor"


class Database:
    """A bounded pool of connections to one database; `open` brings its schema up to date."""

    def __init__(self, conninfo: str, *, pool_size: int = 8, connect_timeout_s: float = 10.0) -> None:
        self.conninfo = conninfo
        self._timeout_s = connect_timeout_s
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo,
            min_size=1,
            max_size=pool_size,
            timeout=connect_timeout_s,
            max_waiting=pool_size * 16,
            kwargs={"options": OPTIONS, "autocommit": True, "connect_timeout": max(2, int(connect_timeout_s))},
            open=False,
            reconnect_timeout=connect_timeout_s,
        )
        self._sweeping: asyncio.Task[None] | None = None
        self._sessions: WeakKeyDictionary[Connection, dict[str, str]] = WeakKeyDictionary()
        self.pgvector: tuple[int, ...] = (0,)

    async def open(self) -> None:
        """Connect and migrate. Unavailable when nobody answers, UsageError when it is no address."""
        _check_address(self.conninfo)
        async with await self.dedicated() as connection:
            await migrate(connection)
            row = await fetch_one(connection, "select extversion from pg_extension where extname = 'vector'")
            self.pgvector = tuple(int(part) for part in str(row[0]).split("."))
        with translated(CONNECTING):
            await self._pool.open(wait=True, timeout=self._timeout_s)

    async def close(self) -> None:
        """Give every connection back to the server."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        await self._pool.close()

    @property
    def hnsw_safe(self) -> bool:
        """Whether this pgvector builds HNSW indexes without the faults fixed in 0.8.4."""
        return self.pgvector >= PGVECTOR_HNSW_MIN

    async def dedicated(self) -> Connection:
        """A connection of one's own, for session locks; the caller closes it."""
        with translated(CONNECTING):
            return await psycopg.AsyncConnection.connect(
                self.conninfo, options=OPTIONS, autocommit=True, connect_timeout=max(2, int(self._timeout_s))
            )

    @asynccontextmanager
    async def connection(self, doing: str, session: Mapping[str, str] | None = None) -> AsyncIterator[Connection]:
        """A pooled connection in autocommit with these session settings; database errors come out as ours."""
        with translated(doing):
            try:
                async with self._pool.connection() as connection:
                    await self._settle(connection, session or {})
                    yield connection
            except psycopg.OperationalError as error:
                if not isinstance(error, PoolTimeout | TooManyRequests | pg.QueryCanceled) and self._sweeping is None:
                    # The server went away: its other connections are dead too, and must not fail one by one.
                    self._sweeping = asyncio.create_task(self._sweep())
                raise

    def reading(
        self, doing: str, left_s: float, settings: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Connection]:
        """A pooled connection for single statements under a deadline, each a snapshot of its own.

        The limit is a setting of the session, sent only when it differs from what the connection has: a
        transaction for each statement would take four round trips instead of one. It is rounded up by an eighth at
        most, so that it seldom differs.
        """
        limit = str(_rounded_up(max(1, int(left_s * 1000))))
        return self.connection(doing, {"statement_timeout": limit, **READING, **(settings or {})})

    async def _settle(self, connection: Connection, wanted: Mapping[str, str]) -> None:
        """Give a connection its settings; whoever asks for none gets the defaults, not what a reader left."""
        held = self._sessions.get(connection, {})
        if not wanted:
            if held:
                await connection.execute("reset all")
                del self._sessions[connection]
            return
        changed = {name: value for name, value in wanted.items() if held.get(name) != value}
        if changed:
            self._sessions[connection] = {**held, **dict.fromkeys(changed, "unknown")}  # until it is done
            calls = ", ".join(["set_config(%s, %s, false)"] * len(changed))
            await connection.execute(f"select {calls}", [word for pair in changed.items() for word in pair])
            self._sessions[connection] = {**held, **wanted}

    async def _sweep(self) -> None:
        try:
            await self._pool.check()
        finally:
            self._sweeping = None

    @asynccontextmanager
    async def transaction(self, doing: str) -> AsyncIterator[Connection]:
        """A pooled connection inside one transaction."""
        async with self.connection(doing) as connection, connection.transaction():
            yield connection


def _rounded_up(number: int) -> int:
    """The next number with at most four significant bits."""
    shift = max(0, number.bit_length() - 4)
    return -(-number >> shift) << shift


def _check_address(conninfo: str) -> None:
    try:
        conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        # Not a word of what was given: it may hold a password.
        raise UsageError(
            "DATABASE_URL is no address of a PostgreSQL database",
            doing=CONNECTING,
            next_step="write it like postgresql://user:password@host:5432/name",
        ) from None


class translated:  # noqa: N801 - used like a function, as contextlib.suppress is
    """Turns database errors into errors that name what was being done and the next step."""

    def __init__(self, doing: str) -> None:
        self.doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and (ours := as_ours(error, self.doing)) is not None:
            raise ours from error


AGAIN = "try again shortly"
FREE = "free space, then run the same command again"
# What the database says, what we say, and the next step; the first that fits is taken.
TRANSLATIONS: tuple[tuple[tuple[type[BaseException], ...], type[RagstoneError], str, str], ...] = (
    ((pg.DiskFull,), ResourceExhausted, "the database's disk is full", FREE),
    (
        (pg.QueryCanceled,),
        DeadlineExceeded,
        "the database did not finish in time",
        "give it more time with --deadline-ms",
    ),
    ((TooManyRequests,), Busy, "too many questions wait for a database connection", AGAIN),
    ((PoolTimeout,), Unavailable, "no database connection became free", NEXT),
    ((pg.LockNotAvailable, pg.DeadlockDetected), Busy, "another process holds what is needed", AGAIN),
    ((psycopg.DataError,), UsageError, "the database refused a value", "check the words given"),
    (
        (pg.InsufficientPrivilege, pg.UndefinedFile, pg.FeatureNotSupported),
        Unavailable,
        "the database refused",
        "let an administrator run: create extension vector",
    ),
    ((psycopg.OperationalError, psycopg.InterfaceError), Unavailable, "the database does not answer", NEXT),
)


def as_ours(error: BaseException, doing: str) -> RagstoneError | None:
    """The error of ours that says the same, None for what is a fault in the program."""
    first = str(error).strip().split("\n")[0]
    if isinstance(error, psycopg.OperationalError) and os.strerror(errno.ENOSPC) in str(error):
        # A server that cannot even take a connection says so in other words than one that fails to write.
        return ResourceExhausted(f"the database's disk is full: {first}", doing=doing, next_step=FREE)
    for kinds, ours, says, next_step in TRANSLATIONS:
        if isinstance(error, kinds):
            return ours(f"{says}: {first}", doing=doing, next_step=next_step)
    return None


async def fetch_one(connection: Connection, sql: str, params: Any = None, *, binary: bool = False) -> TupleRow:
    """The only row of a query that always has one."""
    row = await (await connection.execute(sql, params, binary=binary)).fetchone()
    assert row is not None
    return row


def migrations() -> list[tuple[int, str, str]]:
    """(number, name, SQL) of every migration, in order."""
    folder = files("ragstone.adapters.postgres") / "sql"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name[:4].isdigit())
    return [(int(name[:4]), name, (folder / name).read_text("utf-8")) for name in names]


async def migrate(connection: Connection) -> None:
    """Apply what is missing, under an advisory lock, each migration in its own transaction.

    A migration that was changed after it ran is an error: numbers are for ever.
    """
    with translated("bringing the database schema up to date"):
        await connection.execute("select pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        try:
            await _prepare(connection)
            rows = await (await connection.execute("select number, digest from ragstone.migration")).fetchall()
            done: dict[int, str] = {int(row[0]): str(row[1]) for row in rows}
            for number, name, sql in migrations():
                await _apply(connection, number, name, sql, done.get(number))
            _refuse_newer(done)
        finally:
            await connection.execute("select pg_advisory_unlock(%s)", (MIGRATION_LOCK,))


async def _prepare(connection: Connection) -> None:
    known = await fetch_one(connection, "select to_regclass('ragstone.migration') is not null")
    if known[0]:
        return
    async with connection.transaction():
        await connection.execute("create extension if not exists vector schema public")
        await connection.execute("create schema if not exists ragstone")
        await connection.execute(
            "create table if not exists ragstone.migration (number integer primary key, name text not null,"
            " digest text not null, applied_at timestamptz not null default now())"
        )


async def _apply(connection: Connection, number: int, name: str, sql: str, seen: str | None) -> None:
    digest = hashlib.sha256(sql.encode()).hexdigest()
    if seen is None:
        async with connection.transaction():
            await connection.execute(sql.encode())
            await connection.execute(
                "insert into ragstone.migration (number, name, digest) values (%s, %s, %s)", (number, name, digest)
            )
    elif seen != digest:
        raise Unavailable(
            f"the database holds another migration {name} than this program",
            doing="bringing the database schema up to date",
            next_step="run the version of ragstone that wrote this database, or start with a fresh state directory",
        )


def _refuse_newer(done: dict[int, str]) -> None:
    newest = max((number for number, _, _ in migrations()), default=0)
    if done and max(done) > newest:
        raise Unavailable(
            f"the database schema {max(done)} is newer than this program knows ({newest})",
            doing="bringing the database schema up to date",
            next_step="upgrade ragstone",
        )
