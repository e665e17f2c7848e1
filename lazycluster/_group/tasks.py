"""Tasks on one host of a group, or on all of them."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Generator, Mapping
from typing import Literal, overload

from lazycluster._checks import check_flags, checked_timeout
from lazycluster._group.members import Members
from lazycluster._group.parallel import in_parallel
from lazycluster._group.results import group_error
from lazycluster._tasks.execution import TERMINATE_GRACE, stop_all
from lazycluster._tasks.history import returns_of
from lazycluster._tracebacks import short_tracebacks
from lazycluster.tasks import RuntimeTask


@short_tracebacks
class GroupTasks(Members):
    """Execute tasks on the hosts of a group; see `RuntimeGroup`."""

    @overload
    def execute_task(
        self,
        task: RuntimeTask,
        host: str | None = None,
        broadcast: Literal[False] = False,
        execute_async: bool = True,
        omit_on_join: bool = False,
        debug: bool = False,
        *,
        timeout: float | None = None,
    ) -> RuntimeTask: ...

    @overload
    def execute_task(
        self,
        task: RuntimeTask,
        host: None = None,
        *,
        broadcast: Literal[True],
        execute_async: bool = True,
        omit_on_join: bool = False,
        debug: bool = False,
        timeout: float | None = None,
    ) -> list[RuntimeTask]: ...

    @overload
    def execute_task(
        self,
        task: RuntimeTask,
        host: str | None = None,
        broadcast: bool = False,
        execute_async: bool = True,
        omit_on_join: bool = False,
        debug: bool = False,
        *,
        timeout: float | None = None,
    ) -> RuntimeTask | list[RuntimeTask]: ...

    def execute_task(
        self,
        task: RuntimeTask,
        host: str | None = None,
        broadcast: bool = False,
        execute_async: bool = True,
        omit_on_join: bool = False,
        debug: bool = False,
        *,
        timeout: float | None = None,
    ) -> RuntimeTask | list[RuntimeTask]:
        """Execute a task on one host, or on all hosts at the same time.

        Args:
            task: The task.
            host: The host. Defaults to None, the least busy one, see `get_runtime`.
            broadcast: If True, execute a copy of the task on each host. The copies have the name of
                the task. Defaults to False.
            execute_async: If True, return at once, see `Runtime.execute_task`. If False, return
                when all executions have ended. Defaults to True.
            omit_on_join: If True, `join` does not wait for it. Defaults to False.
            debug: If True, also print the output while it comes; in a broadcast to several hosts
                each line begins with its host. Defaults to False.
            timeout: The most seconds for the whole task on each host. Defaults to None, no bound.

        Returns:
            The task. For a broadcast, the copies in the order of the group.

        Raises:
            ValueError: If the host is not in the group, or is given for a broadcast.
            TypeError: If the task is not a RuntimeTask, or a flag is not a bool or None.
            TaskExecutionError: If a step of a synchronous execution on one host failed.
            GroupError: If a synchronous broadcast failed on a host, after all have ended. `results`
                has the tasks of the hosts that succeeded, `errors` the TaskExecutionErrors.
        """
        check_flags(
            broadcast=broadcast,
            execute_async=execute_async,
            omit_on_join=omit_on_join,
            debug=debug,
        )
        if not isinstance(task, RuntimeTask):
            raise TypeError(f"task must be a RuntimeTask, not {type(task).__name__}.")
        checked_timeout(timeout)
        if broadcast and host:
            raise ValueError("Give a host or broadcast=True, not both.")
        runtimes = self.get_runtimes()
        if not broadcast:
            runtime, before = self.get_runtime(host), task._last
            try:
                return runtime.execute_task(
                    task, execute_async, omit_on_join, debug, timeout=timeout
                )
            finally:
                self._note(task, before)
        tasks = {name: task._twin(task.name) for name in runtimes}
        for twin in tasks.values():
            twin._names_host = len(runtimes) > 1
        work = {
            name: functools.partial(
                runtime.execute_task,
                tasks[name],
                execute_async,
                omit_on_join,
                debug,
                timeout=timeout,
            )
            for name, runtime in runtimes.items()
        }
        return self._execute_all(work, tasks, bool(execute_async))

    def _execute_all(
        self,
        work: Mapping[str, Callable[[], object]],
        tasks: Mapping[str, RuntimeTask],
        execute_async: bool,
    ) -> list[RuntimeTask]:
        """Begin executions everywhere, and if they are synchronous, wait for all."""
        if execute_async:
            for host, begin in work.items():
                begin()
                self._note(tasks[host])
            return list(tasks.values())

        def stop() -> None:
            running = [one for task in tasks.values() for one in task._find_running()]
            stop_all(running, signal.SIGTERM, TERMINATE_GRACE)

        try:
            errors = in_parallel(work, stop=stop).errors
        finally:
            for task in tasks.values():
                self._note(task)
        if errors:
            done = {host: task for host, task in tasks.items() if host not in errors}
            raise group_error(done, errors, len(tasks))
        return list(tasks.values())

    def _note(self, task: RuntimeTask, before: object = None) -> None:
        """Note the execution that a task shows now, unless that is the one of before."""
        last = task._last
        if last is not None and last is not before:
            self._started.add(last.execution)

    @property
    def function_returns(self) -> Generator[object, None, None]:
        """Yield the values of the functions of all tasks that the group has started, in order.

        See `Runtime.function_returns`; what was executed by a Runtime itself is left out.

        Yields:
            The value of each function; None for one that failed.

        Raises:
            TaskExecutionError: If an execution failed; raised after the last value. It is the first
                such error, and the others are logged.
            SerializationError: If a value cannot be unpickled, and no earlier execution failed.
            LazyclusterError: If a value was dropped before it was read.
        """
        if self._started.has_lost:
            for runtime in self.runtimes:
                runtime._history.check_nothing_lost()
        yield from returns_of(self._started)

    def join(self) -> None:
        """Wait for all tasks that the group has started, except those that have `omit_on_join`.

        It does not raise their errors, which `function_returns` does.
        """
        for execution in self._started:
            execution.join()

    def print_log(self) -> None:
        """Print the log of each task on each host; see `Runtime.print_log`."""
        for runtime in self.runtimes:
            runtime.print_log()

    def clear_tasks(self) -> None:
        """Forget all executions of tasks, on the Runtimes too; see `Runtime.clear_tasks`."""
        self._started.clear()
        for runtime in self.runtimes:
            runtime.clear_tasks()
