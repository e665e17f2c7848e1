"""What came out on each host of a group, and the error that holds all failures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar, Union

from lazycluster._group.folding import folded_hosts, folded_texts
from lazycluster._tasks.outcomes import task_reason
from lazycluster._text import escaped, last_output, one_line
from lazycluster._tracebacks import short_tracebacks
from lazycluster.connection import CommandResult
from lazycluster.exceptions import (
    CommandError,
    GroupError,
    InvalidRuntimeError,
    LazyclusterError,
    TaskExecutionError,
)

T = TypeVar("T")

SHOWN = 10
"""Reasons in a message at most; equal ones count once."""

MOST_OF_REASON = 400
"""Characters of a reason; the cure may come behind the path of a key."""


@short_tracebacks
class GroupResult(Mapping[str, Union[T, Exception]], Generic[T]):
    """What came out on each host, by host, in the order of the group.

    The value of a host is its result, a CommandResult or what a function returned. It is the
    exception if there is no result.

    Args:
        results: The results by host.
        errors: The exceptions by host.
        hosts: All hosts, in the order of the group. Defaults to the hosts of both.
    """

    def __init__(
        self,
        results: Mapping[str, T],
        errors: Mapping[str, Exception],
        hosts: Iterable[str] | None = None,
    ) -> None:
        order = list(dict.fromkeys([*results, *errors] if hosts is None else hosts))
        self._results = {host: results[host] for host in order if host in results}
        self._errors = {host: errors[host] for host in order if host in errors}
        every: dict[str, T | Exception] = {**self._errors, **self._results}
        self._entries = {host: every[host] for host in order if host in every}

    def __getitem__(self, host: str) -> T | Exception:
        return self._entries[host]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        failed = f", {len(self._errors)} failed" if self._errors else ""
        return f"<GroupResult of {folded_hosts(self)}{failed}>"

    @property
    def ok(self) -> Mapping[str, T]:
        """Return the results of the hosts that succeeded."""
        found = {h: result for h, result in self._results.items() if h not in self._errors}
        return MappingProxyType(found)

    @property
    def failed(self) -> Mapping[str, T | Exception]:
        """Return what this mapping has for the hosts that failed.

        After `run(check=False)` that is a CommandResult for a command that ended with another exit
        status than 0 or by a signal. For everything else it is the exception.
        """
        return MappingProxyType({host: self._entries[host] for host in self._errors})

    @property
    def results(self) -> Mapping[str, T]:
        """Return all results, also those of commands that failed."""
        return MappingProxyType(self._results)

    @property
    def errors(self) -> Mapping[str, Exception]:
        """Return the exception of each host that failed."""
        return MappingProxyType(self._errors)

    def check(self) -> GroupResult[T]:
        """Return this result if all hosts succeeded.

        Raises:
            GroupError: If a host failed; its `results` and `errors` are those of this result.
        """
        if self._errors:
            raise group_error(self._results, self._errors, len(self._entries))
        return self

    def folded(self) -> str:
        """Return a text that has equal outputs once: `web[1-40]: 6.1.0`.

        It has what a command printed to standard output, then what it printed to standard error,
        or the value of a function as text. For a host that failed it also has the reason. An output
        of several lines stands below the names of its hosts. Control characters are escaped.
        """
        return folded_texts({host: self._text(host) for host in self})

    def _text(self, host: str) -> str:
        parts = []
        entry: Any = self._results.get(host)
        if isinstance(entry, CommandResult):
            parts = [stream.rstrip("\n") for stream in (entry.stdout, entry.stderr)]
        elif host in self._results:
            parts = [str(entry)]
        if host in self._errors:
            parts.append(f"failed: {_short_reason(self._errors[host])}")
        return escaped("\n".join(part for part in parts if part))


def group_error(
    results: Mapping[str, object], errors: Mapping[str, Exception], count: int
) -> GroupError:
    """Return the error that holds what came out on some hosts, of which not all succeeded.

    Args:
        results: What there is from hosts, by host.
        errors: The exceptions by host; there is at least one.
        count: The number of all hosts.
    """
    hosts = "1 host" if count == 1 else f"{count} hosts"
    message = f"{len(errors)} of {hosts} failed.\n{reasons(errors)}"
    error = GroupError(message, results=dict(results), errors=dict(errors))
    error.__cause__ = _as_cause(errors)
    return error


def invalid_hosts_error(errors: Mapping[str, Exception], count: int) -> InvalidRuntimeError:
    """Return the error of hosts that cannot be used; see `group_error`."""
    hosts = "1 host" if count == 1 else f"{count} hosts"
    message = f"{len(errors)} of {hosts} cannot be used as Runtimes.\n{reasons(errors)}"
    error = InvalidRuntimeError(message, host=next(iter(errors)), errors=dict(errors))
    error.__cause__ = _as_cause(errors)
    return error


def _as_cause(errors: Mapping[str, Exception]) -> Exception:
    """Return the first error as the cause, without what the message has already."""
    first = next(iter(errors.values()))
    return first._as_cause() if isinstance(first, LazyclusterError) else first


def reasons(errors: Mapping[str, Exception]) -> str:
    """Return one line for each different reason, with the hosts that have it."""
    texts = {host: reason(error) for host, error in errors.items()}
    lines = folded_texts(texts).split("\n")
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN} other reasons; `errors` has all of them"]
    return "\n".join(f"  {line}" for line in lines)


def reason(error: Exception) -> str:
    """Return why a host failed, with the last line of what a command printed, on one line."""
    cause = _step_error(error)
    output = last_output(cause.output) if isinstance(cause, CommandError) else []
    return one_line(": ".join([_short_reason(error), *output[-1:]]), MOST_OF_REASON)


def _short_reason(error: Exception) -> str:
    cause = _step_error(error)
    if isinstance(cause, LazyclusterError):  # which leaves out what the task's error says
        text = task_reason(error) if isinstance(error, TaskExecutionError) else ""
        text = text or cause._reason()
    else:
        text = f"{type(cause).__name__}: {cause}".rstrip(": ")
    return one_line(text.partition("\n")[0], MOST_OF_REASON)


def _step_error(error: Exception) -> BaseException:
    """Return the error of the step that failed, which names no host and no index."""
    if isinstance(error, TaskExecutionError) and error.__cause__ is not None:
        return error.__cause__
    return error
