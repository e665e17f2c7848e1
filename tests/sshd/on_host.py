"""What the tests against a real sshd share, save for the fixtures."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lazycluster import Runtime, RuntimeTask
from lazycluster.exceptions import TaskExecutionError

PATIENCE = 150.0
"""Seconds that anything is waited for; what is waited for takes milliseconds."""


def wait_until(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Looks until something holds, and gives it; fails after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, "it has not come about"
        time.sleep(0.005)
    return found


def ended(task: RuntimeTask) -> RuntimeTask:
    """Waits for the end of a task that was executed asynchronously."""
    assert task.process is not None
    task.process.join(PATIENCE)
    assert not task.process.is_alive()
    return task


def commands(*lines: str, name: str | None = None) -> RuntimeTask:
    """A task of commands."""
    task = RuntimeTask(name)
    for line in lines:
        task.run_command(line)
    return task


def run(runtime: Runtime, *lines: str) -> list[str]:
    """Runs commands as the steps of one task, and gives its log."""
    return runtime.execute_task(commands(*lines), execute_async=False).execution_log


def call(runtime: Runtime, function: Callable[..., Any], **keywords: Any) -> Any:
    """Calls a function on the host, and gives what it returned."""
    (value,) = runtime.execute_function(function, **keywords).function_returns
    return value


def cause(runtime: Runtime, function: Callable[..., Any], **keywords: Any) -> BaseException | None:
    """Calls a function that fails on the host, and gives the cause of the TaskExecutionError."""
    with pytest.raises(TaskExecutionError) as caught:
        runtime.execute_function(function, **keywords)
    return caught.value.__cause__


class Gate:
    """A file on the host; `wait` is a command that waits until it is there."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._path = f"{runtime.working_dir}/gate-{os.urandom(4).hex()}"
        self.wait = f"until [ -e {self._path} ]; do sleep 0.01; done"

    def open(self) -> None:
        """Lets all go on that wait, or come later."""
        run(self._runtime, f": > {self._path}")

    def close(self) -> None:
        """Lets the next wait again."""
        run(self._runtime, f"rm {self._path}")


OWN_PYTHON = os.path.join(sys.base_prefix, "bin", "python{}.{}".format(*sys.version_info))
"""An interpreter of the tests' own version that is in no virtual environment."""


def exists(pid: int | None) -> bool:
    """Whether a process of that number runs on the host, which is this computer.

    One that has ended may be a zombie for a second or two: the first process does not hurry.
    """
    assert pid
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def other_python() -> str | None:
    """A Python of another minor version than this one, from 3.6 on; None if none is found."""
    beside = Path(sys.base_prefix).parent  # where pyenv and uv have the others
    for minor in (*range(9, 20), 8, 7, 6):
        if minor == sys.version_info[1]:
            continue
        name = f"python3.{minor}"
        for path in (*sorted(beside.glob(f"*/bin/{name}")), Path("/usr/bin") / name):
            if os.access(path, os.X_OK):
                return str(path)
    return None
