"""The execution that the properties of a task show."""

from __future__ import annotations

from collections.abc import Callable

from lazycluster._tasks.execution import Execution, Target
from lazycluster.exceptions import TaskExecutionError
from lazycluster.processes import TaskProcess


class LastExecution:
    """An execution as its task shows it, with what a Runtime does not keep.

    Attributes:
        execution: The execution.
        process: Its handle; None if it is synchronous.
        error: The error as it was raised, with its tracebacks and the task; None before that.
    """

    def __init__(
        self,
        execution: Execution,
        process: TaskProcess | None,
        error: TaskExecutionError | None = None,
    ) -> None:
        self.execution = execution
        self.process = process
        self.error = error

    def run(self, find_target: Callable[[], Target]) -> None:
        """Run the execution in this thread; see `Execution.run`."""
        try:
            self.execution.run(find_target)
        finally:
            self.error, self.execution.raised = self.execution.raised, None

    def find_error(self, task: object) -> TaskExecutionError | None:
        """Return the error, the same object each time after the end; None without a failure."""
        if self.error is None:
            if self.execution.is_alive:
                return self.execution.error
            self.error = self.execution.error_of(task)
        return self.error
