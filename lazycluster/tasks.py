"""RuntimeTask: steps in order, their log, what their functions returned."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from typing import Any

from lazycluster._checks import check_path, check_text, checked_environment, checked_timeout
from lazycluster._functions import payload as _payload
from lazycluster._tasks.execution import Execution, Place
from lazycluster._tasks.progress import checked_progress
from lazycluster._tasks.steps import GetFile, RunCommand, RunFunction, SendFile, Step
from lazycluster._text import show
from lazycluster.connection import Connection
from lazycluster.processes import TaskProcess


class RuntimeTask:
    """A sequence of steps that run on a host, one after the other, until one fails.

    The steps are added by `run_command`, `run_function`, `send_file` and `get_file`, which return
    the task so that calls can be chained. A task runs by `Runtime.execute_task`, or by `execute` on
    a `Connection`.

    A task can be executed again, and each execution starts a new log; while it runs it cannot be
    executed a second time, but a `copy.deepcopy` of it can. A copy has the steps, the variables
    and the results so far, and no process. So has a task that was pickled.

    Args:
        name: The name of the task, for logs and process keys. Defaults to one made of `id()`.

    Raises:
        ValueError: The name is empty.

    Examples:
        >>> task = RuntimeTask("greet").run_command("echo Hello").run_function(pow, base=2, exp=3)
        >>> task.execute("my-host").print_log()
        0: Hello
        1:
        >>> list(task.function_returns)
        [8]
    """

    def __init__(self, name: str | None = None) -> None:
        if name is not None and (not isinstance(name, str) or not name):
            raise ValueError("The name of a task must be a string that is not empty.")
        self._name = name if name is not None else f"task-{id(self)}"
        self._steps: list[Step] = []
        self._env_variables: dict[str, str] = {}
        self._omit_on_join = False
        self._execution: Execution | None = None
        self._process: TaskProcess | None = None

    def __repr__(self) -> str:
        return f"<RuntimeTask {self._name!r} of {len(self._steps)} steps>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}

    @property
    def name(self) -> str:
        """The name of the task."""
        return self._name

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps added so far, in order."""
        return tuple(self._steps)

    @property
    def env_variables(self) -> dict[str, str]:
        """Environment variables that all steps get; they win over those of the Runtime.

        Any value without NUL arrives exactly as it is.

        Raises:
            ValueError: When set: a name is not a name, or a value is not a string without NUL.
        """
        return self._env_variables

    @env_variables.setter
    def env_variables(self, env_variables: Mapping[str, str]) -> None:
        self._env_variables = checked_environment(env_variables)

    @property
    def execution_log(self) -> list[str]:
        """What each step printed in the last execution: entry *i* is step *i*.

        Standard output and standard error in the order they came; bytes that are not UTF-8 are
        shown by backslash escapes. Empty before the first execution; the entry of a step that
        printed nothing is `""`. It grows while the task runs.

        Raises:
            OSError: The output was large and its file, `execution_log_file_path`, has gone.
        """
        return [] if self._execution is None else self._execution.log.entries()

    @property
    def execution_log_file_path(self) -> str | None:
        """The file with the output of the last execution; None while nothing was printed.

        It lies in `execution_log/<host>/` of `$LAZYCLUSTER_HOME`, else of
        `$XDG_STATE_HOME/lazycluster`, else of a temporary directory that goes with the process.
        """
        return None if self._execution is None else self._execution.log.path

    @property
    def error(self) -> BaseException | None:
        """How the last execution failed, a TaskExecutionError; None if it did not, or runs."""
        return None if self._execution is None else self._execution.error

    @property
    def function_returns(self) -> Generator[object, None, None]:
        """The values that the functions returned, in the order of the steps.

        Waits for the task first, unless it was executed with `omit_on_join`. Asked twice it yields
        twice; `cleanup` forgets the values. Large ones are in a file and unpickled when asked for.

        Yields:
            One value for each function that has returned.

        Raises:
            TaskExecutionError: The execution failed; raised after the values there are.
            SerializationError: A value cannot be unpickled here.
        """
        self.join()
        execution = self._execution
        if execution is None:
            return
        yield from execution.values()
        if execution.error is not None:
            raise execution.error

    @property
    def process(self) -> TaskProcess | None:
        """The handle of the last asynchronous execution; None if the last was none."""
        return self._process

    def run_command(self, command: str, *, timeout: float | None = None) -> RuntimeTask:
        """Add a step that runs a shell command.

        It runs in the account's own shell, as by `ssh host command`, with `/dev/null` as its
        standard input, in the working directory of the task; a change of directory ends with the
        step. The step ends when the command does; what it left in the background lives until the
        connection ends, or for good if it was started by `setsid`.

        Args:
            command: The command, any text that the shell takes.
            timeout: Seconds after which the step is stopped (SIGTERM, five seconds later SIGKILL)
                and fails with StepTimeoutError. Defaults to None, no bound.

        Returns:
            The task.

        Raises:
            ValueError: The command is empty or holds a NUL, or the timeout is not positive.
        """
        if not isinstance(command, str) or not command.strip():
            raise ValueError("A command must be a string that is not empty.")
        check_text(command, "A command")
        self._steps.append(RunCommand(command, checked_timeout(timeout)))
        return self

    def _run_sh(self, command: str) -> RuntimeTask:
        """Add a step of our own, which no login shell reads."""
        check_text(command, "A command")
        self._steps.append(RunCommand(command, shell="/bin/sh"))  # noqa: S604
        return self

    def run_function(self, function: Callable[..., Any], **func_kwargs: Any) -> RuntimeTask:
        """Add a step that calls a Python function on the host.

        The function and its arguments are pickled now, by cloudpickle. Functions of scripts,
        notebooks and local modules travel by value with what they use; what is of the standard
        library or installed in site-packages is imported on the host and must be there. The host's
        Python must be of the manager's minor version. Each call has a process of its own.

        Args:
            function: The function, or anything that can be called.
            **func_kwargs: Its arguments. For one that is itself called `function` use
                `functools.partial`.

        Returns:
            The task.

        Raises:
            ValueError: The function is empty.
            TypeError: The arguments do not fit the function.
            SerializationError: The function or an argument, which is named, cannot be pickled.
        """
        _payload.check_call(function, func_kwargs, {"function": None})
        return self._run_checked_function(function, func_kwargs)

    def _run_checked_function(
        self, function: Callable[..., Any], func_kwargs: Mapping[str, object]
    ) -> RuntimeTask:
        payload = _payload.dump_call(function, (), func_kwargs)
        self._steps.append(RunFunction(_payload.describe(function), payload=payload))
        return self

    def send_file(
        self,
        local_path: str,
        remote_path: str | None = None,
        *,
        progress: Callable[[int, int], object] | bool | None = None,
    ) -> RuntimeTask:
        """Add a step that sends a file or folder to the host.

        It arrives whole under its name or not at all: it is written to a temporary name in the
        target's own folder and renamed. Modes and times are kept. What is no file, folder or link
        is skipped and named in the execution log. Every name is taken literally.

        Args:
            local_path: The file or folder; one that is missing is an error when the step is
                reached, since a step before may make it. `~` is expanded if it comes first.
            remote_path: The target: the path of the copy, or a folder to put it into (one that is
                there, or a path with a trailing slash). Relative to the working directory; `~` is
                expanded if it comes first; missing folders are made. Defaults to the working
                directory.
            progress: Who is told how far it is: a callable, called about ten times a second with
                the bytes done and the bytes in total, in the thread that executes the task, and
                once at the end; what it raises stops the copy. True for a line on standard error,
                if that is a terminal (tqdm's, if it is installed: `lazycluster[progress]`).
                Defaults to None, nobody.

        Returns:
            The task.

        Raises:
            ValueError: A path is empty or cannot be one; `progress` is something else.
        """
        check_path(local_path, "The local path")
        if remote_path is not None:
            check_path(remote_path, "The remote path")
        local_path = os.path.abspath(os.path.expanduser(local_path))
        target = "./" if remote_path is None else remote_path
        name = f"send {local_path}"
        told = checked_progress(progress)
        self._steps.append(SendFile(name, local_path=local_path, remote_path=target, progress=told))
        return self

    def get_file(
        self,
        remote_path: str,
        local_path: str | None = None,
        *,
        progress: Callable[[int, int], object] | bool | None = None,
    ) -> RuntimeTask:
        """Add a step that gets a file or folder from the host; the rules are those of `send_file`.

        Args:
            remote_path: The file or folder, relative to the working directory.
            local_path: The target: the path of the copy, or a folder to put it into. Defaults to
                the folder that this process is in now.
            progress: Who is told how far it is, as for `send_file`.

        Returns:
            The task.

        Raises:
            ValueError: A path is empty or cannot be one; `progress` is something else.
        """
        check_path(remote_path, "The remote path")
        if local_path is not None:
            check_path(local_path, "The local path")
        target = os.path.join(os.getcwd(), os.path.expanduser(local_path or ""))
        name = f"get {remote_path}"
        told = checked_progress(progress)
        self._steps.append(GetFile(name, local_path=target, remote_path=remote_path, progress=told))
        return self

    def execute(
        self,
        connection: Connection | str,
        debug: bool = False,
        *,
        timeout: float | None = None,
    ) -> RuntimeTask:
        """Execute the task on a host and wait for its end; the steps start in the home directory.

        Args:
            connection: A Connection, which stays open, or a host, to which one is opened for this.
            debug: If True, what the steps print is printed live as well, in the way of `print_log`.
                Defaults to False.
            timeout: Seconds for the whole task, None for no bound.

        Returns:
            The task.

        Raises:
            ConnectError: No connection came up (a ValueError too).
            TaskExecutionError: A step failed; its `__cause__` says how.
            TypeError: The connection is something else.
            ValueError: The task runs already.
        """
        if isinstance(connection, str):
            with Connection(connection) as opened:
                return self.execute(opened, debug, timeout=timeout)
        if not hasattr(connection, "conversation"):
            raise TypeError(f"A Connection or a host is needed, not {connection!r}.")
        environment = checked_environment(self._env_variables)
        connection.open()
        execution = self._begin(connection.host, debug=debug, timeout=timeout)
        execution.run(lambda: Place(connection.conversation(), None, environment))
        return self

    def _begin(self, host: str, *, debug: bool, timeout: float | None) -> Execution:
        """A new execution, the task's current one from now on."""
        if self._execution is not None and self._execution.is_alive:
            raise ValueError(
                f"The task {self._name!r} is still running on {self._execution.host}. "
                "Execute a copy.deepcopy of it."
            )
        timeout = checked_timeout(timeout)
        self._process = None
        self._execution = Execution(self, host, debug=debug, timeout=timeout)
        return self._execution

    @property
    def _is_running(self) -> bool:
        return self._execution is not None and self._execution.is_alive

    def _hand_out(self, process: TaskProcess, omit_on_join: bool) -> None:
        self._process = process
        self._omit_on_join = omit_on_join

    def join(self) -> None:
        """Wait for the end of an asynchronous execution; returns at once if there is none.

        An error is not raised here, it is `error`. An execution with `omit_on_join` is not waited
        for.
        """
        if self._process is not None and not self._omit_on_join:
            self._process.join()

    def print_log(self) -> None:
        r"""Print the execution log, each entry behind its index.

        On a terminal control characters, but tab and line feed, are shown as `\x1b`; into a file
        or a pipe they go as they came.
        """
        for index, entry in enumerate(self.execution_log):
            show(f"{index}: {entry.rstrip()}".rstrip() + "\n")

    def cleanup(self) -> None:
        """Stop the task if it runs, and forget the values that its functions returned.

        The execution log stays. A second time is fine.
        """
        if self._process is not None:
            self._process.terminate()
        if self._execution is not None:
            self._execution.drop_values()
