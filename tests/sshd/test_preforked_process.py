"""The process that is forked before the next function comes: used once, and never missed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from lazycluster import RuntimeTask
from support.hosts import call, ended, run
from support.processes import is_alive, parents, words
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")


def children(pid):
    """The processes that a process has forked from itself."""
    children = {child for child, parent in parents().items() if parent == pid}
    return {child for child in children if words(child) == words(pid)}


@pytest.fixture
def preforked(own_runtime):
    """Gives the number of the one that waits now, which is none that was given before.

    The process of a call is there a moment longer than the call.
    """
    supervisor, used = call(own_runtime, lambda: (os.getppid(), os.getpid()))
    # On a loaded computer it has not run yet.
    cleanup = wait_until(lambda: next(filter(is_cleanup_process, children(supervisor)), None))
    given = {used}

    def wait_for_it():
        def alone():
            forked = children(supervisor) - {cleanup}
            return forked if len(forked) == 1 and not forked & given else None

        (pid,) = wait_until(alone)
        given.add(pid)
        return pid

    wait_for_it.supervisor = supervisor
    return wait_for_it


def is_cleanup_process(pid):
    """It ignores SIGTERM; no other process there does."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended meanwhile
        return False
    ignored = int(status.split("SigIgn:")[1].split()[0], 16)
    return bool(ignored >> (signal.SIGTERM - 1) & 1)


def test_it_is_the_next_function(own_runtime, preforked):
    """And the one after that has another."""
    first = preforked()
    assert call(own_runtime, os.getpid) == first
    second = preforked()
    assert second != first
    assert call(own_runtime, os.getpid) == second


def test_one_that_was_killed_is_not_missed(own_runtime, preforked):
    """An administrator of a host finds it easily."""
    killed = preforked()
    os.kill(killed, signal.SIGKILL)
    # Until it is reaped: an ending process has no argv before the host can know that it ends.
    wait_until(lambda: killed not in parents())
    assert call(own_runtime, os.getppid) == preforked.supervisor


def test_one_that_lacks_a_module_is_not_used(own_runtime, preforked, tmp_path):
    """A copy has the supervisor import more: who was forked before does not have it."""
    stale = preforked()
    (tmp_path / "file").write_text("data")
    own_runtime.send_file(str(tmp_path / "file"))
    assert call(own_runtime, os.getpid) != stale
    wait_until(lambda: not is_alive(stale))


def test_it_has_the_directory_and_the_variables_of_its_step(own_runtime, preforked, tmp_path):
    """Which it learns after it was forked, as it does of a job too large for a pipe."""
    preforked()
    own_runtime.working_dir = str(tmp_path)
    own_runtime.add_env_variables({"LARGE": "x" * 100_000, "SMALL": "y"})
    found = call(own_runtime, lambda: (os.getcwd(), len(os.environ["LARGE"]), os.environ["SMALL"]))
    assert found == (str(tmp_path), 100_000, "y")


def test_it_is_not_kept_by_what_functions_leave(own_runtime, preforked):
    """Each is forked from the supervisor, and knows nothing of the function before."""
    preforked()

    def spoil():
        import builtins

        builtins.len = None
        os.chdir("/")
        os.environ["SPOILT"] = "yes"

    call(own_runtime, spoil)
    preforked()
    assert call(own_runtime, lambda: (len("abc"), "SPOILT" in os.environ)) == (3, False)


def test_many_functions_at_once_do_not_wait_for_it(own_runtime, preforked):
    """One of them gets it, the others a fork of their own."""
    waiting = preforked()
    tasks = [own_runtime.execute_task(RuntimeTask().run_function(os.getpid)) for _ in range(20)]
    pids = [next(ended(task).function_returns) for task in tasks]
    assert len(set(pids)) == 20
    assert waiting in pids


def test_it_ends_with_the_connection(own_runtime, preforked):
    """Also when the supervisor is killed."""
    waiting = preforked()
    own_runtime.cleanup()
    wait_until(lambda: not is_alive(waiting))


def test_it_ends_with_a_killed_supervisor(own_runtime, preforked):
    waiting = preforked()
    os.kill(preforked.supervisor, signal.SIGKILL)
    wait_until(lambda: not is_alive(waiting))


def test_commands_alone_need_none(own_runtime):
    """It is for those who call functions."""
    pid = int(run(own_runtime, "echo $PPID")[0])
    assert all(is_cleanup_process(child) for child in children(pid))
