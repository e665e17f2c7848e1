"""Find the name under which an installed module has an object: the host has that object as well.

Pickled by value, such an object would be a copy. Each copy of the hidden generator behind
`random.randint` would draw the same numbers, and a copied sentinel would be another object.
Data travels by value all the same: its contents count, and a program may change them.
"""

from __future__ import annotations

import contextvars
import io
import os
import queue
import random
import struct
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import TypeGuard

# What any module may keep. Objects of other types are sought beside their class only.
_KEPT_ANYWHERE = frozenset(
    {
        type(threading.Lock()),
        type(threading.RLock()),
        threading.Condition,
        threading.Event,
        threading.Semaphore,
        threading.BoundedSemaphore,
        threading.local,
        contextvars.ContextVar,
        queue.Queue,
        queue.SimpleQueue,
        random.Random,
        random.SystemRandom,
        struct.Struct,
        object,
    }
)
_METHODS = (types.MethodType, types.BuiltinMethodType)
_WITH_NAMES = (type, types.FunctionType, types.ModuleType, *_METHODS)
_STREAMS = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")


class InstalledNames:
    """Names of objects, for one pickle: use a new one for each, because modules change.

    The objects of a type are looked for when the first of the type is pickled. So each further one
    costs a look-up in a dictionary.

    Args:
        is_local: Returns True for the name of a module that the host does not have.
    """

    def __init__(self, is_local: Callable[[object], bool]) -> None:
        self._is_local = is_local
        # For each type: id of an object → the object, a module, its name there.
        self._named: dict[type, dict[int, tuple[object, types.ModuleType, str]]] = {}

    def may_name(self, kind: type) -> bool:
        """Return False if objects of a type are pickled by value, always."""
        return issubclass(kind, _WITH_NAMES) or bool(self._of_type(kind))

    def reduce(self, obj: Any, kind: type) -> tuple[object, ...] | None:
        """Return how to pickle an object by its name, for pickle.Pickler; None if it has none."""
        found = self._of_type(kind).get(id(obj))
        if found is not None:
            _, module, name = found
        elif kind in _METHODS:
            module_of_method = self._module_of(obj)
            if module_of_method is None:
                return None
            module, name = module_of_method, obj.__name__
        else:
            return None
        return _getter(module, name) or (getattr, (module, name))

    def _of_type(self, kind: type) -> dict[int, tuple[object, types.ModuleType, str]]:
        found = self._named.get(kind)
        if found is not None:
            return found
        found = self._named[kind] = {}
        if _is_data(kind):
            return found
        for module in self._modules_with(kind):
            for name, value in list(namespace_of(module).items()):
                if type(value) is kind and id(value) not in found and self._is_on_the_host(module):
                    found[id(value)] = value, module, name
        for name in _STREAMS:
            stream = getattr(sys, name, None)
            if type(stream) is kind:  # the user's class, too: the host's stream is meant
                found.setdefault(id(stream), (stream, sys, name))
        return found

    def _module_of(self, method: Any) -> types.ModuleType | None:
        """Return an installed module that has a bound method or a function written in C."""
        owner, name = method.__self__, method.__name__
        if owner is None or isinstance(owner, types.ModuleType):
            origin = sys.modules.get(method.__module__ or "")
            if not _is_module(origin) or namespace_of(origin).get(name) is method:
                return None  # pickle finds it
        elif isinstance(owner, type) or id(owner) in self._of_type(type(owner)):
            return None  # by the name of the owner
        elif self._is_local(type(owner).__module__):
            return None
        for module in loaded_modules():
            if namespace_of(module).get(name) is method and self._is_on_the_host(module):
                return None if self._is_of_the_user(owner) else module
        return None

    def _modules_with(self, kind: type) -> Iterator[types.ModuleType]:
        """Yield the modules in which objects of a type are known by name, packages first."""
        home = kind.__module__
        if not isinstance(home, str) or self._is_local(home) or home.startswith("lazycluster."):
            return
        parts = home.split(".")
        for end in range(1, len(parts) + 1):
            module = sys.modules.get(".".join(parts[:end]))
            if _is_module(module):
                yield module
        if kind in _KEPT_ANYWHERE:
            yield from loaded_modules()

    def _is_on_the_host(self, module: types.ModuleType) -> bool:
        """Return True if a host with the same packages can import the module."""
        name = namespace_of(module).get("__name__")
        return (
            isinstance(name, str)
            and sys.modules.get(name) is module
            and namespace_of(module).get("__spec__") is not None  # None: made at run time
            and name.partition(".")[0] != "lazycluster"
            and not self._is_local(name)
        )

    def _is_of_the_user(self, owner: object) -> bool:
        """Return True if a local module has an object, whose method the user has put elsewhere."""
        return any(
            value is owner
            for module in loaded_modules()
            if self._is_local(namespace_of(module).get("__name__"))
            for value in list(namespace_of(module).values())
        )


def namespace_of(module: types.ModuleType) -> dict[str, Any]:
    """Return the contents of a module; a lazy module is not loaded by this."""
    return object.__getattribute__(module, "__dict__")  # type: ignore[no-any-return]


def loaded_modules() -> Iterator[types.ModuleType]:
    """Yield the modules that this process has imported."""
    for module in list(sys.modules.values()):  # other threads may import meanwhile
        if _is_module(module):
            yield module


def _is_module(module: object) -> TypeGuard[types.ModuleType]:
    # Some objects in sys.modules only claim to be modules, by their __class__.
    return issubclass(type(module), types.ModuleType)


def _is_data(kind: type) -> bool:
    """Return True if an object is equal to others with the same contents.

    All other objects are equal to nothing but themselves: generators of random numbers, loggers,
    locks, sentinels. Functions, classes and modules have rules of their own. The environment
    variables belong to the process, although they are a mapping; a buffer in memory is data.
    """
    equals: object = kind.__eq__
    if equals is object.__eq__:
        return issubclass(kind, _WITH_NAMES) or kind in (io.StringIO, io.BytesIO)
    return kind is not type(os.environ)


def _getter(module: types.ModuleType, name: str) -> tuple[object, ...] | None:
    """Return how to get an object that a function makes at its first call: `get_x` for `_x`.

    Until that call the host has None under the name.
    """
    if not name.startswith("_"):
        return None
    getter = namespace_of(module).get(f"get{name}")
    if not isinstance(getter, types.FunctionType):
        return None
    code = getter.__code__
    takes_nothing = code.co_argcount == code.co_kwonlyargcount == 0
    return (getter, ()) if takes_nothing and name in code.co_names else None
