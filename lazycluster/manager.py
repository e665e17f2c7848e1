"""RuntimeManager: the hosts that ssh_config names, and groups of those that fit."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, NoReturn

from lazycluster._checks import check_flags, checked_path, checked_timeout
from lazycluster._group.detection import (
    Names,
    check_filters,
    checked_parameters,
    next_names,
    nothing_left,
    sorted_names,
)
from lazycluster._group.folding import folded_hosts
from lazycluster._group.members import listed_hosts
from lazycluster._group.opening import close_runtimes, open_runtimes
from lazycluster._group.results import reason, reasons
from lazycluster._runtime.host_info import FILTER_TIMEOUT
from lazycluster._ssh.config_hosts import configured_names
from lazycluster._text import show
from lazycluster._tracebacks import short_tracebacks
from lazycluster.exceptions import NoRuntimesDetectedError
from lazycluster.groups import RuntimeGroup
from lazycluster.runtimes import Runtime

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self  # of the standard library only from Python 3.11 on

__all__ = ["RuntimeManager"]

_logger = logging.getLogger("lazycluster")


@short_tracebacks
class RuntimeManager:
    """The hosts that ssh_config names, and groups of those that fit.

    The constructor logs in to all of them at once, and never asks a person. These are the names in
    the `Host` lines of the user's file, then of the system's, without patterns like
    `*.example.com`. Files that they include are read, too. What the files say about a host is
    ssh's to read.

    Several names of one account on one machine are one host, under the first name; under the next
    one, if the host refuses the login under it. A host that cannot be used is in `inactive_hosts`,
    and `errors` has the reason. Even if no host can be used, the constructor does not raise;
    `create_group` does.

    The Runtimes belong to the manager: groups share them, and leave them open. `cleanup` closes
    them, and so does the interpreter's exit.

    Args:
        config_file: The ssh_config (`-F`), in place of the user's and the system's. Defaults to
            None: `.ssh/config` in `$HOME`, else in the account's home directory, and
            `/etc/ssh/ssh_config`.
        connect_timeout: The most seconds for the login to a host. Defaults to None: 10 seconds, or
            what `connection_kwargs` has.
        connection_kwargs: Parameters for all hosts, see `Runtime`. `interactive` must not be True.

    Raises:
        ValueError: If an argument is invalid; checked before any process starts.
        TypeError: If `config_file` is neither a string nor an `os.PathLike`.

    Examples:
        >>> with RuntimeManager() as manager:
        ...     group = manager.create_group(min_cpu_cores=8, installed_executables="git")
        ...     print(group.run("uname -r").folded())
        web[1-2]: 6.1.0
    """

    log: logging.Logger = logging.getLogger("lazycluster")
    """The logger of the library."""

    def __init__(
        self,
        config_file: str | PathLike[str] | None = None,
        *,
        connect_timeout: float | None = None,
        connection_kwargs: dict[str, Any] | None = None,
    ) -> None:
        given = {"config_file": config_file, "connect_timeout": connect_timeout}
        parameters = checked_parameters(connection_kwargs, given)
        self._pid = os.getpid()
        names = configured_names(parameters.get("config_file"))
        found = sorted_names(names, parameters)

        def make(host: str) -> Runtime:
            return Runtime(host, connection_kwargs=parameters)

        runtimes, errors, self._other_names = _open(found, make)
        errors.update(found.errors)
        self._runtimes = {name: runtimes[name] for name in names if name in runtimes}
        self._errors = {name: errors[name] for name in names if name in errors}
        for host, error in self._errors.items():
            _logger.info("%s is inactive: %s.", host, reason(error))
        _logger.info("%s", self)

    def __repr__(self) -> str:
        hosts = folded_hosts(self._runtimes) or "no hosts"
        inactive = f", {len(self._errors)} inactive" if self._errors else ""
        return f"<{type(self).__name__} of {hosts}{inactive}>"

    def __str__(self) -> str:
        hosts = ", ".join(map(str, self.runtimes)) or "no hosts"
        inactive = f"; inactive: {', '.join(self._errors)}" if self._errors else ""
        return f"{type(self).__name__}: {hosts}{inactive}"

    _stays_here = True  # see `_functions.pickler`

    def __reduce__(self) -> NoReturn:
        raise TypeError("A RuntimeManager cannot be pickled or copied; make one where it is used.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def hosts(self) -> list[str]:
        """Return the hosts that can be used, in the order of ssh_config."""
        return list(self._runtimes)

    @property
    def runtimes(self) -> list[Runtime]:
        """Return the Runtimes of the hosts that can be used, in the order of ssh_config."""
        return list(self._runtimes.values())

    @property
    def inactive_hosts(self) -> list[str]:
        """Return the names that cannot be used as hosts, in the order of ssh_config."""
        return list(self._errors)

    @property
    def errors(self) -> dict[str, Exception]:
        """Return why the inactive hosts cannot be used: what `Runtime` raises, by host."""
        return dict(self._errors)

    def create_group(
        self,
        include_hosts: str | Sequence[str] | None = None,
        exclude_hosts: str | Sequence[str] | None = None,
        gpu_required: bool = False,
        min_memory: int | None = None,
        min_cpu_cores: int | None = None,
        installed_executables: str | PathLike[str] | list[str | PathLike[str]] | None = None,
        filter_commands: str | list[str] | None = None,
        working_dir: str | PathLike[str] | None = None,
        *,
        timeout: float | None = FILTER_TIMEOUT,
    ) -> RuntimeGroup:
        """Return a group of the hosts that have everything that is required.

        All hosts are asked at the same time, see `Runtime.check_filter`. A host that does not
        answer, or whose filter command takes too long, is left out, and a WARNING has the reason.

        Args:
            include_hosts: A host or a list of hosts to take. Defaults to None, all.
            exclude_hosts: A host or a list of hosts to leave out. Unknown hosts do not matter.
                Defaults to None, none.
            gpu_required: If True, a GPU is required. Defaults to False.
            min_memory: The least memory in MB of 2**20 bytes. Defaults to None, any.
            min_cpu_cores: The least number of CPU cores. Defaults to None, any.
            installed_executables: Names of programs that must be on the PATH. Defaults to None.
            filter_commands: Shell commands, each of which must succeed and print `true` as the last
                line of its output. Defaults to None.
            working_dir: The working directory of the hosts of the group, from now on in all groups
                that share them. Defaults to None: it stays as it is.
            timeout: The most seconds for each filter command on a host. One that takes longer is
                stopped, and its host is left out. None is no bound. Defaults to 60.

        Returns:
            The group, in the order of ssh_config. Its end closes no Runtime.

        Raises:
            NoRuntimesDetectedError: If no host is left. The message says how many hosts each filter
                has left out, or why no host can be used.
            ValueError: If `include_hosts` has a host that is unknown or inactive, or
                `exclude_hosts` is given, too; or another argument is invalid.
            TypeError: If an argument has a wrong type.
            InvalidRuntimeError: If a working directory cannot be made.
        """
        check_flags(gpu_required=gpu_required)
        check_filters(min_memory, min_cpu_cores, installed_executables, filter_commands)
        checked_timeout(timeout)
        if working_dir is not None and working_dir != "":
            checked_path(working_dir, "The working directory")
        candidates = RuntimeGroup(self._candidates(include_hosts, exclude_hosts))
        lacks, errors = candidates._ask(
            lambda runtime: runtime._find_lacks(
                gpu_required=gpu_required,
                min_memory=min_memory,
                min_cpu_cores=min_cpu_cores,
                installed_executables=installed_executables,
                filter_commands=filter_commands,
                timeout=timeout,
            )
        )
        for host, error in errors.items():
            _logger.warning("%s is left out of the group: %s.", host, reason(error))
        fitting = [self._runtimes[host] for host, found in lacks.items() if not found]
        if not fitting:
            raise NoRuntimesDetectedError(nothing_left(lacks, errors))
        return RuntimeGroup(fitting, working_dir=working_dir)

    def print_runtime_info(self) -> None:
        """Print what is known of each host as a table, and the inactive hosts.

        All hosts are asked at the same time; see `Runtime.print_info`.
        """
        show(self._heading())
        if self._runtimes:
            RuntimeGroup(self.runtimes).print_runtime_info()
        self.print_inactive_hosts()

    def print_hosts(self) -> None:
        """Print each host on a line of its own, also the inactive ones."""
        show(self._heading() + "".join(f"{host}\n" for host in self._runtimes))
        self.print_inactive_hosts()

    def print_inactive_hosts(self) -> None:
        """Print each inactive host on a line of its own, with the reason."""
        lines = [f"{host} (inactive): {reason(e)}\n" for host, e in self._errors.items()]
        show("".join(lines))

    def close(self) -> None:
        """Do what `cleanup` does; the end of a `with` block calls it."""
        self.cleanup()

    def cleanup(self) -> None:
        """Close all Runtimes at the same time, also those in groups.

        A second call does nothing.
        """
        if os.getpid() == self._pid:  # a forked child does not own the connections
            close_runtimes(self._runtimes)

    def _heading(self) -> str:
        count = len(self._runtimes)
        return f"{count} Runtime{'' if count == 1 else 's'}, {len(self._errors)} inactive\n"

    def _candidates(
        self,
        include_hosts: str | Sequence[str] | None,
        exclude_hosts: str | Sequence[str] | None,
    ) -> list[Runtime]:
        """Return the Runtimes to choose from; there is at least one."""
        included, excluded = listed_hosts(include_hosts), listed_hosts(exclude_hosts)
        if included and excluded:
            raise ValueError("Give include_hosts or exclude_hosts, not both.")
        for host in included:
            if host not in self._runtimes and host not in self._errors:
                raise ValueError(self._unknown(host))
        if not self._runtimes:
            raise NoRuntimesDetectedError(self._no_host())
        for host in included:
            if host in self._errors:
                raise ValueError(f"The host {host!r} is inactive: {reason(self._errors[host])}.")
        chosen = [
            runtime
            for host, runtime in self._runtimes.items()
            if host not in excluded and (not included or host in included)
        ]
        if not chosen:
            raise NoRuntimesDetectedError(f"exclude_hosts leaves out all hosts: {self!r}.")
        return chosen

    def _unknown(self, host: str) -> str:
        if host in self._other_names:
            return f"The host {host!r} is called {self._other_names[host]!r} here."
        known = folded_hosts([*self._runtimes, *self._errors]) or "no hosts"
        return f"The host {host!r} is not in ssh_config, which has {known}."

    def _no_host(self) -> str:
        if not self._errors:
            return "ssh_config names no host; write `Host NAME` into it, or give config_file."
        count = len(self._errors)
        hosts = "1 host" if count == 1 else f"{count} hosts"
        return f"ssh_config names {hosts}, of which none can be used.\n{reasons(self._errors)}"


def _open(
    found: Names, make: Callable[[str], Runtime]
) -> tuple[dict[str, Runtime], dict[str, Exception], dict[str, str]]:
    """Make a Runtime for each host, under its next name if it refuses the login under one.

    Returns:
        The Runtimes, the errors, and the host of each name that was not needed, all by name.
    """
    runtimes: dict[str, Runtime] = {}
    errors: dict[str, Exception] = {}
    wanted, others = found.hosts, dict(found.others)
    while wanted:
        try:
            opened = open_runtimes(wanted, make, one_by_one=False)
        except BaseException:
            close_runtimes(runtimes)
            raise
        runtimes.update(opened.results)
        errors.update(opened.errors)
        again = next_names(others, errors)
        wanted = list(again.values())
        others = {
            name: again.get(host, host) for name, host in others.items() if name not in wanted
        }
    return runtimes, errors, others
