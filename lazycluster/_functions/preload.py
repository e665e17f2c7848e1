"""The modules that are imported on a host once, before its functions."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from lazycluster._functions.selection import NONE_NAMED, Modules


class Preload(NamedTuple):
    """What a process on the host imports, of which functions are forked.

    Attributes:
        names: The names of the modules, in the order of import.
        modules: What the user said about modules.
        environment: The variables that they are imported with.
    """

    names: tuple[str, ...] = ()
    modules: Modules = NONE_NAMED
    environment: Mapping[str, str] = MappingProxyType({})

    def pack(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return the description that the supervisor takes, and the local modules by key."""
        from lazycluster._functions.sources import Sources

        contents = Sources.of(self.modules).contents(self.names)
        description = {
            "modules": self.names,
            "contents": sorted(contents),
            "environment": dict(self.environment),
        }
        return description, contents


def checked_preload(names: object) -> tuple[str, ...]:
    """Return the names of modules to preload, each once, after a check.

    Raises:
        TypeError: If they are not a list, a tuple or a set of strings.
        ValueError: If one is not the name of a module.
    """
    if isinstance(names, str):
        raise TypeError(f"preload must be a list of names, not a string: preload=[{names!r}].")
    if not isinstance(names, (list, tuple, set, frozenset)):
        raise TypeError(f"preload must be a list of names, not {type(names).__name__}.")
    ordered: Iterable[object] = sorted(names) if isinstance(names, (set, frozenset)) else names
    checked: dict[str, None] = {}
    for name in ordered:
        if isinstance(name, types.ModuleType):
            raise TypeError(f"preload must have names, not modules: preload=[{name.__name__!r}].")
        if not isinstance(name, str):
            raise TypeError(f"preload must have names, not {type(name).__name__}.")
        if name == "__main__":
            raise ValueError("preload cannot name '__main__', which travels with each function.")
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"preload must have names of modules, not {name!r}.")
        checked[name] = None
    return tuple(checked)
