"""RuntimeGroup: several hosts on which the same runs."""

from __future__ import annotations

import functools
import logging
import signal
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, overload

from lazycluster._checks import check_flags, checked_path, checked_timeout
from lazycluster._group.calls import GroupView
from lazycluster._group.members import Members
from lazycluster._group.opening import (
    check_arguments,
    check_runtimes,
    check_unique,
    close_runtimes,
    listed,
    open_runtimes,
)
from lazycluster._group.parallel import in_parallel
from lazycluster._group.results import (
    GroupResult,
    group_error,
    invalid_hosts_error,
    reason,
)
from lazycluster._tasks.execution import TERMINATE_GRACE, Execution, stop_all
from lazycluster._tasks.history import returns_of
from lazycluster._tracebacks import short_tracebacks
from lazycluster.runtimes import Runtime
from lazycluster.tasks import RuntimeTask

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self  # of the standard library only from Python 3.11 on

__all__ = ["GroupResult", "GroupView", "RuntimeGroup"]

_logger = logging.getLogger("lazycluster")


@short_tracebacks
class RuntimeGroup(Members):
    """Several hosts, on which the same runs at the same time.

    The constructor logs in to all hosts at once. Each host has a `Runtime`, with a working
    directory and environment variables of its own. `len(group)` is their number, iteration yields
    the Runtimes in order, and `host in group` is True for a host or Runtime of the group.

    `run`, `call` and `submit` work on all hosts, `execute_task` on all or one of them. A host that
    fails does not stop the others. When all have ended, its error is raised in a `GroupError`.

    Many threads may use a group. `cleanup` closes the Runtimes that the group has opened, and ends
    on others what the group has started there.

    Args:
        runtimes: The Runtimes. They stay open when the group ends.
        hosts: In place of Runtimes, the hosts to log in to, as for `Runtime`.
        working_dir: The working directory on each host, see `Runtime`. With `runtimes`, they get
            it. Defaults to None: a temporary directory, or what the Runtimes have.
        connection_kwargs: Parameters for all hosts, see `Runtime`.
        on_error: What to do about hosts that cannot be used. With "raise", raise an error that has
            all reasons, and leave nothing open. With "skip", go on with the others; a WARNING and
            `errors` have the reasons. Defaults to "raise".
        modules: Names of packages that functions send to the hosts, see `Runtime`.
        installed: Names of packages that the hosts have, see `Runtime`.
        preload: Names of modules that each host imports once, see `Runtime`.

    `Connection` explains the keyword-only parameters and has their defaults; None means not given.
    With `interactive=True` the logins come one after the other.

    Raises:
        ValueError: If neither or both of `runtimes` and `hosts` are given, a host is named twice,
            or an argument is invalid; checked before any process starts.
        TypeError: If `hosts` or `runtimes` is not a list, or an argument has a wrong type.
        InvalidRuntimeError: If a host cannot be used, or with `on_error="skip"` none. Its `errors`
            have what `Runtime` raises, by host.

    Examples:
        >>> with RuntimeGroup(hosts=["web1", "web2"]) as group:
        ...     print(group.run("uname -r").folded())
        web[1-2]: 6.1.0
    """

    def __init__(
        self,
        runtimes: Iterable[Runtime] | None = None,
        hosts: Iterable[str] | None = None,
        working_dir: str | PathLike[str] | None = None,
        *,
        connection_kwargs: dict[str, Any] | None = None,
        on_error: str = "raise",
        user: str | None = None,
        port: int | None = None,
        config_file: str | PathLike[str] | None = None,
        identity_file: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
        jump_host: str | None = None,
        connect_timeout: float | None = None,
        keepalive: float | None = None,
        orphan_timeout: float | None = None,
        password: str | None = None,
        passphrase: str | None = None,
        password_prompt: str | None = None,
        interactive: bool | None = None,
        python: str | PathLike[str] | None = None,
        options: Mapping[str, str | PathLike[str]] | None = None,
        modules: Collection[str] | None = None,
        installed: Collection[str] | None = None,
        preload: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        given = listed(runtimes, "runtimes", "Runtimes")
        names = listed(hosts, "hosts", "hosts")
        if bool(given) == bool(names):
            raise ValueError("Give runtimes or hosts, one of both, and at least one of them.")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', not {on_error!r}.")
        check_runtimes(given)
        check_unique([*names, *(runtime.host for runtime in given)])
        keywords: dict[str, Any] = {
            "user": user,
            "port": port,
            "config_file": config_file,
            "identity_file": identity_file,
            "jump_host": jump_host,
            "connect_timeout": connect_timeout,
            "keepalive": keepalive,
            "orphan_timeout": orphan_timeout,
            "password": password,
            "passphrase": passphrase,
            "password_prompt": password_prompt,
            "interactive": interactive,
            "python": python,
            "options": options,
            "modules": modules,
            "installed": installed,
            "preload": preload,
        }
        if given and (connection_kwargs or any(value is not None for value in keywords.values())):
            raise ValueError("Parameters of logins are for hosts=; the Runtimes are open already.")
        if working_dir is not None and working_dir != "":
            checked_path(working_dir, "The working directory")
        asks = check_arguments(names, connection_kwargs, keywords)
        self._keywords = {
            "working_dir": working_dir,
            "connection_kwargs": connection_kwargs,
            **keywords,
        }
        if names:
            self._open(names, on_error, one_by_one=asks)
        else:
            self._take(given, working_dir)

    def _make(self, host: str) -> Runtime:
        return Runtime(host, **self._keywords)

    def _open(self, hosts: list[str], on_error: str, *, one_by_one: bool) -> None:
        opened, errors = open_runtimes(hosts, self._make, one_by_one=one_by_one)
        if errors and (on_error == "raise" or not opened):
            close_runtimes(opened)
            raise invalid_hosts_error(errors, len(hosts))
        for host, error in errors.items():
            _logger.warning("%s is left out of the group: %s.", host, reason(error))
        self._runtimes, self._errors = opened, errors
        self._own = dict(opened)

    def _take(self, runtimes: list[Runtime], working_dir: str | PathLike[str] | None) -> None:
        self._runtimes = {runtime.host: runtime for runtime in runtimes}
        if working_dir is None or working_dir == "":
            return

        def change(runtime: Runtime) -> None:
            runtime.working_dir = str(working_dir)

        errors = self._ask(change).errors
        if errors:
            raise invalid_hosts_error(errors, len(runtimes))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def add_runtime(self, host: str | None = None, runtime: Runtime | None = None) -> None:
        """Add a Runtime to the group.

        Args:
            host: A host to log in to, with the parameters that the group has got.
            runtime: In place of a host, a Runtime. It stays open when the group ends.

        Raises:
            ValueError: If neither or both are given, or the host is in the group already.
            TypeError: If the Runtime is something else.
            InvalidRuntimeError: If the host cannot be used.
        """
        if bool(host) == (runtime is not None):
            raise ValueError("Give a host or a Runtime, one of both.")
        name = host
        if runtime is not None:
            check_runtimes([runtime])
            name = runtime.host
        if name in self:
            raise ValueError(f"The host {name!r} is in the group already.")
        added = self._make(str(name)) if runtime is None else runtime
        with self._lock:
            is_new = added.host not in self._runtimes
            if is_new:
                self._runtimes[added.host] = added
                if runtime is None:
                    self._own[added.host] = added
        if not is_new:  # another thread was faster
            if runtime is None:
                added.cleanup()
            raise ValueError(f"The host {name!r} is in the group already.")
        _logger.info("%s was added to the group.", added)

    def remove_runtime(self, host: str) -> None:
        """Remove a Runtime from the group; what runs on it goes on.

        A Runtime that the group has opened is closed when nothing refers to it any more.

        Args:
            host: The host. If it is not in the group, nothing but a WARNING happens.
        """
        with self._lock:
            removed = self._runtimes.pop(host, None)
            self._own.pop(host, None)
            self._exposures = [one for one in self._exposures if one[0] is not removed]
        if removed is None:
            _logger.warning("%s", self._unknown(host))
        else:
            _logger.info("%s was removed from the group.", removed)

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

    def close(self) -> None:
        """Do what `cleanup` does; the end of a `with` block calls it."""
        self.cleanup()

    def cleanup(self) -> None:
        """Close all Runtimes that the group has opened, at the same time.

        On the others, end the tasks that the group has started and the exposures of ports that it
        has made. A second call does nothing.
        """
        with self._lock:
            own = dict(self._own)
            others = {h: one for h, one in self._runtimes.items() if one is not own.get(h)}
        background = [one for one in self._started if isinstance(one, Execution)]
        on_others = [one for one in background if one.host in others and one.key is not None]
        stop_all(on_others, signal.SIGTERM, TERMINATE_GRACE)
        close_runtimes(own)
