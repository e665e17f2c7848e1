"""Runtime: one host as its user sees it."""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from lazycluster._checks import check_path, checked_environment, checked_port
from lazycluster._conversation.outcome import OsFailure, Outcome
from lazycluster._fabric_kwargs import translate_connection_kwargs
from lazycluster._functions import payload as _payload
from lazycluster._host_info import Information
from lazycluster._tasks.execution import Target
from lazycluster.connection import Connection
from lazycluster.exceptions import (
    InvalidRuntimeError,
    LazyclusterError,
    NoPortsLeftError,
    PathCreationError,
)
from lazycluster.processes import PortExposure, TaskProcess
from lazycluster.tasks import RuntimeTask

if TYPE_CHECKING:
    from lazycluster._conversation.conversation import Conversation
    from lazycluster.forwards import Forward

__all__ = ["Runtime", "RuntimeTask"]

logger = logging.getLogger("lazycluster")


class Runtime(Information):
    """A host that tasks run on.

    Making one logs in, once, and everything that runs on the host shares that connection. Its
    working directory is a temporary one unless one is given; a temporary one is removed when the
    connection ends, however it ends. The working directory's path is in the variable that
    `Runtime.WORKING_DIR_ENV_VAR_NAME` names.

    After a lost connection the next use logs in again; a temporary working directory is then a new
    one, which a WARNING says. Safe to use from many threads. `cleanup` ends all that it started; at
    the interpreter's exit that happens by itself.

    Args:
        host: What `ssh` takes: an alias, `user@host`, `user@host:port`, `ssh://…`, an IPv6 literal.
        working_dir: A directory on the host, made where it is missing and never removed. `~` as
            the first character is the home directory. Defaults to a temporary one.
        connection_kwargs: Parameters of `Connection` by name, or those of paramiko and fabric that
            have a meaning for OpenSSH (`key_filename`, `username`, `timeout`, `gateway`,
            `allow_agent`, `look_for_keys`).

    Raises:
        ValueError: A parameter cannot be; before any process is started.
        InvalidRuntimeError: The host cannot be used; message and `__cause__` say why.

    Examples:
        >>> runtime = Runtime("my-host")
        >>> task = runtime.execute_function(pow, base=2, exp=3)
        >>> next(task.function_returns)
        8
        >>> runtime.cleanup()
    """

    WORKING_DIR_ENV_VAR_NAME = "WORKING_DIR"
    """The environment variable with the path of the working directory."""

    _KEY_DELIMITER = "::"
    _TASK_KEY = "task"
    _PORT_TO_RUNTIME = "-R"
    _PORT_FROM_RUNTIME = "-L"

    def __init__(
        self,
        host: str,
        working_dir: str | None = None,
        connection_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if working_dir is not None:
            check_path(working_dir, "The working directory")
        keywords = translate_connection_kwargs(connection_kwargs or {})
        super().__init__()
        self._connection = Connection(host, **keywords)
        self._lock = threading.RLock()
        self._env_variables: dict[str, str] = {}
        self._tasks: list[RuntimeTask] = []
        self._processes: dict[str, TaskProcess | PortExposure] = {}
        self._working_dir = ""
        self._temporary_of: Conversation | None = None
        try:
            if working_dir is None:
                self._connection.log_in(self._make_temporary)
            else:
                self._working_dir = self._make_directory(working_dir)
        except LazyclusterError as error:
            self._connection.close()
            raise InvalidRuntimeError(
                f"{host} cannot be used as a Runtime. {error}", host=host
            ) from error
        except BaseException:
            self._connection.close()
            raise

    def __repr__(self) -> str:
        return f"<Runtime {self.host!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A Runtime cannot be pickled or copied; make one where it is needed.")

    # What it is

    @property
    def host(self) -> str:
        """The host, as it was given."""
        return self._connection.host

    @property
    def working_dir(self) -> str:
        """The path of the working directory on the host.

        When set, the directory is made where it is missing, and a temporary one that it takes the
        place of is removed, unless the new one lies within it. It is also in the variable that
        `WORKING_DIR_ENV_VAR_NAME` names.

        Raises:
            ValueError: When set: the path is empty or holds a NUL.
            PathCreationError: When set: it cannot be made, for the host's reason.
        """
        with self._lock:
            return self._working_dir

    @working_dir.setter
    def working_dir(self, path: str) -> None:
        check_path(path, "The working directory")
        self._connection.check_owner()
        with self._lock:
            made = self._make_directory(path)
            old, self._working_dir = self._working_dir, made
            if self._temporary_of is None or f"{made}/".startswith(f"{old}/"):
                return
            conversation, self._temporary_of = self._temporary_of, None
            self._operate_at(Target(conversation, None, {}), "remove_tree", path=old)

    @property
    def env_variables(self) -> dict[str, str]:
        """The environment variables of all tasks here, with that of the working directory; a copy.

        When set, they take the place of all before. `add_env_variables` adds to them. A task's own
        variables win.

        Raises:
            ValueError: When set: a name is not a name, or a value is not a string without NUL.
        """
        with self._lock:
            return {
                **self._env_variables,
                self.WORKING_DIR_ENV_VAR_NAME: self._working_dir,
            }

    @env_variables.setter
    def env_variables(self, env_variables: Mapping[str, str]) -> None:
        checked = checked_environment(env_variables)
        with self._lock:
            self._env_variables = checked

    def add_env_variables(self, env_variables: dict[str, str]) -> None:
        """Add environment variables for all tasks here; those already there get the new value.

        Args:
            env_variables: Names and values. Any value without NUL arrives exactly.

        Raises:
            ValueError: A name is not a name, or a value is not a string without NUL.
        """
        checked = checked_environment(env_variables)
        with self._lock:
            self._env_variables = {**self._env_variables, **checked}

    def is_valid_runtime(self) -> bool:
        """Whether the host can be used, asked anew; never raises."""
        try:
            self._operate("make_directory", path=".")
        except (LazyclusterError, OSError):
            return False
        return True

    # Tasks

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
            execute_async: If True, return at once; `task.join()` waits for the end, and an error is
                logged and found in `task.error`. Defaults to True.
            omit_on_join: If True, `join` does not wait for it. Without effect on a synchronous
                execution. Defaults to False.
            debug: If True, what the steps print is printed live as well. Defaults to False.
            timeout: Seconds for the whole task, None for no bound.

        Returns:
            The task.

        Raises:
            TaskExecutionError: A step failed, in a synchronous execution; its `__cause__` says how.
            ValueError: The task is still running.
        """
        own = checked_environment(task.env_variables)
        self._connection.check_owner()
        with self._lock:
            execution = task._begin(self.host, debug=debug, timeout=timeout)
            self._tasks = [known for known in self._tasks if known is not task]
            self._tasks.append(task)
            if execute_async:
                process = TaskProcess(
                    self._new_key(self.host, self._TASK_KEY, task.name), execution
                )
                self._processes[process.name] = process
                task._hand_out(process, omit_on_join)

        def find_place() -> Target:
            return self._find_place(own)

        if execute_async:
            execution.run_in_background(find_place, process.name)
        else:
            execution.run(find_place)
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
            function: The function, or anything that can be called.
            execute_async: If True, return at once. Defaults to False.
            debug: If True, what the function prints is printed live as well. Defaults to False.
            **func_kwargs: Its arguments. For one that has the name of a parameter here use
                `functools.partial`.

        Returns:
            The task, whose `function_returns` has the value.

        Raises:
            ValueError: The function is empty, or it has a parameter of the name of one given here.
            TypeError: The arguments do not fit the function.
            SerializationError: The function or an argument, which is named, cannot be pickled.
            TaskExecutionError: The function failed; its `__cause__` says how.
        """
        reserved = {"function": None, "execute_async": execute_async, "debug": debug}
        _payload.check_call(function, func_kwargs, reserved)
        task = RuntimeTask()._run_checked_function(function, func_kwargs)
        return self.execute_task(task, execute_async, debug=debug)

    @property
    def function_returns(self) -> Generator[object, None, None]:
        """The values of all functions, in the order in which their tasks were last executed here.

        See `RuntimeTask.function_returns`.
        """
        with self._lock:
            tasks = list(self._tasks)
        for task in tasks:
            yield from task.function_returns

    def execution_log(self, task_name: str) -> list[str]:
        """The execution log of a task that was executed here, the last one of that name.

        Args:
            task_name: The name of the task.

        Raises:
            ValueError: No task of that name was executed here.
        """
        with self._lock:
            for task in reversed(self._tasks):
                if task.name == task_name:
                    return task.execution_log
        raise ValueError(f"No task {task_name!r} was executed on {self.host}.")

    def print_log(self) -> None:
        """Print the execution log of each task that was executed here."""
        with self._lock:
            tasks = list(self._tasks)
        for task in tasks:
            print(f"{self.host}: {task.name}")
            task.print_log()

    def clear_tasks(self) -> None:
        """Forget the tasks that have ended, with their handles; those that run are kept."""
        with self._lock:
            self._processes = {
                key: process
                for key, process in self._processes.items()
                if isinstance(process, PortExposure) or process.is_alive()
            }
            self._tasks = [task for task in self._tasks if task._is_running]

    def join(self) -> None:
        """Wait for the end of all tasks here, but those executed with `omit_on_join`."""
        with self._lock:
            tasks = list(self._tasks)
        for task in tasks:
            task.join()

    def echo(self, msg: str) -> str:
        """Have the host's `/bin/sh` echo a text, in which `$NAME` and `${NAME}` are expanded.

        Args:
            msg: The text; `echo("${PWD}")` gives the working directory. All else is taken
                literally, `$(…)` and backticks too: `run_command` is for commands.

        Returns:
            The text after expansion.

        Raises:
            TaskExecutionError: The shell failed.
        """
        # Of `$` only variables: no `$(…)` in data is ever run.
        quoted = re.sub(r"[\\\"`]|\$(?![A-Za-z_]|\{[A-Za-z_][A-Za-z0-9_]*\})", r"\\\g<0>", msg)
        task = RuntimeTask("echo")._run_sh(f'printf "%s\\n" "{quoted}"')
        return self._execute_quietly(task).execution_log[0][:-1]

    # Files and folders

    def send_file(
        self,
        local_path: str,
        remote_path: str | None = None,
        execute_async: bool | None = False,
        *,
        progress: Callable[[int, int], object] | bool | None = None,
    ) -> RuntimeTask:
        """Send a file or folder to the host; see `RuntimeTask.send_file` for the rules.

        Args:
            local_path: The file or folder.
            remote_path: The target. Defaults to the working directory.
            execute_async: If True, return at once. Defaults to False.
            progress: Who is told how far it is, see `RuntimeTask.send_file`. Defaults to nobody.

        Returns:
            The task.

        Raises:
            ValueError: A path is empty or cannot be one; `progress` is something else.
            FileTransferError: It failed (a TaskExecutionError and an OSError); nothing is half
                written.
        """
        task = RuntimeTask().send_file(local_path, remote_path, progress=progress)
        return self.execute_task(task, execute_async)

    def get_file(
        self,
        remote_path: str,
        local_path: str | None = None,
        execute_async: bool | None = False,
        *,
        progress: Callable[[int, int], object] | bool | None = None,
    ) -> RuntimeTask:
        """Get a file or folder from the host; see `RuntimeTask.get_file` for the rules.

        Args:
            remote_path: The file or folder, relative to the working directory.
            local_path: The target. Defaults to the folder that this process is in.
            execute_async: If True, return at once. Defaults to False.
            progress: Who is told how far it is, see `RuntimeTask.send_file`. Defaults to nobody.

        Returns:
            The task.

        Raises:
            ValueError: A path is empty or cannot be one; `progress` is something else.
            FileTransferError: It failed (a TaskExecutionError and an OSError); nothing is half
                written.
        """
        task = RuntimeTask().get_file(remote_path, local_path, progress=progress)
        return self.execute_task(task, execute_async)

    def create_dir(self, path: str) -> None:
        """Make a directory on the host, and those above it where they are missing.

        Args:
            path: The directory, relative to the working directory; one that is there is fine.

        Raises:
            ValueError: The path is empty or cannot be one.
            PathCreationError: It cannot be made, for the host's reason.
        """
        check_path(path, "The path")
        self._make(self._find_place({}), "make_directory", path=path)

    def create_tempdir(self) -> str:
        """Make a temporary directory on the host that only the account can enter.

        It is removed when the connection ends, with all that is in it.

        Returns:
            Its path.

        Raises:
            PathCreationError: It cannot be made, for the host's reason.
        """
        return self._make(self._find_place({}), "make_private_directory")

    def delete_dir(self, path: str) -> bool:
        """Delete a directory on the host with all that is in it; links are deleted as links.

        Args:
            path: The directory, relative to the working directory.

        Returns:
            True if it was there and all of it is gone.

        Raises:
            ValueError: The path is empty, or it is the root or the home directory.
        """
        check_path(path, "The path")
        deleted = self._operate("delete_directory", path=path)
        if deleted is None:
            raise ValueError(f"{path!r} on {self.host} is the root or the home directory.")
        return bool(deleted)

    # Ports

    def has_free_port(self, port: int) -> bool:
        """Whether nothing has a port on the host, on any address of IPv4 and IPv6.

        Args:
            port: The port, 1 to 65535.

        Raises:
            ValueError: It is no port.
        """
        return bool(self._operate("port_is_free", port=checked_port(port)))

    def get_free_port(self, ports: list[int]) -> int:
        """The first of some ports that is free on the host; one round trip.

        Args:
            ports: The ports, in the order of preference.

        Raises:
            ValueError: One of them is no port.
            NoPortsLeftError: None of them is free.
        """
        found = self._operate("first_free_port", ports=[checked_port(port) for port in ports])
        if found is None:
            raise NoPortsLeftError(f"None of the {len(ports)} ports is free on {self.host}.")
        return int(found)

    def expose_port_to_runtime(self, local_port: int, runtime_port: int | None = None) -> str:
        """Make a service of this computer reachable on the host (a remote forward, `-R`).

        The host listens on its loopback, where its other users can reach it, too. It is proved that
        somebody listens before this returns. The exposure lives until it is stopped or the
        connection ends.

        Args:
            local_port: The port of the service on this computer's loopback.
            runtime_port: The port to listen on, on the host; 0 for any that is free, and the key
                tells which. Defaults to `local_port`.

        Returns:
            The process key, for `stop_process`.

        Raises:
            ValueError: A number is no port.
            PortInUseError: The port is taken on the host.
            ForwardError: ssh's reason why it cannot be.
        """
        port = local_port if runtime_port is None else runtime_port
        forward = self._connection.forward(port, local_port, on_host=True)
        return self._add_exposure(self._PORT_TO_RUNTIME, forward)

    def expose_port_from_runtime(self, runtime_port: int, local_port: int | None = None) -> str:
        """Make a service of the host reachable on this computer (a local forward, `-L`).

        This computer listens on its loopback. It is proved that somebody listens before this
        returns. The exposure lives until it is stopped or the connection ends.

        Args:
            runtime_port: The port of the service on the host's loopback.
            local_port: The port to listen on, on this computer; 0 for any that is free, and the key
                tells which. Defaults to `runtime_port`.

        Returns:
            The process key, for `stop_process`.

        Raises:
            ValueError: A number is no port.
            PortInUseError: The port is taken on this computer.
            ForwardError: ssh's reason why it cannot be.
        """
        port = runtime_port if local_port is None else local_port
        forward = self._connection.forward(port, runtime_port)
        return self._add_exposure(self._PORT_FROM_RUNTIME, forward)

    def _add_exposure(self, direction: str, forward: Forward) -> str:
        ports = (self.host, direction, str(forward.port), str(forward.to_port))
        with self._lock:
            exposure = PortExposure(self._new_key(*ports), forward)
            self._processes[exposure.name] = exposure
        return exposure.name

    # Processes

    @property
    def task_processes(self) -> list[TaskProcess]:
        """The handles of all asynchronous executions of tasks, in order."""
        with self._lock:
            return [p for p in self._processes.values() if isinstance(p, TaskProcess)]

    @property
    def alive_process_count(self) -> int:
        """How many of the processes are alive."""
        return len(self.get_processes(only_alive=True))

    @property
    def alive_task_process_count(self) -> int:
        """How many of the task processes are alive."""
        return sum(process.is_alive() for process in self.task_processes)

    def get_process(self, key: str) -> TaskProcess | PortExposure:
        """The process with that key.

        Args:
            key: The process key.

        Raises:
            ValueError: There is no process with that key.
        """
        with self._lock:
            if key not in self._processes:
                raise ValueError(f"There is no process {key!r} on {self.host}.")
            return self._processes[key]

    def get_processes(self, only_alive: bool = False) -> dict[str, TaskProcess | PortExposure]:
        """All processes by their keys.

        Args:
            only_alive: If True, only those that are alive. Defaults to False.
        """
        with self._lock:
            processes = dict(self._processes)
        return {k: p for k, p in processes.items() if not only_alive or p.is_alive()}

    def stop_process(self, key: str) -> None:
        """Stop a process, as its `terminate` does; returns when it has gone.

        Args:
            key: The process key.

        Raises:
            ValueError: There is no process with that key.
        """
        self.get_process(key).terminate()

    @classmethod
    def is_runtime_task_process(cls, process_key: str) -> bool:
        """Whether a process key is that of an asynchronous execution of a task.

        Args:
            process_key: The process key.
        """
        return f"{cls._KEY_DELIMITER}{cls._TASK_KEY}{cls._KEY_DELIMITER}" in process_key

    @classmethod
    def is_port_exposure_process(cls, process_key: str) -> bool:
        """Whether a process key is that of a port that is exposed to a host or from it.

        Args:
            process_key: The process key.
        """
        directions = (cls._PORT_TO_RUNTIME, cls._PORT_FROM_RUNTIME)
        delimiter = cls._KEY_DELIMITER
        return any(f"{delimiter}{which}{delimiter}" in process_key for which in directions)

    def cleanup(self) -> None:
        """End all that was started here, remove a temporary working directory, close.

        Logs and values stay with their tasks. A second time is fine. A use after it logs in again.
        """
        if not self._connection.is_owner:
            return
        for process in self.task_processes:
            if process.is_alive():
                process._execution.stopped_by = signal.SIGTERM
        self._connection.close()
        for ended in self.get_processes().values():
            ended.join(_CLEANUP_PATIENCE)

    # Where things run

    def _new_key(self, *parts: str) -> str:
        """A process key that none has yet."""
        key = self._KEY_DELIMITER.join(parts)
        count, unique = 1, key
        while unique in self._processes:
            count += 1
            unique = f"{key}{self._KEY_DELIMITER}{count}"
        return unique

    def _find_place(self, own: Mapping[str, str]) -> Target:
        """The live conversation, with the working directory, made anew after a lost connection."""
        self._connection.check_owner()
        with self._lock:
            conversation = self._connection.opened()
            if self._temporary_of is not None and self._temporary_of is not conversation:
                old = self._working_dir
                self._make_temporary(conversation)
                logger.warning(
                    "The connection to %s was made anew; the temporary working directory is no "
                    "longer %s but %s, which is empty.",
                    self.host,
                    old,
                    self._working_dir,
                )
            return Target(conversation, self._working_dir, {**self.env_variables, **own})

    def _make_temporary(self, conversation: Conversation) -> None:
        place = Target(conversation, None, {})
        self._working_dir = self._make(place, "make_private_directory")
        self._temporary_of = conversation

    def _make_directory(self, path: str) -> str:
        def make(conversation: Conversation) -> str:
            return self._make(Target(conversation, None, {}), "make_directory", path=path)

        return self._connection.log_in(make)

    def _make(self, place: Target, operation: str, **arguments: str) -> str:
        try:
            return str(self._operate_at(place, operation, **arguments))
        except OSError as error:
            path = str(error.filename or arguments.get("path"))
            raise PathCreationError(
                f"{path} cannot be made on {self.host}: {error.strerror}.",
                host=self.host,
                path=path,
            ) from None

    def _execute_quietly(self, task: RuntimeTask) -> RuntimeTask:
        """Execute a task of our own, which the Runtime does not remember."""
        own = task.env_variables
        task._begin(self.host, debug=False, timeout=None).run(lambda: self._find_place(own))
        return task

    def _operate(self, operation: str, **arguments: Any) -> Any:
        """Have the host do something of our own in the working directory; its result.

        Raises:
            OSError: It could not, for the host's reason.
            LazyclusterError: The process that should do it did not come to an end.
        """
        return self._operate_at(self._find_place({}), operation, **arguments)

    def _operate_at(self, place: Target, operation: str, **arguments: Any) -> Any:
        step = {"kind": "operation", "operation": operation, "arguments": arguments}
        request = place.conversation.request(
            [step], working_dir=place.working_dir, environment=place.environment
        )
        while not request.finished:
            request.wait()
        outcome = request.outcomes[0] if request.outcomes else Outcome()
        failure = outcome.failure
        if isinstance(failure, OsFailure):
            raise OSError(failure.errno, failure.message, failure.path)
        if not outcome.completed:
            raise LazyclusterError(f"{self.host} could not do {operation}: {outcome}.")
        return outcome.result


_CLEANUP_PATIENCE = 5.0  # seconds for the threads of executions whose connection has been closed
