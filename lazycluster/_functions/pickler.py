"""The pickler of calls and the unpickler of values, built on cloudpickle.

Installed modules travel by name. A function, class or module of another module is not on the host,
so its code travels by value.
cloudpickle can do that only after a registration that changes every pickle of this process;
therefore its pickler is subclassed here. `local_modules` finds what a function's body imports.

Import this module with the first call, not with lazycluster: the import takes 20 ms (measured).
"""

from __future__ import annotations

import functools
import marshal
import operator
import pickle
import sys
import types
import typing
import weakref
from collections import ChainMap
from typing import Any, Callable, ClassVar

from cloudpickle import cloudpickle

from lazycluster._functions.installed_names import InstalledNames
from lazycluster._functions.local_modules import Source, add_imports, refusal
from lazycluster._functions.selection import Modules

_BARE_ATTRIBUTES = ("__package__", "__file__", "__doc__")

# These attributes say where the manager found a module, and a spec may hold any object.
_LEFT_BEHIND = frozenset({"__builtins__", "__spec__", "__loader__", "__cached__", "__path__"})


def travelling_state(module: types.ModuleType) -> dict[str, object]:
    """Return the contents of a module that travels by value."""
    contents = vars(module).copy()  # in one step, since other threads may import meanwhile
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


def _reduce_code(code: types.CodeType) -> tuple[object, ...]:
    # cloudpickle 3.1.3 replaces every file name by "<dynamic-code>". marshal keeps everything.
    try:
        return marshal.loads, (marshal.dumps(code),)
    except ValueError:  # a tool has put a constant there that marshal cannot write
        return cloudpickle.Pickler.dispatch_table[types.CodeType](code)  # type: ignore[no-any-return]


def _reduce_lru_cache(cached: Any) -> tuple[object, ...]:
    return functools.lru_cache(**cached.cache_parameters()), (cached.__wrapped__,)


def _reduce_type_variable(variable: Any) -> tuple[object, ...]:
    return cloudpickle._make_typevar, cloudpickle._decompose_typevar(variable)


def _reduce_named_type(named: Any) -> tuple[object, ...]:
    return type(named), (named.__name__,)


def _reduce_new_type(new: Any) -> tuple[object, ...]:
    state = {"__module__": new.__module__, "__qualname__": new.__qualname__}
    return type(new), (new.__name__, new.__supertype__), state


# Reducers of types whose objects pickle by name only: the host does not have the local module in
# which it would look for the name.
_LOCAL_REDUCERS: dict[type, Callable[[Any], tuple[object, ...]]] = {
    type(functools.lru_cache(len)): _reduce_lru_cache,
    typing.TypeVar: _reduce_type_variable,
}
for _name in ("ParamSpec", "TypeVarTuple"):  # new in Python 3.10 and 3.11
    if hasattr(typing, _name):
        _LOCAL_REDUCERS[getattr(typing, _name)] = _reduce_named_type
if isinstance(typing.NewType, type):  # a plain function before Python 3.10
    _LOCAL_REDUCERS[typing.NewType] = _reduce_new_type


class CallPickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickle by value what is not installed."""

    dispatch_table: ClassVar[Any] = ChainMap(
        {types.CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table
    )

    def __init__(self, file: object, modules: Modules) -> None:
        super().__init__(file)
        self._modules = modules
        self.modules_by_value: list[types.ModuleType] = []  # those pickled as a whole, in order
        self.imported: dict[str, Source] = {}  # what the bodies of pickled functions import
        self._bare_modules: dict[str, _BareModule] = {}
        self._installed_names = InstalledNames(modules.is_local)
        self._without_rule: set[type] = set()  # so that large arguments are pickled fast

    def reducer_override(self, obj: Any) -> Any:
        """See pickle.Pickler; called for each object that is not of a basic type."""
        kind = type(obj)
        if kind in self._without_rule:
            return NotImplemented
        named = self._installed_names.reduce(obj, kind)
        if named is not None:
            return named
        if kind is types.FunctionType and (
            self._is_sent(obj.__module__) or self._is_sent(obj.__globals__.get("__name__"))
        ):
            return self._reduce_function(obj)
        if issubclass(kind, type) and self._is_sent(obj.__module__):
            return self._reduce_class(obj)
        if kind is types.ModuleType and self._is_sent(obj.__name__):
            return self._reduce_module(obj)
        if kind in _LOCAL_REDUCERS and self._is_sent(obj.__module__):
            return _LOCAL_REDUCERS[kind](obj)
        if kind is functools.cached_property:  # it holds a lock before Python 3.12
            return kind, (obj.func,), {"attrname": obj.attrname}
        if kind not in _LOCAL_REDUCERS and not self._installed_names.may_name(kind):
            self._without_rule.add(kind)
        return super().reducer_override(obj)

    def _is_sent(self, name: object) -> bool:
        """Return True for a module that is sent.

        Raises:
            pickle.PicklingError: If it would have to be sent and cannot be; says the cure.
        """
        if not isinstance(name, str) or not self._modules.is_local(name):
            return False
        reason = refusal(name)
        if reason is not None:
            raise pickle.PicklingError(reason)
        return True

    def _reduce_function(self, function: types.FunctionType) -> Any:
        # The functions of a module share one namespace on the host as well, also with the module
        # object if that travels: all of them see a `global` that one of them sets.
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
        reduced = cloudpickle._dynamic_class_reduce(class_)
        make, arguments = reduced[:2]
        if make is cloudpickle._make_skeleton_class and vars(class_).get("__slots__"):
            # cloudpickle sets __slots__ after the class is made, which has no effect: instances
            # made on the host would have a __dict__, which they cannot have on the manager.
            arguments[3]["__slots__"] = vars(class_)["__slots__"]
        return reduced

    def _reduce_module(self, module: types.ModuleType) -> Any:
        # The bare module comes before its contents, because these may refer back to it (two
        # modules that import each other). itemgetter(0) returns the bare module unchanged.
        self.modules_by_value.append(module)
        bare = self._bare_module(module)
        return operator.itemgetter(0), ((bare,),), travelling_state(module)

    def _bare_module(self, module: types.ModuleType) -> _BareModule:
        return self._bare_modules.setdefault(module.__name__, _BareModule(module))


class ValueUnpickler(pickle.Unpickler):
    """Unpickle a value, and leave the classes of this process as they are.

    A class by value in a pickle is an empty class, followed by its contents. cloudpickle's tracker
    finds the class that came from here, but cloudpickle sets its contents again: copies that see
    other globals would replace methods, and the host's values would replace class attributes.
    """

    def find_class(self, module_name: str, global_name: str) -> Any:
        """See pickle.Unpickler."""
        found = super().find_class(module_name, global_name)
        if module_name == cloudpickle.__name__:
            if global_name in ("_make_skeleton_class", "_make_skeleton_enum"):
                return functools.partial(_make_class, found)
            if global_name == "_class_setstate":
                return functools.partial(_fill_class, found)
        return found


# The classes that an unpickler has made here, as opposed to the manager's own classes.
_arrived_classes: weakref.WeakSet[type] = weakref.WeakSet()


def _make_class(make: Callable[..., type], *args: Any) -> type:
    # The tracker's id is the last argument but one, for classes and for enums.
    known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])
    if known is not None:
        return known  # type: ignore[no-any-return]  # cloudpickle has no types
    made = make(*args)
    _arrived_classes.add(made)
    return made


def _fill_class(fill: Callable[[type, object], type], class_: type, state: object) -> type:
    return fill(class_, state) if class_ in _arrived_classes else class_
