"""Make the Runtimes of a group: check the arguments, log in everywhere, leave nothing open."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lazycluster._fabric.kwargs import translate_connection_kwargs
from lazycluster._group.parallel import Outcomes, in_parallel
from lazycluster._group.results import reason
from lazycluster._runtime.calls import Options
from lazycluster.connection import Connection
from lazycluster.runtimes import Runtime

MOST_LOGINS = 64
"""Threads that log in at the same time."""

OF_FUNCTIONS = ("modules", "installed", "preload")
"""The keywords of a Runtime that are not of its Connection."""

_logger = logging.getLogger("lazycluster")


def listed(value: Iterable[Any] | None, name: str, kind: str) -> list[Any]:
    """Return the parameter `name`, a list of `kind`; none for None.

    Raises:
        TypeError: If it is a string, or something else that cannot be iterated over.
    """
    if value is None:
        return []
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of {kind}, not {type(value).__name__}: [{value!r}]")
    return list(value)


def matching_hosts(patterns: Iterable[str], hosts: Iterable[str]) -> list[str]:
    """Return the hosts that match patterns with `*` and `?`, in the order of the patterns.

    Raises:
        ValueError: If there is no pattern, or one matches none.
        TypeError: If one is not a string.
    """
    known, found = list(hosts), dict[str, None]()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"A pattern must be a string, not {type(pattern).__name__}.")
        text = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
        matches = [host for host in known if re.fullmatch(text, host)]
        if not matches:
            raise ValueError(f"{pattern!r} matches no name in the Host lines of ssh_config.")
        found.update(dict.fromkeys(matches))
    if not found:
        raise ValueError("Give at least one name or pattern, such as 'web*'.")
    return list(found)


def check_unique(hosts: Iterable[str]) -> None:
    """Raise a ValueError if a host is named twice."""
    seen: set[str] = set()
    for host in hosts:
        if host in seen:
            raise ValueError(f"The host {host!r} is named twice; name it once.")
        seen.add(host)


def check_runtimes(runtimes: Iterable[Any]) -> None:
    """Raise a TypeError if one of them is not a Runtime."""
    for runtime in runtimes:
        if not isinstance(runtime, Runtime):
            cure = "; give hosts by hosts=[…]" if isinstance(runtime, str) else ""
            raise TypeError(f"runtimes must be Runtimes, not {type(runtime).__name__}{cure}.")


def listed_runtimes(value: Any) -> list[Runtime]:
    """Return the parameter `runtimes`, a list of Runtimes; none for None.

    Raises:
        TypeError: If it is something else, such as hosts.
    """
    # RuntimeGroup("a", "b"), as in an example of 0.2's README, gives one host as the Runtimes.
    given: list[Any] = [value] if isinstance(value, str) else listed(value, "runtimes", "Runtimes")
    check_runtimes(given)
    return given


def check_arguments(
    hosts: Iterable[str], connection_kwargs: dict[str, Any] | None, keywords: Mapping[str, Any]
) -> bool:
    """Check what the Runtimes will get, before any process starts.

    Returns:
        True if a person may be asked at a login.

    Raises:
        ValueError, TypeError: As Runtime does.
    """
    of_functions = {name: keywords[name] for name in OF_FUNCTIONS}
    others = {name: value for name, value in keywords.items() if name not in OF_FUNCTIONS}
    parameters = translate_connection_kwargs(connection_kwargs or {}, others)
    Options().replaced(**of_functions)
    for host in hosts:
        Connection(host, **parameters)
    return bool(parameters.get("interactive"))


def open_runtimes(
    hosts: Iterable[str], make: Callable[[str], Runtime], *, one_by_one: bool
) -> Outcomes[Runtime]:
    """Make a Runtime for each host; an interruption closes all."""
    work = {host: functools.partial(make, host) for host in hosts}
    most = 1 if one_by_one else MOST_LOGINS
    return in_parallel(work, most=most, on_late=lambda runtime: runtime.cleanup())


def close_runtimes(runtimes: Mapping[str, Runtime]) -> None:
    """Close Runtimes at the same time."""
    closed = in_parallel({host: runtime.cleanup for host, runtime in runtimes.items()})
    for host, error in closed.errors.items():
        _logger.warning("%s was not closed: %s", host, reason(error))
