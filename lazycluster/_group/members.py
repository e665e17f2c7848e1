"""The Runtimes of a group: which there are, and what they have in common."""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NoReturn, TypeVar

from lazycluster._group.calls import GroupCalls
from lazycluster._group.folding import folded_hosts
from lazycluster._group.parallel import Outcomes, in_parallel
from lazycluster._group.results import group_error, reason
from lazycluster._group.started import Started
from lazycluster._runtime.calls import Calls
from lazycluster._text import show
from lazycluster._tracebacks import short_tracebacks
from lazycluster.processes import TaskProcess
from lazycluster.runtimes import Runtime

T = TypeVar("T")


@short_tracebacks
class Members(GroupCalls):
    """Runtimes by host, in an order; see `RuntimeGroup`."""

    log: logging.Logger = logging.getLogger("lazycluster")
    """The logger of the library."""

    def __init__(self) -> None:
        # For attributes, never held over a request. Reentrant for a signal handler.
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._runtimes: dict[str, Runtime] = {}
        self._own: dict[str, Runtime] = {}  # opened by the group, which closes them
        self._errors: dict[str, Exception] = {}
        self._started = Started()
        self._exposures: list[tuple[Runtime, str]] = []  # with the keys

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {folded_hosts(self._runtimes) or 'no hosts'}>"

    def __str__(self) -> str:
        return f"{type(self).__name__}: {', '.join(map(str, self.runtimes))}"

    _stays_here = True  # see `_functions.pickler`

    def __reduce__(self) -> NoReturn:
        raise TypeError("A RuntimeGroup cannot be pickled or copied; make one where it is needed.")

    def __len__(self) -> int:
        return len(self._runtimes)

    def __iter__(self) -> Iterator[Runtime]:
        return iter(self.runtimes)

    def __contains__(self, host: object) -> bool:
        if isinstance(host, Runtime):
            return any(runtime is host for runtime in self.runtimes)
        return isinstance(host, str) and host in self._runtimes

    @property
    def hosts(self) -> list[str]:
        """Return the hosts, as they were given, in order."""
        with self._lock:
            return list(self._runtimes)

    @property
    def runtimes(self) -> list[Runtime]:
        """Return the Runtimes in order."""
        with self._lock:
            return list(self._runtimes.values())

    @property
    def runtime_count(self) -> int:
        """Return the number of Runtimes."""
        return len(self._runtimes)

    @property
    def errors(self) -> dict[str, Exception]:
        """Return the errors of the hosts that `on_error="skip"` has left out, by host."""
        return dict(self._errors)

    @property
    def task_processes(self) -> list[TaskProcess]:
        """Return the handles of all asynchronous executions on the Runtimes of the group."""
        return [process for runtime in self.runtimes for process in runtime.task_processes]

    def contains_runtime(self, host: str) -> bool:
        """Return True if there is a Runtime of that host in the group.

        Args:
            host: The host, as it was given to the Runtime.
        """
        return host in self

    def get_runtime(self, host: str | None = None) -> Runtime:
        """Return the Runtime of a host, or the least busy one.

        Args:
            host: The host. Defaults to None: the Runtime with the fewest asynchronous executions
                that run, the first one of several.

        Raises:
            ValueError: If the host is not in the group, or the group is empty.
        """
        with self._lock:
            runtimes = dict(self._runtimes)
        if host:
            if host not in runtimes:
                raise ValueError(self._unknown(host))
            return runtimes[host]
        if not runtimes:
            raise ValueError("The group is empty.")
        return min(runtimes.values(), key=lambda runtime: runtime.alive_task_process_count)

    def get_runtimes(
        self,
        include_hosts: str | Sequence[str] | None = None,
        exclude_hosts: str | Sequence[str] | None = None,
    ) -> dict[str, Runtime]:
        """Return Runtimes by host, in the order of the group.

        Args:
            include_hosts: A host or a list of hosts to return. Defaults to None, all.
            exclude_hosts: A host or a list of hosts to leave out. Hosts that are not in the group
                do not matter. Defaults to None, none.

        Raises:
            ValueError: If both are given, or a host to include is not in the group.
        """
        if include_hosts and exclude_hosts:
            raise ValueError("Give include_hosts or exclude_hosts, not both.")
        with self._lock:
            runtimes = dict(self._runtimes)
        included, excluded = listed_hosts(include_hosts), listed_hosts(exclude_hosts)
        for host in included:
            if host not in runtimes:
                raise ValueError(self._unknown(host))
        return {
            host: runtime
            for host, runtime in runtimes.items()
            if host not in excluded and (not included or host in included)
        }

    def set_env_variables(self, env_variables: Mapping[str, str | float]) -> None:
        """Replace the environment variables of each Runtime; see `Runtime.env_variables`.

        Args:
            env_variables: Names and values. Each Runtime gets a copy.

        Raises:
            ValueError: If a name or a value is invalid.
        """
        for runtime in self.runtimes:
            runtime.env_variables = env_variables

    def add_env_variables(self, env_variables: Mapping[str, str | float]) -> None:
        """Add environment variables on each Runtime; a name that exists gets the new value.

        Args:
            env_variables: Names and values.

        Raises:
            ValueError: If a name or a value is invalid.
        """
        for runtime in self.runtimes:
            runtime.add_env_variables(env_variables)

    def print_hosts(self) -> None:
        """Print each host on a line of its own."""
        hosts = self.hosts
        show("".join(f"{host}\n" for host in hosts) if hosts else "The group is empty!\n")

    def print_runtime_info(self) -> None:
        """Print what is known of each host as a table; see `Runtime.print_info`.

        All hosts are asked at the same time. In place of a table there is the reason if a host does
        not answer.
        """
        asked = self._ask(lambda runtime: runtime.info)
        for runtime in self.runtimes:
            if runtime.host in asked.errors:
                show(f"{runtime.host}: {reason(asked.errors[runtime.host])}\n")
            else:
                runtime.print_info()
            show("\n")

    def fill_runtime_info_buffers_async(self) -> None:
        """Ask all hosts at the same time what they are and have, and wait for the answers.

        Later uses of `Runtime.info` and of the properties that belong to it ask no host again.

        Raises:
            GroupError: If a host does not answer.
        """
        self._ask_all(lambda runtime: runtime.info)

    def _find_calls(self) -> dict[str, Calls]:
        with self._lock:
            return dict(self._runtimes)

    def _ask(
        self, ask: Callable[[Runtime], T], runtimes: Mapping[str, Runtime] | None = None
    ) -> Outcomes[T]:
        """Ask Runtimes at the same time; all of the group by default."""
        asked = self.get_runtimes() if runtimes is None else runtimes
        return in_parallel({host: functools.partial(ask, one) for host, one in asked.items()})

    def _ask_all(
        self, ask: Callable[[Runtime], T], runtimes: Mapping[str, Runtime] | None = None
    ) -> dict[str, T]:
        """Return what all Runtimes answer.

        Raises:
            GroupError: If a host does not answer.
        """
        results, errors = self._ask(ask, runtimes)
        if errors:
            raise group_error(results, errors, len(results) + len(errors))
        return results

    def _unknown(self, host: str) -> str:
        known = folded_hosts(self.hosts) or "no hosts"
        return f"The host {host!r} is not in the group, which has {known}."


def listed_hosts(hosts: str | Iterable[str] | None) -> list[str]:
    """Return a list for one host or several; none for None."""
    if not hosts:
        return []
    return [hosts] if isinstance(hosts, str) else list(hosts)
