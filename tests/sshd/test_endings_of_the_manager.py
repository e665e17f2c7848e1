"""However the manager ends: nothing of ours is left, on either side."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import cloudpickle
import pytest

import lazycluster
from support.interpreters import other_managers
from support.managers import Manager, on_manager
from support.processes import parent, recorded
from support.programs import endings_manager

pytestmark = pytest.mark.every_python


@pytest.fixture
def start(sshd):
    """Starts managers, one after the other, that end with the test."""
    managers = []

    def start(which, **arguments):
        managers.append(Manager(sshd, which, **arguments))
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
        ("ends", 0, ""),
        ("calls_sys_exit", 3, ""),
        ("calls_os_exit", 3, ""),
        ("raises", 1, "RuntimeError: expected 3"),
    ],
)
def test_f10_a_manager_that_exits_while_tasks_run_leaves_nothing(start, which, status, error):
    """Nothing is waited for, and there is no more noise than the user's own."""
    manager = start(which)
    await_busy_or_ended(manager)
    assert manager.await_end() == status, manager.stderr
    manager.await_nothing_left()
    assert manager.stderr.count("Traceback") == bool(error), manager.stderr
    assert manager.stderr.strip().endswith(error)
    assert bool(manager.stderr) == bool(error)
    check_own_live(manager)


def await_busy_or_ended(manager):
    """What it has started cannot be looked at: it may be gone already."""
    manager.await_ready()
    assert len(recorded(manager.folder / "host")) == endings_manager.ON_HOST


@pytest.mark.parametrize("version", other_managers())
def test_f36_the_exit_of_other_pythons_leaves_nothing(make_sshd, version):
    """Each has its own order of things at the exit; 3.12 starts no thread in it."""
    python = other_managers()[version]
    sshd = make_sshd(path=[Path(python).parent])
    packages = [Path(module.__file__).parents[1] for module in (lazycluster, cloudpickle)]
    path = os.pathsep.join(map(str, packages))
    with Manager(sshd, "ends", python=python, PYTHONPATH=path) as manager:
        manager.await_ready()
        assert manager.await_end() == 0, manager.stderr
        manager.await_nothing_left()
        assert manager.stderr == ""
