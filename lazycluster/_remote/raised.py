"""Report an exception that a function has raised: as text, and as a pickle if that is possible."""

import contextlib
import io
import sys

from .._shared.frames import EXCEPTION_LIMIT
from . import awaitables
from .imports import import_cloudpickle, library_first

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from typing import Any, Callable

    Outcome = dict[str, Any]  # see `frames`

TEXT_LIMIT = 1 << 15  # characters of a message or a traceback that are reported

_OURS = ("<lazycluster>/", "<frozen importlib.")  # files whose entries say nothing to a user
_MOST_CAUSES = 20  # of an exception, whose tracebacks are shortened

# What catches an exception empties it first: a function may have used up its memory, and then not
# even `describe` could be called.
_RESERVE = 1 << 16  # bytes
reserve = [bytearray(_RESERVE)]


def keep_reserve() -> "None":
    """Keep memory again, in a process that goes on."""
    with contextlib.suppress(MemoryError):
        reserve[:] = [bytearray(_RESERVE)]


def describe(stage: "str", error: "BaseException") -> "Outcome":
    """Return an exception as text."""
    if isinstance(error, MemoryError):
        _clear_frames(error)
    if stage == "call":
        _explain_missing_terminal(error)
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
    if stage == "load" or isinstance(error, (ImportError, AttributeError)):
        outcome["versions"] = _versions(error, stage == "load")
    if isinstance(error, SystemExit):
        code = error.code
        outcome["exit_status"] = 0 if code is None else code & 255 if isinstance(code, int) else 1
    return outcome


def _clear_frames(error: "BaseException") -> "None":
    """Free the variables of the functions that an exception has come through.

    `traceback.clear_frames` does the same, and importing it needs memory.
    """
    entry = error.__traceback__
    while entry is not None:
        with contextlib.suppress(RuntimeError):  # it still runs
            entry.tb_frame.clear()
        entry = entry.tb_next


def describe_value(
    value: "Any", error: "BaseException", make_pickler: "Callable[[Any], Any]"
) -> "Outcome":
    """Return why a value cannot be pickled, with the way to the object that cannot."""
    outcome = describe("dump", error)
    if isinstance(error, Exception) and not isinstance(error, OSError):
        with contextlib.suppress(Exception):  # what it looks at is a user's
            from .._shared.unpicklable import explain

            explanation = explain([("value", value)], error, make_pickler)
            if explanation is not None:
                outcome["explanation"] = _bounded(explanation)
    return outcome


def _versions(error: "BaseException", loading: "bool") -> "list[tuple[str, str | None]]":
    try:
        from .._shared import versions

        return versions.find_versions(versions.find_packages(error, loading))
    except Exception:  # a user's finder or package may raise anything
        return []


def _explain_missing_terminal(error: "BaseException") -> "None":
    """Say in an exception that there is no terminal, if it was raised because there is none."""
    kind = type(error)
    if kind is EOFError and error.args == ("EOF when reading a line",):
        if sys.stdin is sys.__stdin__:
            error.args = (
                "a function on a host has no terminal to read from. Pass what it asks for as an "
                "argument.",
            )
    elif kind.__name__ == "BdbQuit" and kind.__module__ == "bdb" and not error.args:
        error.args = (
            "a function on a host has no terminal for a debugger. Call it on the manager to debug "
            "it, or set PYTHONBREAKPOINT=0.",
        )


def _message(error: "BaseException") -> "str":
    try:
        return _bounded(str(error))
    except BaseException as failure:  # a user's __str__ may raise anything
        return "<its text cannot be had: {}>".format(type(failure).__name__)


def _traceback(error: "BaseException") -> "str":
    """Return the traceback of the user's code, without entries of ours and of asyncio's runner."""
    below = error.__traceback__.tb_next if error.__traceback__ is not None else None
    entry = below
    while entry is not None:
        if entry.tb_frame.f_code is awaitables.wait_for.__code__:
            below = entry.tb_next
        entry = entry.tb_next
    try:
        with library_first():
            import traceback

        below = _without_ours(below)
        cause = error.__cause__ or error.__context__
        for _ in range(_MOST_CAUSES):
            if cause is None:
                break
            cause.__traceback__ = _without_ours(cause.__traceback__)
            cause = cause.__cause__ or cause.__context__
        return _bounded("".join(traceback.format_exception(type(error), error, below)))
    except BaseException as failure:
        return "<its traceback cannot be had: {}>".format(type(failure).__name__)


def _without_ours(first: "types.TracebackType | None") -> "types.TracebackType | None":
    """Remove the entries of ours, such as those of an import, unless there are no others."""
    kept = []
    entry = first
    while entry is not None:
        if not entry.tb_frame.f_code.co_filename.startswith(_OURS):
            kept.append(entry)
        entry = entry.tb_next
    for entry, following in zip(kept, [*kept[1:], None]):
        entry.tb_next = following
    return kept[0] if kept else first


def _bounded(text: "str") -> "str":
    if len(text) <= TEXT_LIMIT:
        return text
    half = TEXT_LIMIT // 2
    return text[:half] + "\n[…]\n" + text[-half:]


class _Bounded(io.BytesIO):
    """A file in memory that takes no more than EXCEPTION_LIMIT bytes."""

    def write(self, data: "Any") -> "int":
        count = super().write(data)
        if self.tell() > EXCEPTION_LIMIT:
            raise OSError("the pickled exception is too large")
        return count


def pickled(error: "BaseException") -> "bytes | None":
    """Return a pickle of an exception; None if it cannot be pickled, or is not an Exception.

    Without its traceback, its cause and its context, which are in the text.
    """
    if not isinstance(error, Exception):
        return None
    try:
        import_cloudpickle()
        from .value_pickler import ExceptionPickler

        target = _Bounded()
        ExceptionPickler(target).dump(error)
        return target.getvalue()
    except BaseException:  # a user's __reduce__ may raise anything
        return None
