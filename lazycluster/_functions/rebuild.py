"""Rebuild what travels by value: a pickle names these functions, and each side has its own.

The host's are in `_remote.rebuild`. Here they find the object that was sent, which is what a value
means that comes back, and build anew only what this process has never had.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from typing import Any

from lazycluster.exceptions import SerializationError

_objects: weakref.WeakValueDictionary[str, object] = weakref.WeakValueDictionary()
_keys: dict[int, tuple[weakref.ref[object], str]] = {}  # by the id of an object
_made: weakref.WeakSet[Any] = weakref.WeakSet()  # built here, so not yet complete


def key_of(obj: object) -> str:
    """Return the key under which an object is found again; empty if it cannot be."""
    known = _keys.get(id(obj))
    if known is not None and known[0]() is obj:
        return known[1]
    key = os.urandom(8).hex()
    return key if remember(key, obj) else ""


def remember(key: str, obj: object) -> bool:
    """Find an object under a key, as long as it lives; False if it takes no weak references."""
    number = id(obj)
    try:
        _keys[number] = weakref.ref(obj, lambda _: _keys.pop(number, None)), key
        _objects[key] = obj
    except TypeError:  # it takes no weak references
        return False
    return True


def make(key: str, _home: object, maker: Callable[..., object], *args: object) -> object:
    """Return the object that was sent under a key; build it if this process has not sent it."""
    found = _objects.get(key)
    if found is None:
        found = maker(*args)
        if key and remember(key, found):
            _made.add(found)
    return found


def fill(obj: object, state: tuple[Callable[[object, object], object] | None, Any]) -> None:
    """Complete an object that `make` has built; the objects of this process stay as they are."""
    if obj not in _made:
        return
    _made.discard(obj)
    setter, content = state
    if setter is None:
        vars(obj).update(content)
    else:
        setter(obj, content)


def arrived(key: str) -> object:
    """Return the object that was sent under a key.

    Raises:
        SerializationError: If this process does not have it any more.
    """
    found = _objects.get(key)
    if found is None:
        raise SerializationError(
            "the value refers to a class or function that was sent, and this process does not "
            "have it any more"
        )
    return found


def shared_value(key: str) -> object:
    """Return the SharedValue that stands for what a host holds under a key."""
    return arrived(key)


def namespace(name: str, _attributes: object) -> dict[str, object]:
    """Return globals for a function that `make` builds; those of modules stay as they are."""
    return {"__name__": name}


def namespace_of_import(name: str) -> dict[str, object]:
    """Return globals for a function of a module that the host imports; see `namespace`."""
    return {"__name__": name}


def bare_module(name: str, _attributes: object) -> object:
    """Return a module of this process."""
    return sys.modules[name]


class _LeftBehind:
    """Stands for an object that stays on the manager."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple[object, ...]:
        return left_behind, (self._name,)


def left_behind(name: str) -> object:
    """Return what pickles as something that raises where a function uses it."""
    return _LeftBehind(name)
