"""Thread pools and asyncio: a program that ends does not wait without end for a host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from lazycluster.exceptions import CommandError, TaskExecutionError
from support.hosts import commands
from support.processes import await_gone
from support.programs import interrupted_managers
from support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.every_python


def run_manager(sshd, tmp_path, which):
    argv = [sys.executable, interrupted_managers.__file__, which]
    argv += [sshd.alias, str(sshd.config_file), str(tmp_path)]
    return subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize(
    "which",
    [
        "exception_with_a_pool",
        "exit_with_a_pool",
        "interrupt_with_a_pool",
        "exception_with_a_pool_that_joins",
        "exception_with_a_thread",
        "interrupt_twice_in_a_with_block",
        "interrupt_pool_of_the_guide",
        "interrupt_asyncio_of_the_guide",
    ],
)
def test_the_end_of_a_program_ends_what_its_threads_wait_for(sshd, tmp_path, which):
    """And the command on the host with it; what waits for the worker is not started."""
    result = run_manager(sshd, tmp_path, which)
    assert result.returncode != 0
    await_gone([int(line) for line in (tmp_path / "started").read_text().split()])
    assert ("threads (" in result.stderr) == ("guide" not in which)


@pytest.mark.parametrize(
    "which",
    [
        "run_in_a_pool",
        "copy_in_a_pool",
        "forward_in_a_pool",
        "wait_until_back_in_a_pool",
        "operation_in_a_pool",
        "login_in_a_pool",
        "question_in_a_pool",
    ],
)
def test_the_end_of_a_program_ends_each_wait(sshd, tmp_path, which, nothing_left):
    """Not tasks alone: the thread that waits gets an error."""
    result = run_manager(sshd, tmp_path, which)
    assert result.stderr.count("Traceback") == 1
    assert "RuntimeError: the program fails" in result.stderr
    for server in tmp_path.glob("server"):
        os.kill(int(server.read_text()), signal.SIGKILL)
    for started in tmp_path.glob("started"):
        await_gone([int(started.read_text())])
    nothing_left()


def test_a_normal_end_waits_for_threads(sshd, tmp_path):
    """As Python does; no work is lost."""
    result = run_manager(sshd, tmp_path, "normal_end_with_a_thread")
    assert result.stderr == ""
    assert (tmp_path / "started").read_text() == "done\nmore\n"


def test_stop_ends_a_synchronous_execution_in_another_thread(runtime):
    """The thread gets the error of a command that a signal has ended."""
    task = commands("sleep 1000")
    errors = []

    def execute():
        with pytest.raises(TaskExecutionError) as caught:
            runtime.execute_task(task, execute_async=False)
        errors.append(caught.value.__cause__)

    thread = threading.Thread(target=execute)
    thread.start()
    wait_until(lambda: task._last is not None and task._last.execution.pid)
    task.cleanup()  # ends asynchronous executions alone
    assert thread.is_alive()
    task.stop()
    thread.join(TIMEOUT)
    (error,) = errors
    assert isinstance(error, CommandError)
    assert error.signal == 15
    task.stop()


def test_stop_does_nothing_for_a_task_that_does_not_run(runtime):
    """Neither before the first execution nor after the last."""
    task = commands("echo hi")
    task.stop()
    runtime.execute_task(task, execute_async=False)
    task.stop()
    assert task.error is None
