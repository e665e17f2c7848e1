"""Make functions as cloudpickle does, without importing it.

The names, the arguments and what they do are those of `cloudpickle.cloudpickle` from 3.0 on.
"""

import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def subimport(name: "str") -> "None":
    """Name a module that is imported, see `unpickler`."""


def _builtin_type(name: "str") -> "type":
    return getattr(types, name)  # type: ignore[no-any-return]


def _make_empty_cell() -> "Any":
    def inner() -> "object":
        return cell  # noqa: F821 - it is deleted below

    cells = inner.__closure__
    cell = None
    del cell
    return cells[0]  # type: ignore[index]


def _make_function(
    code: "types.CodeType", names: "dict[str, Any]", name: "str", defaults: "Any", closure: "Any"
) -> "types.FunctionType":
    names["__builtins__"] = __builtins__
    return types.FunctionType(code, names, name, defaults, closure)


def _function_setstate(function: "types.FunctionType", state: "Any") -> "None":
    attributes, slots = state
    vars(function).update(attributes)
    contents, cells = slots.pop("__globals__"), slots.pop("__closure__")
    slots.pop("_cloudpickle_submodules")  # they have been imported
    function.__globals__.update(contents)
    function.__globals__["__builtins__"] = __builtins__
    for own, cell in zip(function.__closure__ or (), cells or ()):
        try:
            own.cell_contents = cell.cell_contents
        except ValueError:  # it is empty
            continue
    for name, value in slots.items():
        setattr(function, name, value)
