"""F34 to F36: many threads on one Runtime, other processes, and the exit in any order."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import pytest

import lazycluster
from lazycluster import Connection, RuntimeTask
from support.hosts import call, commands, run
from support.managers import await_nothing_on_manager, logins, on_manager
from support.processes import await_gone
from support.programs import leaving_managers
from support.waiting import wait_until

pytestmark = pytest.mark.every_python

# ── threads ───────────────────────────────────────────────────────────────────────────────────────

THREADS = 50


def test_f34_fifty_threads_on_one_runtime(own_runtime, tmp_path):
    """Commands, functions, files each way and ports at once; each gets its own and no other's."""
    barrier = threading.Barrier(THREADS)

    def work(number):
        barrier.wait(200)
        for turn in range(1):
            mark = f"{number}-{turn}"
            task = commands(f"echo {mark}; echo {mark} >&2", f"test {number} -ge 0", name="same")
            task.env_variables = {"MARK": mark}
            task.run_command('printf %s "$MARK"')
            own_runtime.execute_task(task, execute_async=number % 2 == 0)
            assert call(own_runtime, str, object=mark) == mark
            file = tmp_path / mark
            file.write_text(mark * 1000)
            own_runtime.send_file(str(file))
            own_runtime.get_file(mark, f"{file}.back")
            assert Path(f"{file}.back").read_text() == mark * 1000
            task.join()
            assert task.execution_log == [f"{mark}\n{mark}\n", "", mark]
        if number % 10 == 0:
            key = own_runtime.expose_port_from_runtime(40000 + number, 0)
            own_runtime.stop_process(key)
        return number

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(work, range(THREADS))) == list(range(THREADS))
    assert own_runtime.alive_task_process_count == 0


def test_f34_fifty_threads_use_one_login(make_sshd):
    """The first thread logs in, and the others wait for it."""
    sshd = make_sshd(sshd_config=["MaxSessions 1"])
    connection = Connection(sshd.alias, config_file=sshd.config_file)
    barrier = threading.Barrier(THREADS)

    def work(number):
        barrier.wait(200)
        return commands(f"echo {number}").execute(connection).execution_log

    with ThreadPoolExecutor(THREADS) as pool:
        logs = list(pool.map(work, range(THREADS)))
    connection.close()
    assert logs == [[f"{number}\n"] for number in range(THREADS)]
    assert logins(sshd) == 1


@pytest.fixture
def lost(make_sshd, make_runtime):
    """A Runtime whose connection was lost, and its sshd."""
    sshd = make_sshd()
    runtime = make_runtime(on=sshd)
    sshd.kill_connections()
    await_nothing_on_manager(sshd)
    return runtime, sshd


def test_f34_a_login_blocks_only_threads_that_need_it(lost):
    """While one thread logs in again, others read, set variables and start tasks at once."""
    runtime, sshd = lost
    old = runtime.working_dir

    def use():
        runtime.add_env_variables({"A": "1"})
        task = runtime.execute_task(commands("echo $A"), execute_async=True)
        return task, runtime.working_dir, runtime.get_processes(), dict(runtime.env_variables)

    os.kill(sshd.pid, signal.SIGSTOP)  # the login takes until it goes on
    with ThreadPoolExecutor(2) as pool:
        try:
            first = pool.submit(runtime.execute_task, commands("pwd"), execute_async=False)
            wait_until(lambda: on_manager(sshd))
            task, working_dir, processes, variables = pool.submit(use).result(60)
        finally:
            os.kill(sshd.pid, signal.SIGCONT)
        task.join()
        assert first.result().execution_log == [f"{runtime.working_dir}\n"]
    assert working_dir == old != runtime.working_dir
    assert list(processes.values()) == [task.process]
    assert variables == {"A": "1", "WORKING_DIR": old}
    assert task.execution_log == ["1\n"]


def test_f34_threads_share_one_new_temporary_directory(lost, caplog):
    """The first thread after a loss makes it."""
    runtime, _ = lost
    with ThreadPoolExecutor(8) as pool:
        logs = list(pool.map(lambda _: run(runtime, "pwd"), range(8)))
    assert logs == [[f"{runtime.working_dir}\n"]] * 8
    assert sum("temporary working directory" in text for text in caplog.messages) == 1


# ── copies ────────────────────────────────────────────────────────────────────────────────────────

COPIES = {
    "pickle": pickle.dumps,
    "cloudpickle": cloudpickle.dumps,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_f35_a_runtime_cannot_be_copied_and_says_what_to_do(runtime, copied):
    """It is a login, which another process cannot have."""
    for thing in (runtime, runtime._connection, [runtime], {"a": (runtime,)}):
        with pytest.raises(TypeError, match="make one where it is needed"):
            copied(thing) if copied is not copy.copy else copied(runtime)
    assert runtime.echo("hi") == "hi"


def test_f35_a_function_that_uses_a_runtime_is_refused_by_name(runtime):
    """When it is to travel, not on the host."""
    with pytest.raises(
        lazycluster.exceptions.SerializationError,
        match=r"closure variable `runtime` .*Use it on the manager",
    ):
        RuntimeTask().run_function(lambda: runtime.host)


def test_f35_a_task_can_be_pickled_while_it_runs(runtime, gate):
    """Without its handle; what it had printed until then is in it."""
    task = runtime.execute_task(commands(f"echo hi; {gate.wait}"))
    twin = pickle.loads(pickle.dumps(task))
    gate.open()
    task.join()
    assert twin.process is None
    assert [step.name for step in twin.steps] == [step.name for step in task.steps]


# ── the exit ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def leave(make_sshd, tmp_path):
    """Runs one of leaving_managers: status 0, one WARNING at most, and nothing is left."""

    def run_it(which):
        sshd = make_sshd()
        with open(tmp_path / "stderr", "w+") as stderr:
            done = subprocess.run(
                [
                    *(sys.executable, "-Xdev", "-Walways"),
                    *(leaving_managers.__file__, which, sshd.config_file),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                timeout=280,
                check=False,
            )
            stderr.seek(0)
            count = leaving_managers.TASKS.get(which)
            warnings = stderr.read().splitlines()
        assert len(warnings) == (count is not None), warnings
        assert all(f"{count} still running on loopback when" in line for line in warnings)
        assert done.returncode == 0
        assert done.stdout == b"left\n"
        await_gone(on_manager(sshd))

    return run_it


@pytest.mark.parametrize("which", leaving_managers.WAYS)
def test_f36_the_exit_says_no_more_than_what_it_stops(leave, which):
    """With all of Python's warnings on; each Python takes things away in an order of its own."""
    leave(which)
