"""The pickler of calls and the unpickler of values, built on cloudpickle.

What an installed module defines travels by name, since the host has the module. What a local one
defines travels by name as well, and the module as source, see `sources`. The rest travels by
value: `__main__`, notebooks, what was made at run time, and modules that no host can import.

Import this module with the first call, not with lazycluster: the import takes 20 ms (measured).
"""

from __future__ import annotations

import enum
import inspect
import marshal
import operator
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any, Callable, ClassVar

from cloudpickle import cloudpickle

from lazycluster._functions import chunks, rebuild, reducers
from lazycluster._functions.installed_names import InstalledNames
from lazycluster._functions.local_modules import refusal
from lazycluster._functions.selection import Modules
from lazycluster._functions.sources import Sources, imported, text_content, with_inner
from lazycluster._shared import by_value

BARE_ATTRIBUTES = ("__package__", "__file__", "__doc__")

# These attributes say where the manager found a module, and a spec may hold any object.
_LEFT_BEHIND = frozenset({"__builtins__", "__spec__", "__loader__", "__cached__", "__path__"})

# Most calls name them, and none has to be looked for.
_MAKERS = frozenset(
    each
    for module in (rebuild, by_value, chunks, cloudpickle)
    for each in vars(module).values()
    if isinstance(each, types.FunctionType)
) | {marshal.loads}
_MAKER_KINDS = (types.FunctionType, types.BuiltinFunctionType)

_NAMELESS = (type(None), type(Ellipsis), type(NotImplemented))

BY_NAME, AS_SOURCE, BY_VALUE = range(3)  # how what a module defines travels


def travelling_state(module: types.ModuleType) -> dict[str, object]:
    """Return the contents of a module that travels by value."""
    contents = vars(module).copy()  # in one step, since other threads may import meanwhile
    return {name: value for name, value in contents.items() if name not in _LEFT_BEHIND}


class _Reduced:
    """Pickles as the result of a function of `rebuild`."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self._reduced = function, args

    def __reduce__(self) -> tuple[object, ...]:
        return self._reduced


def _reduce_code(code: types.CodeType) -> tuple[object, ...]:
    # cloudpickle 3.1.3 replaces every file name by "<dynamic-code>". marshal keeps everything.
    try:
        return marshal.loads, (marshal.dumps(code),)
    except ValueError:  # a tool has put a constant there that marshal cannot write
        return cloudpickle.Pickler.dispatch_table[types.CodeType](code)  # type: ignore[no-any-return]


class _Mark:
    """Tells the pickler that what a module or class holds begins or ends."""

    def __init__(self, step: int) -> None:
        self.step = step


class _Held:
    """Pickles as the contents of a module."""

    def __init__(self, contents: object) -> None:
        self._contents = contents

    def __reduce__(self) -> tuple[object, ...]:
        return operator.itemgetter(1), ((_Mark(1), self._contents, _Mark(-1)),)


def is_of_pickling(obj: Any) -> bool:
    """Return True for what is pickled for the host's half of the pickler, with any function."""
    kind = type(obj)
    return kind is _Mark or kind is _Reduced or (kind in _MAKER_KINDS and obj in _MAKERS)


def home_of(obj: Any) -> tuple[str, str] | None:
    """Return the module that has an object as an attribute, and the attribute's name."""
    name = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    if isinstance(name, str) and module is not None and vars(module).get(name) is obj:
        return module.__name__, name
    return None


class CallPickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickle a call: by name what the host has or imports from source, else by value.

    Attributes:
        modules: The names of local modules that the host must be able to import.
        texts: The content of the files whose functions travel by value, by key.
        annotated: What travels for annotations, by its id.
        shared: The values among it that a host holds, by key.

    Args:
        file: Takes the pickle.
        modules: What the user said about modules.
        left_out: Ids of objects that do not travel for annotations.
        held: True if a module holds what is pickled, so that locks in it are new ones.
        buffer_callback: See pickle.Pickler.
    """

    dispatch_table: ClassVar[Any] = ChainMap(
        {types.CodeType: _reduce_code, **reducers.REDUCERS}, cloudpickle.Pickler.dispatch_table
    )

    def __init__(
        self,
        file: object,
        modules: Modules,
        left_out: frozenset[int] = frozenset(),
        *,
        held: bool = False,
        buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None,
    ) -> None:
        super().__init__(file, buffer_callback=buffer_callback)
        self.shared: dict[str, Any] = {}
        self.modules: set[str] = set()
        self.texts: dict[str, bytes] = {}
        self.annotated: dict[int, object] = {}
        self._left_out = left_out
        self._sources = Sources.of(modules)
        self._is_local = modules.is_local
        self._rules: dict[str, int] = {}
        self._bare_modules: dict[str, _Reduced] = {}
        self._installed_names = InstalledNames(modules.is_local)
        self._made_there: dict[type, bool] = {}
        self._aliases = reducers.TypeAliases()
        self._depth = int(held)  # above 0 within what modules and classes hold
        # So that large arguments are pickled fast.
        self._without_rule: set[type] = {types.CodeType, _Reduced, _Held}
        self._used: set[int] = set()  # ids of what functions name; the rest may be left behind

    def dump_call(
        self, function: object, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> None:
        """Pickle a call."""
        self.note_used(*args, *kwargs.values())
        self.dump((function, tuple(args), dict(kwargs)))

    def note_used(self, *objects: object) -> None:
        """Note objects that a function uses, so that they are not left behind."""
        self._used |= {id(each) for each in objects}

    def rule(self, name: Any) -> int:
        """Return how what a module defines travels.

        Raises:
            pickle.PicklingError: If the module is local and cannot be sent; says the cure.
        """
        if not isinstance(name, str):  # anything may be a `__module__`
            return BY_NAME
        found = self._rules.get(name)
        if found is None:
            found = self._rules[name] = self._find_rule(name)
        return found

    def _find_rule(self, name: str) -> int:
        if name == "__main__":
            return BY_VALUE
        module = sys.modules.get(name)
        if module is not None and cloudpickle._is_registered_pickle_by_value(module):
            return BY_VALUE
        if not self._is_local(name):
            contents = getattr(module, "__dict__", {"__file__": None})
            made_here = not {"__file__", "__path__"} & contents.keys()
            return BY_VALUE if made_here and contents.get("__spec__") is None else BY_NAME
        reason = refusal(name)
        if reason is not None:
            raise pickle.PicklingError(reason)
        return AS_SOURCE if self._sources.has(name) else BY_VALUE

    def _require(self, name: Any) -> None:
        """Note that the host must import a module, if that is sent."""
        if self.rule(name) == AS_SOURCE:
            self.modules.add(name)

    def reducer_override(self, obj: Any) -> Any:
        """See pickle.Pickler; called for each object that is not of a basic type."""
        kind = type(obj)
        if kind in self._without_rule or (kind in _MAKER_KINDS and obj in _MAKERS):
            return NotImplemented
        if kind is _Mark:
            self._depth += obj.step
            return bool, ()
        if getattr(kind, "_is_shared_value", False):
            key = obj._held.key
            self.shared[key] = obj
            return rebuild.shared_value, (key,)
        if getattr(kind, "_stays_here", False) and id(obj) not in self._used:
            return rebuild.left_behind, (kind.__name__,)
        named = self._installed_names.reduce(obj, kind)
        if named is not None:
            return named
        if kind is types.FunctionType:
            if self.is_by_name(obj):
                return NotImplemented
            return self._dynamic_function_reduce(obj)
        if issubclass(kind, type):
            if self._is_made_there(obj):
                return self._reduce_class(obj)
            self._require(obj.__module__)
            return super().reducer_override(obj)
        if kind is types.ModuleType:
            return self._reduce_module(obj)
        reduced = self._reduce_other(obj, kind)
        return super().reducer_override(obj) if reduced is None else reduced

    def _is_made_there(self, class_: type) -> bool:
        """Return True for a class that travels by value."""
        found = self._made_there.get(class_)
        if found is None:
            if class_ in _NAMELESS or class_ in cloudpickle._BUILTIN_TYPE_NAMES:
                found = False  # cloudpickle has reducers for them
            else:
                is_sent = self.rule(class_.__module__) == BY_VALUE
                found = is_sent or not cloudpickle._should_pickle_by_reference(class_)
            self._made_there[class_] = found
        return found

    def _reduce_other(self, obj: Any, kind: type) -> Any:
        """Return the reduction of what is neither a function, a class nor a module, or None."""
        if kind in reducers.NAMED:
            if self.is_by_name(obj):
                return None
            found = self._aliases.reduce_parameter(obj)
            return self._tracked(obj, reducers.NAMED[kind](obj)) if found is None else found
        if kind is reducers.ALIAS:
            return None if self.is_by_name(obj) else self._tracked(obj, self._aliases.reduce(obj))
        if "<locals>" not in kind.__qualname__:
            self._require(kind.__module__)  # an object may pickle as a name of that module
        if isinstance(kind, enum.EnumMeta) and self._is_made_there(kind):
            return reducers.reduce_member(obj)
        reduced = reducers.reduce_descriptor(obj, kind)
        if reduced is not None:
            return reduced
        reduced = reducers.reduce_fresh(obj, kind)
        if reduced is not None:
            return reduced if self._depth else None
        if any("__qualname__" in vars(base) for base in kind.__mro__):
            self._require(getattr(obj, "__module__", None))  # a function written in C
        elif not self._installed_names.may_name(kind):
            self._without_rule.add(kind)
        return None

    def is_by_name(self, obj: Any) -> bool:
        """Return True if the host finds an object as an attribute of a module."""
        name = getattr(obj, "__qualname__", None) or obj.__name__
        rule = self.rule(obj.__module__)
        if rule == BY_VALUE:
            return False
        if isinstance(obj, types.FunctionType):
            defined_in = self.rule(obj.__globals__.get("__name__"))
            if rule == BY_NAME != defined_in:
                return False  # the user has put it in the place of an installed module's
        found = cloudpickle._lookup_module_and_qualname(obj, name=name)
        if found is None or self.rule(found[0].__name__) == BY_VALUE:
            return False
        self._require(found[0].__name__)
        return True

    def _tracked(self, obj: object, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a reduction by value after which the host knows what it has made."""
        maker, args = reduced[:2]
        state = reduced[2] if len(reduced) > 2 else None
        setter = reduced[5] if len(reduced) > 5 else None
        home = home_of(obj)
        if home is not None and self.rule(home[0]) != BY_VALUE:
            home = None  # the host's module has what is its own
        made = (rebuild.key_of(obj), home, maker, *args)
        if state is None:
            return rebuild.make, made
        return rebuild.make, made, (setter, state), None, None, rebuild.fill

    def _dynamic_function_reduce(self, function: types.FunctionType) -> Any:
        code, globals_ = function.__code__, function.__globals__
        name = str(globals_.get("__name__"))
        package = globals_.get("__package__")
        if not isinstance(package, str):
            package = name.rpartition(".")[0]
        module = sys.modules.get(name)
        by_name = False
        if module is not None and globals_ is vars(module):
            by_name = self.rule(name) != BY_VALUE
            # The functions of a module share one namespace on the host as well, also with the
            # module object if that travels: all see a `global` that one of them sets.
            self._namespace(module)
        self.modules |= imported(code, package)
        text = text_content(code.co_filename, globals_)
        if text is not None:
            self.texts[text[0]] = text[1]
        if reducers.is_generic_function(function):
            return self._tracked(function, reducers.reduce_generic_function(function))
        maker, args, (attributes, slots), *_, fill = super()._dynamic_function_reduce(function)
        parameters = getattr(function, "__type_params__", ())  # new in Python 3.12
        if parameters:
            slots["__type_params__"] = parameters
        held = slots.pop("__globals__")
        self._used |= {id(value) for value in held.values()}
        self._used |= {id(cell.cell_contents) for cell in function.__closure__ or () if _full(cell)}
        if by_name:
            if _uses_globals(function):
                self._require(name)
            else:  # the host need not import the module
                args = (args[0], {"__name__": name, "__package__": package}, *args[2:])
            held, slots["_cloudpickle_submodules"] = {}, []
        else:
            held = {**self._annotated(function.__annotations__, globals_), **held}
        first = _Mark(1 if _is_held_by_module(function) else 0)
        state = (first, fill, attributes, slots, _Mark(1), held, _Mark(-1 - first.step))
        reduced = (maker, args, state, None, None, by_value.fill_function)
        return self._tracked(function, reduced)

    def _annotated(self, annotations: object, namespace: dict[str, Any]) -> dict[str, object]:
        """Return what names mean that stand in annotations as text."""
        found = {}
        for name in reducers.names_in(annotations):
            value = namespace.get(name, self)
            if value is not self and id(value) not in self._left_out:
                self.annotated[id(value)] = found[name] = value
        return found

    def _reduce_class(self, class_: type) -> Any:
        module = sys.modules.get(class_.__module__)
        names = None
        if module is not None and self.rule(class_.__module__) == BY_VALUE:
            found = self._annotated(vars(class_).get("__annotations__"), vars(module))
            names = (self._namespace(module), found) if found else None
        reduced = reducers.reduce_class(class_, self._is_made_there, names)
        if len(reduced) == 2:
            return reduced
        maker, args, state, *rest = reduced
        return self._tracked(class_, (maker, args, (_Mark(1), *state, _Mark(-1)), *rest))

    def _namespace(self, module: types.ModuleType) -> object:
        """Return what pickles as the namespace that a module's functions have on the host."""
        found = self.globals_ref.get(id(vars(module)))
        if found is None:
            name = module.__name__
            found = self.globals_ref[id(vars(module))] = (
                _Reduced(rebuild.namespace, name, bare_attributes(module))
                if self.rule(name) == BY_VALUE
                else _Reduced(rebuild.namespace_of_import, name)
            )
        return found

    def _reduce_module(self, module: types.ModuleType) -> Any:
        name = module.__name__
        if self.rule(name) != BY_VALUE:
            self._require(name)
            return cloudpickle._module_reduce(module)
        # The bare module comes before its contents, because these may refer back to it (two
        # modules that import each other). itemgetter(0) returns the bare module unchanged.
        if name not in self._bare_modules:
            self._bare_modules[name] = _Reduced(rebuild.bare_module, name, bare_attributes(module))
        bare = (self._bare_modules[name],)
        return operator.itemgetter(0), (bare,), _Held(travelling_state(module))


def _full(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_held_by_module(function: types.FunctionType) -> bool:
    """Return True if a module has a function, perhaps a decorator's under another name."""
    if home_of(function) is not None or not function.__closure__:
        return True
    module = sys.modules.get(function.__module__ or "")
    return module is not None and any(each is function for each in list(vars(module).values()))


def _uses_globals(function: types.FunctionType) -> bool:
    """Return True if a function's code or its annotations may name what its module has."""
    if any(isinstance(each, str) for each in function.__annotations__.values()):
        return True
    names = set(cloudpickle._extract_code_globals(function.__code__))
    for code in with_inner(function.__code__):
        if not code.co_flags & inspect.CO_OPTIMIZED:  # the body of a class
            names |= set(code.co_names)
    return not names.isdisjoint(function.__globals__)


def bare_attributes(module: types.ModuleType) -> dict[str, object]:
    """Return what a module that travels by value has before its contents."""
    contents = vars(module)
    state = {name: contents[name] for name in BARE_ATTRIBUTES if name in contents}
    if "__path__" in contents:
        state["__path__"] = list(contents["__path__"])
    return state


class ValueUnpickler(pickle.Unpickler):
    """Unpickle a value; what was sent from here by value is the object that was sent."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """See pickle.Unpickler."""
        if module_name == _HOST_REBUILD:
            return getattr(rebuild, global_name)
        return super().find_class(module_name, global_name)


_HOST_REBUILD = "_lazycluster._remote.rebuild"
