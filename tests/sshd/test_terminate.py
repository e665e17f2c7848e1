"""Steps that are stopped, that time out, and that end in ways of their own."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import CommandError, RemoteFunctionError, StepTimeoutError
from support.hosts import await_step, call, commands, open_runtime, run
from support.processes import (
    await_gone,
    await_recorded,
    end,
    is_alive,
    parents,
    recorded,
)
from support.waiting import TIMEOUT, wait_until

WITH_CHILDREN = """
touch "$PIDS/$$"
sh -c 'touch "$PIDS/$$"; sleep 1000; :' &
sh -c 'touch "$PIDS/$$"; sleep 1000; :'
wait
"""
STUBBORN = f"trap '' TERM HUP INT\n{WITH_CHILDREN}"


@pytest.fixture
def runtime_pids(own_runtime, pids):
    """The folder that steps of `own_runtime` record their processes in: it is their $PIDS."""
    own_runtime.add_env_variables({"PIDS": str(pids)})
    return pids


def function_with_children(folder):
    child = subprocess.Popen(["sleep", "1000"])
    forked = os.fork()
    if forked == 0:
        while True:
            time.sleep(1000)
    for pid in (os.getpid(), child.pid, forked):
        open(f"{folder}/{pid}", "w").close()
    time.sleep(1000)


def task_of(kind, folder):
    if kind == "function":
        return RuntimeTask().run_function(function_with_children, folder=str(folder))
    return commands({"command": WITH_CHILDREN, "stubborn": STUBBORN}[kind], "echo never")


# ── terminate and kill ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["command", "stubborn", "function"])
@pytest.mark.parametrize(("method", "exitcode"), [("terminate", -15), ("kill", -9)])
def test_f12_a_stopped_task_has_gone_when_the_call_returns(
    own_runtime, runtime_pids, caplog, kind, method, exitcode
):
    """With all that is in its process group; nothing else on the Runtime notices."""
    caplog.set_level(logging.DEBUG, "lazycluster")
    other = own_runtime.execute_task(commands("until test -e go; do sleep 0.05; done; echo done"))
    task = own_runtime.execute_task(task_of(kind, runtime_pids))
    await_recorded(runtime_pids, 3)
    await_step(other)
    getattr(task.process, method)()
    assert not [pid for pid in recorded(runtime_pids) if is_alive(pid)]
    assert not task.process.is_alive()
    assert task.process.exitcode == exitcode
    assert task.error is not None
    assert other.process.is_alive()
    run(own_runtime, "touch go")
    other.join()
    assert (other.error, other.execution_log) == (None, ["done\n"])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_stopping_a_task_that_has_ended_does_nothing(own_runtime):
    """Its exit code stays."""
    task = own_runtime.execute_task(commands("true"))
    task.join()
    task.process.terminate()
    task.process.kill()
    assert task.process.exitcode == 0


def test_stopping_ends_what_earlier_steps_left_in_the_background(own_runtime, runtime_pids):
    """The process groups of all steps of the task are ended."""
    task = own_runtime.execute_task(
        commands("sleep 1000 & touch $PIDS/$!", "touch $PIDS/$$; sleep 1000; :")
    )
    await_recorded(runtime_pids, 2)
    task.process.terminate()
    assert not [pid for pid in recorded(runtime_pids) if is_alive(pid)]


def test_stopping_before_the_step_has_started_leaves_nothing_running(own_runtime, runtime_pids):
    """A task can be stopped at any time, also before its request is written."""
    for _ in range(20):
        task = own_runtime.execute_task(commands(WITH_CHILDREN))
        task.process.kill()
        assert task.process.exitcode == -9
    await_gone(recorded(runtime_pids))


@pytest.mark.parametrize("method", ["terminate", "kill"])
def test_f16_stopping_ends_what_runs_under_timeout_too(own_runtime, runtime_pids, method):
    """`timeout` makes a process group of its own, in the same session; setsid is the way out."""
    task = own_runtime.execute_task(
        commands("timeout 1000 sh -c 'touch $PIDS/$$; exec sleep 1000'; echo end")
    )
    await_recorded(runtime_pids, 1)
    getattr(task.process, method)()
    await_gone(recorded(runtime_pids))


def test_f16_cleanup_ends_what_job_control_has_started(sshd, tmp_path):
    """A shell with job control gives each job a process group, in the same session."""
    runtime = open_runtime(sshd)
    runtime.add_env_variables({"PIDS": str(tmp_path)})
    try:
        runtime.execute_task(commands("set -m; sh -c 'touch $PIDS/$$; exec sleep 1000' & wait"))
        await_recorded(tmp_path, 1)
        runtime.cleanup()
        await_gone(recorded(tmp_path))
    finally:
        runtime.cleanup()
        for pid in recorded(tmp_path):
            end(pid)


@pytest.fixture
def nobody_reaps():
    """Orphans become children of this process, which asks for no exit status.

    So it is in a container whose first process is no init.
    """
    prctl, set_child_subreaper = ctypes.CDLL(None, use_errno=True).prctl, 36
    if prctl(set_child_subreaper, 1, 0, 0, 0) != 0:
        pytest.skip("this system cannot adopt orphans")
    yield
    prctl(set_child_subreaper, 0, 0, 0, 0)
    for pid, its_parent in parents().items():
        if its_parent == os.getpid() and not is_alive(pid):
            os.waitpid(pid, 0)


def test_f16_stopping_works_where_nobody_reaps_orphans(nobody_reaps, make_sshd, tmp_path):
    """A zombie still counts as a member of its process group."""
    runtime = open_runtime(make_sshd())
    runtime.add_env_variables({"PIDS": str(tmp_path)})
    try:
        task = runtime.execute_task(commands(WITH_CHILDREN))
        await_recorded(tmp_path, 3)
        task.process.terminate()
        assert not [pid for pid in recorded(tmp_path) if is_alive(pid)]
        assert task.process.exitcode == -15
    finally:
        runtime.cleanup()
        for pid in recorded(tmp_path):
            end(pid)


# ── timeouts ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "command",
    [
        "touch $PIDS/$$; echo here; while :; do echo more; sleep 0.01; done",
        "touch $PIDS/$$; echo here; sleep 1000; :",
        "trap '' TERM; touch $PIDS/$$; echo here; while :; do sleep 0.1; done",
        "touch $PIDS/$$; echo here; yes",
    ],
    ids=["printing", "silent", "stubborn", "flooding"],
)
def test_f12_a_step_that_times_out_has_gone(own_runtime, runtime_pids, command):
    """The error has what was printed, and the Runtime works on."""
    task = RuntimeTask().run_command(command, timeout=0.5).run_command("echo never")
    own_runtime.execute_task(task)
    task.join()
    cause = task.error.__cause__
    assert isinstance(cause, StepTimeoutError), cause
    assert cause.timeout == 0.5
    assert task.execution_log[0].startswith("here\n")
    assert task.execution_log[1] == ""
    assert recorded(runtime_pids)
    assert not [pid for pid in recorded(runtime_pids) if is_alive(pid)]
    assert task.process.exitcode == 1
    assert run(own_runtime, "echo hi") == ["hi\n"]


# ── ways of ending ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [1, 126, 127, 255])
def test_f13_an_exit_status_is_told(own_runtime, status):
    """255 as well, which is ssh's own for a lost connection."""
    task = own_runtime.execute_task(commands(f"exit {status}"))
    task.join()
    cause = task.error.__cause__
    assert type(cause) is CommandError
    assert (cause.exit_status, cause.signal) == (status, None)
    assert run(own_runtime, "echo hi") == ["hi\n"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_f13_a_signal_is_told(own_runtime, number):
    """It is not 128 and something, which a command may exit with."""
    task = own_runtime.execute_task(commands(f"ulimit -c 0; kill -{number.value} $$"))
    task.join()
    cause = task.error.__cause__
    assert type(cause) is CommandError
    assert (cause.exit_status, cause.signal) == (None, number)
    task = own_runtime.execute_task(commands(f"exit {128 + number}"))
    task.join()
    cause = task.error.__cause__
    assert (cause.exit_status, cause.signal) == (128 + number, None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_f13_a_function_that_a_signal_ends(own_runtime, number):
    """Is told by its number, and the next function is called all the same."""

    def fall(number):
        os.kill(os.getpid(), number)
        return number

    task = own_runtime.execute_function(fall, execute_async=True, number=number)
    task.join()
    cause = task.error.__cause__
    assert type(cause) is RemoteFunctionError
    assert (cause.exit_status, cause.signal) == (None, number)
    assert call(own_runtime, fall, number=0) == 0


def test_f16_a_step_ends_with_its_leader(own_runtime, runtime_pids):
    """What it left keeps its output, its group and its life until the connection ends."""
    assert run(
        own_runtime,
        "nohup sleep 1000 & touch $PIDS/$!; (sleep 1000; echo late) & touch $PIDS/$!; echo done",
    ) == ["done\n"]
    left = recorded(runtime_pids)
    assert len(left) == 2
    assert all(is_alive(pid) for pid in left)
    own_runtime.cleanup()
    await_gone(left)


JOBS = """
import sys
from lazycluster import Runtime, RuntimeTask

runtime = Runtime(sys.argv[1], connection_kwargs={"config_file": sys.argv[2]})
supervisor = RuntimeTask().run_command(f"echo $PPID > {sys.argv[3]}/supervisor; sleep 1000 &")
runtime.execute_task(supervisor, execute_async=False)
for number in range(10):
    task = RuntimeTask().run_command(
        f"setsid sh -c 'echo $$ > {sys.argv[3]}/{number}; exec sleep 1000' &"
    )
    runtime.execute_task(task, execute_async=False)
if sys.argv[4] == "kill":
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_jobs_that_setsid_detaches_live_on_though_the_manager_ends_at_once(sshd, tmp_path, how):
    """The recipe: no wait is needed between the start of a job and the end of the manager."""
    argv = [sys.executable, "-c", JOBS, sshd.alias, str(sshd.config_file), str(tmp_path), how]
    subprocess.run(argv, check=how == "exit", timeout=TIMEOUT)
    jobs = [tmp_path / str(number) for number in range(10)]
    try:
        await_gone([int((tmp_path / "supervisor").read_text())])
        wait_until(lambda: all(job.exists() and job.read_text() for job in jobs))
        assert all(is_alive(int(job.read_text())) for job in jobs)
    finally:
        for job in jobs:
            if job.exists():
                end(int(job.read_text()))


def test_f16_what_setsid_has_started_outlives_the_runtime(own_runtime, runtime_pids):
    """The documented way out."""
    run(
        own_runtime,
        "setsid sh -c 'touch $PIDS/$$; exec sleep 1000' & until ls $PIDS | grep .; do :; done",
    )
    own_runtime.cleanup()
    (pid,) = recorded(runtime_pids)
    assert is_alive(pid)
