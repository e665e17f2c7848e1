"""Rebuild what travels by value; the manager's half is `_functions.rebuild`.

Modules that travel by value are registered, so that `pickle`, `multiprocessing` and `inspect` find
in them what was made.
"""

import importlib
import sys
import types
import weakref

from .._shared import by_value
from . import stand_ins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    Setter = Callable[[object, object], object]

# By the id of what was made: the object, or a reference to what `keep` lets go; and its key.
_keys = {}  # type: dict[int, tuple[object, str]]
_modules = {}  # type: dict[str, Any]  # those that travel by value
shared = {}  # type: dict[str, Any]  # what this process's branch holds, by key
_by_key = None  # type: weakref.WeakValueDictionary[str, Any] | None  # for later calls
_complete = set()  # type: set[int]  # the ids of these


def keep() -> "None":
    """Make each object once, however often it arrives, in a process that runs many calls.

    That holds as long as something else has the object, its module for example.
    """
    global _by_key
    _by_key = weakref.WeakValueDictionary()


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
    if kept is not None and _is_still(kept, args):
        return kept
    made = maker(*args)
    if key:
        _remember(key, made)
    if home is not None:
        setattr(bare_module(home[0], {}), home[1], made)
    return made


def _is_still(kept: "Any", args: "tuple[object, ...]") -> "bool":
    """Return False if a function cannot get the code that it has on the manager now."""
    code = args[0] if args else None
    if isinstance(kept, types.FunctionType) and isinstance(code, types.CodeType):
        try:
            kept.__code__ = code
        except ValueError:  # it has other closure variables
            return False
    return True


def _remember(key: "str", made: "Any") -> "None":
    number = id(made)
    if _by_key is None:
        _keys[number] = made, key
        return
    try:
        _keys[number] = weakref.ref(made, lambda _: _forget_object(number)), key
        _by_key[key] = made
    except TypeError:  # it takes no weak references
        _keys[number] = made, key
    _complete.discard(number)


def _forget_object(number: "int") -> "None":
    _keys.pop(number, None)
    _complete.discard(number)


def fill(obj: "Any", state: "tuple[Setter | None, Any]") -> "None":
    """Complete an object that `make` has made; one that was kept gets what is new.

    It does not lose what its module has by now, nor what an enum or a library's class has.
    """
    setter, content = state
    number = id(obj)
    if number in _complete:
        if setter is by_value.fill_function:
            first, filler, attributes, *slots, held, last = content
            for name in vars(obj).keys() - attributes.keys():
                del vars(obj)[name]
            held = {k: value for k, value in held.items() if k not in obj.__globals__}
            setter(obj, (first, filler, attributes, *slots, held, last))
        elif setter is by_value.fill_class:
            setter(obj, content)
        return
    if setter is None:
        vars(obj).update(content)
    else:
        setter(obj, content)
    if _by_key is not None and number in _keys:
        _complete.add(number)


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
