"""Turn a call into bytes, and bytes into its value.

cloudpickle is imported with the first call, not with lazycluster.
"""

from __future__ import annotations

import functools
import inspect
import pickle
import types
from typing import TYPE_CHECKING, Any, BinaryIO, Callable

from lazycluster._functions.local_modules import is_built_in, is_local
from lazycluster._functions.package_errors import explain_here
from lazycluster._functions.pickled_call import PickledCall, describe
from lazycluster._functions.selection import NONE_NAMED, Modules
from lazycluster._shared.versions import find_packages
from lazycluster._spool import Spool
from lazycluster.exceptions import SerializationError

if TYPE_CHECKING:
    import io
    from collections.abc import Collection, Iterable, Mapping, Sequence


LARGE = 50_000_000  # bytes of a call that is worth a warning
_GENERATOR_FLAGS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
PICKLING_ERRORS = (pickle.PicklingError, TypeError, AttributeError, RecursionError)


def is_refusal(error: BaseException) -> bool:
    """Return True if an error means that an object cannot be pickled.

    Anything else comes from a user's __reduce__ or a signal handler, such as Celery's
    SoftTimeLimitExceeded, and passes as it is. A pointer of ctypes refuses with a ValueError,
    a queue of multiprocessing with a RuntimeError.
    """
    if isinstance(error, PICKLING_ERRORS):
        return True
    if type(error) not in (ValueError, RuntimeError, NotImplementedError):
        return False
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and not is_local(traceback.tb_frame.f_globals.get("__name__"))


def dump_call(
    function: Callable[..., object] | str,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    *,
    modules: Modules = NONE_NAMED,
    name: str = "",
) -> PickledCall:
    """Pickle a call.

    Pythons of this minor version that can import cloudpickle can load it.

    Args:
        function: The function, or the name of a method that an actor has.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        modules: What the user said about modules.
        name: The name of the function in messages. Defaults to its own.

    Raises:
        SerializationError: If something in the call cannot be pickled; the message names the way.
        ValueError: If a shared value in it was closed.
    """
    from lazycluster._functions.known_functions import dump_known

    try:
        known = dump_known(function, args, kwargs, modules, name)
    except Exception as error:
        if not is_refusal(error):  # a refusal comes again below, and is explained there
            raise
    else:
        if known is not None:
            return known
    return _dump_anew(function, args, kwargs, modules, name or describe(function))


def _dump_anew(
    function: Callable[..., object] | str,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    modules: Modules,
    name: str,
) -> PickledCall:
    """Pickle a call by a `CallPickler`; see `dump_call`."""
    from lazycluster._functions.pickler import CallPickler
    from lazycluster._functions.sources import Sources

    left_out: frozenset[int] = frozenset()
    while True:
        spool = Spool()
        pickler = CallPickler(spool, modules, left_out)
        try:
            pickler.dump_call(function, args, kwargs)
            break
        except Exception as error:
            if not is_refusal(error):
                raise
            refused = _refused(pickler.annotated, modules)
            if not refused:
                raise SerializationError(
                    _explain(_roots(name, function, args, kwargs), name, modules, left_out, error)
                ) from error
            left_out |= refused
    for value in pickler.shared.values():
        value._held.check_open()
    if len(spool) > LARGE:
        _warn_of_size(len(spool), _roots(name, function, args, kwargs), name, modules)
    required = frozenset(pickler.modules)
    found = {**Sources.of(modules).contents(required), **pickler.texts}
    return PickledCall(spool, found, required, modules, name, pickler.shared)


def _refused(annotated: Mapping[int, object], modules: Modules) -> frozenset[int]:
    """Return the ids of those objects that cannot be pickled: annotations can do without."""
    from lazycluster._functions.pickler import CallPickler
    from lazycluster._shared.unpicklable import Nowhere

    refused = set()
    for key, value in annotated.items():
        try:
            CallPickler(Nowhere(), modules, frozenset(annotated), held=True).dump(value)
        except Exception as error:
            if not is_refusal(error):
                raise
            refused.add(key)
    return frozenset(refused)


def dump_by_value(call: PickledCall, module: str) -> PickledCall | None:
    """Pickle a call once more after a host could not import a local module.

    From now on it travels by value, until its text changes.

    Returns:
        None if the call did not have the module as source.

    Raises:
        SerializationError: If it cannot be pickled by value.
    """
    from lazycluster._functions.sources import Sources

    if module not in call.required:
        return None
    Sources.of(call.modules).note_failure(module)
    content: Any = load_value(call.payload.open())
    return dump_call(*content, modules=call.modules, name=call.name)


def _warn_of_size(size: int, roots: list[tuple[str, object]], name: str, modules: Modules) -> None:
    from lazycluster._functions.pickler import CallPickler
    from lazycluster._functions.sizes import warn_of_size

    def make_pickler(file: object) -> CallPickler:
        return CallPickler(file, modules, held=True)  # parts may be what a module holds

    warn_of_size(size, roots, name, make_pickler)


def _explain(
    roots: list[tuple[str, object]],
    name: str,
    modules: Modules,
    left_out: frozenset[int],
    error: Exception,
) -> str:
    """Return the message of a SerializationError: the way to what cannot be pickled."""
    used = tuple(value for _, value in roots[1:])
    found = _find_refused(roots, used, modules, left_out, error)
    return f"The call cannot be pickled: {found or f'`{name}`: {_one_line(error)}'}"


def explain_refusal(root: str, value: object, modules: Modules, error: Exception) -> str:
    """Return the way to what cannot be pickled in a value, which `root` names."""
    found = _find_refused([(root, value)], (value,), modules, frozenset(), error)
    return found or _one_line(error)


def _find_refused(
    roots: list[tuple[str, object]],
    used: tuple[object, ...],
    modules: Modules,
    left_out: frozenset[int],
    error: Exception,
) -> str | None:
    from lazycluster._functions.pickler import CallPickler
    from lazycluster._shared.unpicklable import explain

    def make_pickler(file: object) -> CallPickler:
        pickler = CallPickler(file, modules, left_out)
        pickler.note_used(*used)
        return pickler

    return explain(roots, error, make_pickler)


def _roots(
    name: str, function: object, args: Sequence[object], kwargs: Mapping[str, object]
) -> list[tuple[str, object]]:
    """Return the parts of a call with their names, in the order of pickling."""
    return [
        (f"function `{name}`", function),
        *((f"positional argument {number} of `{name}`", v) for number, v in enumerate(args, 1)),
        *((f"argument `{key}` of `{name}`", value) for key, value in kwargs.items()),
    ]


def _one_line(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # a user's __str__ may raise anything
        text = ""
    text = " ".join(text.split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def load_value(
    reader: BinaryIO | io.BufferedReader,
    find_versions: Callable[[list[str]], Iterable[tuple[str, str | None]]] = lambda _: (),
) -> object:
    """Unpickle the value of a function.

    `find_versions` returns the versions of packages on the host; it is called if that fails.

    An instance of a class that travelled to the host by value comes back as an instance of the
    manager's class.

    Raises:
        SerializationError: If the value cannot be unpickled here; the message has the reason.
    """
    from lazycluster._functions.pickler import ValueUnpickler

    try:
        value: object = ValueUnpickler(reader).load()
    except Exception as error:
        if not isinstance(error, pickle.PickleError) and not is_built_in(error):
            raise  # a user's __setstate__ or a signal handler raised it
        reason = explain_here(find_packages(error), find_versions, _one_line(error))
        raise SerializationError(
            f"the value of the function cannot be unpickled here: {reason}"
        ) from error
    return value


def check_call(
    function: object,
    kwargs: Mapping[str, object],
    reserved: Mapping[str, object],
    args: Sequence[object] = (),
) -> None:
    """Check, before anything is sent, that a function can be called with these arguments.

    `reserved` has the parameters of the method that took the call, with their values; None and
    False mean that the caller did not give them.

    Raises:
        ValueError: If the function is empty, or if it has a parameter with the name of a reserved
            one that was given or that the function requires.
        TypeError: If the arguments do not fit the function.
        SerializationError: If the function is a generator function.
    """
    if function is None:
        raise ValueError("function is empty")
    if not callable(function):
        raise ValueError(f"function is empty: {type(function).__name__} is not callable")
    if not reserved and _surely_takes(function, len(args), kwargs):
        return
    check_is_no_generator(function)
    given = {key for key, value in reserved.items() if value is not None and value is not False}
    for keyword in sorted(given and given & _parameters(function)):
        raise ValueError(_taken(function, keyword))
    if _surely_takes(function, len(args), kwargs):
        return
    try:
        # The wrapped function's signature does not count: a decorator may supply arguments.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return  # many functions written in C have no signature
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        for keyword in _parameters(function) & reserved.keys():
            parameter = signature.parameters.get(keyword)
            if parameter is not None and parameter.default is parameter.empty:
                raise ValueError(_taken(function, keyword)) from None
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        cure = ""
        if reserved and inspect.Parameter.POSITIONAL_ONLY in kinds:
            cure = ". Give positional arguments by Runtime.call, or functools.partial(function, …)"
        raise TypeError(f"{describe(function)}() {error}{cure}") from None


def _surely_takes(function: object, count: int, keywords: Collection[str]) -> bool:
    """Return True if a plain function, no generator function, takes these arguments.

    If False, a signature must say it, which takes 0.1 ms.
    """
    if type(function) is not types.FunctionType or keywords:
        return False
    code = function.__code__
    if code.co_flags & _GENERATOR_FLAGS or code.co_kwonlyargcount:
        return False
    optional = len(function.__defaults__ or ())
    return code.co_argcount - optional <= count <= code.co_argcount


def check_is_no_generator(function: Callable[..., object]) -> None:
    """Check that a function is not a generator function: a call of it would run nothing."""
    flags = _find_flags(function)
    # `types.coroutine` makes a generator function one whose result can be awaited.
    if flags & inspect.CO_ASYNC_GENERATOR or (
        flags & inspect.CO_GENERATOR and not flags & inspect.CO_ITERABLE_COROUTINE
    ):
        kind = "an asynchronous generator" if flags & inspect.CO_ASYNC_GENERATOR else "a generator"
        raise SerializationError(
            f"`{describe(function)}` is {kind} function, and a generator cannot come back from a "
            "host, so it was not called. Return a list instead."
        )


def _find_flags(function: Any) -> int:
    """Return the flags of the code that a call runs; 0 for what is written in C."""
    while not isinstance(function, types.FunctionType):
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, functools._lru_cache_wrapper):
            function = function.__wrapped__
        elif isinstance(function, (types.MethodType, staticmethod)):
            function = function.__func__
        elif isinstance(function, type) or not hasattr(type(function).__call__, "__code__"):
            return 0
        else:
            function = type(function).__call__
    return function.__code__.co_flags


def _parameters(function: Callable[..., object]) -> set[str]:
    """Return the names of parameters that take keywords, without those that a partial has set."""
    names: set[str] = set()
    try:
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                names.add(name)
    except (TypeError, ValueError):
        pass  # without a signature there are no names
    while isinstance(function, functools.partial):
        names -= set(function.keywords)
        function = function.func
    return names


def _taken(function: object, keyword: str) -> str:
    return (
        f"`{keyword}` is a parameter of this method and of `{describe(function)}`. "
        f"Use functools.partial(function, {keyword}=...) to pass it to the function."
    )
