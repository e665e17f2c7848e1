"""A function with its arguments -> bytes; bytes -> its value.

cloudpickle is imported with the first call, not with lazycluster.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, BinaryIO, Callable

from lazycluster._functions.pickler import pickler_class, travelling_state, unpickler_class
from lazycluster._spool import Spool
from lazycluster.exceptions import SerializationError

if TYPE_CHECKING:
    import io
    from collections.abc import Mapping, Sequence

_CLOUDPICKLE_MODULES = ("cloudpickle", "cloudpickle.cloudpickle", "cloudpickle.cloudpickle_fast")


# --- From a call to bytes --------------------------------------------------------------------


def dump_call(
    function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
) -> Spool:
    """Pickle the sources of local modules, then the tuple `(function, args, kwargs)`.

    Args:
        function: The function to call on the host.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        The two pickles, for Pythons of this minor version that can import cloudpickle.

    Raises:
        SerializationError: If the function or an argument cannot be pickled; the message names it.
    """
    import pickle

    sources: dict[str, tuple[object, ...]] = {}
    while True:
        spool = Spool(pickle.dumps(sources, pickle.HIGHEST_PROTOCOL))
        pickler = pickler_class()(spool)
        try:
            pickler.dump((function, tuple(args), dict(kwargs)))
        except Exception as error:  # a user's __reduce__ may raise anything
            spool.close()
            raise SerializationError(_explain(function, args, kwargs, error)) from error
        # What is imported is known at the end, and is to come first: to unpickle may need it.
        found = {name: tuple(source) for name, source in pickler.imported.items()}
        if found.keys() <= sources.keys():
            return spool
        spool.close()
        sources = found


class _Nowhere:
    """A file to pickle into when only the error is of interest."""

    def write(self, data: bytes | memoryview) -> int:
        return len(data)


def _attempt(value: object) -> tuple[Exception | None, list[types.ModuleType]]:
    """Why a value cannot be pickled, and the modules that went by value until then."""
    pickler = pickler_class()(_Nowhere())
    try:
        pickler.dump(value)
    except Exception as error:
        return error, pickler.modules_by_value
    return None, []


def _explain(
    function: Callable[..., object],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    error: Exception,
) -> str:
    """Return the message of a SerializationError, found by pickling the parts one by one."""
    name = describe(function)
    parts: list[tuple[str, object]] = [(f"function `{name}`", function)]
    for number, value in enumerate(args, 1):
        parts.append((f"positional argument {number} of `{name}`", value))
    parts += [(f"argument `{key}` of `{name}`", value) for key, value in kwargs.items()]
    for part, value in parts:
        failure, modules = _attempt(value)
        if failure is not None:
            return f"{part} cannot be pickled: {_blame_module(modules) or _one_line(failure)}"
    return f"the call of `{name}` cannot be pickled: {_one_line(error)}"


def _blame_module(modules: list[types.ModuleType]) -> str | None:
    """Name the first of these modules that holds something unpicklable of its own."""
    for module in modules:
        for name, value in travelling_state(module).items():
            if isinstance(value, types.ModuleType):
                continue
            failure, _ = _attempt(value)
            if failure is not None:
                return (
                    f"it uses the module `{module.__name__}` as a whole, which is not installed "
                    f"and so travels by value, but `{module.__name__}.{name}` cannot be pickled "
                    f"({_one_line(failure)}). Import what the function needs from it instead "
                    f"(`from {module.__name__} import ...`), or create `{name}` in a function."
                )
    return None


def _one_line(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # a user's exception may fail even at this
        text = ""
    text = " ".join(text.split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# --- From bytes to a value -------------------------------------------------------------------


def load_value(reader: BinaryIO | io.BufferedReader) -> object:
    """Unpickle what a function returned.

    An instance of a class that travelled to the host by value comes back as an instance of the
    class that is here.

    Args:
        reader: A binary file at the beginning of the pickle.

    Returns:
        The value.

    Raises:
        SerializationError: If it cannot be unpickled here, with the reason.
    """
    try:
        value: object = unpickler_class()(reader).load()
    except Exception as error:  # a user's __setstate__ may raise anything
        message = f"the value of the function cannot be unpickled here: {_one_line(error)}"
        if isinstance(error, ImportError):
            message += ". Install here what the function's value is made of, or return plain data."
        raise SerializationError(message) from error
    return value


# --- What the host needs ---------------------------------------------------------------------


@functools.cache
def cloudpickle_sources() -> dict[str, str]:
    """The source of the installed cloudpickle, to be sent to hosts.

    Returns:
        Names of modules, the package first, with their texts.

    Raises:
        SerializationError: If it was installed without its source.
    """
    import importlib.util

    sources = {}
    for name in _CLOUDPICKLE_MODULES:
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue  # cloudpickle_fast is there for old pickles only
        get_source = getattr(spec.loader, "get_source", None)  # also from within a zip
        source = get_source(name) if get_source is not None else None
        if source is None:
            raise SerializationError(
                f"the source of {name} cannot be read, so that no function can be sent to a host. "
                "Install cloudpickle with its .py files."
            )
        sources[name] = source
    return sources


# --- What a call may look like ---------------------------------------------------------------


def describe(function: object) -> str:
    """A name of a callable for messages and logs.

    Args:
        function: A function, method, class, `functools.partial` or other callable.

    Returns:
        Its qualified name without the functions that it was defined in, such as `Model.fit`;
        that of the function within a partial; "Model object" for a callable instance.
    """
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        name = f"{type(function).__qualname__} object"
    return name.rpartition("<locals>.")[2]


def check_call(
    function: object, kwargs: Mapping[str, object], reserved: Mapping[str, object]
) -> None:
    """Find out before anything is sent whether a function can be called like this.

    Args:
        function: What is to be called.
        kwargs: Its keyword arguments.
        reserved: The keywords that the method which took the call has itself, with what they were
            given: None or False means their default.

    Raises:
        ValueError: If the function is empty, or a reserved keyword was given, or is needed, that
            the function has too.
        TypeError: If the arguments do not fit the function.
    """
    if function is None:
        raise ValueError("function is empty")
    if not callable(function):
        raise ValueError(f"function is empty: {type(function).__name__} is not callable")
    import inspect

    given = {key for key, value in reserved.items() if value is not None and value is not False}
    for keyword in sorted(given and given & _parameters(function)):
        raise ValueError(_taken(function, keyword))
    try:
        # Not of what a decorator wraps: the decorator may supply arguments.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return  # many a function written in C has none
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        for keyword in _parameters(function) & reserved.keys():
            parameter = signature.parameters.get(keyword)
            if parameter is not None and parameter.default is parameter.empty:
                raise ValueError(_taken(function, keyword)) from None
        raise TypeError(f"{describe(function)}() {error}") from None


def _parameters(function: Callable[..., object]) -> set[str]:
    """The names that a function can be given by keyword, without those that a partial has set."""
    import inspect

    names: set[str] = set()
    try:
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                names.add(name)
    except (TypeError, ValueError):
        pass  # no signature, no names
    while isinstance(function, functools.partial):
        names -= set(function.keywords)
        function = function.func
    return names


def _taken(function: object, keyword: str) -> str:
    return (
        f"`{keyword}` is a keyword of this method and a parameter of `{describe(function)}` too. "
        f"Use functools.partial(function, {keyword}=...) to give it to the function."
    )
