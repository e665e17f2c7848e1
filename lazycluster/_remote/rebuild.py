"""Rebuild what travels by value; the manager's half is `_functions.rebuild`.

Modules that travel by value are registered, so that `pickle`, `multiprocessing` and `inspect` find
in them what was made.
"""

import importlib
import sys
import types
import weakref

from . import stand_ins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

# By the id of what was made: the object and its key. After `keep` it is a weak reference.
_keys = {}  # type: dict[int, tuple[object, str]]
_modules = {}  # type: dict[str, Any]  # those that travel by value
shared = {}  # type: dict[str, Any]  # what this process's branch holds, by key
_by_key = None  # type: weakref.WeakValueDictionary[str, Any] | None  # for later calls
_kept = None  # type: Any  # the module of that name, after `keep`


def keep() -> "None":
    """Make each object once, however often it arrives, in a process that runs many calls.

    That holds as long as something else has the object, its module for example.
    """
    global _by_key, _kept
    _by_key = weakref.WeakValueDictionary()
    _kept = importlib.import_module(__package__ + ".kept")  # sent with the first function


def make(
    key: "str",
    home: "tuple[str, str] | None",
    maker: "Callable[..., object]",
    *args: "object",
) -> "object":
    """Make an object, remember its key, and set it as an attribute of its module.

    Args:
        key: What the manager knows it by.
        home: The module, one that travels by value, and the attribute; None for a nameless object.
        maker: What makes the object.
        *args: What it is made of.
    """
    kept = None if _by_key is None else _by_key.get(key)
    if kept is not None:
        _update_code(kept, *args)
        return kept
    made = maker(*args)
    if key:
        _remember(key, made)
    if home is not None:
        setattr(bare_module(home[0], {}), home[1], made)
    return made


def _update_code(kept: "Any", code: "object" = None, *_: "object") -> "None":
    """Give a function that was kept the code that it has on the manager now."""
    is_function = isinstance(kept, types.FunctionType) and isinstance(code, types.CodeType)
    if is_function and kept.__code__ != code:
        kept.__code__ = code


def _remember(key: "str", made: "Any") -> "None":
    number = id(made)
    if _by_key is None:
        _keys[number] = made, key
        return
    _kept.forget(number)
    try:
        _keys[number] = weakref.ref(made, lambda _: _forget_object(number)), key
        _by_key[key] = made
    except TypeError:  # it takes no weak references
        _keys[number] = made, key


def _forget_object(number: "int") -> "None":
    _keys.pop(number, None)
    _kept.forget(number)


def fill(obj: "Any", state: "tuple[Callable[[object, object], object] | None, Any]") -> "None":
    """Complete an object that `make` has made; one that was kept gets what is new, see `kept`."""
    if _kept is not None and id(obj) in _keys:
        _kept.fill(obj, state)
        return
    setter, content = state
    if setter is None:
        vars(obj).update(content)
    else:
        setter(obj, content)


def key_of(obj: "object") -> "str | None":
    """Return the key under which the manager has an object; None if it was made here."""
    known = _keys.get(id(obj))
    return None if known is None else known[1]


def arrived(key: "str") -> "None":
    """Name what the manager has under a key; only the manager calls it."""


def bare_module(name: "str", attributes: "dict[str, object]") -> "Any":
    """Return the module that travels by value under this name."""
    module = _modules.get(name)
    if module is None:
        module = sys.modules[name] if name == "__main__" else type(sys)(name)
        _modules[name] = sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], last, module)
    vars(module).update(attributes)
    return module


def has_modules() -> "bool":
    """Return True if a module that travels by value has arrived."""
    return bool(_modules)


def forget(name: "str") -> "None":
    """Forget a module that travels by value."""
    _modules.pop(name, None)
    sys.modules.pop(name, None)


def namespace(name: "str", attributes: "dict[str, object]") -> "dict[str, object]":
    """Return the globals of a module that travels by value."""
    return vars(bare_module(name, attributes))  # type: ignore[no-any-return]


def namespace_of_import(name: "str") -> "dict[str, object]":
    """Return the globals of a module that is imported here."""
    return vars(importlib.import_module(name))


def left_behind(name: "str") -> "Any":
    """Return what stands in for an object that stays on the manager."""
    return stand_ins.make(
        name,
        RuntimeError(
            "a {} stays on the manager, and a function on a host cannot use it".format(name)
        ),
    )


def shared_value(key: "str") -> "Any":
    """Return what a branch, from which this process was forked, holds under a key."""
    if key not in shared:
        raise RuntimeError(
            "A new Python does not have the shared values of the function that has started it. "
            "Start processes by multiprocessing.get_context('fork')."
        )
    return shared[key]
