"""Runtime: one host on which tasks run."""

from __future__ import annotations

import functools
import logging
import signal
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, BinaryIO

from lazycluster._checks import check_flags, checked_path, checked_timeout, listed_words
from lazycluster._fabric.kwargs import translate_connection_kwargs
from lazycluster._functions.payload import check_call
from lazycluster._functions.pickled_call import describe
from lazycluster._functions.preload import Preload
from lazycluster._runtime.calls import Options, RuntimeView
from lazycluster._runtime.host_info import FILTER_TIMEOUT, Lack
from lazycluster._runtime.process_host import ProcessHost
from lazycluster._tasks.background import run_in_background
from lazycluster._tasks.contents import describe_contents, is_contents
from lazycluster._tasks.execution import Execution
from lazycluster._tasks.history import History
from lazycluster._text import show
from lazycluster._tracebacks import short_tracebacks
from lazycluster.connection import Connection
from lazycluster.exceptions import CommandError, StepTimeoutError, TaskExecutionError
from lazycluster.tasks import RuntimeTask

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self  # of the standard library only from Python 3.11 on

__all__ = ["Runtime", "RuntimeTask", "RuntimeView"]

_logger = logging.getLogger("lazycluster")

_CLEANUP_TIMEOUT = 5.0  # seconds for executions to end after their connection was closed


@short_tracebacks
class Runtime(ProcessHost):
    """A host that tasks run on.

    The constructor logs in once, and everything that runs on the host shares that connection. The
    environment variable that `Runtime.WORKING_DIR_ENV_VAR_NAME` names has the path of the working
    directory. A temporary working directory is removed when the connection ends, however it ends.

    After a lost connection the next use logs in again; a temporary working directory is then a new
    one, which a WARNING says. Many threads may use a Runtime. `cleanup` ends everything that the
    Runtime started; at the interpreter's exit that happens by itself.

    Args:
        host: What `ssh` takes: an alias, `user@host`, `user@host:port`, `ssh://…`, an IPv6 literal.
        working_dir: A directory on the host, made if it is missing and never removed. A leading
            `~`, `$HOME/` or `${HOME}/` is the home directory. Defaults to None, a temporary
            directory; so does an empty string.
        connection_kwargs: Parameters of `Connection` by name, or parameters of paramiko and fabric
            that have a meaning for OpenSSH (`key_filename`, `username`, `timeout`, `gateway` and
            others, see the page "Coming from lazycluster 0.2 or fabric").
        modules: Names of packages that functions send to the host although they are installed
            here, each as a whole with its data files. They must not have compiled modules.
        installed: Names of packages that the host has, although they are local here.
        preload: Names of modules, such as `["numpy", "pandas"]`, that a process on the host imports
            once. Each function is forked from it and finds them imported. A module that cannot be
            imported there, or that starts a thread, fails every function; commands go on.

    `Connection` explains the keyword-only parameters and has their defaults; None means not given.
    A parameter may be here or in `connection_kwargs`.

    Raises:
        ValueError: If an argument is invalid; checked before any process starts.
        TypeError: If `modules`, `installed` or `preload` is not a list, a tuple or a set of
            strings, or a path is neither a string nor an `os.PathLike`.
        InvalidRuntimeError: If the host cannot be used; message and `__cause__` have the reason. Or
            if `is_valid_runtime` of a subclass returns False.
        PathCreationError: If the working directory cannot be made.

    Examples:
        >>> with Runtime("my-host") as runtime:
        ...     task = runtime.execute_function(pow, base=2, exp=3)
        >>> next(task.function_returns)
        8
    """

    def __init__(
        self,
        host: str,
        working_dir: str | PathLike[str] | None = None,
        connection_kwargs: dict[str, Any] | None = None,
        *,
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
        path = None
        if working_dir is not None and working_dir != "":
            path = checked_path(working_dir, "The working directory")
        parameters = {
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
        }
        keywords = translate_connection_kwargs(connection_kwargs or {}, parameters)
        self._options = Options().replaced(modules=modules, installed=installed, preload=preload)
        super().__init__(Connection(host, **keywords))
        self._preload = Preload(self._options.preload, self._options.modules)
        self._history = History(self.host, self._processes)
        self._start(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def check_filter(
        self,
        gpu_required: bool = False,
        min_memory: int | None = None,
        min_cpu_cores: int | None = None,
        installed_executables: str | PathLike[str] | list[str | PathLike[str]] | None = None,
        filter_commands: str | list[str] | None = None,
        *,
        timeout: float | None = FILTER_TIMEOUT,
    ) -> bool:
        """Return True if the host has everything that is required; else log the reason at INFO.

        That a command took too long is logged as a WARNING.

        Args:
            gpu_required: If True, a GPU is required. Defaults to False.
            min_memory: The least memory in MB of 2**20 bytes. Defaults to None, any.
            min_cpu_cores: The least number of CPU cores. Defaults to None, any.
            installed_executables: Names of programs that must be on the PATH. Defaults to None,
                none; an empty string means none too.
            filter_commands: Shell commands, each of which must succeed and print `true` as the last
                line of its output; what start files print before it does not count. Defaults to
                None, none; an empty string means none too.
            timeout: The most seconds for each of the commands. One that takes longer is stopped,
                and the result is False. None is no bound. Defaults to 60.

        Raises:
            ValueError: If a name or a command in a list is empty, or the timeout is invalid.
            TaskExecutionError: If the connection was lost while a command ran.
        """
        lacks = self._find_lacks(
            gpu_required=gpu_required,
            min_memory=min_memory,
            min_cpu_cores=min_cpu_cores,
            installed_executables=installed_executables,
            filter_commands=filter_commands,
            timeout=checked_timeout(timeout),
        )
        return not lacks

    def _find_lacks(
        self,
        *,
        gpu_required: bool,
        min_memory: int | None,
        min_cpu_cores: int | None,
        installed_executables: str | PathLike[str] | list[str | PathLike[str]] | None,
        filter_commands: str | list[str] | None,
        timeout: float | None,
    ) -> list[Lack]:
        """Return what the host lacks of what is required, and log it; see `check_filter`."""
        lacks: list[Lack | None] = []
        if gpu_required or min_memory is not None or min_cpu_cores is not None:
            lack = self._read_info().find_lack(
                gpu_required=gpu_required, min_memory=min_memory, min_cpu_cores=min_cpu_cores
            )
            lacks.append(lack)
        if not any(lacks):  # Every name and command is tried, so that an empty one is an error.
            lacks += [self._find_missing(name) for name in listed_words(installed_executables)]
            commands = listed_words(filter_commands)
            lacks += [self._find_refusal(command, timeout) for command in commands]
        found = [lack for lack in lacks if lack is not None]
        for lack in found:
            level = logging.WARNING if lack.is_late else logging.INFO
            _logger.log(level, "%s lacks %s.", self.host, lack.what)
        return found

    def _find_missing(self, name: str | PathLike[str]) -> Lack | None:
        name = checked_path(name, "The name of an executable")
        if self._operate("is_executable", name=name):
            return None
        return Lack("installed_executables", f"the program {name!r}")

    def _find_refusal(self, command: str, timeout: float | None) -> Lack | None:
        """Return None if a filter command prints `true`, else what it does instead."""
        task = RuntimeTask("filter").run_command(command)
        execution = Execution(task.name, task.steps, self.host, task=task, timeout=timeout)
        try:
            execution.run(lambda: self._find_target({}))
        except TaskExecutionError as error:
            cause = error.__cause__
            if isinstance(cause, CommandError):
                is_late = isinstance(cause, StepTimeoutError)
                return _refusal(command, cause._reason(), is_late)
            raise
        lines = execution.log.entry(0).split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return None if last == "true" else _refusal(command, f"its last line is {last!r}")

    def execute_task(
        self,
        task: RuntimeTask,
        execute_async: bool | None = True,
        omit_on_join: bool = False,
        debug: bool = False,
        *,
        timeout: float | None = None,
    ) -> RuntimeTask:
        """Execute a task in the working directory.

        Args:
            task: The task.
            execute_async: If True, return at once. `task.join()` waits for the end; an error is
                logged and becomes `task.error`. Defaults to True.
            omit_on_join: If True, `join` does not wait for this execution if it is asynchronous.
                Defaults to False, which leaves what `task.omit_on_join` says.
            debug: If True, also print the output of the steps while they run, in whole lines. While
                output of several hosts is printed, each line begins with its host. Defaults to
                False.
            timeout: The most seconds for the whole task. Defaults to None, no bound.

        Returns:
            The task.

        Raises:
            TaskExecutionError: If a step of a synchronous execution failed; see its `__cause__`.
            TypeError: If the task is not a RuntimeTask, or a flag is not a bool or None.
            ValueError: If the timeout is not positive.
        """
        check_flags(execute_async=execute_async, omit_on_join=omit_on_join, debug=debug)
        if not isinstance(task, RuntimeTask):
            raise TypeError(
                f"task must be a RuntimeTask, not {type(task).__name__}. Write "
                "RuntimeTask().run_command(...) for a command, and "
                "RuntimeTask().run_function(...) for a function."
            )
        own = task._env_variables.snapshot()
        self._connection._check_owner()
        execution = task._prepare(self.host, debug=debug, timeout=timeout, on_end=self._history.end)
        process = None
        if execute_async:
            execution.joins = not (omit_on_join or task._omit_on_join)
            process = self._add_process(execution)
        self._history.add(execution)
        last = task._show(execution, process)
        find_target = functools.partial(self._find_target, own)
        if process is None:
            last.run(find_target)
        else:  # `cleanup` ends it, also if its thread has not begun by then
            closed = self._connection._closed
            run_in_background(
                execution,
                process.name,
                lambda: self._find_open_target(own),
                lambda: find_target(closed),
                self._starter,
            )
        return task

    def execute_function(
        self,
        function: Callable[..., Any],
        execute_async: bool = False,
        debug: bool = False,
        **func_kwargs: Any,
    ) -> RuntimeTask:
        """Call a Python function on the host; see `RuntimeTask.run_function`.

        Args:
            function: The function, or another callable.
            execute_async: If True, return at once. Defaults to False.
            debug: If True, also print the function's output while it runs. Defaults to False.
            **func_kwargs: The function's arguments. Use `functools.partial` for an argument with
                the name of a parameter of this method.

        Returns:
            The task, whose `function_returns` yields the value.

        Raises:
            TaskExecutionError: If the function failed; see its `__cause__`. For the errors before
                that see `RuntimeTask.run_function`.
            TypeError: If a flag is not a bool or None, because the function's arguments are given
                by keyword.
        """
        check_flags(
            "Give the function's arguments by keyword, or as functools.partial(function, …).",
            execute_async=execute_async,
            debug=debug,
        )
        reserved = {"function": None, "execute_async": execute_async, "debug": debug}
        check_call(function, func_kwargs, reserved)
        called = getattr(function, "__name__", None) or describe(function)
        task = RuntimeTask(f"execute-function-{called}")
        task._modules = self._options.modules
        task._run_checked_function(function, func_kwargs)
        return self.execute_task(task, execute_async, debug=debug)

    @property
    def function_returns(self) -> Generator[object, None, None]:
        """Yield the values of all functions, in the order in which their executions began.

        Wait for each execution, unless it has `omit_on_join`. A task that was executed twice here
        has its values twice.

        Yields:
            The value of each function. It is None for a function that a failed execution did not
            call to its end, and for a value that cannot be unpickled.

        Raises:
            TaskExecutionError: If an execution failed; raised after the last value. It is the first
                such error, and the others are logged.
            SerializationError: If a value cannot be unpickled, and no earlier execution failed.
            LazyclusterError: If a value was dropped before it was read. A Runtime keeps its newest
                1000 executions and 256 MiB of their values; `clear_tasks` begins anew.
        """
        yield from self._history.function_returns()

    def execution_log(self, task_name: str) -> list[str]:
        """Return the log of the last execution here of a task with that name.

        Args:
            task_name: The name that the task had when the execution began.

        Raises:
            ValueError: If no task with that name was executed here.
        """
        for execution in reversed(list(self._history)):
            if execution.name == task_name:
                return execution.log.entries()
        raise ValueError(f"No task {task_name!r} was executed on {self.host}.")

    def print_log(self) -> None:
        """Print the log of each execution here, in the order in which they began.

        Each begins with a line like `Log of Task build on my-host:`; see `RuntimeTask.print_log`.
        """
        for execution in self._history:
            show(f"Log of Task {execution.name} on {self.host}:\n")
            execution.print_log()

    def clear_tasks(self) -> None:
        """Forget all executions of tasks here, with their process handles and keys.

        Exposures of ports that have ended are forgotten, too. What runs goes on until its end,
        `task.stop()` or `cleanup`. The tasks keep the logs and values of their last executions.
        Without this call the newest 1000 executions are kept, and 256 MiB of the values of
        functions.
        """
        self._history.clear()
        self._forget_exposures()

    def join(self) -> None:
        """Wait for all asynchronous executions here, except those that have `omit_on_join`."""
        for execution in self._history:
            execution.join()

    def send_file(
        self,
        local_path: str | PathLike[str] | bytes | BinaryIO,
        remote_path: str | PathLike[str] | None = None,
        execute_async: bool | None = False,
        *,
        progress: Callable[[int, int], object] | bool | None = None,
        exclude: Sequence[str] = (),
        only_changed: bool = False,
        delete: bool = False,
        on_error: str = "raise",
        mode: int | None = None,
        in_place: bool = False,
    ) -> RuntimeTask:
        """Send a file or folder to the host; see `RuntimeTask.send_file` for the other arguments.

        Args:
            local_path: The file or folder, or bytes, or a binary file object.
            remote_path: The target. Defaults to the working directory.
            execute_async: If True, return at once. Defaults to False.
            progress: A callable, True or None.
            exclude: Patterns of what is left out.
            only_changed: If True, leave out what the target has already.
            delete: If True, remove from the target what the source does not have.
            on_error: "raise" or "skip".
            mode: The permission bits of the file, or of each file in the folder.
            in_place: If True, overwrite files that exist.

        Returns:
            The task.

        Raises:
            FileTransferError: If the copy failed (a TaskExecutionError and an OSError); nothing is
                half written.
        """
        check_flags(execute_async=execute_async)
        task = self._send_task(
            local_path,
            remote_path,
            progress=progress,
            exclude=exclude,
            only_changed=only_changed,
            delete=delete,
            on_error=on_error,
            mode=mode,
            in_place=in_place,
        )
        return self.execute_task(task, execute_async)

    def _send_task(
        self,
        local_path: str | PathLike[str] | bytes | BinaryIO,
        remote_path: str | PathLike[str] | None,
        **options: Any,
    ) -> RuntimeTask:
        """Return the task of `send_file`."""
        source = local_path
        if is_contents(source):
            shown = describe_contents(source)
        else:
            shown = source = checked_path(source, "The local path")
        task = RuntimeTask(f"send-file-{shown}-to-{self.host}")
        return task.send_file(source, remote_path, **options)

    def get_file(
        self,
        remote_path: str | PathLike[str],
        local_path: str | PathLike[str] | BinaryIO | None = None,
        execute_async: bool | None = False,
        *,
        progress: Callable[[int, int], object] | bool | None = None,
        exclude: Sequence[str] = (),
        only_changed: bool = False,
        delete: bool = False,
        on_error: str = "raise",
        mode: int | None = None,
        in_place: bool = False,
    ) -> RuntimeTask:
        """Get a file or folder from the host; see `RuntimeTask.get_file` and `send_file`.

        Args:
            remote_path: The file or folder, relative to the working directory.
            local_path: The target, or a binary file object. Defaults to the manager's current
                folder.
            execute_async: If True, return at once. Defaults to False.
            progress: A callable, True or None.
            exclude: Patterns of what is left out.
            only_changed: If True, leave out what the target has already.
            delete: If True, remove from the target what the source does not have.
            on_error: "raise" or "skip".
            mode: The permission bits of the file, or of each file in the folder.
            in_place: If True, overwrite files that exist.
        """
        check_flags(execute_async=execute_async)
        task = self._get_task(
            remote_path,
            local_path,
            progress=progress,
            exclude=exclude,
            only_changed=only_changed,
            delete=delete,
            on_error=on_error,
            mode=mode,
            in_place=in_place,
        )
        return self.execute_task(task, execute_async)

    def _get_task(
        self,
        remote_path: str | PathLike[str],
        local_path: str | PathLike[str] | BinaryIO | None,
        **options: Any,
    ) -> RuntimeTask:
        """Return the task of `get_file`."""
        remote_path = checked_path(remote_path, "The remote path")
        task = RuntimeTask(f"get-file-{remote_path}-from-{self.host}")
        return task.get_file(remote_path, local_path, **options)

    def close(self) -> None:
        """Do what `cleanup` does; the end of a `with` block calls it."""
        self.cleanup()

    def cleanup(self) -> None:
        """End everything that was started here, remove a temporary working directory, log out.

        Logs and values stay with their tasks. A second call does nothing. A task, a file or a port
        after it logs in again.
        """
        if not self._connection._is_owner:
            return
        self._closed = True
        # A synchronous execution may be one of this thread, in a signal handler.
        background = [one for one in self._history.running if one.key is not None]
        for execution in background:
            execution.stopped_by = signal.SIGTERM
        self._connection.close()
        deadline = time.monotonic() + _CLEANUP_TIMEOUT
        for execution in background:
            execution.wait(max(0.0, deadline - time.monotonic()))
        for process in self.get_processes().values():
            process.join(max(0.0, deadline - time.monotonic()))


def _refusal(command: str, why: str, is_late: bool = False) -> Lack:
    return Lack("filter_commands", f"what {command!r} looks for: {why}", is_late)
