"""Call a user's function in the process that was forked for it."""

import os
import sys

from . import streams
from .imports import LocalModules, is_own_python

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Outcome = dict[str, Any]  # see `frames`

TEXT_LIMIT = 1 << 15  # characters of a message or a traceback that are reported


def call(python: "list[int]", missing: "str | None", payload: "int", value: "int") -> "Outcome":
    """Unpickle the function, call it, pickle what it returns; return the outcome.

    `python` is the manager's version, and `missing` why cloudpickle cannot be imported here.
    """
    if not is_own_python(python):
        return {"failure": "python_version", "python": "%d.%d.%d" % sys.version_info[:3]}
    if missing is not None:
        return {"failure": "python_modules", "message": missing}
    import pickle

    import cloudpickle

    pid, channel = os.getpid(), streams.identity(value)
    try:
        with open(payload, "rb") as source:
            sources = pickle.load(source)
            if sources:
                LocalModules(sources)
            function, args, kwargs = pickle.load(source)
    except BaseException as error:
        return _describe("load", error)
    result = failure = None
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        failure = _describe("call", error)
    if os.getpid() != pid:
        _leave_fork(failure)
    if failure is not None:
        return failure
    try:
        if streams.identity(value) != channel:
            raise OSError("the function has closed the pipe that its value goes through")
        with open(value, "wb") as target:
            cloudpickle.dump(result, target, protocol=pickle.HIGHEST_PROTOCOL)
    except BaseException as error:
        return _describe("dump", error)
    return {"returned": True}


def _leave_fork(failure: "Outcome | None") -> "None":
    """End a child that the function has forked and that returned from it too, as a Python ends."""
    try:
        if failure is not None and failure["type"] != "SystemExit":
            print(failure["traceback"], end="", file=sys.stderr)
        streams.flush_streams()
    finally:
        os._exit(0 if failure is None else failure.get("exit_status", 1))


def _describe(stage: "str", error: "BaseException") -> "Outcome":
    """Return an exception as text: the manager never unpickles an exception."""
    kind = type(error)
    module = kind.__module__  # anything, or None, in a class made by exec
    prefix = "" if module in ("builtins", "__main__", None) else "{}.".format(module)
    outcome = {
        "failure": "raised",
        "stage": stage,
        "type": prefix + kind.__qualname__,
        "message": _message(error),
        "traceback": _traceback(error),
    }  # type: Outcome
    if isinstance(error, SystemExit):
        code = error.code
        outcome["exit_status"] = 0 if code is None else code & 255 if isinstance(code, int) else 1
    return outcome


def _message(error: "BaseException") -> "str":
    try:
        return _bounded(str(error))
    except BaseException as failure:  # a user's __str__ may raise anything
        return "<its text cannot be had: {}>".format(type(failure).__name__)


def _traceback(error: "BaseException") -> "str":
    """Return the traceback of the user's code, without its first entry, which is in this file."""
    below = error.__traceback__.tb_next if error.__traceback__ is not None else None
    try:
        import traceback

        if isinstance(error, MemoryError):
            traceback.clear_frames(below)  # they hold what fills the memory
        return _bounded("".join(traceback.format_exception(type(error), error, below)))
    except BaseException as failure:
        return "<its traceback cannot be had: {}>".format(type(failure).__name__)


def _bounded(text: "str") -> "str":
    if len(text) <= TEXT_LIMIT:
        return text
    half = TEXT_LIMIT // 2
    return text[:half] + "\n[…]\n" + text[-half:]
