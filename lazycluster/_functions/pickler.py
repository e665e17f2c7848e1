"""cloudpickle's pickler and unpickler, as they must be for calls to a host.

What is installed travels by name, what is not travels by value: a function, class or module whose
source is neither in the standard library nor in a site-packages folder is not on the host, so its
code goes with the call. cloudpickle can do both but asks for a process-wide registration to do
the latter, which would change the pickles of everybody else in this process; so its pickler is
subclassed here. What a function imports in its body is the business of `_local_modules`.
"""

from __future__ import annotations

import functools
import marshal
import sys
import types
import weakref
from collections import ChainMap
from typing import Any, Callable, ClassVar

from lazycluster._functions.local_modules import Source, add_imports, is_local

# --- The pickler -----------------------------------------------------------------------------

_BARE_ATTRIBUTES = ("__package__", "__file__", "__doc__")

# What says where a module was found here means nothing on the host (and a spec may hold anything).
_LEFT_BEHIND = frozenset({"__builtins__", "__spec__", "__loader__", "__cached__", "__path__"})


def travelling_state(module: types.ModuleType) -> dict[str, object]:
    """What a module's contents are on the host."""
    contents = vars(module).copy()  # at once: other threads may import meanwhile
    return {name: value for name, value in contents.items() if name not in _LEFT_BEHIND}


class _BareModule:
    """Pickles as a module that has its name and no contents yet."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module

    def __reduce__(self) -> tuple[object, ...]:
        contents = vars(self._module)
        state = {name: contents[name] for name in _BARE_ATTRIBUTES if name in contents}
        if "__path__" in contents:
            state["__path__"] = list(contents["__path__"])
        return types.ModuleType, (self._module.__name__,), state


class _GlobalsOf:
    """Pickles as the namespace of a bare module."""

    def __init__(self, module: _BareModule) -> None:
        self._module = module

    def __reduce__(self) -> tuple[object, ...]:
        return vars, (self._module,)


@functools.cache
def pickler_class() -> Any:
    """The pickler, made at its first use because its base class comes from cloudpickle."""
    import dataclasses
    import importlib
    import operator
    import typing

    internals: Any = importlib.import_module("cloudpickle.cloudpickle")

    # Objects that pickle by their name alone, which a local module cannot answer for on the host.
    lru_cache_wrapper = type(functools.lru_cache(len))
    named_types = [
        getattr(typing, name) for name in ("ParamSpec", "TypeVarTuple") if hasattr(typing, name)
    ]

    def reduce_code(code: types.CodeType) -> tuple[object, ...]:
        # cloudpickle 3.1.3 replaces every file name by "<dynamic-code>". marshal keeps the whole.
        try:
            return marshal.loads, (marshal.dumps(code),)
        except ValueError:  # a tool has put a constant there that marshal cannot write
            return internals.Pickler.dispatch_table[types.CodeType](code)  # type: ignore[no-any-return]

    def reduce_lru_cache(cached: Any) -> tuple[object, ...]:
        return functools.lru_cache(**cached.cache_parameters()), (cached.__wrapped__,)

    def reduce_type_variable(variable: Any) -> tuple[object, ...]:
        return internals._make_typevar, internals._decompose_typevar(variable)

    def reduce_named_type(named: Any) -> tuple[object, ...]:
        return type(named), (named.__name__,)

    def reduce_new_type(new: Any) -> tuple[object, ...]:
        state = {"__module__": new.__module__, "__qualname__": new.__qualname__}
        return type(new), (new.__name__, new.__supertype__), state

    by_type: dict[type, Callable[[Any], tuple[object, ...]]] = {
        lru_cache_wrapper: reduce_lru_cache,
        typing.TypeVar: reduce_type_variable,
        **dict.fromkeys(named_types, reduce_named_type),
    }
    if isinstance(typing.NewType, type):  # from 3.10 on; a plain function before
        by_type[typing.NewType] = reduce_new_type

    class CallPickler(internals.Pickler):  # type: ignore[misc]  # cloudpickle has no types
        """cloudpickle's pickler that takes by value what is not installed."""

        dispatch_table: ClassVar[Any] = ChainMap(
            {types.CodeType: reduce_code}, internals.Pickler.dispatch_table
        )

        def __init__(self, file: object) -> None:
            super().__init__(file)
            self.modules_by_value: list[types.ModuleType] = []
            self.imported: dict[str, Source] = {}
            self._bare_modules: dict[str, _BareModule] = {}

        def reducer_override(self, obj: Any) -> Any:
            kind = type(obj)
            if kind is types.FunctionType:
                if is_local(obj.__module__):
                    return self._reduce_function(obj)
            elif issubclass(kind, type):
                if is_local(obj.__module__):
                    return self._reduce_class(obj)
            elif kind is types.ModuleType:
                if is_local(obj.__name__):
                    return self._reduce_module(obj)
            elif kind in by_type:
                if is_local(obj.__module__):
                    return by_type[kind](obj)
            elif kind is functools.cached_property:  # before 3.12 it holds a lock
                return kind, (obj.func,), {"attrname": obj.attrname}
            elif obj is dataclasses.MISSING:
                return "MISSING"  # by name: code compares it with `is`
            return super().reducer_override(obj)

        def _reduce_function(self, function: types.FunctionType) -> Any:
            # The functions of a module share its namespace on the host as well, also with the
            # module object if that travels: a `global` set by one is seen by all.
            module = sys.modules.get(function.__module__)
            if module is not None and function.__globals__ is vars(module):
                namespace = id(function.__globals__)
                if namespace not in self.globals_ref:
                    self.globals_ref[namespace] = _GlobalsOf(self._bare_module(module))
            return self._dynamic_function_reduce(function)

        def _dynamic_function_reduce(self, function: types.FunctionType) -> Any:
            add_imports(function, self.imported)
            return super()._dynamic_function_reduce(function)

        def _reduce_class(self, class_: type) -> Any:
            reduced = internals._dynamic_class_reduce(class_)
            make, arguments = reduced[:2]
            if make is internals._make_skeleton_class and vars(class_).get("__slots__"):
                # cloudpickle sets __slots__ when the class is made and it has no effect any more.
                # Instances made on the host would have a __dict__, which they cannot have here.
                arguments[3]["__slots__"] = vars(class_)["__slots__"]
            return reduced

        def _reduce_module(self, module: types.ModuleType) -> Any:
            # First the bare module, then its contents: they may refer back to it (two modules
            # that import each other). itemgetter(0) is the plain way to say "this one" in a pickle.
            self.modules_by_value.append(module)
            bare = self._bare_module(module)
            return operator.itemgetter(0), ((bare,),), travelling_state(module)

        def _bare_module(self, module: types.ModuleType) -> _BareModule:
            return self._bare_modules.setdefault(module.__name__, _BareModule(module))

    return CallPickler


# --- The unpickler ---------------------------------------------------------------------------


# Classes that an unpickling here has made, as opposed to those that are the manager's own.
_arrived_classes: weakref.WeakSet[type] = weakref.WeakSet()


@functools.cache
def unpickler_class() -> Any:
    """The unpickler, made at its first use as pickle takes milliseconds to import."""
    import pickle

    class ValueUnpickler(pickle.Unpickler):
        """Leaves the classes of this process as they are.

        A class by value in a pickle is an empty class and then its contents. cloudpickle finds
        out that the class is one of ours (its tracker), and sets the contents all the same:
        methods would be replaced by copies that see other globals, and class attributes by what
        they are on the host.
        """

        def find_class(self, module_name: str, global_name: str) -> Any:
            found = super().find_class(module_name, global_name)
            if module_name == "cloudpickle.cloudpickle":
                if global_name in ("_make_skeleton_class", "_make_skeleton_enum"):
                    return functools.partial(_make_class, found)
                if global_name == "_class_setstate":
                    return functools.partial(_fill_class, found)
            return found

    return ValueUnpickler


def _make_class(make: Callable[..., type], *args: Any) -> type:
    # The tracker's id is the last argument but one, for classes and for enums.
    known = sys.modules["cloudpickle.cloudpickle"]._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])
    if known is not None:
        return known  # type: ignore[no-any-return]  # cloudpickle has no types
    made = make(*args)
    _arrived_classes.add(made)
    return made


def _fill_class(fill: Callable[[type, object], type], class_: type, state: object) -> type:
    return fill(class_, state) if class_ in _arrived_classes else class_
