"""Define tasks: steps in order, with the log and the values of their last execution."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Mapping
from typing import Any

from lazycluster._checks import (
    checked_command,
    checked_environment,
    checked_input,
    checked_path,
    checked_timeout,
    checked_words,
)
from lazycluster._env_variables import EnvVariables
from lazycluster._fabric_connection import (
    FabricConnection,
    is_fabric_connection,
    run_environment,
    start_directory,
)
from lazycluster._fabric_login import login_of
from lazycluster._functions.payload import check_call, describe, dump_call
from lazycluster._tasks.execution import TERMINATE_GRACE, Execution, Target
from lazycluster._tasks.progress import checked_progress
from lazycluster._tasks.steps import GetFile, RunCommand, RunFunction, SendFile, Step
from lazycluster.connection import Connection
from lazycluster.exceptions import TaskExecutionError
from lazycluster.processes import TaskProcess


class RuntimeTask:
    """A sequence of steps that run on a host, one after the other, until one fails.

    `run_command`, `run_function`, `send_file` and `get_file` add a step and return the task, so
    that calls can be chained. `Runtime.execute_task` executes the task, as does `execute` on a
    `Connection`.

    A task can be executed again; each execution starts a new log. A running task cannot be
    executed a second time, but a `copy.deepcopy` of it can. A copied or unpickled task has the
    steps, the variables and the results so far, but no process.

    Args:
        name: The name of the task, for logs and process keys. Defaults to one made of `id()`.

    Raises:
        ValueError: If the name is empty.

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
        self._env_variables = EnvVariables()
        self._execution: Execution | None = None
        self._process: TaskProcess | None = None
        self._error: TaskExecutionError | None = None

    def __repr__(self) -> str:
        return f"<RuntimeTask {self._name!r} of {len(self._steps)} steps>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._env_variables = EnvVariables(self._env_variables)

    @property
    def name(self) -> str:
        """Return the name of the task."""
        return self._name

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return the steps added so far, in order."""
        return tuple(self._steps)

    @property
    def env_variables(self) -> dict[str, str]:
        """Return the environment variables of all steps; they override the Runtime's.

        The dictionary is live, and numbers and booleans become strings; see
        `Runtime.env_variables`. Any value without a NUL character arrives unchanged.

        Raises:
            ValueError: On a change, if a name is invalid, or a value is something else or holds a
                NUL.
        """
        return self._env_variables

    @env_variables.setter
    def env_variables(self, env_variables: Mapping[str, str | float]) -> None:
        self._env_variables.replace(env_variables)

    @property
    def execution_log(self) -> list[str]:
        """Return what each step printed in the last execution: entry *i* belongs to step *i*.

        An entry holds standard output and standard error in the order in which they came, with
        backslash escapes for bytes that are not UTF-8. The list is empty before the first
        execution, and grows while the task runs. The entry of a silent step is `""`.

        Raises:
            OSError: If the output is large and its file, `execution_log_file_path`, was removed.
        """
        return [] if self._execution is None else self._execution.log.entries()

    @property
    def execution_log_file_path(self) -> str | None:
        """Return the path of the file with the last execution's output; None before any output.

        It is in `execution_log/<host>/` below `$LAZYCLUSTER_HOME`, else below
        `$XDG_STATE_HOME/lazycluster`, else below `~/.local/state/lazycluster`. Where the home
        directory cannot be written it is in a temporary directory that is removed at exit.
        """
        return None if self._execution is None else self._execution.log.path

    @property
    def error(self) -> BaseException | None:
        """Return the TaskExecutionError of the last execution; None without a failure so far."""
        execution = self._execution
        if self._error is None and execution is not None:
            if execution.is_alive:
                return execution.error
            self._error = execution.error_of(self)
        return self._error

    @property
    def function_returns(self) -> Generator[object, None, None]:
        """Yield the values that the functions returned, in the order of the steps.

        Wait for the task first, unless it was executed with `omit_on_join`. The values can be read
        again until `cleanup` frees them. Each is unpickled when it is read; large ones are kept in
        a file until then.

        Yields:
            One value for each function that has returned.

        Raises:
            TaskExecutionError: If the execution failed; raised after the last value.
            SerializationError: If a value cannot be unpickled on the manager.
        """
        self.join()
        if self._execution is not None:
            yield from self._execution.values
        if self.error is not None:
            raise self.error

    @property
    def process(self) -> TaskProcess | None:
        """Return the handle of the last execution; None if that was not asynchronous."""
        return self._process

    def run_command(
        self,
        command: str,
        *,
        input: str | bytes | None = None,
        timeout: float | None = None,
        shell: str | None = None,
    ) -> RuntimeTask:
        """Add a step that runs a shell command.

        The account's own shell runs it, as with `ssh host command`, in the working directory of the
        task. A change of directory ends with the step. The step
        ends when the command ends. Processes that it leaves in the background run until the
        connection ends, or longer if they were started by `setsid`.

        Args:
            command: The command, any text that the shell takes.
            input: Its standard input, a string as UTF-8. The command need not read all of it.
                Defaults to None, `/dev/null`.
            timeout: Seconds after which the step is stopped (SIGTERM, five seconds later SIGKILL)
                and fails with StepTimeoutError. Defaults to None, no bound.
            shell: The shell to use, such as `/bin/sh` or `bash --norc`; it gets `-c` and the
                command. Defaults to None, the account's own shell, or `/bin/sh` if that refuses
                logins (nologin).

        Raises:
            ValueError: If the command or the shell is empty or holds a NUL, or the timeout is not
                positive.
            TypeError: If the input is neither a string nor bytes.
        """
        words = None if shell is None else checked_words(shell, "The shell")
        step = RunCommand(
            checked_command(command), checked_timeout(timeout), words, checked_input(input)
        )
        return self._add(step)

    def run_function(self, function: Callable[..., Any], **func_kwargs: Any) -> RuntimeTask:
        """Add a step that calls a Python function on the host.

        cloudpickle pickles the function and its arguments now. Functions of scripts, notebooks and
        local modules are sent by value, with what they use. Modules of the standard library and
        installed packages are imported on the host and must be there. The host's Python must have
        the manager's minor version. Each call runs in a process of its own.

        Args:
            function: The function or other callable.
            **func_kwargs: Its arguments. Use `functools.partial` for an argument named `function`.

        Raises:
            ValueError: If the function is empty.
            TypeError: If the arguments do not fit the function.
            SerializationError: If the function or an argument cannot be pickled; the message names
                it.
        """
        check_call(function, func_kwargs, {"function": None})
        return self._run_checked_function(function, func_kwargs)

    def _run_checked_function(
        self, function: Callable[..., Any], func_kwargs: Mapping[str, object]
    ) -> RuntimeTask:
        payload = dump_call(function, (), func_kwargs)
        return self._add(RunFunction(describe(function), payload=payload))

    def send_file(
        self,
        local_path: str,
        remote_path: str | None = None,
        *,
        progress: Callable[[int, int], object] | bool | None = None,
    ) -> RuntimeTask:
        """Add a step that sends a file or folder to the host.

        The copy is written under a temporary name in the target's folder and renamed when it is
        complete, so that it arrives complete or not at all. Modes and times are kept. Anything but
        files, folders and links is skipped and listed in the execution log. Every name is taken
        literally.

        Args:
            local_path: The file or folder; a leading `~` is expanded. It must exist when the step
                begins, because an earlier step may create it.
            remote_path: The target: the path of the copy, or a folder to put it into (an existing
                one, or a path with a trailing slash). Relative to the working directory; a leading
                `~` is expanded; missing folders are made. Defaults to the working directory.
            progress: A callable that gets the bytes done and the bytes in total, about ten times a
                second and once at the end, in the thread that executes the task; an exception of it
                stops the copy. True for a line on standard error if that is a terminal (by tqdm if
                it is installed: `lazycluster[progress]`). Defaults to None, no report.

        Raises:
            ValueError: If a path is empty or invalid, or `progress` is something else.
        """
        local_path = checked_path(local_path, "The local path")
        if remote_path is not None:
            remote_path = checked_path(remote_path, "The remote path")
        source = os.path.abspath(os.path.expanduser(local_path))
        target = "./" if remote_path is None else remote_path
        progress = checked_progress(progress)
        return self._add(SendFile(f"send {source}", None, source, target, progress))

    def get_file(
        self,
        remote_path: str,
        local_path: str | None = None,
        *,
        progress: Callable[[int, int], object] | bool | None = None,
    ) -> RuntimeTask:
        """Add a step that gets a file or folder from the host, by the rules of `send_file`.

        Args:
            remote_path: The file or folder, relative to the working directory.
            local_path: The target: the path of the copy, or a folder to put it into. Defaults to
                the current folder of this process.
            progress: A callable, True or None, as for `send_file`.
        """
        remote_path = checked_path(remote_path, "The remote path")
        if local_path is not None:
            local_path = checked_path(local_path, "The local path")
        target = os.path.join(os.getcwd(), os.path.expanduser(local_path or ""))
        progress = checked_progress(progress)
        return self._add(GetFile(f"get {remote_path}", None, target, remote_path, progress))

    def _add(self, step: Step) -> RuntimeTask:
        self._steps.append(step)
        return self

    def execute(
        self,
        connection: Connection | str | FabricConnection,
        debug: bool = False,
        *,
        timeout: float | None = None,
    ) -> RuntimeTask:
        """Execute the task on a host, starting in the home directory, and wait for its end.

        Args:
            connection: A Connection, which stays open, or a host, to which a connection is opened
                for this execution, or a `fabric.Connection`. Of that its host, what was given for
                its login, its `cd()` and its `run.env` count; `ssh` logs in, once, and stays logged
                in until the object is closed or freed.
            debug: If True, print the output live as well, as `print_log` prints it. Defaults to
                False.
            timeout: The most seconds for the whole task. Defaults to None, no bound.

        Returns:
            The task.

        Raises:
            ConnectError: If no connection can be opened (a ValueError too).
            TaskExecutionError: If a step failed; its `__cause__` is the reason.
            TypeError: If the connection is something else.
            ValueError: If the task is still running, the timeout is not positive, or the
                `fabric.Connection` has something that ssh cannot do; the message has the cure.
        """
        checked_timeout(timeout)
        if isinstance(connection, str):
            with Connection(connection) as opened:
                return self.execute(opened, debug, timeout=timeout)
        directory, environment = None, checked_environment(self._env_variables)
        if is_fabric_connection(connection):
            directory = start_directory(connection)
            environment = {**checked_environment(run_environment(connection)), **environment}
            connection = login_of(connection)
        if not isinstance(connection, Connection):
            raise TypeError(
                "connection must be a lazycluster.Connection, a host as a string or a "
                f"fabric.Connection, not {type(connection).__name__}."
            )
        login = connection
        login.open()
        execution = self._begin(login.host, debug=debug, timeout=timeout)
        self._run(execution, lambda: Target(login._start(), None, environment, directory))
        return self

    def _run(self, execution: Execution, find_target: Callable[[], Target]) -> None:
        try:
            execution.run(find_target)
        finally:
            self._error, execution.raised = execution.raised, None

    def _begin(
        self,
        host: str,
        *,
        debug: bool,
        timeout: float | None,
        on_end: Callable[[Execution], None] | None = None,
    ) -> Execution:
        """Return a new execution, which the task's properties show from now on."""
        if self._execution is not None and self._execution.is_alive:
            raise ValueError(
                f"The task {self._name!r} is still running on {self._execution.host}. "
                "Execute a copy.deepcopy of it."
            )
        timeout = checked_timeout(timeout)
        execution = Execution(
            self._name,
            self.steps,
            host,
            task=self,
            debug=debug,
            timeout=timeout,
            on_end=on_end,
        )
        if self._execution is not None:
            self._execution.replaced = True
        self._process = self._error = None
        self._execution = execution
        return execution

    def join(self) -> None:
        """Wait for the end of an asynchronous execution, unless it has `omit_on_join`.

        It does not raise the error of the execution; that is in `error`.
        """
        if self._execution is not None and self._execution.joins:
            self._execution.wait()

    def print_log(self) -> None:
        r"""Print the execution log, each entry behind its index.

        On a terminal, control characters except tab and line feed are shown like `\x1b`; a file or
        a pipe gets them unchanged.
        """
        if self._execution is not None:
            self._execution.log.show()

    def stop(self) -> None:
        """Stop the task if it runs: SIGTERM to its processes, SIGKILL five seconds later.

        Returns when they have ended. A synchronous execution in another thread ends with a
        TaskExecutionError there.
        """
        if self._execution is not None:
            self._execution.stop(signal.SIGTERM, TERMINATE_GRACE)

    def cleanup(self) -> None:
        """Stop the task if it runs asynchronously, and free the values of its functions.

        The execution log stays. A second call does nothing.
        """
        if self._process is not None:
            self._process.terminate()
        if self._execution is not None:
            self._execution.values.clear()
