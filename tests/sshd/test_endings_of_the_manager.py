"""However the manager ends: nothing of ours is left, on either side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.managers import Manager, on_manager
from support.processes import parent, recorded
from support.programs import endings_manager

pytestmark = pytest.mark.every_python


@pytest.fixture
def start(sshd):
    """Starts managers, one after the other, that end with the test."""
    managers = []

    def start(which):
        managers.append(Manager(sshd, which))
        return managers[-1]

    yield start
    for manager in managers:
        manager.__exit__()


def await_busy(manager):
    """Wait until all of `busy` runs, and look that it leaves something to be looked for."""
    told = manager.await_ready()
    assert len(recorded(manager.folder / "host")) == endings_manager.ON_HOST
    assert len(guards_and_sshs := on_manager(manager.sshd)) == 2, guards_and_sshs
    assert Path(told["working_dir"]).is_dir()
    assert Path(told["log"]).is_file()
    assert os.listdir(manager.folder / "run")


def check_own_live(manager):
    """What is the user's affair has not been touched."""
    for name, count in (("own", 2), ("survivors", 1)):
        pids = recorded(manager.folder / name)
        assert len(pids) == count
        for pid in pids:
            os.kill(pid, 0)
            assert parent(pid) != manager.pid


WARNING = "Call join() to wait for them, or cleanup() of the Runtime to stop them."

# ── while everything runs ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_f10_a_manager_that_a_signal_ends_leaves_nothing(start, number):
    """Python is not asked, so the guard and the supervisor have to know by themselves."""
    manager = start("waits")
    await_busy(manager)
    os.kill(manager.pid, number)
    assert manager.await_end() == -number
    manager.await_nothing_left()
    assert manager.stderr == ""
    check_own_live(manager)


def test_f10_ctrl_c_of_a_waiting_manager_leaves_nothing(start):
    """SIGINT goes to all of the manager's process group, as a terminal sends it."""
    manager = start("waits")
    await_busy(manager)
    os.killpg(manager.pid, signal.SIGINT)
    manager.await_end()
    manager.await_nothing_left()
    assert manager.stderr.count("Traceback") == 1, manager.stderr
    assert manager.stderr.endswith("\nKeyboardInterrupt\n")
    check_own_live(manager)


@pytest.mark.parametrize(
    ("which", "status", "error"),
    [
        ("ends", 0, WARNING),
        ("calls_sys_exit", 3, WARNING),
        ("calls_os_exit", 3, ""),
        ("raises", 1, "RuntimeError: expected 3"),
    ],
)
def test_f10_a_manager_that_exits_while_tasks_run_leaves_nothing(start, which, status, error):
    """Nothing is waited for, which one WARNING says, unless the program has failed.

    Each Python has its own order of things at the exit; 3.12 starts no thread in it.
    """
    manager = start(which)
    await_busy_or_ended(manager)
    assert manager.await_end() == status, manager.stderr
    manager.await_nothing_left()
    assert manager.stderr.count("Traceback") == (which == "raises"), manager.stderr
    assert manager.stderr.strip().endswith(error)
    if error == WARNING:
        assert manager.stderr.startswith("3 tasks were still running on loopback when the program")
        assert manager.stderr.count("\n") == 1
    assert bool(manager.stderr) == bool(error)
    check_own_live(manager)


def await_busy_or_ended(manager):
    """What it has started cannot be looked at: it may be gone already."""
    manager.await_ready()
    assert len(recorded(manager.folder / "host")) == endings_manager.ON_HOST


# ── what the exit says ────────────────────────────────────────────────────────────────────────────

LEAVING = """
import os, sys, time
from lazycluster import Runtime, RuntimeTask

way, host, config_file = sys.argv[1:]
runtime = Runtime(host, config_file=config_file)

def start(name, omit_on_join=False):
    return runtime.execute_task(
        RuntimeTask(name).run_command("sleep 1000"), omit_on_join=omit_on_join
    )

if way == "calls too":
    start("build")
    start("serve", omit_on_join=True)
    future = runtime.submit(time.sleep, 1000)
elif way == "finished":
    runtime.execute_task(RuntimeTask("done").run_command("true")).join()
elif way == "cleanup":
    start("build")
    runtime.submit(time.sleep, 1000)
    runtime.cleanup()
elif way == "with":
    with runtime:
        start("build")
elif way == "stopped":
    start("build").stop()
elif way == "synchronous":
    runtime.execute_task(RuntimeTask().run_command("true"), execute_async=False)
elif way == "forked":
    task = start("build")
    pid = os.fork()
    if pid == 0:
        sys.exit()
    os.waitpid(pid, 0)
    task.stop()
"""
WAYS = {
    "calls too": "2 tasks and 1 submitted call were still running on loopback when the program "
    "ended, and were stopped: build, serve, sleep. Call join() and result() to wait for them, or "
    "cleanup() of the Runtime to stop them.\n",
    **dict.fromkeys(["finished", "cleanup", "with", "stopped", "synchronous", "forked"], ""),
}


@pytest.mark.parametrize("way", WAYS)
def test_one_warning_says_what_the_exit_stops(sshd, tmp_path, way):
    """On standard error, without a word in the program about logging."""
    (script := tmp_path / "leaving.py").write_text(LEAVING)
    done = subprocess.run(
        [sys.executable, "-Wignore", script, way, sshd.alias, sshd.config_file],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (done.stderr, done.stdout, done.returncode) == (WAYS[way], "", 0)
