"""What users say about modules: which are sent although installed, and which are left."""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import dataclass

from lazycluster._functions.installed import is_of_standard_library
from lazycluster._functions.local_modules import (
    OWN_PACKAGES,
    compiled_member,
    find_compiled_below,
    find_spec,
    is_local,
)


@dataclass(frozen=True)
class Modules:
    """The modules that a user has named; their own metadata decides about all others."""

    sent: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()

    def is_local(self, name: object) -> bool:
        """Return True if the module with this name is sent to the host."""
        if isinstance(name, str) and (self.sent or self.left):
            top = name.partition(".")[0]
            if top in self.sent:
                return True
            if top in self.left:
                return False
        return is_local(name)

    def replaced(self, modules: Iterable[str] | None, installed: Iterable[str] | None) -> Modules:
        """Return this selection with other names, after a check; what is named last counts.

        Args:
            modules: Names of modules to send, or None.
            installed: Names of modules to leave, or None.

        Raises:
            TypeError: If one is not a list, a tuple or a set of strings.
            ValueError: If a name is in both, or is not the name of a top-level module, or if a
                module to send cannot be found or cannot be sent.
        """
        if modules is None and installed is None:
            return self
        sent = _checked_names("modules", modules)
        left = _checked_names("installed", installed)
        for name in sorted(sent & left):
            raise ValueError(f"{name!r} is both in modules and in installed; name it in one.")
        for name in sorted(sent):
            _check_sent(name)
        return Modules((self.sent - left) | sent, (self.left - sent) | left)


NONE_NAMED = Modules()


def _checked_names(option: str, names: object) -> frozenset[str]:
    if names is None:
        return frozenset()
    if isinstance(names, str):
        raise TypeError(f"{option} must be a list of names, not a string: {option}=[{names!r}].")
    if not isinstance(names, (list, tuple, set, frozenset)):
        raise TypeError(f"{option} must be a list of names, not {type(names).__name__}.")
    for name in names:
        if isinstance(name, types.ModuleType):
            raise TypeError(f"{option} must have names, not modules: {option}=[{name.__name__!r}].")
        if not isinstance(name, str):
            raise TypeError(f"{option} must have names, not {type(name).__name__}.")
        top = name.partition(".")[0]
        if name != top and top.isidentifier():
            raise ValueError(
                f"{option} must name top-level modules, not {name!r}: {option}=[{top!r}]."
            )
        if name == "__main__":
            raise ValueError(f"{option} cannot name '__main__', which always travels.")
        if not name.isidentifier():
            raise ValueError(f"{option} must have names of modules, not {name!r}.")
    return frozenset(names)


def _check_sent(name: str) -> None:
    """Check that a module can be sent.

    Raises:
        ValueError: If it cannot be; the message has the reason.
    """
    if name in OWN_PACKAGES:
        raise ValueError(f"modules cannot name {name!r}, which lazycluster brings along itself.")
    spec = find_spec(name)
    if spec is None:
        raise ValueError(f"modules names {name!r}, but there is no module of that name here.")
    folders = spec.submodule_search_locations or []
    paths = [spec.origin] if spec.has_location else folders
    if spec.origin in ("built-in", "frozen") or any(
        is_of_standard_library(path) for path in paths if path is not None
    ):
        raise ValueError(f"modules names {name!r}, which is in the standard library of each host.")
    compiled = compiled_member(name)
    if compiled is None and not spec.has_location:  # a folder without __init__.py
        compiled = next(filter(None, map(find_compiled_below, folders)), None)
    if compiled is not None:
        raise ValueError(
            f"modules names {name!r}, but {compiled} is compiled and cannot travel. "
            f"Install {name} on the host."
        )
