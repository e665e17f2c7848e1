"""Parse and check how a step ended, as a host reports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Union

MAX_NUMBER = (1 << 31) - 1  # of an exit status, signal or errno that is believed


@dataclass(frozen=True)
class OsFailure:
    """The step's process could not start, or a copy or operation failed."""

    message: str
    errno: int | None
    path: str | None
    on_sender: bool  # True if the side that sent a file could not read it


@dataclass(frozen=True)
class PythonVersionFailure:
    """The function was not called: the host's Python, `version`, has another minor version."""

    version: str


@dataclass(frozen=True)
class PythonModulesFailure:
    """The function was not called: the host's Python lacks the standard modules in `message`."""

    message: str


@dataclass(frozen=True)
class PythonStartFailure:
    """The function was not called: the host's Python did not start with these variables."""

    variables: tuple[str, ...]


@dataclass(frozen=True)
class PreloadFailure:
    """The function was not called, or not to its end: `module` could not be preloaded."""

    module: str
    message: str


@dataclass(frozen=True)
class SharedFailure:
    """The function was not called, or not to its end: the host does not hold a shared value.

    Also of the value itself.
    """

    keys: tuple[str, ...]  # of those that can be sent again; empty if `message` is another reason
    message: str


@dataclass(frozen=True)
class RaisedFailure:
    """An exception ended the function call."""

    stage: str  # "load" unpickles the call, "call" runs the function, "dump" pickles its value
    type: str
    message: str
    traceback: str
    pickled: bool = False  # True if the exception has been sent as the step's value
    module: str | None = None  # the local one that could not be imported to load the call
    explanation: str | None = None  # the way to what cannot be pickled, and the cure
    versions: tuple[tuple[str, str | None], ...] = ()  # of packages that it may be about, there


Failure = Union[
    OsFailure,
    PythonVersionFailure,
    PythonModulesFailure,
    PythonStartFailure,
    PreloadFailure,
    SharedFailure,
    RaisedFailure,
]


@dataclass(frozen=True)
class Outcome:
    """How a step ended."""

    exit_status: int | None = None  # None if a signal ended the process, or none ran
    signal: int | None = None
    failure: Failure | None = None  # the reason that the step itself reports
    killer: str | None = None  # of a signal, see `frames`; None if it is unknown
    returned: bool = False  # True if a function returned, and its value has been sent
    ending: bool = False  # True if it returned, but its threads or exit functions did not end
    completed: bool = False  # True if a copy or an operation came to its end
    result: Any = None  # of an operation, as JSON has it
    skipped: tuple[tuple[str, str], ...] = ()  # what a copy left out, as (path, kind)

    @property
    def failed_module(self) -> str | None:
        """Return the local module without which the call could not be loaded, or None."""
        return self.failure.module if isinstance(self.failure, RaisedFailure) else None

    @property
    def lacking(self) -> tuple[str, ...]:
        """Return the keys of the shared values that the step needs and that the host lacks."""
        return self.failure.keys if isinstance(self.failure, SharedFailure) else ()


_NUMBERS = ("step", "exit_status", "signal", "errno")
_TEXTS = ("message", "path", "python", "stage", "type", "traceback", "module", "explanation")
_LISTS = ("skipped", "variables", "versions", "keys")
_KEYS = frozenset(
    (
        *(*_NUMBERS, *_TEXTS, *_LISTS, "killer"),
        *("failure", "there", "returned", "ending", "result", "pickled"),
    )
)


def parse_outcome(content: Any) -> Outcome:
    """Return the outcome that a host has sent; a hostile host may send anything.

    Raises:
        ValueError: If a supervisor never sends such an outcome.
        KeyError: If the outcome lacks something.
        TypeError: If it is not an object.
    """
    report = dict(content)
    if not report.keys() <= _KEYS:
        raise ValueError("an outcome with unknown keys")
    _number(report, "step")  # The order of frames says it already.
    return Outcome(
        exit_status=_number(report, "exit_status"),
        signal=_number(report, "signal"),
        failure=_FAILURES[report["failure"]](report) if "failure" in report else None,
        killer=_text(report, "killer") if "killer" in report else None,
        returned=_flag(report, "returned"),
        ending=_flag(report, "ending"),
        completed="result" in report,
        result=report.get("result"),
        skipped=_skipped(report.get("skipped", [])),
    )


def _os_failure(report: Mapping[str, Any]) -> OsFailure:
    path = _text(report, "path") if report.get("path") is not None else None
    errno, on_sender = _number(report, "errno"), _flag(report, "there")
    return OsFailure(_text(report, "message"), errno, path, on_sender)


_FAILURES: dict[str, Callable[[Mapping[str, Any]], Failure]] = {
    "os": _os_failure,
    "python_version": lambda report: PythonVersionFailure(_text(report, "python")),
    "python_modules": lambda report: PythonModulesFailure(_text(report, "message")),
    "python_start": lambda report: PythonStartFailure(_variables(report)),
    "preload": lambda report: PreloadFailure(_text(report, "module"), _text(report, "message")),
    "shared": lambda report: SharedFailure(_keys(report), _text(report, "message")),
    "raised": lambda report: RaisedFailure(
        _text(report, "stage"),
        _text(report, "type"),
        _text(report, "message"),
        _text(report, "traceback"),
        _flag(report, "pickled"),
        module=_text(report, "module") if "module" in report else None,
        explanation=_text(report, "explanation") if "explanation" in report else None,
        versions=_versions(report),
    ),
}


def _number(report: Mapping[str, Any], name: str) -> int | None:
    number = report.get(name)
    if number is None or (isinstance(number, int) and 0 <= number <= MAX_NUMBER):
        return number
    raise _malformed(name)


def _flag(report: Mapping[str, Any], name: str) -> bool:
    flag = report.get(name, False)
    if isinstance(flag, bool):
        return flag
    raise _malformed(name)


def _text(report: Mapping[str, Any], name: str) -> str:
    text = report[name]
    if isinstance(text, str):
        return text
    raise _malformed(name)


def _variables(report: Mapping[str, Any]) -> tuple[str, ...]:
    names = report["variables"]
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    raise _malformed("variables")


def _keys(report: Mapping[str, Any]) -> tuple[str, ...]:
    keys = report["keys"]
    if isinstance(keys, list) and all(isinstance(key, str) for key in keys):
        return tuple(keys)
    raise _malformed("keys")


def _versions(report: Mapping[str, Any]) -> tuple[tuple[str, str | None], ...]:
    pairs = tuple((name, version) for name, version in report.get("versions", []))
    for name, version in pairs:
        if not isinstance(name, str) or not isinstance(version, (str, type(None))):
            raise _malformed("versions")
    return pairs


def _skipped(entries: Any) -> tuple[tuple[str, str], ...]:
    pairs = tuple((path, kind) for path, kind in entries)
    texts = (text for pair in pairs for text in pair)
    if not isinstance(entries, list) or not all(isinstance(text, str) for text in texts):
        raise _malformed("skipped")
    return pairs


def _malformed(name: str) -> ValueError:
    return ValueError(f"an outcome with a malformed {name}")
