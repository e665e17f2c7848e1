"""A call as it travels, and the name of a function."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from lazycluster._functions.selection import NONE_NAMED, Modules
from lazycluster._spool import Spool

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOTHING: dict[str, Any] = {}  # a call is pickled with its task, which a mappingproxy cannot be


class PickledCall(NamedTuple):
    """A pickled call, and what it refers to.

    Attributes:
        payload: The pickle of `(function, args, kwargs)`.
        contents: What it refers to, by key: local modules and texts, see `sources`.
        required: The local modules that the host must import to load it.
        modules: What the user said about modules.
        name: The name of the function in messages.
        shared: The values among it that a host holds, by key.
    """

    payload: Spool
    contents: Mapping[str, bytes]
    required: frozenset[str] = frozenset()
    modules: Modules = NONE_NAMED
    name: str = ""
    shared: Mapping[str, Any] = _NOTHING


def describe(function: object) -> str:
    """Return the name of a callable for messages and logs.

    It is the qualified name without enclosing functions, such as `Model.fit`; for a partial the
    name of its function, for a callable instance "Model object".
    """
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        name = f"{type(function).__qualname__} object"
    return name.rpartition("<locals>.")[2]
