"""A call as it travels."""

from __future__ import annotations

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
