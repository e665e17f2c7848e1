"""How objects travel by value for which cloudpickle has no reducer, or one that loses something.

Each function returns a reduction, see `pickle.Pickler.reducer_override`; `_shared.by_value` makes
the object on the host. Objects refer to each other in circles. Therefore the arguments of a
reduction have only what does not lead back to the object, and its state has the rest.
"""

from __future__ import annotations

import contextvars
import copyreg
import enum
import functools
import operator
import queue
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any

from cloudpickle import cloudpickle

from lazycluster._shared import by_value

_Reduction = tuple[Any, ...]

# Metaclasses whose work is in the contents of the class: `by_value` need not repeat it.
_STANDARD = ("builtins", "abc", "enum", "typing")

# What an enum gets when it is made, from the names and values of its members.
_MADE_BY_ENUM = (
    "_member_names_",
    "_member_map_",
    "_value2member_map_",
    "_hashable_values_",
    "_unhashable_values_",
    "_unhashable_values_map_",
)
_MADE_BY_MEMBER = ("_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_")


def reduce_class(class_: type, is_sent: Callable[[type], bool], names: object) -> _Reduction:
    """Reduce a class.

    Args:
        class_: The class.
        is_sent: Returns True for a class that travels by value.
        names: Names for its annotations, for `by_value.add_names`.
    """
    metaclass: Any = type(class_)
    maker = next(each for each in metaclass.__mro__ if not is_sent(each))
    if metaclass.__module__ == "_ctypes" and not {"_type_", "_fields_"}.isdisjoint(vars(class_)):
        return _reduce_c_type(class_, names)
    if class_.__module__ == "_ctypes" and issubclass(class_, type):
        return type, (_with_metaclass(class_),)  # the module does not show it
    if maker.__module__ not in _STANDARD:
        return _reduce_foreign_class(class_, names)
    contents, _ = cloudpickle._class_getstate(class_)
    virtual = tuple(contents.pop("_abc_impl", ()))
    silent = tuple(each for each in class_.__mro__[1:] if is_sent(each))
    first: dict[str, object] = {
        "__module__": class_.__module__,
        "__qualname__": class_.__qualname__,
    }
    common = (
        cloudpickle._lookup_class_or_track,
        cloudpickle._get_or_create_tracker_id(class_),
        metaclass,
        maker,
        class_.__name__,
        class_.__bases__,
        first,
        silent,
    )
    if issubclass(class_, enum.Enum):
        return _reduce_enum(class_, common, contents, names)
    own = vars(class_)
    if "__slots__" in own:
        first["__slots__"] = own["__slots__"]
    if isinstance(own.get("__dict__"), property):
        first["__dict__"] = own["__dict__"]
    if "__orig_bases__" in own:
        first["__orig_bases__"] = ()  # typing wants some; those of the class lead back to it
    if own.get("__parameters__"):
        first["__parameters__"] = own["__parameters__"]  # `Box[int]` needs them
    if maker.__module__ == "typing" and not issubclass(maker, type(typing.Protocol)):
        common = (*common[:3], type, *common[4:])  # TypedDict's takes no plain bases
    state = (maker if issubclass(maker, type) else type, contents, virtual, names)
    return by_value.make_class, common, state, None, None, by_value.fill_class


def _reduce_foreign_class(class_: type, names: object) -> _Reduction:
    # The metaclass of a library does its work when the class is made: by cloudpickle, and again
    # for each attribute that is set.
    make, arguments, state, *_, fill = cloudpickle._dynamic_class_reduce(class_)
    if "__slots__" in vars(class_):
        # cloudpickle sets __slots__ after the class is made, which has no effect: instances
        # made on the host would have a __dict__, which they cannot have on the manager.
        arguments[3]["__slots__"] = vars(class_)["__slots__"]
    return make, arguments, (fill, state, names), None, None, by_value.fill_foreign_class


def _with_metaclass(metaclass: type) -> object:
    """Return a class of ctypes, which has a name, by its metaclass."""
    return next(each for each in vars(sys.modules["ctypes"]).values() if type(each) is metaclass)


def _reduce_c_type(class_: Any, names: object) -> _Reduction:
    """Reduce an array, a pointer, a structure or a union of ctypes."""
    own = vars(class_)
    if "_length_" in own:
        return operator.mul, (class_._type_, class_._length_)
    if "_type_" in own and isinstance(class_._type_, type):
        return by_value.make_pointer_type, (class_._type_,)
    make, arguments, (contents, slots), *_, fill = cloudpickle._dynamic_class_reduce(class_)
    for name in ("_pack_", "_layout_", "_align_", "_anonymous_"):  # come before the fields
        if name in contents:
            arguments[3][name] = contents.pop(name)
    for name, *_ in own.get("_fields_", ()):
        contents.pop(name, None)  # the host makes them of `_fields_`
    return (
        make,
        arguments,
        (fill, (contents, slots), names),
        None,
        None,
        by_value.fill_foreign_class,
    )


def _reduce_enum(
    class_: Any, common: tuple[Any, ...], contents: dict[str, Any], names: object
) -> _Reduction:
    base = _maker_of_members(class_._member_type_)
    members: list[tuple[tuple[object, ...], bool, object]] = []
    values: dict[str, object] = {}
    attributes: dict[str, dict[str, object]] = {}
    index: dict[str, int] = {}
    for name, member in class_._member_map_.items():
        contents.pop(name, None)
        if member._name_ != name:  # an alias
            continue
        index[name] = len(members)
        is_known = _is_plain(member._value_)
        members.append((_arguments(base, member), is_known, member._value_ if is_known else None))
        if not is_known:
            values[name] = member._value_
        own = _attributes(class_, member)
        if own:
            attributes[name] = own
    positions = {name: index[each._name_] for name, each in class_._member_map_.items()}
    others = [
        (value, member._name_)
        for value, member in class_._value2member_map_.items()
        if member._name_ in index and value != member._value_
    ]
    for name in _MADE_BY_ENUM:
        contents.pop(name, None)
    boundary = getattr(class_, "_boundary_", None)
    options = {} if boundary is None else {"boundary": boundary}
    return (
        by_value.make_enum,
        (*common, base, members, positions, options),
        (contents, values, others, attributes, names),
        None,
        None,
        by_value.fill_enum,
    )


def _maker_of_members(kind: type) -> type:
    """Return the type that makes the data of members, which is none of the user's."""
    return next(
        each for each in kind.__mro__ if "__new__" in vars(each) and not _is_in_python(each)
    )


def _is_in_python(kind: type) -> bool:
    made = vars(kind)["__new__"]
    return isinstance(made, (types.FunctionType, staticmethod))


def _arguments(base: Any, member: Any) -> tuple[object, ...]:
    """Return the arguments with which `__new__` of a type makes the data of a member."""
    if base is object:
        return ()
    if hasattr(base, "__getnewargs__"):
        return tuple(base.__getnewargs__(member))
    make, arguments = base.__reduce_ex__(member, 2)[:2]
    return tuple(arguments[1:] if make is copyreg.__newobj__ else arguments)  # type: ignore[attr-defined]


def _is_plain(value: object) -> bool:
    """Return True if a value cannot lead back to the enum."""
    if type(value) in (tuple, frozenset):
        return all(map(_is_plain, typing.cast("tuple[object, ...]", value)))
    return value is None or type(value) in (bool, int, float, complex, str, bytes)


def _attributes(class_: type, member: Any) -> dict[str, object]:
    own = {name: value for name, value in vars(member).items() if name not in _MADE_BY_MEMBER}
    for name in copyreg._slotnames(class_):  # type: ignore[attr-defined]
        if hasattr(member, name):
            own[name] = getattr(member, name)
    return own


def reduce_member(member: Any) -> _Reduction | None:
    """Reduce a member of an enum that travels by value; None for a combination of flags."""
    class_, name = type(member), member._name_
    if class_._member_map_.get(name) is not member:
        return None
    return by_value.member, (class_, name)


def is_generic_function(function: types.FunctionType) -> bool:
    """Return True for a function of functools.singledispatch."""
    return function.__globals__ is vars(functools) and "_clear_cache" in vars(function)


def reduce_generic_function(function: Any) -> _Reduction:
    """Reduce a function of functools.singledispatch with its implementations."""
    made_by_functools = ("register", "dispatch", "registry", "_clear_cache", "__wrapped__")
    attributes = {
        name: value for name, value in vars(function).items() if name not in made_by_functools
    }
    return (
        by_value.make_generic_function,
        (function.__name__,),
        (list(function.registry.items()), attributes),
        None,
        None,
        by_value.fill_generic_function,
    )


def _reduce_lru_cache(cached: Any) -> _Reduction:
    attributes = {name: value for name, value in vars(cached).items() if name != "__wrapped__"}
    parameters = cached.cache_parameters()
    arguments = (cached.__wrapped__, parameters["maxsize"], parameters["typed"])
    return by_value.make_cached, arguments, attributes


def _reduce_type_variable(variable: Any) -> _Reduction:
    kind = type(variable)
    arguments: object = ()
    options = _evaluated(variable, {"bound": "__bound__", "default": "__default__"})
    if kind is typing.TypeVar:
        arguments = _evaluated(variable, {"constraints": "__constraints__"}).get("constraints", ())
        for name in ("covariant", "contravariant", "infer_variance"):
            if getattr(variable, f"__{name}__", False):
                options[name] = True
    if options.get("infer_variance") and (arguments or "bound" in options):
        return _reduce_parameter(variable)  # defined by the syntax of 3.12, so it may be circular
    attributes = {"__module__": variable.__module__}
    for name, since in (("default", (3, 13)), ("infer_variance", (3, 12))):
        if name in options and sys.version_info < since:  # typing_extensions has set it
            attributes[f"__{name}__"] = options.pop(name)
    key = cloudpickle._get_or_create_tracker_id(variable)
    track = cloudpickle._lookup_class_or_track
    fixed = (track, key, kind, variable.__name__)
    return by_value.make_type_variable, (*fixed, arguments, options, attributes)


def _reduce_parameter(parameter: Any) -> _Reduction:
    late: dict[str, object] = {}
    values: dict[str, object] = {}
    text = f"def made[{_parameter_text(parameter, 0, values)}](): pass"
    made = by_value.make_parameter, (text, parameter.__module__, late)
    return (*made, (late, values), None, None, by_value.fill_alias)


def _evaluated(typed: object, attributes: dict[str, str]) -> dict[str, Any]:
    """Return attributes by other names, without absent ones and what cannot be evaluated.

    Python 3.12 evaluates them when they are asked for, which may need a name that does not exist.
    """
    found = {}
    for name, attribute in attributes.items():
        absent = getattr(typing, "NoDefault", None) if name == "default" else None
        try:
            value = getattr(typed, attribute)
        except Exception:  # noqa: S112 - the user's expression may raise anything
            continue
        if value is not absent:
            found[name] = value
    return found


class TypeAliases:
    """Reduce the type aliases of Python 3.12 for one pickle."""

    def __init__(self) -> None:
        self._parameters: dict[int, tuple[object, int]] = {}

    def reduce(self, alias: Any) -> _Reduction:
        """Reduce an alias; its value may lead back to it."""
        late: dict[str, object] = {}
        values = _evaluated(alias, {"value": "__value__"})
        texts = []
        for index, parameter in enumerate(alias.__type_params__):
            self._parameters[id(parameter)] = alias, index
            texts.append(_parameter_text(parameter, index, values))
        name = alias.__name__ if alias.__name__.isidentifier() else "Alias"
        brackets = f"[{', '.join(texts)}]" if texts else ""
        return (
            by_value.make_alias,
            (f"type {name}{brackets} = late['value']", alias.__module__ or "__main__", late),
            (late, values),
            None,
            None,
            by_value.fill_alias,
        )

    def reduce_parameter(self, variable: object) -> _Reduction | None:
        """Reduce a type variable that belongs to an alias of this pickle; None for others."""
        found = self._parameters.get(id(variable))
        return None if found is None else (by_value.type_parameter, found)


def _parameter_text(parameter: Any, index: int, values: dict[str, object]) -> str:
    stars = {"TypeVarTuple": "*", "ParamSpec": "**"}.get(type(parameter).__name__, "")
    text = f"{stars}{parameter.__name__}"
    known = _evaluated(
        parameter, {"bound": "__bound__", "cases": "__constraints__", "default": "__default__"}
    )
    if stars:
        known.pop("bound", None)
    values.update((f"{name} {index}", value) for name, value in known.items())
    if known.get("cases"):
        cases = [f"late['cases {index}'][{case}]" for case in range(len(known["cases"]))]
        text += f": ({', '.join(cases)})"
    elif "bound" in known:
        text += f": late['bound {index}']"
    if "default" in known:
        star = "*" if stars == "*" else ""
        text += f" = {star}late['default {index}']"
    return text


def _reduce_new_type(new: Any) -> _Reduction:
    state = {"__module__": new.__module__, "__qualname__": new.__qualname__}
    return type(new), (new.__name__, new.__supertype__), state


# Reducers of types whose objects pickle by name only: the host does not have the local module in
# which it would look for the name.
NAMED: dict[type, Callable[[Any], _Reduction]] = {
    type(functools.lru_cache(len)): _reduce_lru_cache,
    typing.TypeVar: _reduce_type_variable,
}
for _name in ("ParamSpec", "TypeVarTuple"):  # new in Python 3.10 and 3.11
    if hasattr(typing, _name):
        NAMED[getattr(typing, _name)] = _reduce_type_variable
if isinstance(typing.NewType, type):  # a plain function before Python 3.10
    NAMED[typing.NewType] = _reduce_new_type


ALIAS: type | None = getattr(typing, "TypeAliasType", None)  # new in Python 3.12


def _reduce_cached_property(cached: Any) -> _Reduction:  # it holds a lock before Python 3.12
    return type(cached), (cached.func,), {"attrname": cached.attrname}


def _reduce_weak_mapping(mapping: Any) -> _Reduction:
    return type(mapping), (), None, None, iter(list(mapping.items()))


# Reducers of other types, for a dispatch table.
REDUCERS: dict[type, Callable[[Any], _Reduction]] = {
    functools.cached_property: _reduce_cached_property,
    weakref.WeakKeyDictionary: _reduce_weak_mapping,
    weakref.WeakValueDictionary: _reduce_weak_mapping,
}


def reduce_descriptor(descriptor: Any, kind: type) -> _Reduction | None:
    """Reduce an object of a class derived from property, staticmethod or classmethod."""
    arguments: tuple[object, ...]
    for base in (property, staticmethod, classmethod):
        if issubclass(kind, base) and kind is not base:
            if base is property:
                arguments = (descriptor.fget, descriptor.fset, descriptor.fdel)
            else:
                arguments = (descriptor.__func__,)
            return by_value.make_descriptor, (base, kind, arguments), vars(descriptor).copy()
    return None


def reduce_fresh(obj: Any, kind: type) -> _Reduction | None:
    """Reduce a lock or the like, which a module or class holds, to a new one; None for others.

    A new process has new ones of its own. So they are not locked and have no values.
    """
    if kind in _FRESH:
        return _FRESH[kind], ()
    if kind is contextvars.ContextVar:
        try:
            default = {"default": contextvars.Context().run(obj.get)}
        except LookupError:
            default = {}
        return by_value.make_context_variable, (obj.name, default)
    if issubclass(kind, threading.local):
        state = None if kind is threading.local else vars(obj).copy()
        return by_value.make_local, (kind,), state
    return None


_FRESH: dict[type, Callable[[], object]] = {
    type(threading.Lock()): threading.Lock,
    type(threading.RLock()): threading.RLock,
    queue.SimpleQueue: queue.SimpleQueue,
}


def names_in(annotations: object) -> set[str]:
    """Return the names that annotations need which are strings, or have strings in them."""
    found: set[str] = set()
    if isinstance(annotations, dict):
        for value in list(annotations.values()):
            _add_names(value, found, 0)
    return found


def _add_names(annotation: Any, found: set[str], depth: int) -> None:
    if depth > 20:  # an alias may have itself as an argument
        return
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        try:
            code = compile(annotation, "", "eval")
        except (SyntaxError, ValueError):
            return  # any text may stand there
        found.update(code.co_names)
        for constant in code.co_consts:  # a string in the string
            if isinstance(constant, str) and constant != annotation:
                _add_names(constant, found, depth + 1)
        return
    arguments = () if isinstance(annotation, type) else getattr(annotation, "__args__", ())
    for argument in arguments if isinstance(arguments, tuple) else ():
        _add_names(argument, found, depth + 1)
