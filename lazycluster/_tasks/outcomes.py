"""Turn the outcome of a step into the error that it means."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from lazycluster._conversation.outcome import (
    Failure,
    OsFailure,
    Outcome,
    PythonModulesFailure,
    PythonVersionFailure,
)
from lazycluster._text import escaped
from lazycluster.exceptions import (
    CommandError,
    LazyclusterError,
    PythonNotFoundError,
    PythonVersionError,
    RemoteFunctionError,
    SerializationError,
    StepTimeoutError,
    command_message,
)


def command_error(
    host: str, command: str, outcome: Outcome, output: Callable[[], str]
) -> Exception | None:
    """Return the error of a command; None if it exited with status 0.

    Args:
        host: The host as the user typed it.
        command: The command.
        outcome: How it ended.
        output: Returns the end of what the command printed; called only for an error.
    """
    if outcome.failure is not None:
        return _failure_error(host, command, outcome.failure, outcome.exit_status)
    if outcome.exit_status == 0:
        return None
    ending = {"exit_status": outcome.exit_status, "signal": outcome.signal}
    printed = output()
    message = command_message(host=host, command=command, output=printed, **ending)
    return CommandError(message, host=host, command=command, output=printed, **ending)


def function_error(host: str, function: str, outcome: Outcome) -> Exception | None:
    """Return the error of a function call; None if the function returned.

    Args:
        host: The host as the user typed it.
        function: The name of the function.
        outcome: How it ended.
    """
    if outcome.failure is not None:
        return _failure_error(host, function, outcome.failure, outcome.exit_status)
    if outcome.returned:
        return None
    return RemoteFunctionError(
        f"The process of {function} ended {_ending(outcome)} on {host} before the function "
        "returned.",
        host=host,
        function=function,
        exit_status=outcome.exit_status,
        signal=outcome.signal,
    )


def copy_error(host: str, name: str, remote_path: str, outcome: Outcome) -> Exception | None:
    """Return the error of a copy; None if the copy was completed.

    Args:
        host: The host as the user typed it.
        name: The name of the step.
        remote_path: The path on the host, for an error without a path.
        outcome: How it ended.
    """
    failure = outcome.failure
    if isinstance(failure, OsFailure):
        side = "the manager" if failure.on_sender else host
        message = escaped(f"{failure.message} (on {side})")
        if failure.errno is None:
            return LazyclusterError(message)
        return OSError(failure.errno, message, failure.path or remote_path)
    if failure is not None:
        return _failure_error(host, name, failure, outcome.exit_status)
    if outcome.completed:
        return None
    return LazyclusterError(f"The process that copied ended {_ending(outcome)} on {host}.")


def timeout_error(host: str, name: str, timeout: float, output: str) -> StepTimeoutError:
    """Return the error of a step that took longer than `timeout` seconds."""
    message = command_message(host=host, command=name, timeout=timeout, output=output)
    return StepTimeoutError(message, host=host, command=name, output=output, timeout=timeout)


def with_side(error: OSError, side: str) -> OSError:
    """Return a copy of an error with an errno, whose message names the side that failed."""
    assert error.errno is not None
    return OSError(error.errno, f"{os.strerror(error.errno)} (on {side})", error.filename)


def _ending(outcome: Outcome) -> str:
    if outcome.signal:
        return f"by signal {outcome.signal}"
    return f"with exit status {outcome.exit_status}"


def _failure_error(
    host: str, name: str, failure: Failure, exit_status: int | None
) -> LazyclusterError:
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
    if failure.stage == "dump":
        return SerializationError(
            f"{name} has run to its end on {host}, but its value cannot be pickled: "
            f"{failure.type}: {failure.message}."
        )
    verb = "raised" if failure.stage == "call" else "could not be loaded"
    return RemoteFunctionError(
        f"{name} {verb} on {host}: {failure.type}: {failure.message}\n{failure.traceback}".rstrip(),
        host=host,
        function=name,
        exception_type=failure.type,
        exception_message=failure.message,
        traceback=failure.traceback,
        exit_status=exit_status if failure.type == "SystemExit" else None,
    )
