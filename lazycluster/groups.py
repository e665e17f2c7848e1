"""RuntimeGroup: several hosts on which the same runs."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Collection, Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from lazycluster._checks import checked_path
from lazycluster._group.calls import GroupView
from lazycluster._group.opening import (
    check_arguments,
    check_runtimes,
    check_unique,
    close_runtimes,
    listed,
    listed_runtimes,
    matching_hosts,
    open_runtimes,
)
from lazycluster._group.ports import GroupPorts
from lazycluster._group.results import GroupResult, invalid_hosts_error, reason
from lazycluster._tasks.execution import TERMINATE_GRACE, Execution, stop_all
from lazycluster._tracebacks import short_tracebacks
from lazycluster.runtimes import Runtime

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self  # of the standard library only from Python 3.11 on

__all__ = ["GroupResult", "GroupView", "RuntimeGroup"]

_logger = logging.getLogger("lazycluster")


@short_tracebacks
class RuntimeGroup(GroupPorts):
    """Several hosts, on which the same runs at the same time.

    The constructor logs in to all hosts at once. Each host has a `Runtime`, with a working
    directory and environment variables of its own. `len(group)` is their number, iteration yields
    the Runtimes in order, and `host in group` is True for a host or Runtime of the group.

    `run`, `call` and `submit` work on all hosts, `execute_task` on all or one of them. A host that
    fails does not stop the others. When all have ended, its error is raised in a `GroupError`.

    Many threads may use a group. `cleanup` closes the Runtimes that the group has opened, and ends
    on others what the group has started there.

    Args:
        runtimes: The Runtimes. They stay open when the group ends.
        hosts: In place of Runtimes, the hosts to log in to, as for `Runtime`.
        working_dir: The working directory on each host, see `Runtime`. With `runtimes`, they get
            it. Defaults to None: a temporary directory, or what the Runtimes have.
        connection_kwargs: Parameters for all hosts, see `Runtime`.
        on_error: What to do about hosts that cannot be used. With "raise", raise an error that has
            all reasons, and leave nothing open. With "skip", go on with the others; a WARNING and
            `errors` have the reasons. Defaults to "raise".
        modules: Names of packages that functions send to the hosts, see `Runtime`.
        installed: Names of packages that the hosts have, see `Runtime`.
        preload: Names of modules that each host imports once, see `Runtime`.

    `Connection` explains the keyword-only parameters and has their defaults; None means not given.
    With `interactive=True` the logins come one after the other.

    Raises:
        ValueError: If neither or both of `runtimes` and `hosts` are given, a host is named twice,
            or an argument is invalid; checked before any process starts.
        TypeError: If `hosts` or `runtimes` is not a list, or an argument has a wrong type.
        InvalidRuntimeError: If a host cannot be used, or with `on_error="skip"` none. Its `errors`
            have what `Runtime` raises, by host.

    Examples:
        >>> with RuntimeGroup(hosts=["web1", "web2"]) as group:
        ...     print(group.run("uname -r").folded())
        web[1-2]: 6.1.0
    """

    def __init__(
        self,
        runtimes: Iterable[Runtime] | None = None,
        hosts: Iterable[str] | None = None,
        working_dir: str | PathLike[str] | None = None,
        *,
        connection_kwargs: dict[str, Any] | None = None,
        on_error: str = "raise",
        user: str | None = None,
        port: int | None = None,
        config_file: str | PathLike[str] | None = None,
        identity_file: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
        jump_host: str | None = None,
        connect_timeout: float | None = None,
        keepalive: float | None = None,
        orphan_timeout: float | None = None,
        password: str | None = None,
        passphrase: str | None = None,
        password_prompt: str | None = None,
        interactive: bool | None = None,
        python: str | PathLike[str] | None = None,
        options: Mapping[str, str | PathLike[str]] | None = None,
        modules: Collection[str] | None = None,
        installed: Collection[str] | None = None,
        preload: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        given = listed_runtimes(runtimes)
        names = listed(hosts, "hosts", "hosts")
        if bool(given) == bool(names):
            raise ValueError("Give runtimes or hosts, one of both, and at least one of them.")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', not {on_error!r}.")
        check_unique([*names, *(runtime.host for runtime in given)])
        keywords: dict[str, Any] = {
            "user": user,
            "port": port,
            "config_file": config_file,
            "identity_file": identity_file,
            "jump_host": jump_host,
            "connect_timeout": connect_timeout,
            "keepalive": keepalive,
            "orphan_timeout": orphan_timeout,
            "password": password,
            "passphrase": passphrase,
            "password_prompt": password_prompt,
            "interactive": interactive,
            "python": python,
            "options": options,
            "modules": modules,
            "installed": installed,
            "preload": preload,
        }
        if given and (connection_kwargs or any(value is not None for value in keywords.values())):
            raise ValueError("Parameters of logins are for hosts=; the Runtimes are open already.")
        if working_dir is not None and working_dir != "":
            checked_path(working_dir, "The working directory")
        asks = check_arguments(names, connection_kwargs, keywords)
        self._keywords = {
            "working_dir": working_dir,
            "connection_kwargs": connection_kwargs,
            **keywords,
        }
        if names:
            self._open(names, on_error, one_by_one=asks)
        else:
            self._take(given, working_dir)

    def _make(self, host: str) -> Runtime:
        return Runtime(host, **self._keywords)

    def _open(self, hosts: list[str], on_error: str, *, one_by_one: bool) -> None:
        opened, errors = open_runtimes(hosts, self._make, one_by_one=one_by_one)
        if errors and (on_error == "raise" or not opened):
            close_runtimes(opened)
            raise invalid_hosts_error(errors, len(hosts))
        for host, error in errors.items():
            _logger.warning("%s is left out of the group: %s.", host, reason(error))
        self._runtimes, self._errors = opened, errors
        self._own = dict(opened)

    def _take(self, runtimes: list[Runtime], working_dir: str | PathLike[str] | None) -> None:
        self._runtimes = {runtime.host: runtime for runtime in runtimes}
        if working_dir is None or working_dir == "":
            return

        def change(runtime: Runtime) -> None:
            runtime.working_dir = str(working_dir)

        errors = self._ask(change).errors
        if errors:
            raise invalid_hosts_error(errors, len(runtimes))

    @classmethod
    def from_ssh_config(
        cls, *patterns: str, config_file: str | PathLike[str] | None = None, **keywords: Any
    ) -> Self:
        """Return a group of hosts that ssh_config names.

        These are the names in its `Host` lines, without patterns like `*.example.com`. Files that
        it includes are read, too.

        Args:
            *patterns: Names of hosts, in which `*` stands for any characters and `?` for one.
            config_file: The ssh_config (`-F`). Defaults to None: the user's and the system's file.
            **keywords: Other keywords of `RuntimeGroup`.

        Raises:
            ValueError: If a pattern matches no host, or there is none; before any process starts.
            OSError: If `config_file` cannot be read.
            InvalidRuntimeError: If a host cannot be used.

        Examples:
            >>> group = RuntimeGroup.from_ssh_config("web*", "gpu1")
        """
        from lazycluster._ssh.config_hosts import configured_hosts

        hosts = matching_hosts(patterns, configured_hosts(config_file))
        return cls(hosts=hosts, config_file=config_file, **keywords)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def add_runtime(self, host: str | None = None, runtime: Runtime | None = None) -> None:
        """Add a Runtime to the group.

        Args:
            host: A host to log in to, with the parameters that the group has got.
            runtime: In place of a host, a Runtime. It stays open when the group ends.

        Raises:
            ValueError: If neither or both are given, or the host is in the group already.
            TypeError: If the Runtime is something else.
            InvalidRuntimeError: If the host cannot be used.
        """
        if bool(host) == (runtime is not None):
            raise ValueError("Give a host or a Runtime, one of both.")
        name = host
        if runtime is not None:
            check_runtimes([runtime])
            name = runtime.host
        if name in self:
            raise ValueError(f"The host {name!r} is in the group already.")
        added = self._make(str(name)) if runtime is None else runtime
        with self._lock:
            is_new = added.host not in self._runtimes
            if is_new:
                self._runtimes[added.host] = added
                if runtime is None:
                    self._own[added.host] = added
        if not is_new:  # another thread was faster
            if runtime is None:
                added.cleanup()
            raise ValueError(f"The host {name!r} is in the group already.")
        _logger.info("%s was added to the group.", added)

    def remove_runtime(self, host: str) -> None:
        """Remove a Runtime from the group; what runs on it goes on.

        A Runtime that the group has opened is closed when nothing refers to it any more.

        Args:
            host: The host. If it is not in the group, nothing but a WARNING happens.
        """
        with self._lock:
            removed = self._runtimes.pop(host, None)
            self._own.pop(host, None)
            self._exposures = [one for one in self._exposures if one[0] is not removed]
        if removed is None:
            _logger.warning("%s", self._unknown(host))
        else:
            _logger.info("%s was removed from the group.", removed)

    def close(self) -> None:
        """Do what `cleanup` does; the end of a `with` block calls it."""
        self.cleanup()

    def cleanup(self) -> None:
        """Close all Runtimes that the group has opened, at the same time.

        On the others, end the tasks that the group has started and the exposures of ports that it
        has made. A second call does nothing.
        """
        if os.getpid() != self._pid:  # a forked child, which does not own the connections
            return
        with self._lock:
            own = dict(self._own)
            exposures, self._exposures = self._exposures, []
            others = {h: one for h, one in self._runtimes.items() if one is not own.get(h)}
        background = [one for one in self._started if isinstance(one, Execution)]
        on_others = [one for one in background if one.host in others and one.key is not None]
        stop_all(on_others, signal.SIGTERM, TERMINATE_GRACE)
        self._stop_exposures([one for one in exposures if one[0] in others.values()])
        close_runtimes(own)
