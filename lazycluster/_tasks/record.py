"""What remains of an execution when it has ended."""

from __future__ import annotations

import copy
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from lazycluster._checks import checked_wait
from lazycluster._tasks.completion import completion
from lazycluster._tasks.log import ExecutionLog
from lazycluster._tasks.printing import print_log
from lazycluster._tasks.values import Values
from lazycluster._waits import wait_repeatedly
from lazycluster.exceptions import LazyclusterError, TaskExecutionError

_numbers = itertools.count()


class Record:
    """Hold what an execution of a task did; a copied or unpickled one has ended.

    Args:
        host: The host as the user typed it.
        name: The name of the task.
        task: The task, which is not kept alive.

    Attributes:
        host: The host.
        name: The name.
        number: A number that rises from execution to execution.
        key: The process key of an asynchronous execution.
        joins: True if `join` waits for it.
        in_background: True if its caller does not wait for it; a reader thread may end it.
        headings: What each step does, on a short line.
        functions: The indexes of the steps that call a function.
        log: What the steps printed.
        error: The error, at the end without the task and the variables of functions; None before a
            failure.
        logged: True if the error has been logged.
        stopped_by: The number of the signal that stopped the execution; 0 if none did.
        skipped: What copies have left out, as (path, reason).
        values: The values of the functions that have returned.
    """

    def __init__(self, host: str, name: str, task: object) -> None:
        self.host = host
        self.name = name
        self.number: int = next(_numbers)
        self.key: str | None = None
        self.joins: bool = False
        self.in_background: bool = False
        self.headings: tuple[str, ...] = ()
        self.functions: tuple[int, ...] = ()
        self.log: ExecutionLog = ExecutionLog(host, name)
        self.error: TaskExecutionError | None = None
        self.logged: bool = False
        self.stopped_by: int = 0
        self.skipped: list[tuple[str, str]] = []
        self.values: Values = Values()
        self._find_task: Callable[[], object] = weakref.ref(task)
        self._find_reader: Callable[[], object] | None = None
        self._pid = os.getpid()
        self._done = threading.Event()
        self._wakes_callbacks = False  # True if the completion thread waits

    def __getstate__(self) -> dict[str, Any]:
        names = "host name number key joins headings functions log error logged stopped_by values"
        return {name: getattr(self, name) for name in [*names.split(), "skipped"]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Record.__init__(self, state["host"], state["name"], self)
        self.__dict__.update(state)
        self._done.set()

    @property
    def is_alive(self) -> bool:
        """Return True until the execution has ended."""
        return not self._done.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the execution has ended, at most `timeout` seconds; return True if it has."""
        timeout = checked_wait(timeout)
        if self.is_alive:
            self._check_owner()
        if completion.is_current and self.is_alive:  # a callback, which the end may need
            self._wakes_callbacks = True
            deadline = None if timeout is None else time.monotonic() + timeout
            completion.work_until(self._done.is_set, deadline)
            return self._done.is_set()
        return wait_repeatedly(self._done.wait, timeout)

    def _report_end(self) -> None:
        """Wake the threads that wait for the end."""
        self._done.set()
        if self._wakes_callbacks:
            completion.post(lambda: None)

    def join(self) -> None:
        """Wait until the execution has ended, if it is one to wait for."""
        if self.joins:
            self.wait()

    def let_read(self, reader: object) -> None:
        """Note the object through which the user can read the values; it is not kept alive."""
        self._find_reader = weakref.ref(reader)

    @property
    def is_readable(self) -> bool:
        """Return True if the user can read the values also without the Runtime."""
        return self._find_reader is not None and self._find_reader() is not None

    def print_log(self) -> None:
        """Print the steps that have begun; see `RuntimeTask.print_log`."""
        begun = self.log.step_count
        if self.error is not None:
            begun = min(begun, self.error.task_step_index + 1)
        print_log(self.log, self.headings[:begun])

    def error_of(self, task: object) -> TaskExecutionError | None:
        """Return a copy of the error that refers to the task; None without a failure."""
        error = copy.copy(self.error)
        if error is not None:
            error.task = task
        return error

    def final_error(self) -> TaskExecutionError | None:
        """Return the error, with the task if that still exists; None before the end."""
        return None if self.is_alive else self.error_of(self._find_task())

    def returns(self) -> list[Callable[[], object] | None]:
        """Return a function that unpickles the value of each step that calls a function.

        It is None for a function that a failed execution did not call to its end. Functions that
        are still to return are left out.
        """
        failed = not self.is_alive and self.error is not None
        loaders = self.values.loaders()
        return [loaders.get(index) for index in self.functions if failed or index in loaders]

    def _check_owner(self) -> None:
        if self._pid != os.getpid():
            raise LazyclusterError(
                f"The task {self.name!r} belongs to process {self._pid}; this is a child "
                "forked from it. Make a new Runtime in the child."
            )
