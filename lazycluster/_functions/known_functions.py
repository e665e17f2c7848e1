"""Remember the pickles of functions that are called again.

To pickle a function of a script takes 0.2 ms, its arguments most often a hundredth of that. A
pickle is used again only while all that it was made of is the same object, and cannot change: the
code, the defaults, what the code names in its module, the text that tracebacks show.
"""

from __future__ import annotations

import functools
import io
import operator
import pickle
import struct
import sys
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cloudpickle import cloudpickle

from lazycluster._functions import reducers
from lazycluster._functions.pickled_call import PickledCall, describe
from lazycluster._functions.pickler import (
    AS_SOURCE,
    BARE_ATTRIBUTES,
    BY_NAME,
    BY_VALUE,
    CallPickler,
    is_of_pickling,
)
from lazycluster._functions.selection import Modules
from lazycluster._functions.sources import ShownText, Sources
from lazycluster._spool import Spool

MOST = 128  # functions that are remembered
MOST_CHANGES = 3  # of what a function uses, until it is not remembered any more
MOST_BYTES = 1 << 15  # of a function's pickle; a single frame has at most twice as many
MOST_OF_ARGUMENTS = 1 << 14  # bytes in memory; UTF-8 may need twice as many

_ATOMS = frozenset([type(None), bool, int, float, str, bytes])  # never change, nor refer to others
_TEXT = frozenset([str])
_START = b"\x80\x05\x95"  # PROTO 5, FRAME; the length of the frame follows
_LENGTH = struct.Struct("<Q")
_OPERATIONS = len(_START) + _LENGTH.size  # where they begin
_MISSING, _ROOT = object(), object()

_state_of = operator.attrgetter(
    "__code__",
    "__defaults__",
    "__kwdefaults__",
    "__closure__",
    "__module__",
    "__name__",
    "__qualname__",
    "__doc__",
    "__globals__",
)


class _RefusedError(Exception):
    """The pickle of a function cannot be used again."""


class _ByName(NamedTuple):
    """A function or class that the host finds in a module."""

    module: str
    name: str
    obj: object

    def is_current(self) -> bool:
        module = sys.modules.get(self.module)
        return module is not None and vars(module).get(self.name) is self.obj


class _ByValue:
    """A function that travels by value, with all that its pickle was made of.

    Args:
        function: The function.
        root: The function whose pickle it is a part of, which this does not keep alive.
    """

    def __init__(self, function: types.FunctionType, root: types.FunctionType) -> None:
        self._state = _state_of(function)
        self._module = module = sys.modules.get(function.__module__ or "")
        if module is None or vars(module) is not function.__globals__:
            raise _RefusedError
        if function.__closure__ or function.__kwdefaults__ or vars(function):
            raise _RefusedError
        # Another module travels by value because it has changed, or the host cannot import it.
        if module.__name__ != "__main__" and not cloudpickle._is_registered_pickle_by_value(module):
            raise _RefusedError
        self._annotations = dict(function.__annotations__)
        self._is_at_home = vars(module).get(function.__qualname__) is function
        names = {
            *cloudpickle._extract_code_globals(function.__code__),
            *reducers.names_in(self._annotations),
        }
        used = [(name, function.__globals__.get(name, _MISSING)) for name in sorted(names)]
        bare = [(name, vars(module).get(name, _MISSING)) for name in BARE_ATTRIBUTES]
        self._used = [(name, _ROOT if value is root else value) for name, value in used + bare]
        self._path = list(vars(module).get("__path__", ()))
        held = [value for _, value in used if value is not _MISSING]
        for value in [*held, *(function.__defaults__ or ()), *self._annotations.values()]:
            if type(value) not in _ATOMS and not isinstance(
                value, (type, types.FunctionType, types.ModuleType)
            ):
                raise _RefusedError
        self._text = ShownText(function.__code__.co_filename, function.__globals__)

    def is_current(self, function: Any, root: types.FunctionType) -> bool:
        if not all(map(operator.is_, _state_of(function), self._state)) or vars(function):
            return False
        namespace = function.__globals__
        for name, value in self._used:
            if namespace.get(name, _MISSING) is not (root if value is _ROOT else value):
                return False
        return (
            self._text.is_current(namespace)
            and sys.modules.get(function.__module__) is self._module
            and function.__annotations__ == self._annotations
            and (namespace.get(function.__qualname__) is function) == self._is_at_home
            and [*namespace.get("__path__", ())] == self._path
        )


class _Tracer(CallPickler):
    """Note what is to be checked of the objects that are pickled, before any code of theirs runs.

    Args:
        file: Takes the pickle.
        modules: What the user said about modules.
        function: The function.
    """

    def __init__(self, file: object, modules: Modules, function: types.FunctionType) -> None:
        super().__init__(file, modules)
        self._function = function
        self.parts: list[tuple[Any, _ByName | _ByValue]] = []

    def reducer_override(self, obj: Any) -> Any:
        """See pickle.Pickler; it gets all objects but those of basic types.

        Raises:
            _RefusedError: If the object may change.
        """
        part = _part(obj, self, self._function)
        if part is not None:
            self.parts.append((obj, part))
        return super().reducer_override(obj)


class _Known:
    """The pickle of a function, and what it was made of."""

    def __init__(self, function: types.FunctionType, modules: Modules) -> None:
        file = io.BytesIO()
        pickler = _Tracer(file, modules, function)
        pickler.dump(function)
        data = file.getvalue()
        whole = io.BytesIO()
        CallPickler(whole, modules).dump_call(function, (), {})
        self.operations = data[_OPERATIONS:-1]  # without the STOP at the end
        # Large objects are outside of frames.
        if (
            len(data) > MOST_BYTES
            or not data.startswith(_START)
            or _LENGTH.unpack_from(data, len(_START)) != (len(data) - _OPERATIONS,)
            or not whole.getvalue().startswith(self.operations, _OPERATIONS)
        ):
            raise _RefusedError
        self.name = describe(function)
        self._modules = modules
        self.loaded = len(sys.modules)
        self._registry = cloudpickle.list_registry_pickle_by_value()
        self._own: _ByName | _ByValue | None = None
        self._others: list[tuple[_ByValue, Any]] = []
        self._named: list[_ByName] = []
        for obj, part in pickler.parts:
            if obj is function:
                # What is held for the function itself must not keep it alive.
                self._own = part._replace(obj=None) if isinstance(part, _ByName) else part
            elif isinstance(part, _ByName):
                self._named.append(part)
            else:
                self._others.append((part, obj))
        self.texts: Mapping[str, bytes] = dict(pickler.texts)
        self.required = frozenset(pickler.modules)
        self._sent = [name for name in self.required if pickler.rule(name) == AS_SOURCE]

    def is_current(self, function: types.FunctionType, modules: Modules) -> bool:
        """Return True if the function would be pickled in the same way now."""
        own = self._own
        return (
            (modules is self._modules or modules == self._modules)
            and len(sys.modules) == self.loaded  # submodules and local ones may be there by now
            and self._registry == cloudpickle._PICKLE_BY_VALUE_MODULES
            and (
                own._replace(obj=function).is_current()
                if isinstance(own, _ByName)
                else own is not None and own.is_current(function, function)
            )
            # Most are empty, and a generator over nothing costs as much as all other lines here.
            and (not self._others or all(part.is_current(f, function) for part, f in self._others))
            and (not self._named or all(part.is_current() for part in self._named))
            and (not self._sent or all(Sources.of(modules).has(name) for name in self._sent))
        )


def _part(obj: Any, pickler: CallPickler, root: types.FunctionType) -> _ByName | _ByValue | None:
    """Return what is to be checked of an object before a pickle of `root` with it is used again.

    Raises:
        _RefusedError: If the object may change.
    """
    kind = type(obj)
    if kind is types.CodeType or is_of_pickling(obj):
        return None
    if kind is type and obj.__module__ == "builtins":
        return None
    if kind is types.ModuleType:
        if pickler.rule(obj.__name__) == BY_VALUE:
            raise _RefusedError
        return None
    if kind is types.FunctionType and not pickler.is_by_name(obj):
        return _ByValue(obj, root)
    if kind is types.FunctionType or kind is types.BuiltinFunctionType or kind is type:
        part = _ByName(obj.__module__, obj.__qualname__, obj)
        if kind is type and pickler.rule(obj.__module__) != BY_NAME:
            raise _RefusedError
        if part.is_current():
            return part
    raise _RefusedError


class _Entry:
    """What is remembered of a function: nothing before its second call."""

    def __init__(self, function: types.FunctionType) -> None:
        number = id(function)
        self.function = weakref.ref(function, lambda _: _entries.pop(number, None))
        self.known: _Known | None = None
        self.changes = 0


_entries: dict[int, _Entry] = {}


def _find(function: object, modules: Modules) -> _Known | None:
    """Return the pickle of a function that is called again; None if it must be pickled."""
    if type(function) is not types.FunctionType:
        return None
    entry = _entries.get(id(function))
    if entry is None or entry.function() is not function:
        if len(_entries) >= MOST:
            _entries.clear()
        _entries[id(function)] = _Entry(function)
        return None
    known = entry.known
    if known is not None:
        if known.is_current(function, modules):
            return known
        entry.known = None
        entry.changes += known.loaded == len(
            sys.modules
        )  # a program imports more in its first calls
    elif entry.changes <= MOST_CHANGES:
        try:
            entry.known = _Known(function, modules)
        except _RefusedError:
            entry.changes = MOST_CHANGES + 1
        except Exception:
            entry.changes += 1
            raise
        return entry.known
    return None


def dump_known(
    function: Callable[..., object] | str,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    modules: Modules,
    name: str,
) -> PickledCall | None:
    """Pickle a call without a `CallPickler`; return None if it needs one.

    It needs none if it is a call of a method by its name, or of a function whose pickle is known,
    with plain arguments. One argument of the method may be such a function. See
    `payload.dump_call`.

    Raises:
        Exception: What pickling the function raises, or a signal handler meanwhile.
    """
    if kwargs and not _TEXT.issuperset(map(type, kwargs)):
        return None  # a class of the user's that derives from str travels with a pickler
    values = [*args, *kwargs.values()]
    dump: Callable[..., bytes]
    if _are_plain(values):
        if type(function) is str:
            data = pickle.dumps((function, tuple(args), dict(kwargs)), 5)
            return PickledCall(Spool(data), {}, frozenset(), modules, name)
        known, dump = _find(function, modules), _dump
    elif type(function) is str:
        known = _find(_only_function(values), modules)
        dump = functools.partial(_dump_method, function)
    else:
        return None
    if known is None:
        return None
    contents = known.texts
    if known.required or modules.sent:
        contents = {**Sources.of(modules).contents(known.required), **contents}
    payload = Spool(dump(known, args, kwargs))
    return PickledCall(payload, contents, known.required, modules, name or known.name)


def _are_plain(values: Sequence[object]) -> bool:
    """Return True if any pickler makes the same of these arguments, and they are small."""
    if not _ATOMS.issuperset(map(type, values)):
        return False
    return sum(map(sys.getsizeof, values)) <= MOST_OF_ARGUMENTS


def _only_function(values: Sequence[object]) -> object:
    """Return the only function among arguments that are plain otherwise; None if it is not so."""
    functions = [value for value in values if type(value) is types.FunctionType]
    if len(functions) != 1 or not _are_plain([v for v in values if v is not functions[0]]):
        return None
    return functions[0]


def _dump(known: _Known, args: Sequence[object], kwargs: Mapping[str, object]) -> bytes:
    """Pickle a call of a function that is known, with plain arguments."""
    pair = _operations_of((tuple(args), dict(kwargs)))
    return _framed(known.operations, pair[: -len(pickle.TUPLE2)])  # which leaves its two objects


def _dump_method(
    method: str, known: _Known, args: Sequence[object], kwargs: Mapping[str, object]
) -> bytes:
    """Pickle a call of a method with a function that is known among plain arguments."""

    def operations(value: object) -> bytes:
        is_known = type(value) is types.FunctionType
        return known.operations if is_known else _operations_of(value)

    items = [operations(value) for item in kwargs.items() for value in item]
    return _framed(
        _operations_of(method),
        b"".join([pickle.MARK, *map(operations, args), pickle.TUPLE]),
        b"".join([pickle.EMPTY_DICT, pickle.MARK, *items, pickle.SETITEMS]),
    )


def _operations_of(value: object) -> bytes:
    """Return what puts a plain value on the stack, and nothing into the memo.

    The memo belongs to the function's pickle.
    """
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5)
    pickler.fast = True
    pickler.dump(value)
    data = file.getvalue()
    return data[_OPERATIONS if data.startswith(_START) else 2 : -1]


def _framed(*parts: bytes) -> bytes:
    """Return the pickle of a call from the operations that make its three parts."""
    body = b"".join([*parts, pickle.TUPLE3, pickle.STOP])
    return b"".join([_START, _LENGTH.pack(len(body)), body])
