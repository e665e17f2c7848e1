"""Make the errors that outcomes mean for all kinds of steps."""

from __future__ import annotations

import copy
import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from lazycluster._conversation.outcome import (
    OsFailure,
    Outcome,
    PreloadFailure,
    PythonModulesFailure,
    PythonStartFailure,
    PythonVersionFailure,
    RaisedFailure,
    SharedFailure,
)
from lazycluster._functions.missing_modules import explain_missing
from lazycluster._functions.own_exception import OwnException
from lazycluster._functions.package_errors import explain_on_host
from lazycluster._tasks.progress import ProgressError
from lazycluster._text import (
    command_message,
    escaped,
    last_lines,
    last_output,
    one_line,
    signal_name,
)
from lazycluster.exceptions import (
    CommandError,
    LazyclusterError,
    PythonNotFoundError,
    PythonVersionError,
    RemoteFunctionError,
    SerializationError,
    StepTimeoutError,
    TaskExecutionError,
)

Error = TypeVar("Error", bound=LazyclusterError)


def timeout_error(host: str, kind: str, name: str, timeout: float, output: str) -> StepTimeoutError:
    """Return the error of a step that took longer than `timeout` seconds."""
    message = command_message(host=host, kind=kind, command=name, timeout=timeout, output=output)
    return StepTimeoutError(message, host=host, command=name, output=output, timeout=timeout)


def with_side(error: OSError, side: str) -> OSError:
    """Return a copy of an error with an errno, whose message names the side that failed."""
    assert error.errno is not None
    text = escaped(error.strerror or os.strerror(error.errno))  # it may be the host's
    return OSError(error.errno, f"{text} (on {side})", error.filename)


def without_tracebacks(error: Error) -> Error:
    """Return a copy of an error of ours, with copies of its causes, without their tracebacks."""
    copied = copy.copy(error)
    cause = error.__cause__
    if isinstance(cause, LazyclusterError):
        copied.__cause__ = without_tracebacks(cause)
    elif cause is not None:
        try:
            copied.__cause__ = copy.copy(cause)
        except Exception:  # a user's class may be made in any way
            copied.__cause__ = LazyclusterError(f"{type(cause).__name__}: {cause}")
    return copied


def ending(outcome: Outcome) -> str:
    """Return how a process ended, for a message."""
    if outcome.signal:
        return f"by signal {signal_name(outcome.signal)}"
    return f"with exit status {outcome.exit_status}"


# What Python says of a module or a name that is missing.
_OF_PYTHON = re.compile("No module named |cannot import name |Can't get attribute ")

# Of a Python that does not start; the lines before these say why.
_NOISE_OF_PYTHON = re.compile(r"^(?:Python runtime state|Current thread|  <no Python frame>)")

# The cause has the text of the system, and an error is said once.
_WORDS = {errno.ENOENT: "does not exist", errno.EACCES: "may not be accessed"}


def reason(error: BaseException) -> str:
    """Return an error as the reason in the message of a TaskExecutionError."""
    if isinstance(error, LazyclusterError):
        return error._reason()
    if isinstance(error, ProgressError):
        return f"`progress` raised {type(error.error).__name__}"
    if isinstance(error, OSError) and error.errno in _WORDS and error.filename:
        text = error.strerror or ""
        side = re.search(r" \(on .*\)$|$", text)
        if side and text[: side.start()] == os.strerror(error.errno):
            return f"{error.filename!r} {_WORDS[error.errno]}{side[0]}"
    return str(error) or type(error).__name__


def as_cause(error: BaseException) -> BaseException:
    """Return an error as the cause of a TaskExecutionError, whose message has its `reason`."""
    if isinstance(error, ProgressError):
        return error.error
    return error._as_cause() if isinstance(error, LazyclusterError) else error


def task_message(
    step: int, task: str, host: str, cause: BaseException, log: str | None, output: str
) -> str:
    """Return the message of a TaskExecutionError: the reason, and where the output is.

    The last lines of the output follow if a command or a timeout is the reason. The path of an
    empty log is left out where the reason is another.
    """
    of_command = isinstance(cause, CommandError)
    headline = f"Step {step} of the task {task!r} failed on {host}: {reason(cause)}."
    if log is not None and (output or of_command):
        headline += f" Log: {log}"
    lines = last_output(output) if of_command else []
    return "\n  ".join([headline, *lines])


def task_reason(error: TaskExecutionError) -> str:
    """Return the reason in the message of a TaskExecutionError, see `task_message`.

    Its cause may not have it, since an error is said once, see `as_cause`.
    """
    headline = str(error).partition("\n")[0]
    text = headline.partition(f" failed on {error.host}: ")[2]
    return text.removesuffix(f" Log: {error.execution_log_file_path}").rstrip(".")


def log_line(error: TaskExecutionError) -> str:
    """Return an error as one line for a logger: its reason, and the place if that is known."""
    headline, *printed = str(error).split("\n")
    cause = error.__cause__
    details: list[str] = []
    if isinstance(cause, CommandError):
        details = [str(cause), *(f"It printed: {line.strip()}" for line in printed[-1:])]
    elif isinstance(cause, RemoteFunctionError):
        places = re.findall(r"^ *(File .*, line .*)", cause.traceback or "", re.MULTILINE)
        # faulthandler begins with the last call.
        details = [one_line(place) for place in (places[:1] if cause.signal else places[-1:])]
    return f"{headline} ({' '.join(details)})" if details else headline


def failure_error(
    host: str, name: str, outcome: Outcome, output: Callable[[], str]
) -> LazyclusterError:
    """Return the error of a step that has reported the reason of its failure.

    `output` returns the end of what the step printed; it is called only if needed.
    """
    failure = outcome.failure
    assert failure is not None
    if isinstance(failure, OsFailure):
        path = f" {failure.path!r}" if failure.path else ""
        return LazyclusterError(f"The step could not start on {host}:{path} {failure.message}.")
    if isinstance(failure, PythonVersionFailure):
        manager = "{}.{}.{}".format(*sys.version_info)
        return PythonVersionError(
            f"Python on {host} is {failure.version} and the manager's is {manager}; "
            "functions need the same minor version. Name such an interpreter of the host "
            "with python=….",
            host=host,
            host_version=failure.version,
            manager_version=manager,
        )
    if isinstance(failure, PythonModulesFailure):
        return PythonNotFoundError(
            f"Python on {host} cannot run functions, because it is not complete: "
            f"{failure.message}. Install all of it (on Debian `python3`, not "
            "`python3-minimal`) or name another interpreter with python=….",
            host=host,
        )
    if isinstance(failure, PythonStartFailure):
        printed = last_lines(output(), _NOISE_OF_PYTHON)
        return PythonNotFoundError(
            f"Python on {host} does not start with {_listed(failure.variables)} of the step's "
            f"variables, so {name} was not called. It ended {ending(outcome)}"
            f"{f' and printed: {printed}' if printed else ''}. Correct these variables.",
            host=host,
        )
    if isinstance(failure, PreloadFailure):
        return _preload_error(host, name, failure)
    if isinstance(failure, SharedFailure):
        message = f"{name} has no shared value on {host}: {failure.message}."
        return RemoteFunctionError(message, host=host, function=name)
    return _raised_error(host, name, failure, outcome.exit_status)


def _preload_error(host: str, name: str, failure: PreloadFailure) -> RemoteFunctionError:
    kind, _, message = failure.message.partition(": ")
    cure = explain_missing(kind, message)
    return RemoteFunctionError(
        f"{name} cannot be called on {host}, because {failure.module} cannot be preloaded: "
        f"{cure or f'{failure.message}.'} Leave it out of preload=, and import it in the function.",
        host=host,
        function=name,
    )


def load_failure(host: str, failure: RaisedFailure) -> str:
    """Return why something could not be unpickled on a host, with the cure and the traceback."""
    cure = explain_missing(failure.type, failure.message)
    versions = explain_on_host(failure.versions, host) if not cure else ""
    traceback = failure.traceback.rstrip()
    if failure.message not in traceback:
        traceback += f"\n{failure.type}: {failure.message}"
    first = cure or versions
    return f"{first}\n{traceback}" if first else f"{failure.type}: {failure.message}\n{traceback}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([*filter(None, [", ".join(names[:-1])]), *names[-1:]])


def _raised_error(
    host: str, name: str, failure: RaisedFailure, exit_status: int | None
) -> LazyclusterError:
    if failure.stage == "dump":
        return SerializationError(
            f"{name} has run to its end on {host}, but its value cannot be pickled: "
            + (failure.explanation or f"{failure.type}: {failure.message}.")
        )
    called = failure.stage == "call"
    headline = f"{name} raised {failure.type} on {host}"
    if not called:
        headline = f"{name} could not be loaded on {host}"
    cure = explain_missing(failure.type, failure.message)
    by_python = not called or _OF_PYTHON.match(failure.message)  # not a text of the user
    versions = explain_on_host(failure.versions, host) if by_python and not cure else ""
    headline += f". {cure}" if cure else ":"
    traceback = failure.traceback.rstrip()
    if failure.message not in traceback:
        traceback += f"\n{failure.type}: {failure.message}"
    first_line = f"{headline[:-1]}. {versions}" if versions else headline
    error = RemoteFunctionError(
        f"{first_line}\n{traceback}",
        host=host,
        function=name,
        exception_type=failure.type,
        exception_message=failure.message,
        traceback=failure.traceback,
        exit_status=exit_status if failure.type == "SystemExit" else None,
    )
    error._called = called
    error._headline, error._hint = headline, versions
    return error


def attach_exception(error: RemoteFunctionError, data: bytes) -> None:
    """Make a pickle that the host has sent the `exception` of an error; nothing is unpickled yet.

    Only for the step of a function: a pickle runs code, and commands must not need trust.
    """
    own = OwnException(data, error._headline, error.traceback or "", error._hint)
    error._load_exception = own.load


def own_exception(error: RemoteFunctionError) -> Exception:
    """Return what `Runtime.call` and `RemoteFuture.result` raise if a function has failed.

    It is the function's own exception, the same object at each call, with the remote traceback as
    its cause, or `error` if there is none. Raise it without `from`. It is unpickled here, so call
    this in a thread of the user.
    """
    own = error.exception
    return error if own is None else own
