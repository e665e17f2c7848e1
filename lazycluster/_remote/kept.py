"""Keep what has travelled to an actor by value, and change what has changed on the manager.

What arrives again has most often not changed. So each part of a function or class is compared with
what came the last time, and not with what is here: what the actor has changed stays.
"""

import pickle
import types

from .._shared import by_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    Setter = Callable[[Any, Any], object]
    Part = tuple[str, Any]  # "attribute", "slot" or "cell", and its name or index

_ATOMS = frozenset([type(None), bool, int, float, complex, str, bytes])
_OTHER_SLOTS = frozenset(["__closure__", "__globals__", "_cloudpickle_submodules"])

# By the id of an object: the signature of each part, as it came the last time.
_received = {}  # type: dict[int, dict[Part, object]]


def fill(obj: "Any", state: "tuple[Setter | None, Any]") -> "None":
    """Complete an object that has been made, or change what has changed since the last time.

    Globals stay as they are here, and so do enums and classes of libraries.
    """
    setter, content = state
    parts = _parts(setter, content)
    signatures = {part: _signature(value) for part, value in parts.items()}
    before = _received.get(id(obj))
    _received[id(obj)] = signatures
    if before is not None:
        _change(obj, setter, content, parts, before)
    elif setter is None:
        vars(obj).update(content)
    else:
        setter(obj, content)


def forget(number: "int") -> "None":
    """Forget the object of this id."""
    _received.pop(number, None)


def _parts(setter: "Setter | None", content: "Any") -> "dict[Part, Any]":
    """Return the parts of a function or an ordinary class; none of anything else."""
    if setter is by_value.fill_class:
        return {("attribute", name): value for name, value in content[2].items()}
    parts = {}  # type: dict[Part, Any]
    if setter is by_value.fill_function:
        _, _, attributes, slots, _, _, _ = content
        for name, value in attributes.items():
            parts["attribute", name] = value
        for name, value in slots.items():
            if name not in _OTHER_SLOTS:
                parts["slot", name] = value
        for index, cell in enumerate(slots["__closure__"] or ()):
            try:
                parts["cell", index] = cell.cell_contents
            except ValueError:  # it is empty
                pass
    return parts


def _signature(value: "Any") -> "object":
    """Return what is equal for equal values; None of a value that cannot be compared."""
    kind = type(value)
    if kind in _ATOMS:
        return kind, value
    if kind in (classmethod, staticmethod):
        return kind, id(value.__func__)
    if kind is property:
        return kind, id(value.fget), id(value.fset), id(value.fdel)
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)):
        return id(value)
    try:
        return hash(pickle.dumps(value, 4))
    except Exception:  # a lock, for example
        return None


def _change(
    obj: "Any",
    setter: "Setter | None",
    content: "Any",
    parts: "dict[Part, Any]",
    before: "dict[Part, object]",
) -> "None":
    signatures = _received[id(obj)]
    for part, value in parts.items():
        signature = signatures[part]
        if signature is not None and signature != before.get(part):
            _set(obj, setter, content, part, value)
    for part in before.keys() - signatures.keys():
        if setter is by_value.fill_function and part[0] == "attribute":
            vars(obj).pop(part[1], None)
        elif setter is by_value.fill_class:
            try:
                type.__delattr__(obj, part[1])
            except (AttributeError, TypeError):  # the actor has deleted it
                pass
    if setter is by_value.fill_function:
        for name, value in content[5].items():
            obj.__globals__.setdefault(name, value)
    elif setter is by_value.fill_class:
        for each in content[3]:
            obj.register(each)
        by_value.add_names(content[4])


def _set(obj: "Any", setter: "Setter | None", content: "Any", part: "Part", value: "Any") -> "None":
    kind, name = part
    if setter is by_value.fill_class:
        content[1].__setattr__(obj, name, value)
    elif kind == "attribute":
        vars(obj)[name] = value
    elif kind == "slot":
        setattr(obj, name, value)
    else:
        obj.__closure__[name].cell_contents = value
