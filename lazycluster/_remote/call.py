"""Call a user's function in the process that was forked for it."""

import os
import sys

from . import (
    awaitables,
    local_modules,
    log_records,
    python_end,
    raised,
    spawning,
    streams,
    unpickler,
)
from .imports import MissingModulesError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    Outcome = dict[str, Any]  # see `frames`


def run(
    step: "dict[str, Any]",
    contents: "dict[str, bytes]",
    payload: "int",
    value: "int",
    report: "Callable[[Outcome], object]",
    log: "Callable[[bytes], object]",
) -> "Outcome":
    """Call a function, and end what it leaves as Python does at its end; return the outcome.

    `log` takes lines with what it logs; see `call` for the others.
    """
    log_records.start(step.get("levels", {}), log)
    outcome = call(step, contents, payload, value, report)
    if "returned" in outcome and python_end.is_due():
        report({"ending": True})
    python_end.run()
    log_records.stop()
    return outcome


def call(
    step: "dict[str, Any]",
    contents: "dict[str, bytes]",
    payload: "int",
    value: "int",
    report: "Callable[[Outcome], object]",
) -> "Outcome":
    """Unpickle the function, call it, pickle what it returns or raises; return the outcome.

    `contents` has what the connection has got so far. `report` takes an outcome that counts if
    the process ends without another.
    """
    pid, channel = os.getpid(), streams.identity(value)
    try:
        own = [contents[key] for key in step.get("contents", ())]
        with open(payload, "rb") as source:
            function, args, kwargs = spawning.load(own, source, step["input"])
    except local_modules.LocalImportError as error:
        return dict(raised.describe("load", error.reason), module=error.module)
    except MissingModulesError as error:
        return {"failure": "python_modules", "message": str(error)}
    except BaseException as error:
        return raised.describe("load", error)
    result = failure = None
    try:
        result = function(*args, **kwargs)
        if awaitables.is_awaitable(result):
            result = awaitables.run(result)
    except BaseException as error:
        failure = raised.describe("call", error)
        if os.getpid() == pid:
            report(failure)  # pickling may end the process
            data = raised.pickled(error)
            if data is not None and streams.identity(value) == channel:
                failure["pickled"] = _sent(value, data)
    if os.getpid() != pid:
        leave_fork(failure)
    if failure is not None:
        return failure
    try:
        if streams.identity(value) != channel:
            raise OSError("the function has closed the pipe that its value goes through")
        with open(value, "wb") as target:
            unpickler.dump_value(result, target)
    except MissingModulesError as error:
        return {"failure": "python_modules", "message": str(error)}
    except BaseException as error:
        return raised.describe_value(result, error, unpickler.make_pickler)
    return {"returned": True}


def _sent(value: "int", data: "bytes") -> "bool":
    try:
        streams.write_all(value, data)
    except OSError:
        return False
    return True


def leave_fork(failure: "Outcome | None") -> "None":
    """End a child that the function has forked and that returned from it too, as a Python ends."""
    try:
        if failure is not None and failure["type"] != "SystemExit":
            print(failure["traceback"], end="", file=sys.stderr)
        streams.flush_streams()
    finally:
        os._exit(0 if failure is None else failure.get("exit_status", 1))
