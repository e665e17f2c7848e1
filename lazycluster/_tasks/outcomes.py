"""How a step ended, as the supervisor tells it -> which error that is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from lazycluster._tasks.steps import Step
from lazycluster._text import escaped
from lazycluster.exceptions import (
    CommandError,
    LazyclusterError,
    PythonNotFoundError,
    PythonVersionError,
    RemoteFunctionError,
    SerializationError,
    command_message,
)

# What a host may say of an ending, and what it has to say with each failure.
_FORMS: dict[str, type | tuple[type, ...]] = {
    "step": int,
    "exit_status": int,
    "signal": int,
    "failure": str,
    "errno": (int, type(None)),
    "path": (str, type(None)),
    "message": str,
    "there": bool,
    "python": str,
    "stage": str,
    "type": str,
    "traceback": str,
    "returned": bool,
    "skipped": list,
    "result": object,
}
_NEEDED = {
    "os": ("message",),
    "python_version": ("python",),
    "python_modules": ("message",),
    "raised": ("stage", "type", "message", "traceback"),
}


def checked_outcome(told: Any) -> dict[str, Any]:
    """What a host said of how a step ended, if it is of the form that the supervisor has it in.

    Raises:
        ValueError, KeyError, TypeError: It is not.
    """
    outcome = dict(told)
    for name, value in outcome.items():
        absurd = name != "result" and isinstance(value, int) and not 0 <= value < 1 << 31
        if absurd or not isinstance(value, _FORMS[name]):
            raise ValueError(f"an ending with a strange {name}")
    for name in _NEEDED[outcome["failure"]] if "failure" in outcome else ():
        if name not in outcome:
            raise ValueError(f"an ending without its {name}")
    for path, what in outcome.get("skipped", []):
        if not isinstance(path, str) or not isinstance(what, str):
            raise ValueError("an ending with something strange skipped")
    return outcome


def step_error(
    host: str, step: Step, outcome: Mapping[str, Any], output: Callable[[], str]
) -> Exception | None:
    """What an outcome means; None if all is well.

    Args:
        host: The host.
        step: The step.
        outcome: How it ended, as the supervisor told it.
        output: Gives the end of what the step printed.
    """
    exit_status, number = outcome.get("exit_status"), outcome.get("signal")
    failure = outcome.get("failure")
    name = step.name
    if failure == "os" and step.paths is not None:
        # The path is the sender's if what it sent says that it could not be read.
        side = "the manager" if outcome.get("there") else host
        message = escaped(f"{outcome['message']} (on {side})")
        if outcome.get("errno") is None:
            return LazyclusterError(message)
        return OSError(outcome["errno"], message, outcome.get("path") or step.paths[1])
    if failure == "os":
        where = f" {outcome['path']!r}" if outcome.get("path") else ""
        return LazyclusterError(f"The step could not start on {host}:{where} {outcome['message']}.")
    if failure == "python_version":
        manager = "{}.{}.{}".format(*sys.version_info)
        return PythonVersionError(
            f"Python on {host} is {outcome['python']} and the manager's is {manager}; "
            "functions need the same minor version. Name such an interpreter of the host "
            "with python=….",
            host=host,
            host_version=outcome["python"],
            manager_version=manager,
        )
    if failure == "python_modules":
        return PythonNotFoundError(
            f"Python on {host} cannot run functions, as it is not complete: "
            f"{outcome['message']}. Install all of it (on Debian `python3`, not "
            "`python3-minimal`) or name another interpreter with python=….",
            host=host,
        )
    if failure == "raised" and outcome["stage"] == "dump":
        return SerializationError(
            f"{name} has run to its end on {host}, but its value cannot be pickled: "
            f"{outcome['type']}: {outcome['message']}."
        )
    if failure == "raised":
        verb = "raised" if outcome["stage"] == "call" else "could not be loaded"
        return RemoteFunctionError(
            f"{name} {verb} on {host}: {outcome['type']}: {outcome['message']}\n"
            f"{outcome['traceback']}".rstrip(),
            host=host,
            function=name,
            exception_type=outcome["type"],
            exception_message=outcome["message"],
            traceback=outcome["traceback"],
            exit_status=exit_status if outcome["type"] == "SystemExit" else None,
        )
    if step.paths is not None:
        if "result" in outcome:
            return None
        how = f"by signal {number}" if number else f"with exit status {exit_status}"
        return LazyclusterError(f"The process that copied ended {how} on {host}.")
    if step.returns:
        if outcome.get("returned"):
            return None
        how = f"by signal {number}" if number else f"with exit status {exit_status}"
        return RemoteFunctionError(
            f"The process of {name} ended {how} on {host} before the function returned.",
            host=host,
            function=name,
            exit_status=exit_status,
            signal=number,
        )
    if exit_status == 0:
        return None
    printed = output()
    return CommandError(
        command_message(
            host=host,
            command=name,
            exit_status=exit_status,
            signal=number,
            output=printed,
        ),
        host=host,
        command=name,
        exit_status=exit_status,
        signal=number,
        output=printed,
    )
