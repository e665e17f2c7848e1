"""Let the public classes raise errors with one frame of lazycluster.

What a script prints of an error that it does not catch is then the user's line and the message.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from types import FunctionType, TracebackType
from typing import Any, TypeVar

from lazycluster.exceptions import LazyclusterError, RemoteTraceback

_Class = TypeVar("_Class", bound=type)

_SPECIAL = frozenset({"__init__", "__enter__", "__exit__", "__next__", "__iter__", "__call__"})
_PACKAGES = frozenset({"lazycluster", "cloudpickle"})  # whose frames say nothing to a user
_LIBRARY = os.path.join(os.path.dirname(os.__file__), "")


def short_tracebacks(cls: _Class) -> _Class:
    """Wrap the public methods and properties of a class, for the errors that leave them.

    Only a LazyclusterError, or the exception that a function raised on a host, loses frames:
    another exception may be a mistake of lazycluster's, whose frames matter.
    """
    members: dict[str, Any] = dict(vars(cls))
    for name, member in members.items():
        if name.startswith("_") and name not in _SPECIAL:
            continue
        if isinstance(member, FunctionType):
            setattr(cls, name, _wrap(member))
        elif type(member) is property:
            fget, fset, fdel = (f and _wrap(f) for f in (member.fget, member.fset, member.fdel))
            setattr(cls, name, property(fget, fset, fdel, member.__doc__))
    return cls


def _wrap(function: Any) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                return (yield from function(*args, **kwargs))
            except Exception as error:
                if _is_for_users(error):
                    raise _shortened(error)  # noqa: B904  # the same error
                raise

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if _is_for_users(error):
                    raise _shortened(error)  # noqa: B904  # the same error
                raise

    _rename(wrapper, function)
    return wrapper


def _rename(wrapper: Any, function: Any) -> None:
    """Make tracebacks show the name and the place of the method, and no line of this file."""
    code = function.__code__
    names = {"co_name": code.co_name, "co_firstlineno": code.co_firstlineno}
    if sys.version_info >= (3, 11):
        names["co_qualname"] = code.co_qualname
    file = f"<{function.__module__}>"
    wrapper.__code__ = wrapper.__code__.replace(co_filename=file, **names)


def _is_for_users(error: Exception) -> bool:
    return isinstance(error, LazyclusterError) or isinstance(error.__cause__, RemoteTraceback)


def _shortened(error: Exception) -> Exception:
    """Remove the frames of lazycluster before the first of another from an error and its causes."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and all(current is not other for other in seen):
        seen.append(current)
        current.__traceback__ = _from_user(current.__traceback__)
        hidden = current.__suppress_context__ or current.__cause__ is not None
        current = current.__cause__ if hidden else current.__context__
    return error


def _from_user(traceback: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins in a user's code, such as a callback."""
    while traceback is not None and not _is_of_user(traceback):
        traceback = traceback.tb_next
    return traceback


def _is_of_user(traceback: TracebackType) -> bool:
    frame = traceback.tb_frame
    if str(frame.f_globals.get("__name__")).partition(".")[0] in _PACKAGES:
        return False
    file = frame.f_code.co_filename
    in_library = file.startswith(_LIBRARY) and "site-packages" not in file
    return not in_library and not file.startswith("<frozen ")
