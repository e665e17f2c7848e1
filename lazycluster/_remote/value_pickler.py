"""Pickle values and exceptions of functions, on cloudpickle.

cloudpickle has been imported before this module, see `unpickler.make_pickler`.
"""

import copyreg
import io
import pickle
import sys

import cloudpickle

from . import rebuild

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HEAP_TYPE = 1 << 9  # a bit of `type.__flags__`: the class is not built in


class ValuePickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickle a value; what the manager has sent is named by its key."""

    def __init__(self, target: "Any") -> "None":
        super().__init__(target, pickle.HIGHEST_PROTOCOL)

    def reducer_override(self, obj: "Any") -> "Any":
        """See pickle.Pickler."""
        key = rebuild.key_of(obj)
        if key is not None:
            return rebuild.arrived, (key,)
        return super().reducer_override(obj)


class ExceptionPickler(ValuePickler):
    """Pickle an exception without calling its class, and without open files."""

    def reducer_override(self, obj: "Any") -> "Any":
        new = copyreg.__newobj__  # type: ignore[attr-defined]
        if isinstance(obj, BaseException) and _needs_no_init(type(obj)):
            return new, (type(obj), *obj.args), obj.__dict__ or None
        if isinstance(obj, OSError) and _is_os_error_with_init(type(obj)):
            fields = {name: getattr(obj, name) for name in _FIELDS}
            fields = {name: value for name, value in fields.items() if value is not None}
            return new, (type(obj),), dict(obj.__dict__, **fields)
        if isinstance(obj, io.IOBase) and not isinstance(obj, (io.BytesIO, io.StringIO)):
            return type(None), ()  # such as the response that urllib's HTTPError holds
        if _is_closer(obj):
            closed = {"file": None, "close_called": True, "cleanup_called": True}
            return new, (type(obj),), dict(obj.__dict__, **closed)
        return super().reducer_override(obj)


def _is_closer(obj: "Any") -> "bool":
    """Return True for what closes a temporary file when it is deleted itself.

    urllib's HTTPError has one. Since Python 3.12 it does not look whether it has a file, and so
    Python would print an error on the manager when the exception is deleted.
    """
    return isinstance(obj, getattr(sys.modules.get("tempfile"), "_TemporaryFileCloser", ()))


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


_FIELDS = ("args", "errno", "strerror", "filename", "filename2")  # of an OSError


def _is_os_error_with_init(kind: "type") -> "bool":
    """Return True if an OSError has an `__init__` of its own, which `args` need not fit."""
    makers = (("__new__", OSError), ("__reduce__", OSError), ("__reduce_ex__", object))
    init = vars(OSError)["__init__"]
    return (
        kind.__init__ is not init  # type: ignore[misc]
        and all(getattr(kind, name) is getattr(base, name) for name, base in makers)
        and not copyreg._slotnames(kind)  # type: ignore[attr-defined]
    )
