"""Stand in for what is missing here, and raise where a function uses it.

What is never used need not be on the host: an annotation, another method, a module's `import`.
While a call is loaded and modules are imported, a use is harmless: a stand-in decorates, can be
called, and has any attribute.
"""

import abc
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

_loading = 0  # how many loads are under way

# Python looks for these on the type, past `__getattr__`.
_BINARY = "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor"
_OTHERS = (
    "iter next reversed len getitem setitem delitem contains enter exit aenter aexit await aiter "
    "anext int float complex index round neg pos abs invert lt le gt ge"
)
_OPERATORS = [
    "__{}__".format(name)
    for name in (
        *_OTHERS.split(),
        *(prefix + name for name in _BINARY.split() for prefix in ("", "r", "i")),
    )
]


def load(action: "Callable[[], Any]") -> "Any":
    """Return what an action returns, and make the use of stand-ins harmless meanwhile."""
    global _loading
    _loading += 1
    try:
        return action()
    finally:
        _loading -= 1


def _use(stand_in: "Any", *args: "Any", **kwargs: "Any") -> "Any":
    """Return what a use gives while something is loaded; raise the reason after that."""
    if not _loading:
        reason = stand_in._reason
        names = {"name": reason.name} if isinstance(reason, ImportError) else {}
        raise type(reason)(*reason.args, **names) from None
    decorates = len(args) == 1 and not kwargs and isinstance(args[0], (types.FunctionType, type))
    return args[0] if decorates else stand_in


def _find(stand_in: "Any", name: "str") -> "Any":
    if name.startswith("__") and name.endswith("__"):
        raise AttributeError(name)  # Python and pickle ask for many
    _use(stand_in)
    return make(name, stand_in._reason)


class _MissingType(abc.ABCMeta):
    """The type of stand-ins, which are classes: they may be bases, and stand after `except`."""

    __getattr__ = _find

    def __call__(cls, *args: "Any", **kwargs: "Any") -> "Any":
        found = _use(cls, *args, **kwargs)
        return _new(cls) if found is cls else found


def _new(cls: "Any", *_args: "Any", **_kwargs: "Any") -> "Any":
    _use(cls)
    return Exception.__new__(cls)


def _ignore(*_args: "Any", **_kwargs: "Any") -> "None":
    """Take any arguments."""


def _stated(answer: "Callable[..., Any]") -> "Callable[..., Any]":
    """Return a method that raises after the load, where Python would have an answer of its own."""

    def method(stand_in: "Any", *args: "Any") -> "Any":
        _use(stand_in)
        return answer(stand_in, *args)

    return method


_METHODS = {
    "__new__": _new,
    "__init__": _ignore,
    "__init_subclass__": classmethod(_ignore),
    "__setstate__": _ignore,
    "__getattr__": _find,
    "__call__": _use,
    "__hash__": Exception.__hash__,
    "__str__": _stated(object.__repr__),
    "__format__": _stated(lambda stand_in, _: object.__repr__(stand_in)),
    "__bool__": _stated(lambda _: True),
    "__eq__": _stated(lambda stand_in, other: stand_in is other),
}  # type: dict[str, Any]
for _name in _OPERATORS:
    _METHODS[_name] = _use
    setattr(_MissingType, _name, _use)


def _explained(reason: "Exception") -> "Exception":
    name = getattr(reason, "name", None) or ""
    if name.partition(".")[0] != "lazycluster":
        return reason
    text = "lazycluster stays on the manager, and a function on a host cannot use it"
    return ModuleNotFoundError(text, name=name)


def make(name: "str", reason: "Exception") -> "Any":
    """Return a stand-in for a class, a function or any other object, by its name."""
    reason = _explained(reason)
    module = getattr(reason, "name", None) or ""
    return _MissingType(name, (Exception,), dict(_METHODS, _reason=reason, __module__=module))


class _MissingModule(types.ModuleType):
    """Stands in for a module."""

    __getattr__ = _find


def make_module(name: "str", reason: "Exception") -> "Any":
    """Return a stand-in for a module."""
    module = _MissingModule(name)
    vars(module).update(_reason=_explained(reason), __path__=[])
    return module
