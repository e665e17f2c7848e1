"""Use a Runtime on a host that is this computer."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from lazycluster import Runtime, RuntimeTask
from lazycluster.exceptions import TaskExecutionError
from loopback_sshd import LoopbackSshd
from support.waiting import TIMEOUT, wait_until


def open_runtime(
    sshd: LoopbackSshd, working_dir: str | None = None, **connection_kwargs: Any
) -> Runtime:
    """Make a Runtime on an sshd; the caller cleans it up."""
    keywords = {"config_file": sshd.config_file, **connection_kwargs}
    return Runtime(sshd.alias, working_dir, connection_kwargs=keywords)


def commands(*lines: str, name: str | None = None) -> RuntimeTask:
    """Make a task of commands."""
    task = RuntimeTask(name)
    for line in lines:
        task.run_command(line)
    return task


def run(runtime: Runtime, *lines: str) -> list[str]:
    """Run commands as the steps of one task, and return its log."""
    return runtime.execute_task(commands(*lines), execute_async=False).execution_log


def call(runtime: Runtime, function: Callable[..., Any], **keywords: Any) -> Any:
    """Call a function on the host, and return its value."""
    (value,) = runtime.execute_function(function, **keywords).function_returns
    return value


def cause(runtime: Runtime, function: Callable[..., Any], **keywords: Any) -> BaseException | None:
    """Call a function that fails on the host, and return the cause of the TaskExecutionError."""
    with pytest.raises(TaskExecutionError) as caught:
        runtime.execute_function(function, **keywords)
    return caught.value.__cause__


def failed(runtime: Runtime, task: RuntimeTask, **keywords: Any) -> TaskExecutionError:
    """Execute a task that fails, and return its error."""
    with pytest.raises(TaskExecutionError) as caught:
        runtime.execute_task(task, execute_async=False, **keywords)
    return caught.value


def double(x: Any) -> Any:
    """Return twice the argument; a function to call on the host."""
    return 2 * x


def ended(task: RuntimeTask) -> RuntimeTask:
    """Wait for the end of a task that was executed asynchronously, and return the task."""
    assert task.process is not None
    task.process.join(TIMEOUT)
    assert not task.process.is_alive()
    return task


def await_step(task: RuntimeTask) -> int:
    """Wait until the host has reported that a step runs, and return the pid of its process."""
    return wait_until(lambda: task.process.pid, f"no step runs: {task.error}")


def supervisor(runtime: Runtime) -> int:
    """Return the pid of the supervisor of a Runtime's connection."""
    return int(run(runtime, "echo $PPID")[0])


class Gate:
    """A file on the host; `wait` is a command that waits until the file exists."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._path = f"{runtime.working_dir}/gate-{os.urandom(4).hex()}"
        self.wait = f"until [ -e {self._path} ]; do sleep 0.01; done"

    def open(self) -> None:
        """Let all commands go on that wait now or later."""
        run(self._runtime, f": > {self._path}")

    def close(self) -> None:
        """Make the next commands wait again."""
        run(self._runtime, f"rm {self._path}")
