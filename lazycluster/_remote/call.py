"""Call a user's function in the process that was forked for it."""

import io
import os
import sys

from .._shared.frames import CHUNK
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
    from typing import Any, BinaryIO

    from .channel import Channel

    Outcome = dict[str, Any]  # see `frames`


def run(
    step: "dict[str, Any]", contents: "dict[str, bytes]", payload: "int", channel: "Channel"
) -> "Outcome":
    """Call a function, and end what it leaves as Python does at its end; return the outcome.

    See `call`.
    """
    log_records.start(step.get("levels", {}), channel.log)
    outcome = call(step, contents, payload, channel)
    if "returned" in outcome and python_end.is_due():
        channel.report({"ending": True})
    python_end.run()
    return outcome


def call(
    step: "dict[str, Any]", contents: "dict[str, bytes]", payload: "int", channel: "Channel"
) -> "Outcome":
    """Unpickle the function, call it, pickle what it returns or raises; return the outcome.

    `contents` has what the connection has got so far.
    """
    pid = os.getpid()
    try:
        own = [contents[key] for key in step.get("contents", ())]
        with _open(payload, step["input"]) as source:
            function, args, kwargs = spawning.load(own, source, step["input"])
    except local_modules.LocalImportError as error:
        return dict(raised.describe("load", error.reason), module=error.module)
    except MissingModulesError as error:
        return {"failure": "python_modules", "message": str(error)}
    except BaseException as error:
        raised.reserve.clear()
        return raised.describe("load", error)
    result = failure = None
    try:
        result = function(*args, **kwargs)
        if awaitables.is_awaitable(result):
            result = awaitables.run(result)
    except BaseException as error:
        raised.reserve.clear()
        failure = raised.describe("call", error)
        if os.getpid() == pid:
            channel.report(failure)  # pickling may end the process
            data = raised.pickled(error)
            if data is not None:
                channel.keep_value(data)
                failure["pickled"] = True
    if os.getpid() != pid:
        leave_fork(failure)
    if failure is not None:
        return failure
    try:
        unpickler.dump_value(result, channel)
    except MissingModulesError as error:
        channel.keep_value(b"")
        return {"failure": "python_modules", "message": str(error)}
    except BaseException as error:
        raised.reserve.clear()
        channel.keep_value(b"")
        return raised.describe_value(result, error, unpickler.make_pickler)
    return {"returned": True}


def _open(payload: "int", size: "int") -> "BinaryIO":
    """Return a file of what comes through the payload pipe, which closes that."""
    if size > CHUNK:
        return open(payload, "rb")
    data = streams.read_exactly(payload, size)  # no more: a buffered file takes six system calls
    os.close(payload)
    return io.BytesIO(data)


def leave_fork(failure: "Outcome | None") -> "None":
    """End a child that the function has forked and that returned from it too, as a Python ends."""
    try:
        if failure is not None and failure["type"] != "SystemExit":
            print(failure["traceback"], end="", file=sys.stderr)
        streams.flush_streams()
    finally:
        os._exit(0 if failure is None else failure.get("exit_status", 1))
