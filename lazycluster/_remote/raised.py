"""Report an exception that a function has raised: as text, and as a pickle if that is possible."""

import copyreg
import io

from .._shared.frames import EXCEPTION_LIMIT
from . import awaitables
from .unpickler import make_pickler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Outcome = dict[str, Any]  # see `frames`

TEXT_LIMIT = 1 << 15  # characters of a message or a traceback that are reported

_HEAP_TYPE = 1 << 9  # a bit of `type.__flags__`: the class is not built in


def describe(stage: "str", error: "BaseException") -> "Outcome":
    """Return an exception as text."""
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
    """Return the traceback of the user's code, without the entries of `call` and of asyncio."""
    below = error.__traceback__.tb_next if error.__traceback__ is not None else None
    entry = below
    while entry is not None:
        if entry.tb_frame.f_code is awaitables.wait_for.__code__:
            below = entry.tb_next
        entry = entry.tb_next
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
        target = _Bounded()
        make_pickler(target, _reduce_exception).dump(error)
        return target.getvalue()
    except BaseException:  # a user's __reduce__ may raise anything
        return None


def _reduce_exception(obj: "Any") -> "Any":
    if isinstance(obj, BaseException) and _needs_no_init(type(obj)):
        new = copyreg.__newobj__  # type: ignore[attr-defined]
        return new, (type(obj), *obj.args), obj.__dict__ or None
    return NotImplemented


def _needs_no_init(kind: "type") -> "bool":
    """Return True if an exception is its `args` and its `__dict__`, as most are.

    `BaseException.__reduce__` calls the class with `args`, which fails if `__init__` has other
    parameters. Therefore such an exception is made without `__init__`, as other objects are.
    """
    built_in = [
        base for base in kind.__mro__ if not base.__flags__ & _HEAP_TYPE and base is not object
    ]
    makers = (("__new__", built_in[0]), ("__reduce__", BaseException), ("__reduce_ex__", object))
    return (
        all(base.__basicsize__ == BaseException.__basicsize__ for base in built_in)  # no fields
        and all(getattr(kind, name) is getattr(base, name) for name, base in makers)
        and not copyreg._slotnames(kind)  # type: ignore[attr-defined]
    )
