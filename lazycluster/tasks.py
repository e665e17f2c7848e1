"""Define tasks: steps in order, with the log and the values of their last execution."""

from __future__ import annotations

import copy
import logging
import signal
import threading
import weakref
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from os import PathLike
from typing import Any, BinaryIO

from lazycluster._checks import (
    check_flags,
    checked_command,
    checked_environment,
    checked_input,
    checked_path,
    checked_timeout,
    checked_words,
)
from lazycluster._fabric.connection import (
    FabricConnection,
    is_fabric_connection,
    run_environment,
    start_directory,
)
from lazycluster._fabric.login import login_of
from lazycluster._functions.payload import check_call, dump_call
from lazycluster._functions.pickled_call import describe
from lazycluster._functions.selection import NONE_NAMED
from lazycluster._last_execution import LastExecution
from lazycluster._tasks.contents import (
    check_file_object,
    check_has_name,
    describe_contents,
    is_contents,
)
from lazycluster._tasks.copy_options import CopyOptions
from lazycluster._tasks.env_variables import WORKING_DIR, EnvVariables
from lazycluster._tasks.execution import TERMINATE_GRACE, Execution, Target, stop_all
from lazycluster._tasks.progress import Progress, checked_progress
from lazycluster._tasks.steps import (
    GetContents,
    GetFile,
    RunCommand,
    RunFunction,
    SendContents,
    SendFile,
    Step,
)
from lazycluster._tracebacks import short_tracebacks
from lazycluster.connection import Connection
from lazycluster.processes import TaskProcess


@short_tracebacks
class RuntimeTask:
    """A sequence of steps that run on a host, one after the other, until one fails.

    `run_command`, `run_function`, `send_file` and `get_file` add a step and return the task, so
    that calls can be chained. `Runtime.execute_task` executes the task, as does `execute` on a
    `Connection`.

    A task is a definition. It can be executed again, also while it runs, and on several hosts at
    once. Each execution has its own log, values, error and process. The task shows the execution
    that began last, and a Runtime shows its own executions. An execution has the steps that the
    task had when it began.

    A `copy.deepcopy` of a task has its steps and variables and was not executed yet; it is called
    `name-1`, the next one `name-2`. An unpickled task has the name and the results so far too, but
    no process.

    Args:
        name: The name of the task, for logs and process keys. Defaults to one made of `id()`, also
            for `""`.
        modules: Names of packages that the task's functions send to the host although they are
            installed here; see `Runtime`. Functions are pickled when their step is added, so the
            task does not get what a Runtime has.
        installed: Names of packages that the host has, although they are local here.

    Raises:
        ValueError: If the name is not a string, or a module cannot be sent.
        TypeError: If `modules` or `installed` is not a list, a tuple or a set of strings.

    Examples:
        >>> task = RuntimeTask("greet").run_command("echo Hello").run_function(pow, base=2, exp=3)
        >>> task.execute("my-host").print_log()
        0: echo Hello
           Hello
        1: call of pow
        >>> list(task.function_returns)
        [8]
    """

    log: logging.Logger = logging.getLogger("lazycluster")
    """The logger of the library."""

    def __init__(
        self,
        name: str | None = None,
        *,
        modules: Collection[str] | None = None,
        installed: Collection[str] | None = None,
    ) -> None:
        self._modules = NONE_NAMED.replaced(modules, installed)
        self.name = f"task-{id(self)}" if name is None or name == "" else name
        self._steps: list[Step] = []
        self._env_variables = EnvVariables(reserved=WORKING_DIR)
        self._omit_on_join = False
        self._copies = 0  # made by `copy.deepcopy`
        self._names_host = False  # live output has the host before each line
        self._last: LastExecution | None = None
        self._set_up()

    def _set_up(self) -> None:
        """Make what a pickled task does not have."""
        # For attributes, never held over I/O. Reentrant, because a signal handler may use the task.
        self._lock = threading.RLock()
        self._begun: list[weakref.ref[Execution]] = []  # the executions that may still run

    def __repr__(self) -> str:
        count = len(self._steps)
        steps = f"{count} step" if count == 1 else f"{count} steps"
        return f"<{type(self).__name__} {self._name!r}, {steps}>"

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self._name}"

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_steps": list(self._steps)}
        state["_env_variables"] = self._env_variables.snapshot()
        if self._last is not None:
            state["_last"] = LastExecution(self._last.execution, None, self._last.error)
        del state["_lock"], state["_begun"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._env_variables = EnvVariables(state["_env_variables"], reserved=WORKING_DIR)
        self._set_up()

    def __deepcopy__(self, memo: dict[int, Any]) -> RuntimeTask:
        with self._lock:
            self._copies += 1
            name = f"{self._name}-{self._copies}"
        return self._twin(name, memo)

    def _twin(self, name: str, memo: dict[int, Any] | None = None) -> RuntimeTask:
        """Return a copy with a name; `memo` is what `copy.deepcopy` has."""
        memo = {} if memo is None else memo
        twin = memo[id(self)] = type(self).__new__(type(self))
        RuntimeTask.__init__(twin, name)
        of_subclass = {key: value for key, value in vars(self).items() if key not in vars(twin)}
        vars(twin).update(copy.deepcopy(of_subclass, memo))
        twin._steps = list(self._steps)
        twin._env_variables = EnvVariables(self._env_variables.snapshot(), reserved=WORKING_DIR)
        twin._omit_on_join = self._omit_on_join
        twin._modules = self._modules
        return twin

    @property
    def name(self) -> str:
        """Return the name of the task. It can be set; executions that have begun keep theirs.

        Raises:
            ValueError: On assignment, if the name is empty or not a string.
        """
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError("The name of a task must be a string that is not empty.")
        self._name = name

    @property
    def omit_on_join(self) -> bool:
        """Return True if `join` does not wait for the task. It can be set at any time.

        `execute_task(task, omit_on_join=True)` sets it for that execution.

        Raises:
            TypeError: On assignment, if the value is not a bool.
        """
        last = self._last
        if last is not None and last.process is not None:
            return not last.execution.joins
        return self._omit_on_join

    @omit_on_join.setter
    def omit_on_join(self, omit: bool) -> None:
        if not isinstance(omit, bool):
            raise TypeError(f"omit_on_join must be True or False, not {type(omit).__name__}.")
        self._omit_on_join = omit
        shown = [] if self._last is None else [self._last.execution]
        for execution in (*self._find_running(), *shown):
            execution.joins = execution.key is not None and not omit

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
            ValueError: On a change, if a name is invalid or WORKING_DIR, which always is the
                working directory, or a value is something else or holds a NUL.
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
        return [] if self._last is None else self._last.execution.log.entries()

    @property
    def execution_log_file_path(self) -> str | None:
        """Return the path of the file with the last execution's output; None before the first one.

        The file exists from the first output on, or from the first time that its path is asked for:
        by this property, by an error of the task, or by a pickle of the task. So a silent execution
        has an empty file, or none at all. The path is None if the file cannot be created, which a
        WARNING says.

        It is in `execution_log/<host>/` below `$LAZYCLUSTER_HOME`, else below
        `$XDG_STATE_HOME/lazycluster`, else below `~/.local/state/lazycluster`. Where the home
        directory cannot be written it is in a temporary directory that is removed at exit.
        """
        return None if self._last is None else self._last.execution.log.path

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Return what the copies of the last execution have left out, as (path, reason).

        That is what is neither a file nor a folder nor a link, and with `on_error="skip"` what
        could not be read or written. What `exclude` leaves out is not listed. A path is one of the
        side that could not read or write it. The list is empty before the first execution.
        """
        return [] if self._last is None else list(self._last.execution.skipped)

    @property
    def error(self) -> BaseException | None:
        """Return the TaskExecutionError of the last execution; None without a failure so far."""
        return None if self._last is None else self._last.find_error(self)

    @property
    def function_returns(self) -> Generator[object, None, None]:
        """Yield the values of the last execution's functions, in the order of the steps.

        Wait for the execution first, unless it has `omit_on_join`. The values can be read
        again until `cleanup` frees them. Each is unpickled when it is read; large ones are kept in
        a file until then.

        Yields:
            One value for each function that has returned.

        Raises:
            TaskExecutionError: If the execution failed; raised after the last value.
            SerializationError: If a value cannot be unpickled on the manager.
        """
        last = self._last
        if last is None:
            return
        last.execution.join()
        yield from last.execution.values
        error = last.find_error(self)
        if error is not None:
            raise error.with_traceback(None)  # it may have been raised before

    @property
    def process(self) -> TaskProcess | None:
        """Return the handle of the last execution; None if that was not asynchronous."""
        return None if self._last is None else self._last.process

    def run_command(
        self,
        command: str,
        *,
        input: str | bytes | None = None,
        timeout: float | None = None,
        shell: str | PathLike[str] | None = None,
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
        local modules are sent, with what they use. Modules of the standard library and
        installed packages are imported on the host and must be there. The host's Python must have
        the manager's minor version. Each call runs in a process of its own.

        What a coroutine function returns is run there by `asyncio.run`. The `timeout` of the
        execution is also the function's.

        Args:
            function: The function or other callable.
            **func_kwargs: Its arguments. Use `functools.partial` for an argument named `function`.

        Raises:
            ValueError: If the function is empty.
            TypeError: If the arguments do not fit the function.
            SerializationError: If the function or an argument cannot be pickled; the message names
                it. Also for a generator function, whose values cannot come back.
        """
        check_call(function, func_kwargs, {"function": None})
        return self._run_checked_function(function, func_kwargs)

    def _run_checked_function(
        self, function: Callable[..., Any], func_kwargs: Mapping[str, object]
    ) -> RuntimeTask:
        call = dump_call(function, (), func_kwargs, modules=self._modules)
        return self._add(RunFunction(describe(function), call=call))

    def send_file(
        self,
        local_path: str | PathLike[str] | bytes | BinaryIO,
        remote_path: str | PathLike[str] | None = None,
        *,
        progress: Callable[[int, int], object] | bool | None = None,
        exclude: Sequence[str] = (),
        only_changed: bool = False,
        delete: bool = False,
        on_error: str = "raise",
        mode: int | None = None,
        in_place: bool = False,
    ) -> RuntimeTask:
        """Add a step that sends a file or folder to the host.

        A file, or a folder that is new, is written under a temporary name in the target's folder
        and renamed when it is complete, so that it arrives complete or not at all. A folder that
        exists is written into, and each file in it arrives complete. Modes and times are kept.
        Anything but files, folders and links is skipped and listed in the execution log. Every name
        is taken literally.

        Args:
            local_path: The file or folder, or with a `/` or `/.` at its end the contents of the
                folder, which go into the target itself. A relative path starts at the current
                folder of this process when the execution begins; a leading `~` is expanded. It must
                exist when the step begins, because an earlier step may create it. Or bytes, which
                are the contents of a file, or a binary file object, which is used from its position
                and stays open.
            remote_path: The target: the path of the copy, or a folder to put it into (an existing
                one, or a path with a trailing slash). Relative to the working directory; a leading
                `~`, `$HOME/` or `${HOME}/` is the home directory; missing folders are made.
                Defaults to the working directory, also for `""`. The path of the file for bytes and
                file objects.
            progress: A callable that gets the bytes done and the bytes in total, about ten times a
                second and once at the end, in the thread that executes the task; an exception of it
                stops the copy. True for a line on standard error if that is a terminal (by tqdm if
                it is installed: `lazycluster[progress]`). Defaults to None, no report.
            exclude: Patterns of what is left out of a folder, as in a `.gitignore`: `["*.pyc",
                "/build/", "!keep.pyc"]`. The last one that matches decides. Defaults to none.
            only_changed: If True, leave out what the target has already: files of the same size and
                time of modification, and links with the same target and time. A time is compared as
                exactly as both sides keep it. Defaults to False.
            delete: If True, remove from the target folder what the source folder does not have,
                once all has arrived; not what `exclude` matches, and nothing if something was
                skipped. Defaults to False.
            on_error: With "skip", what cannot be read or written is left out, and the rest is
                copied; `skipped` and the execution log name it. The file or folder itself, a full
                disk and a lost connection are errors nevertheless. Defaults to "raise".
            mode: The permission bits of the file, or of each file in the folder, such as `0o600`.
                Defaults to None, the source's.
            in_place: If True, overwrite files that exist, which keep their modes (without `mode`),
                owners, access lists and other names, and rename nothing. For targets that can be
                written but not replaced: a mounted `/etc/hosts`, a file in a folder that is not
                yours. A copy that fails leaves a part of both files. Defaults to False.

        Raises:
            ValueError: If a path, a pattern or another argument is empty or invalid, or bytes or a
                file object have no `remote_path`.
            TypeError: If a path is neither a string nor an `os.PathLike` of one, a file object is
                open in text mode, or `exclude` is not a list or tuple of strings.
        """
        progress = checked_progress(progress)
        options = CopyOptions.checked(
            exclude=exclude,
            only_changed=only_changed,
            delete=delete,
            on_error=on_error,
            mode=mode,
            in_place=in_place,
        )
        if is_contents(local_path):
            return self._send_contents(local_path, remote_path, progress, options)
        local_path = checked_path(local_path, "The local path")
        if remote_path is None or remote_path == "":
            remote_path = "./"
        remote_path = checked_path(remote_path, "The remote path")
        name = f"send {local_path}"
        return self._add(SendFile(name, None, local_path, remote_path, progress, options))

    def _send_contents(
        self, contents: Any, remote_path: Any, progress: Progress | None, options: CopyOptions
    ) -> RuntimeTask:
        if remote_path is None or remote_path == "":
            raise ValueError("The remote path is missing: bytes and file objects have no name.")
        remote_path = checked_path(remote_path, "The remote path")
        check_has_name(remote_path)
        options.check_no_folder()
        if not isinstance(contents, (bytes, bytearray, memoryview)):
            check_file_object(contents, "read")
        name = f"send {describe_contents(contents)} to {remote_path}"
        return self._add(SendContents(name, None, "", remote_path, progress, options, contents))

    def get_file(
        self,
        remote_path: str | PathLike[str],
        local_path: str | PathLike[str] | BinaryIO | None = None,
        *,
        progress: Callable[[int, int], object] | bool | None = None,
        exclude: Sequence[str] = (),
        only_changed: bool = False,
        delete: bool = False,
        on_error: str = "raise",
        mode: int | None = None,
        in_place: bool = False,
    ) -> RuntimeTask:
        """Add a step that gets a file or folder from the host, by the rules of `send_file`.

        Args:
            remote_path: The file or folder, relative to the working directory.
            local_path: The target: the path of the copy, or a folder to put it into, or a binary
                file object, which is written when the file has arrived as a whole. Defaults to
                the current folder of this process when the execution begins, also for `""`.
            progress: A callable, True or None, as for `send_file`.
            exclude: Patterns of what is left out, as for `send_file`.
            only_changed: If True, leave out what the target has already, as for `send_file`.
            delete: If True, remove from the target what the source does not have, as for
                `send_file`.
            on_error: "raise" or "skip", as for `send_file`.
            mode: The permission bits of the copied files, as for `send_file`.
            in_place: If True, overwrite files that exist, as for `send_file`.
        """
        remote_path = checked_path(remote_path, "The remote path")
        progress = checked_progress(progress)
        options = CopyOptions.checked(
            exclude=exclude,
            only_changed=only_changed,
            delete=delete,
            on_error=on_error,
            mode=mode,
            in_place=in_place,
        )
        name = f"get {remote_path}"
        if is_contents(local_path) and not isinstance(local_path, bytes):
            check_file_object(local_path, "write")
            options.check_no_folder()
            step = GetContents(name, None, "", remote_path, progress, options, local_path)
            return self._add(step)
        if local_path is None or local_path == "":
            local_path = ""
        else:
            local_path = checked_path(local_path, "The local path")
        return self._add(GetFile(name, None, local_path, remote_path, progress, options))

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
            debug: If True, also print the output while the steps run; see `Runtime.execute_task`.
                Defaults to False.
            timeout: The most seconds for the whole task. Defaults to None, no bound.

        Returns:
            The task.

        Raises:
            ConnectError: If no connection can be opened (a ValueError too).
            TaskExecutionError: If a step failed; its `__cause__` is the reason.
            TypeError: If the connection is something else.
            ValueError: If the timeout is not positive, or the `fabric.Connection` has something
                that ssh cannot do; the message has the cure.
        """
        check_flags(debug=debug)
        checked_timeout(timeout)
        if isinstance(connection, str):
            with Connection(connection) as opened:
                return self.execute(opened, debug, timeout=timeout)
        directory, environment = None, self._env_variables.snapshot()
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
        last = self._show(self._prepare(login.host, debug=debug, timeout=timeout))
        last.run(lambda: Target(login._start(), None, environment, directory))
        return self

    def _prepare(
        self,
        host: str,
        *,
        debug: bool | None,
        timeout: float | None,
        on_end: Callable[[Execution], None] | None = None,
    ) -> Execution:
        """Return a new execution of the steps that the task has now."""
        return Execution(
            self._name,
            tuple(step.bound() for step in self._steps),
            host,
            task=self,
            debug=bool(debug),
            names_host=self._names_host,
            timeout=checked_timeout(timeout),
            on_end=on_end,
        )

    def _show(self, execution: Execution, process: TaskProcess | None = None) -> LastExecution:
        """Make an execution that is about to begin the one that the task's properties show."""
        last = LastExecution(execution, process)
        execution.let_read(last)
        with self._lock:
            self._begun = [weakref.ref(one) for one in [*self._find_running(), execution]]
            self._last = last
        return last

    def _find_running(self) -> list[Execution]:
        found = [reference() for reference in self._begun]
        return [one for one in found if one is not None and one.is_alive]

    def join(self) -> None:
        """Wait for the end of the last execution, if it is asynchronous and not `omit_on_join`.

        Earlier executions that still run are not waited for; their handles and `Runtime.join` are.
        It does not raise the error of the execution; that is in `error`.
        """
        if self._last is not None:
            self._last.execution.join()

    def print_log(self) -> None:
        r"""Print each step of the last execution: its index and name, then its output, indented.

        The name is the command, or for example `call of mean`, on one line of at most 100
        characters. Steps behind a failed one did not run and are left out.

        On a terminal colours pass, and carriage returns, so that a progress bar is one. Other
        control characters but tab and line feed are shown like `\x1b`. A file or a pipe gets all of
        them unchanged.

        Raises:
            OSError: If the output is large and its file, `execution_log_file_path`, was removed.
        """
        if self._last is not None:
            self._last.execution.print_log()

    def stop(self) -> None:
        """Stop each running execution: SIGTERM to its processes, SIGKILL five seconds later.

        Returns when all have ended. A synchronous execution in another thread ends with a
        TaskExecutionError there.
        """
        stop_all(self._find_running(), signal.SIGTERM, TERMINATE_GRACE)

    def cleanup(self) -> None:
        """Free the values of the last execution's functions; an execution that runs goes on.

        The execution log stays. A second call does nothing.
        """
        last = self._last
        if last is not None and not last.execution.is_alive:
            last.execution.values.clear()
