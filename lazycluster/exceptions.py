"""Everything that lazycluster raises on purpose, as one tree.

    LazyclusterError
    ├── InvalidRuntimeError          host; __cause__ says why
    ├── SshError                     host, exit_status, stderr
    │   ├── ConnectError             (a ValueError too) no connection came up
    │   │   ├── AuthenticationError
    │   │   └── HostKeyError         known_hosts_file, known_hosts_line
    │   ├── ConnectionLostError      started
    │   └── ForwardError
    ├── TaskExecutionError           task, task_step_index, host, execution_log_file_path, output
    │   └── FileTransferError        (an OSError too) local_path, remote_path, errno
    ├── CommandError                 host, command, exit_status | signal, output
    │   └── StepTimeoutError         timeout
    ├── RemoteFunctionError          host, function, exception_type, exception_message, traceback
    ├── PythonNotFoundError          host
    ├── PythonVersionError           host, host_version, manager_version
    ├── SerializationError
    ├── ProtocolError                host
    ├── PortInUseError               port, side
    ├── NoPortsLeftError
    ├── PathCreationError            host, path
    └── NoRuntimesDetectedError

The first argument is the message, and `str(error)` is exactly that. Everything else is keyword-only
and a plain attribute. Every error survives pickle, `copy.copy` and `copy.deepcopy` with its
attributes and its causes.
"""

from __future__ import annotations

import os
import signal as signals
from typing import Any, TypeVar

from lazycluster._text import escaped, one_line

__all__ = [
    "AuthenticationError",
    "CommandError",
    "ConnectError",
    "ConnectionLostError",
    "FileTransferError",
    "ForwardError",
    "HostKeyError",
    "InvalidRuntimeError",
    "LazyclusterError",
    "NoPortsLeftError",
    "NoRuntimesDetectedError",
    "PathCreationError",
    "PortInUseError",
    "ProtocolError",
    "PythonNotFoundError",
    "PythonVersionError",
    "RemoteFunctionError",
    "SerializationError",
    "SshError",
    "StepTimeoutError",
    "TaskExecutionError",
    "command_message",
]

_Error = TypeVar("_Error", bound="LazyclusterError")


class LazyclusterError(Exception):
    """The base of everything that lazycluster raises on purpose.

    Args:
        message: One sentence, with the cure where there is one. Some of it may be a host's words,
            so its control characters are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(escaped(message))

    def __str__(self) -> str:
        # OSError would print "[Errno …] …" as soon as it has an errno and a strerror.
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with self.args, which lacks every keyword-only argument,
        # and forget the cause. The state comes third so that it is set when the new object is known
        # to pickle already: a cause may lead back to its own error.
        return _blank, (type(self), self.args), self._state([_portable(c) for c in _causes(self)])

    def __copy__(self: _Error) -> _Error:
        copied = _blank(type(self), self.args)
        copied.__setstate__(self._state(_causes(self)))
        return copied

    def _state(self, causes: list[BaseException]) -> dict[str, Any]:
        attributes = dict(self.__dict__)
        if isinstance(self, OSError):  # these two live in the C struct, not in __dict__
            attributes.update(errno=self.errno, strerror=self.strerror)
        return {
            "attributes": attributes,
            "causes": causes,
            "suppress_context": self.__suppress_context__,
        }

    def __setstate__(self, state: Any) -> None:
        for name, value in state["attributes"].items():
            setattr(self, name, value)
        error: BaseException = self
        for cause in state["causes"]:
            error.__cause__ = cause  # exceptions of other makers lose theirs when they are pickled
            error = cause
        self.__suppress_context__ = state["suppress_context"]


def _blank(cls: type[_Error], args: tuple[Any, ...]) -> _Error:
    """Make an error of `cls` without its `__init__`; its attributes follow by `__setstate__`."""
    error = cls.__new__(cls)
    error.args = args
    return error


def _causes(error: BaseException) -> list[BaseException]:
    """Return the cause of `error`, the cause of that, and so on, until a circle closes."""
    causes: list[BaseException] = []
    seen = {id(error)}
    cause = error.__cause__
    while cause is not None:
        causes.append(cause)
        if id(cause) in seen:
            break
        seen.add(id(cause))
        cause = cause.__cause__
    return causes


def _portable(error: BaseException) -> BaseException:
    """Return `error`, or a LazyclusterError that says the same if it would not survive pickle.

    A class with an `__init__` of its own often pickles well and fails when it is read, far away.
    """
    if isinstance(error, LazyclusterError):
        return error
    import pickle

    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return LazyclusterError(f"{type(error).__name__}: {error}")
    return error


class InvalidRuntimeError(LazyclusterError):
    """A host cannot be used as a Runtime; `__cause__` says why.

    Args:
        message: One sentence that says why.
        host: The host as the user typed it.
    """

    def __init__(self, message: str, *, host: str) -> None:
        super().__init__(message)
        self.host = host


class SshError(LazyclusterError):
    """ssh failed.

    Args:
        message: One sentence with ssh's own reason.
        host: The host as the user typed it.
        exit_status: The exit status of the ssh process on the manager; None if it has none.
        stderr: What ssh printed, whole.
    """

    def __init__(
        self, message: str, *, host: str, exit_status: int | None = None, stderr: str = ""
    ) -> None:
        super().__init__(message)
        self.host = host
        self.exit_status = exit_status
        self.stderr = stderr


class ConnectError(SshError, ValueError):
    """No connection came up: unknown name, refused, timeout, jump host, and so on."""


class AuthenticationError(ConnectError):
    """The host did not let us in: no key that it accepts."""


class HostKeyError(ConnectError):
    """The host key is unknown, has changed or is revoked.

    Args:
        message: One sentence with ssh's own reason and the cure.
        host: The host as the user typed it.
        exit_status: The exit status of the ssh process on the manager; None if it has none.
        stderr: What ssh printed, whole.
        known_hosts_file: The known_hosts file with the offending key; None if ssh named none.
        known_hosts_line: The line of that key, counted from 1; None if ssh named none.
    """

    def __init__(
        self,
        message: str,
        *,
        host: str,
        exit_status: int | None = None,
        stderr: str = "",
        known_hosts_file: str | None = None,
        known_hosts_line: int | None = None,
    ) -> None:
        super().__init__(message, host=host, exit_status=exit_status, stderr=stderr)
        self.known_hosts_file = known_hosts_file
        self.known_hosts_line = known_hosts_line


class ConnectionLostError(SshError):
    """The connection ended while something was using it.

    Args:
        message: One sentence that says what ended it.
        host: The host as the user typed it.
        exit_status: The exit status of the ssh process on the manager; None if it has none.
        stderr: What ssh printed, whole.
        started: Whether the step had started on the host; None if that cannot be known.
    """

    def __init__(
        self,
        message: str,
        *,
        host: str,
        exit_status: int | None = None,
        stderr: str = "",
        started: bool | None = None,
    ) -> None:
        super().__init__(message, host=host, exit_status=exit_status, stderr=stderr)
        self.started = started


class ForwardError(SshError):
    """A local or remote forward could not be made or ended."""


class TaskExecutionError(LazyclusterError):
    """A step of a task failed; `__cause__` says how, and the steps after it did not run.

    Args:
        message: One sentence that names the task, the step and the host.
        task: The RuntimeTask.
        task_step_index: The index of the failed step, counted from 0.
        host: The host as the user typed it.
        execution_log_file_path: The file with the execution log; None if there is none.
        output: What the failed step printed.
    """

    def __init__(
        self,
        message: str,
        *,
        task: Any,
        task_step_index: int,
        host: str,
        execution_log_file_path: str | None,
        output: str = "",
    ) -> None:
        super().__init__(message)
        self.task = task
        self.task_step_index = task_step_index
        self.host = host
        self.execution_log_file_path = execution_log_file_path
        self.output = output


class FileTransferError(TaskExecutionError, OSError):
    """A step that copies a file or folder failed.

    Args:
        message: One sentence that names the path and the reason.
        task: The RuntimeTask.
        task_step_index: The index of the failed step, counted from 0.
        host: The host as the user typed it.
        execution_log_file_path: The file with the execution log; None if there is none.
        output: What the failed step printed.
        local_path: The path on the manager.
        remote_path: The path on the host.
        errno: The error number of the side that failed; None if there is none.
    """

    def __init__(
        self,
        message: str,
        *,
        task: Any,
        task_step_index: int,
        host: str,
        execution_log_file_path: str | None,
        output: str = "",
        local_path: str | None = None,
        remote_path: str | None = None,
        errno: int | None = None,
    ) -> None:
        super().__init__(
            message,
            task=task,
            task_step_index=task_step_index,
            host=host,
            execution_log_file_path=execution_log_file_path,
            output=output,
        )
        self.local_path = local_path
        self.remote_path = remote_path
        self.errno = errno
        self.strerror = None if errno is None else os.strerror(errno)


class CommandError(LazyclusterError):
    """A command ended with an exit status other than 0, or by a signal.

    Args:
        message: See `command_message`.
        host: The host as the user typed it.
        command: The command, whole.
        exit_status: The exit status; None if a signal ended the command.
        signal: The number of the signal, positive; None if the command exited.
        output: What the command printed.
    """

    def __init__(
        self,
        message: str,
        *,
        host: str,
        command: str,
        exit_status: int | None = None,
        signal: int | None = None,
        output: str = "",
    ) -> None:
        super().__init__(message)
        self.host = host
        self.command = command
        self.exit_status = exit_status
        self.signal = signal
        self.output = output


class StepTimeoutError(CommandError):
    """A step took longer than its timeout and was stopped; `output` is what came until then.

    Args:
        message: See `command_message`.
        host: The host as the user typed it.
        command: The command, whole.
        exit_status: The exit status; None if a signal ended the command.
        signal: The number of the signal, positive; None if the command exited.
        output: What the command printed until it was stopped.
        timeout: The timeout in seconds.
    """

    def __init__(
        self,
        message: str,
        *,
        host: str,
        command: str,
        exit_status: int | None = None,
        signal: int | None = None,
        output: str = "",
        timeout: float,
    ) -> None:
        super().__init__(
            message,
            host=host,
            command=command,
            exit_status=exit_status,
            signal=signal,
            output=output,
        )
        self.timeout = timeout


class RemoteFunctionError(LazyclusterError):
    """A function raised on the host, or its process ended without a value.

    Args:
        message: One sentence that names the function, the host and the reason.
        host: The host as the user typed it.
        function: The name of the function.
        exception_type: The name of the exception's class; None if no exception was raised.
        exception_message: The exception as text; None if no exception was raised.
        traceback: The traceback on the host as text; None if no exception was raised.
        exit_status: The exit status of the process; None if it raised or a signal ended it.
        signal: The number of the signal that ended the process, positive; None if none did.
    """

    def __init__(
        self,
        message: str,
        *,
        host: str,
        function: str,
        exception_type: str | None = None,
        exception_message: str | None = None,
        traceback: str | None = None,
        exit_status: int | None = None,
        signal: int | None = None,
    ) -> None:
        super().__init__(message)
        self.host = host
        self.function = function
        self.exception_type = exception_type
        self.exception_message = exception_message
        self.traceback = traceback
        self.exit_status = exit_status
        self.signal = signal


class PythonNotFoundError(LazyclusterError):
    """The host has no Python that can be used.

    Args:
        message: One sentence that lists the interpreters looked for.
        host: The host as the user typed it.
    """

    def __init__(self, message: str, *, host: str) -> None:
        super().__init__(message)
        self.host = host


class PythonVersionError(LazyclusterError):
    """A function cannot run on the host, whose Python is of another minor version.

    Args:
        message: One sentence with both versions and the cure.
        host: The host as the user typed it.
        host_version: The version of Python on the host, as "3.11.2".
        manager_version: The version of Python on the manager, as "3.12.1".
    """

    def __init__(self, message: str, *, host: str, host_version: str, manager_version: str) -> None:
        super().__init__(message)
        self.host = host
        self.host_version = host_version
        self.manager_version = manager_version


class SerializationError(LazyclusterError):
    """A function, an argument or a value cannot be pickled or unpickled."""


class ProtocolError(LazyclusterError):
    """What came from the host is not what the supervisor says.

    Args:
        message: One sentence that says what came instead.
        host: The host as the user typed it.
    """

    def __init__(self, message: str, *, host: str) -> None:
        super().__init__(message)
        self.host = host


class PortInUseError(LazyclusterError):
    """Something listens on the port already.

    Args:
        message: One sentence that names the port and the side.
        port: The port.
        side: The side that the port is on: "manager" or the host as the user typed it.
    """

    def __init__(self, message: str, *, port: int, side: str) -> None:
        super().__init__(message)
        self.port = port
        self.side = side


class NoPortsLeftError(LazyclusterError):
    """No port of those given is free."""


class PathCreationError(LazyclusterError):
    """A folder could not be made on the host.

    Args:
        message: One sentence that names the path and the reason.
        host: The host as the user typed it.
        path: The path on the host.
    """

    def __init__(self, message: str, *, host: str, path: str) -> None:
        super().__init__(message)
        self.host = host
        self.path = path


class NoRuntimesDetectedError(LazyclusterError):
    """No host of those looked at can be used as a Runtime."""


def command_message(
    *,
    host: str,
    command: str,
    exit_status: int | None = None,
    signal: int | None = None,
    timeout: float | None = None,
    output: str = "",
) -> str:
    """Say how a command ended, as a small table.

    Args:
        host: The host as the user typed it.
        command: The command; a long one is shortened to 200 characters.
        exit_status: The exit status, if it has one.
        signal: The number of the signal that ended it, if one did.
        timeout: The timeout in seconds that it did not keep, if so.
        output: What it printed; the last 5 lines are shown, shortened to 200 characters each.

    Returns:
        The message of a CommandError or StepTimeoutError. Control characters are escaped, since it
        is likely to end on a terminal.
    """
    if timeout is not None:
        headline, ending = "A command took too long", [("timeout", f"{timeout:g} seconds")]
    else:
        headline, ending = "A command failed", []
    if exit_status is not None:
        ending.append(("exit status", str(exit_status)))
    if signal is not None:
        ending.append(("signal", _signal_name(signal)))
    rows = [*ending, ("command", one_line(command, 200)), ("host", one_line(host, 200))]
    lines = [line for line in output[-4096:].splitlines() if line.strip()][-5:]
    rows += [("output" if i == 0 else "", one_line(line, 200)) for i, line in enumerate(lines)]
    return "\n".join([f"{headline}.", *(f"  {name:<12}{value}" for name, value in rows)])


def _signal_name(number: int) -> str:
    """Return a signal as "9 (SIGKILL)"; the number alone if it has no name here."""
    try:
        return f"{number} ({signals.Signals(number).name})"
    except ValueError:
        return str(number)
