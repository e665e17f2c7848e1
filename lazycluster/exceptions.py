"""All exceptions that lazycluster raises on purpose, as one tree.

    LazyclusterError
    ├── InvalidRuntimeError          host; __cause__ is the reason; errors by host
    ├── SshError                     host, exit_status, stderr
    │   ├── ConnectError             (a ValueError too) the connection failed
    │   │   ├── AuthenticationError
    │   │   └── HostKeyError         known_hosts_file, known_hosts_line
    │   ├── ConnectionLostError      started
    │   └── ForwardError
    ├── TaskExecutionError           task, task_step_index, host, execution_log_file_path, output
    │   └── FileTransferError        (an OSError too) local_path, remote_path, errno, filename
    │       ├── MissingFileError     (a FileNotFoundError too)
    │       ├── FileAccessError      (a PermissionError too)
    │       ├── TargetExistsError    (a FileExistsError too)
    │       ├── NotAFolderError      (a NotADirectoryError too)
    │       ├── IsAFolderError       (an IsADirectoryError too)
    │       └── UnsuitableFileError  (a ValueError too)
    ├── CommandError                 host, command, exit_status | signal, output
    │   └── StepTimeoutError         (a TimeoutError too) timeout
    ├── RemoteFunctionError          host, function, exception; as text: exception_type,
    │                                exception_message, traceback
    ├── GroupError                   results, errors by host
    ├── ActorLostError               host, reason, started
    ├── PythonNotFoundError          host
    ├── PythonVersionError           host, host_version, manager_version
    ├── SerializationError
    ├── ProtocolError                host
    ├── PortInUseError               port, side
    ├── NoPortsLeftError
    ├── PathCreationError            host, path
    └── NoRuntimesDetectedError
    RemoteTraceback                  the cause of the exception that a function raised on a host

The first argument is the message, and `str(error)` returns exactly that. All others are
keyword-only, and become attributes; `host` is the host as the user typed it. Every error survives
pickle, `copy.copy` and `copy.deepcopy` with its attributes and causes.
"""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from lazycluster._text import escaped, one_line, signal_name

OUTPUT_IN_ERRORS: int = 1 << 14
"""Bytes of output that an exception carries at most, the last ones; of each stream."""

_Error = TypeVar("_Error", bound="LazyclusterError")


class LazyclusterError(Exception):
    """The base of all exceptions that lazycluster raises on purpose.

    Args:
        message: What happened, to which input, and the cure if there is one. Control characters are
            escaped, because some of the text may come from a host.
        predecessor_excp: The cause, as `raise … from` sets it.
        **attributes: The attributes of the class, by name. Those without a default are required.
    """

    # What is left to say of a cause if the error around it says all the rest; see `_as_cause`.
    _summary: ClassVar[str] = "The step failed."

    def __init__(
        self, message: str, predecessor_excp: BaseException | None = None, **attributes: Any
    ) -> None:
        super().__init__(escaped(message))
        self._unpickled_cause: BaseException | None = None
        if predecessor_excp is not None:
            self.__cause__: BaseException | None = predecessor_excp
        bases = [base for base in type(self).__mro__ if base.__module__ == __name__]
        annotated = {name for base in bases for name in vars(base).get("__annotations__", ())}
        declared = {name for name in annotated if not name.startswith("_")}
        required = {name for name in declared if not hasattr(type(self), name)}
        if not required <= attributes.keys() <= declared:
            raise TypeError(
                f"{type(self).__name__} takes {sorted(declared)} and needs {sorted(required)}, but "
                f"got {sorted(attributes)}."
            )
        for name, value in attributes.items():
            setattr(self, name, value)

    @property
    def msg(self) -> str:
        """Return the message."""
        return str(self)

    @property
    def predecessor_excp(self) -> BaseException | None:
        """Return the cause, also where a process pool has replaced `__cause__` by a traceback."""
        return self._unpickled_cause or self.__cause__

    def __str__(self) -> str:
        # With an errno and a strerror, OSError would return "[Errno …] …".
        return str(self.args[0]) if self.args else ""

    def _reason(self) -> str:
        """Return this error as the reason in the message of the error that it is the cause of."""
        return str(self).rstrip(".")

    def _as_cause(self: _Error) -> _Error:
        """Return a copy for the cause of an error whose message has the reason already.

        Python prints both, and an error is said once: this one keeps what is not in the other.
        """
        error = copy.copy(self)
        error.args = (escaped(self._short_message()),)
        return error

    def _short_message(self) -> str:
        return self._summary.format(host=getattr(self, "host", ""))

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException would call the class with self.args alone, and would lose the cause.
        return self._reduced(self.predecessor_excp, _portable)

    def __copy__(self: _Error) -> _Error:
        make_blank, arguments, state = self._reduced(self.__cause__, lambda cause: cause)
        copied: _Error = make_blank(*arguments)
        copied.__setstate__(state)
        copied._unpickled_cause = self._unpickled_cause
        return copied

    def _reduced(
        self, cause: BaseException | None, replace: Callable[[BaseException], BaseException]
    ) -> tuple[Any, ...]:
        attributes = dict(self.__dict__)
        del attributes["_unpickled_cause"]
        if "errors" in attributes:  # by host
            errors = attributes["errors"].items()
            attributes["errors"] = {host: replace(error) for host, error in errors}
        if isinstance(self, OSError):  # these are in the C struct, not in __dict__
            attributes.update(errno=self.errno, strerror=self.strerror, filename=self.filename)
        # Other exceptions lose their cause when they are pickled, so list the causes up to the
        # first LazyclusterError, which has a state of its own.
        causes: list[BaseException] = []
        while cause is not None:
            causes.append(replace(cause))
            cause = None if isinstance(cause, LazyclusterError) else cause.__cause__
        # pickle sets the state when it has memorized the object: a cause may lead back to it.
        state = (attributes, causes, self.__suppress_context__)
        return _blank, (type(self), self.args), state

    def __setstate__(self, state: Any) -> None:
        attributes, causes, suppress_context = state
        for name, value in attributes.items():
            setattr(self, name, value)
        self._unpickled_cause = causes[0] if causes else None
        error: BaseException = self
        for cause in causes:
            error.__cause__ = cause
            error = cause
        self.__suppress_context__ = suppress_context


def _blank(cls: type[_Error], args: tuple[Any, ...]) -> _Error:
    """Make an error of `cls` without its `__init__`; `__setstate__` sets its attributes."""
    error = cls.__new__(cls)
    error.args = args
    return error


def _portable(error: BaseException) -> BaseException:
    """Return `error`, or a LazyclusterError with its text if it would not survive pickle.

    A class with an `__init__` of its own can often be pickled, but fails when it is unpickled.
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
    """A host cannot be used as a Runtime; `__cause__` is the reason.

    Attributes:
        host: The host; the first one of several.
        errors: The error of each host of a RuntimeGroup that cannot be used, by host; empty for a
            Runtime.
    """

    _summary: ClassVar[str] = "{host} cannot be used as a Runtime."
    host: str
    errors: Mapping[str, Exception] = MappingProxyType({})

    def _reason(self) -> str:
        return super()._reason().removeprefix(f"{self.host} cannot be used as a Runtime: ")


class SshError(LazyclusterError):
    """ssh failed.

    Attributes:
        exit_status: The exit status of the ssh process on the manager; None if it has none.
        stderr: All that ssh printed.
    """

    _summary: ClassVar[str] = "ssh to {host} failed."
    host: str
    exit_status: int | None = None
    stderr: str = ""


class ConnectError(SshError, ValueError):
    """The connection to the host failed: unknown name, refused, timeout, jump host, and so on."""

    _summary: ClassVar[str] = "The connection to {host} failed."

    def _reason(self) -> str:
        return super()._reason().removeprefix(f"Cannot connect to {self.host}: ")


class AuthenticationError(ConnectError):
    """The host refused the login: it accepted no key and no password."""

    _summary: ClassVar[str] = "The login to {host} was refused."


class HostKeyError(ConnectError):
    """The host key is unknown, has changed or is revoked.

    Attributes:
        known_hosts_file: The known_hosts file with the offending key; None if ssh named none.
        known_hosts_line: The line of that key, counted from 1; None if ssh named none.
    """

    _summary: ClassVar[str] = "The key of {host} was not accepted."
    known_hosts_file: str | None = None
    known_hosts_line: int | None = None


class ConnectionLostError(SshError):
    """The connection ended while it was used.

    Attributes:
        started: Whether the step had started on the host; None if that cannot be known.
    """

    _summary: ClassVar[str] = "The connection to {host} ended."
    started: bool | None = None


class ForwardError(SshError):
    """A local or remote forward could not be made or ended."""

    _summary: ClassVar[str] = "The port was not forwarded."


class TaskExecutionError(LazyclusterError):
    """A step of a task failed; `__cause__` is the reason, and later steps did not run.

    Attributes:
        task: The RuntimeTask.
        task_step_index: The index of the failed step, counted from 0.
        execution_log_file_path: The file with the execution log, which may be empty; None if it
            could not be created.
        output: What the failed step printed.
    """

    task: Any
    task_step_index: int
    host: str
    execution_log_file_path: str | None
    output: str = ""


class FileTransferError(TaskExecutionError, OSError):
    """A step that copies a file or folder failed.

    It is the subclass of OSError that belongs to its errno as well, so that `except
    FileNotFoundError` catches it: the constructor returns an object of that class, as the
    constructor of OSError does. EINVAL is a ValueError.

    Attributes:
        local_path: The path on the manager; None for bytes and file objects.
        remote_path: The path on the host.
        filename: The path that could not be read or written, on the side that failed; None if the
            failure is not about a path.
        errno: The error number of the side that failed; None if there is none.
        strerror: The text of `errno`.
    """

    local_path: str | None = None
    remote_path: str | None = None
    errno: int | None
    filename: str | None

    def __new__(cls, message: str = "", *_: Any, **attributes: Any) -> FileTransferError:
        """Make an object of the class that belongs to `errno`, as OSError does."""
        own = _TRANSFER_ERRORS.get(attributes.get("errno"), cls)
        # It sets `args`, which the __init__ of a class with another __new__ does not.
        return super().__new__(own if cls is FileTransferError else cls, escaped(message))

    def __init__(
        self, message: str, predecessor_excp: BaseException | None = None, **attributes: Any
    ) -> None:
        super().__init__(message, predecessor_excp, **attributes)
        self.strerror: str | None = None if self.errno is None else os.strerror(self.errno)


class MissingFileError(FileTransferError, FileNotFoundError):
    """A copy failed because a file or folder does not exist."""


class FileAccessError(FileTransferError, PermissionError):
    """A copy failed because a file or folder may not be read or written."""


class TargetExistsError(FileTransferError, FileExistsError):
    """A copy failed because its target is neither a file, a folder nor a link: `/dev/null`."""


class NotAFolderError(FileTransferError, NotADirectoryError):
    """A copy failed because a file or link is where a folder has to be."""


class IsAFolderError(FileTransferError, IsADirectoryError):
    """A copy failed because a folder is where the file has to be."""


class UnsuitableFileError(FileTransferError, ValueError):
    """A copy failed because its source cannot be copied: a device, or a folder into itself."""


_TRANSFER_ERRORS: dict[object, type[FileTransferError]] = {
    errno.ENOENT: MissingFileError,
    errno.EACCES: FileAccessError,
    errno.EPERM: FileAccessError,
    errno.EEXIST: TargetExistsError,
    errno.ENOTDIR: NotAFolderError,
    errno.EISDIR: IsAFolderError,
    errno.EINVAL: UnsuitableFileError,
}


class CommandError(LazyclusterError):
    """A command ended with an exit status other than 0, or by a signal.

    Attributes:
        command: The whole command.
        exit_status: The exit status; None if a signal ended the command.
        signal: The number of the signal, positive; None if the command exited.
        output: What the command printed.
    """

    host: str
    command: str
    exit_status: int | None = None
    signal: int | None = None
    output: str = ""

    def _reason(self) -> str:
        if self.signal is not None:
            return f"signal {signal_name(self.signal)}"
        return "a signal" if self.exit_status is None else f"exit status {self.exit_status}"

    def _short_message(self) -> str:
        return f"The command `{one_line(self.command, 200)}` failed."


class StepTimeoutError(CommandError, TimeoutError):
    """A step took longer than its timeout and was stopped; `output` is what it printed before.

    It is a built-in TimeoutError too, whose `errno` is None.

    Attributes:
        timeout: The timeout in seconds.
    """

    timeout: float

    def _reason(self) -> str:
        return f"timeout of {self.timeout:g} seconds"

    def _short_message(self) -> str:
        return f"`{one_line(self.command, 200)}` was stopped."


class RemoteFunctionError(LazyclusterError):
    """A function raised on the host, or its process ended without a value.

    Attributes:
        function: The name of the function.
        exception_type: The name of the exception's class; None if no exception was raised.
        exception_message: The exception as text; None if no exception was raised.
        traceback: The traceback on the host as text. If a crash ended the process, the lines at
            which its thread was, the last call first. None if neither is known.
        exit_status: The exit status of the process; None if it raised or a signal ended it.
        signal: The number of the signal that ended the process, positive; None if none did.
    """

    host: str
    function: str
    exception_type: str | None = None
    exception_message: str | None = None
    traceback: str | None = None
    exit_status: int | None = None
    signal: int | None = None

    def __init__(
        self, message: str, predecessor_excp: BaseException | None = None, **attributes: Any
    ) -> None:
        super().__init__(message, predecessor_excp, **attributes)
        self._load_exception: Callable[[], Exception | None] | None = None

    _called: bool = True  # False if the function or an argument could not be unpickled there
    _headline: str = ""  # what happened, as a line
    _hint: str = ""  # which packages are missing or of another version there

    @property
    def _last_line(self) -> str:
        """Return the exception as Python prints it in the last line of a traceback."""
        return f"{self.exception_type}: {self.exception_message or ''}".rstrip(": ")

    def _reason(self) -> str:
        if self.exception_type is None:
            return str(self).partition("\n")[0].rstrip(".")
        verb = "raised" if self._called else "could not be loaded:"
        return f"{self.function} {verb} {one_line(self._last_line, 200)}"

    def _short_message(self) -> str:
        if self.exception_type is None:
            return "\n".join([f"{self.function} did not return.", *str(self).splitlines()[1:]])
        text = str(self)
        last = self._last_line  # which the other message has, unless it is too long for it
        return text.removesuffix(last).rstrip() if last in self._reason() else text

    @property
    def exception(self) -> Exception | None:
        """Return the exception itself; its `__cause__` is the traceback on the host.

        It is unpickled at the first use, see the page about trust. None if no Exception was raised
        or if it cannot be pickled there and unpickled here; a StopIteration or CancelledError is
        None too.
        """
        return None if self._load_exception is None else self._load_exception()


class ActorLostError(LazyclusterError):
    """The process of an actor has ended, and with it the actor, for ever.

    Attributes:
        reason: Why it has ended: a signal, an exit status, a lost connection, a call that took too
            long, or that it was closed.
        started: Whether the call that raised it had started; None if that cannot be known.
    """

    _summary: ClassVar[str] = "The actor on {host} has ended."
    host: str
    reason: str
    started: bool | None = None


class RemoteTraceback(Exception):  # noqa: N818  # not an error of its own
    """The traceback on the host: the cause of an exception that a function has raised there.

    `str()` returns a line that names function and host, and the traceback. The exception itself
    is not repeated.
    """

    def __init__(self, headline: str, traceback: str) -> None:
        super().__init__(headline, traceback)

    def __str__(self) -> str:
        headline, traceback = self.args
        return escaped(f"{headline}\n{traceback}").rstrip()


class GroupError(LazyclusterError):
    """Some hosts of a RuntimeGroup failed, and all have ended; `__cause__` is the first error.

    Attributes:
        results: What there is of each host, by host, in the order of the group.
        errors: The exception of each host that failed, by host.
    """

    _summary: ClassVar[str] = "Some hosts failed."
    results: Mapping[str, Any]
    errors: Mapping[str, Exception]


class PythonNotFoundError(LazyclusterError):
    """The host has no Python that lazycluster can use."""

    _summary: ClassVar[str] = "{host} has no Python for it."
    host: str


class PythonVersionError(LazyclusterError):
    """A function cannot run on the host, because its Python has another minor version.

    Attributes:
        host_version: The version of Python on the host, like "3.11.2".
        manager_version: The version of Python on the manager, like "3.12.1".
    """

    _summary: ClassVar[str] = "The versions of Python differ."
    host: str
    host_version: str
    manager_version: str


class SerializationError(LazyclusterError):
    """A function, an argument or a value cannot be pickled or unpickled."""

    _summary: ClassVar[str] = "It cannot be pickled or unpickled."


class ProtocolError(LazyclusterError):
    """The host sent data that violates the protocol."""

    _summary: ClassVar[str] = "{host} violated the protocol."
    host: str


class PortInUseError(LazyclusterError):
    """Another process listens on the port.

    Attributes:
        side: The side that the port is on: "manager" or the host as the user typed it.
    """

    port: int
    side: str


class NoPortsLeftError(LazyclusterError):
    """None of the given ports is free."""


class PathCreationError(LazyclusterError):
    """A folder could not be made on the host.

    Attributes:
        path: The path on the host.
    """

    host: str
    path: str


class NoRuntimesDetectedError(LazyclusterError):
    """None of the given hosts can be used as a Runtime."""
