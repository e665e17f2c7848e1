"""Make again what has travelled by value: classes, enums, type aliases, generic functions.

Code of the user that ran when a class was defined does not run again, as that of a metaclass or of
`__init_subclass__`: what it did travels with the classes.
"""

import contextlib
import functools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable, Optional

    Track = Callable[["Optional[str]", type], type]
    # A namespace, and what it must have.
    Names = Optional[tuple[dict[str, object], dict[str, object]]]


def make_class(
    track: "Track",
    key: "Optional[str]",
    metaclass: "type",
    maker: "type",
    name: "str",
    bases: "tuple[type, ...]",
    contents: "dict[str, Any]",
    silent: "tuple[type, ...]",
) -> "type":
    """Make a class without its contents.

    Args:
        track: Returns the class that was made for the key before, or notes this one.
        key: Names the class in all pickles.
        metaclass: The type of the class.
        maker: The first class among those that the metaclass derives from whose `__new__` is to
            make the class, because it does not travel by value.
        name: The name of the class.
        bases: Its bases.
        contents: What must be in its namespace from the start.
        silent: The bases whose `__init_subclass__` must not be called.
    """
    with _without_hook(silent):
        try:
            made = _make(metaclass, maker, name, bases, contents)
        except TypeError:
            # A base that is not sent may want keyword arguments, which no class keeps.
            hooked = {each for base in bases for each in base.__mro__[:-1] if _HOOK in vars(each)}
            if not hooked:
                raise
            with _without_hook(hooked):
                made = _make(metaclass, maker, name, bases, contents)
    return track(key, made)


def _make(metaclass: "Any", maker: "Any", name: "str", bases: "Any", contents: "Any") -> "Any":
    namespace = maker.__prepare__(name, bases)
    namespace.update(contents)
    made = maker.__new__(metaclass, name, bases, namespace)
    maker.__init__(made, name, bases, namespace)
    if "__parameters__" in contents:
        type.__setattr__(made, "__parameters__", contents["__parameters__"])
    return made


_HOOK = "__init_subclass__"


def _ignore(*args: "object", **kwargs: "object") -> "None":
    """Do nothing."""


@contextlib.contextmanager
def _without_hook(classes: "Any") -> "Iterator[None]":
    hooks = [(each, vars(each)[_HOOK]) for each in classes if _HOOK in vars(each)]
    changed = []
    try:
        for each, hook in hooks:
            try:
                type.__setattr__(each, _HOOK, classmethod(_ignore))
                changed.append((each, hook))
            except TypeError:
                pass  # written in C: it takes no keyword arguments
        yield
    finally:
        for each, hook in changed:
            type.__setattr__(each, _HOOK, hook)


def fill_class(
    made: "Any",
    state: "tuple[object, Any, dict[str, Any], tuple[type, ...], Names, object]",
) -> "None":
    """Give a class its contents, register virtual subclasses, add names for its annotations.

    The first and the last element of each state here matter to the pickler only.
    """
    _, maker, contents, virtual, names, _ = state
    for name, value in contents.items():
        maker.__setattr__(made, name, value)
    if "__firstlineno__" in contents:  # setting `__module__` has deleted it
        type.__setattr__(made, "__firstlineno__", contents["__firstlineno__"])
    for each in virtual:
        made.register(each)
    add_names(names)


def fill_foreign_class(
    made: "type", state: "tuple[object, Callable[[type, Any], Any], Any, Names, object]"
) -> "None":
    """Give a class its contents in the way of cloudpickle."""
    _, fill, contents, names, _ = state
    fill(made, contents)
    add_names(names)


def fill_function(function: "Any", state: "tuple[Any, ...]") -> "None":
    """Give a function its attributes and the globals that it uses, in the way of cloudpickle."""
    _, fill, attributes, slots, _, held, _ = state
    slots["__globals__"] = held
    fill(function, (attributes, slots))


def make_pointer_type(target: "type") -> "type":
    """Return the type of pointers of ctypes to a type."""
    import ctypes  # its import forgets the types that `_ctypes` has made alone

    return ctypes.POINTER(target)


def add_names(names: "Names") -> "None":
    """Add names to a namespace that does not have them yet."""
    if names is not None:
        namespace, values = names
        for name, value in values.items():
            namespace.setdefault(name, value)


class _Later:
    """Stands for the value of an enum's member until the enum is complete."""


def make_enum(
    track: "Track",
    key: "Optional[str]",
    metaclass: "Any",
    maker: "Any",
    name: "str",
    bases: "tuple[type, ...]",
    contents: "dict[str, Any]",
    silent: "tuple[type, ...]",
    base: "Any",
    members: "list[tuple[tuple[Any, ...], bool, Any]]",
    names: "dict[str, int]",
    options: "dict[str, Any]",
) -> "type":
    """Make an enum whose members have their values, but not their attributes.

    Args:
        track: As for `make_class`, and so are the next ones.
        key: See there.
        metaclass: See there.
        maker: See there.
        name: See there.
        bases: See there.
        contents: See there.
        silent: See there.
        base: The type whose `__new__` makes a member.
        members: For each member the arguments of `__new__`, whether the value is known, the value.
        names: The names of members and aliases, and the index of the member.
        options: Keyword arguments for the metaclass.
    """

    def new(cls: "Any", *args: "Any") -> "Any":
        index = args[0][0] if isinstance(args[0], tuple) else args[0]
        arguments, is_known, value = members[index]
        member = base.__new__(cls, *arguments)
        member._value_ = value if is_known else later.setdefault(index, _Later())
        return member

    later = {}  # type: dict[int, _Later]
    with _without_hook(silent):
        namespace = maker.__prepare__(name, bases)
        for key_, value in contents.items():
            namespace[key_] = value
        namespace["__new__"] = new
        namespace["__init__"] = _ignore
        for member, index in names.items():
            namespace[member] = (index,)
        made = maker.__new__(metaclass, name, bases, namespace, **options)
    for own in ("__init__", "__new_member__"):
        if own in vars(made):
            type.__delattr__(made, own)
    return track(key, made)


def fill_enum(made: "Any", state: "tuple[Any, ...]") -> "None":
    """Give an enum its contents, and its members their attributes.

    The state has the contents, the values that were not known by the names of their members, other
    values that stand for a member, the attributes of members, and names for annotations.
    """
    _, contents, values, others, attributes, names, _ = state
    for name, value in contents.items():
        type.__setattr__(made, name, value)
    if "__firstlineno__" in contents:
        type.__setattr__(made, "__firstlineno__", contents["__firstlineno__"])
    for name, value in values.items():
        member = made._member_map_[name]
        made._value2member_map_.pop(member._value_, None)
        member._value_ = value
        _add_value(made, member, value)
    for value, name in others:
        _add_value(made, made._member_map_[name], value)
    for name, own in attributes.items():
        for attribute, value in own.items():
            object.__setattr__(made._member_map_[name], attribute, value)
    add_names(names)


def _add_value(made: "Any", member: "Any", value: "Any") -> "None":
    hashable, unhashable, by_name = (
        vars(made).get(name)
        for name in ("_hashable_values_", "_unhashable_values_", "_unhashable_values_map_")
    )
    for known in (hashable, unhashable):
        if known is not None:
            known[:] = [each for each in known if type(each) is not _Later]
    try:
        made._value2member_map_.setdefault(value, member)
        if hashable is not None:
            hashable.append(value)
    except TypeError:
        if unhashable is not None:
            unhashable.append(value)
        if by_name is not None:
            by_name.setdefault(member._name_, []).append(value)


def member(enum: "Any", name: "str") -> "object":
    """Return a member of an enum by its name."""
    return enum._member_map_[name]


def make_generic_function(name: "str") -> "Any":
    """Make a function of functools.singledispatch that has no implementations yet."""

    def missing(*args: "object", **kwargs: "object") -> "None":
        raise NotImplementedError

    missing.__name__ = name
    return functools.singledispatch(missing)


def fill_generic_function(
    function: "Any", state: "tuple[list[tuple[type, Any]], dict[str, object]]"
) -> "None":
    """Register the implementations, the one for `object` among them; set attributes."""
    implementations, attributes = state
    for kind, implementation in implementations:
        function.register(kind, implementation)
    functools.update_wrapper(function, dict(implementations)[object])
    vars(function).update(attributes)


def make_cached(function: "Any", maxsize: "Optional[int]", typed: "bool") -> "Any":
    """Make a function of functools.lru_cache; its cache is empty."""
    return functools.lru_cache(maxsize, typed)(function)


def make_descriptor(base: "Any", kind: "Any", arguments: "tuple[object, ...]") -> "Any":
    """Make an object of a class derived from property, staticmethod or classmethod."""
    made = base.__new__(kind, *arguments)
    base.__init__(made, *arguments)
    return made


def make_context_variable(name: "str", options: "dict[str, Any]") -> "Any":
    """Make a ContextVar; the options have its default, if there is one."""
    import contextvars

    return contextvars.ContextVar(name, **options)


def make_local(kind: "Any") -> "Any":
    """Make an object of threading.local or of a class derived from it."""
    return kind.__new__(kind)


def make_type_variable(
    track: "Track",
    key: "Optional[str]",
    kind: "Any",
    name: "str",
    arguments: "tuple[Any, ...]",
    options: "dict[str, Any]",
    attributes: "dict[str, Any]",
) -> "Any":
    """Make a TypeVar, ParamSpec or TypeVarTuple."""
    made = kind(name, *arguments, **options)
    for attribute, value in attributes.items():
        setattr(made, attribute, value)
    return track(key, made)


def make_parameter(text: "str", module: "str", late: "dict[str, object]") -> "Any":
    """Make a type parameter from the statement that defines a function with it; see make_alias."""
    return make_alias(text, module, late).__type_params__[0]


def make_alias(text: "str", module: "str", late: "dict[str, object]") -> "Any":
    """Return what a statement of Python 3.12 defines: a type alias, or a function.

    The statement reads `late` when a value is asked for, so an alias may refer to itself.
    """
    namespace = {"__name__": module, "late": late}  # type: dict[str, Any]
    exec(text, namespace)
    return namespace.popitem()[1]


def fill_alias(
    made: "Any",  # noqa: ARG001
    state: "tuple[dict[str, object], dict[str, object]]",
) -> "None":
    """Give a type alias its value, or type parameters their bounds."""
    late, values = state
    late.update(values)


def type_parameter(alias: "Any", index: "int") -> "Any":
    """Return a parameter of a type alias."""
    return alias.__type_params__[index]
