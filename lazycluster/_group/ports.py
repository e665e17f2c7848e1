"""Ports of a group: which are free on all hosts, and exposing one to all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from lazycluster._checks import check_flags, checked_port
from lazycluster._group.files import GroupFiles
from lazycluster._group.folding import folded_hosts
from lazycluster._group.opening import listed
from lazycluster._group.parallel import in_parallel
from lazycluster._group.results import group_error
from lazycluster._shared import ports as own_ports
from lazycluster._tracebacks import short_tracebacks
from lazycluster.exceptions import LazyclusterError, NoPortsLeftError, PortInUseError
from lazycluster.processes import PortExposure
from lazycluster.runtimes import Runtime

MOST_PORTS = 200
"""Ports that a host is asked about at once; each takes it some 0.1 ms."""


_Exposure = tuple[Runtime, str]  # with the process key


class _Report(NamedTuple):
    """What a host says about ports, see `_shared.ports.free_ports`."""

    free: list[int]
    network: list[str] | None


@short_tracebacks
class GroupPorts(GroupFiles):
    """Ports of the hosts of a group; see `RuntimeGroup`."""

    def has_free_port(self, port: int, exclude_hosts: str | Sequence[str] | None = None) -> bool:
        """Return True if a port is free on all hosts, which are asked at the same time.

        Args:
            port: The port, 1 to 65535.
            exclude_hosts: A host or a list of hosts that do not count. Defaults to None, none.

        Raises:
            ValueError: If the port is invalid.
            GroupError: If a host does not answer.
        """
        runtimes = self.get_runtimes(exclude_hosts=exclude_hosts)
        return all(report.free for report in self._reports([checked_port(port)], runtimes).values())

    def get_free_port(self, ports: Sequence[int], enforce_check_on_localhost: bool = False) -> int:
        """Return the first of several ports that is free on all hosts.

        All hosts are asked at the same time, and each of them once for up to 200 ports.

        Args:
            ports: The ports, in the order of preference.
            enforce_check_on_localhost: If True, it must be free on the manager, too. Defaults to
                False.

        Raises:
            ValueError: If a port is invalid.
            NoPortsLeftError: If none of them is free.
            GroupError: If a host does not answer.
        """
        check_flags(enforce_check_on_localhost=enforce_check_on_localhost)
        port, _ = self._find_port(
            ports,
            self.get_runtimes(),
            lambda report, port: port in report.free,
            on_manager=bool(enforce_check_on_localhost),
        )
        return port

    def expose_port_to_runtimes(
        self,
        local_port: int,
        runtime_port: int | Sequence[int] | None = None,
        exclude_hosts: str | Sequence[str] | None = None,
    ) -> int:
        """Make a service of the manager reachable on all hosts, on one port.

        See `Runtime.expose_port_to_runtime`. It is exposed to all hosts or to none: if one fails,
        the exposures that were made are ended. Hosts that share their ports, as names of one
        machine do, count once; on the manager itself the port of the service needs no exposure.

        Args:
            local_port: The port of the service on the manager.
            runtime_port: The port on the hosts, or a list, of which the first is taken that is free
                on all of them. Defaults to None, the number of `local_port`.
            exclude_hosts: A host or a list of hosts to leave out. Defaults to None, none.

        Returns:
            The port on the hosts.

        Raises:
            ValueError: If a port is invalid.
            PortInUseError: If the port is in use on a host.
            NoPortsLeftError: If no port of the list is free on all hosts.
            GroupError: If a port cannot be exposed for another reason; `errors` have it.
        """
        checked_port(local_port, "local_port")
        runtimes = self.get_runtimes(exclude_hosts=exclude_hosts)
        own = own_ports.network_id()

        def suits(report: _Report, port: int) -> bool:
            return port in report.free or (port == local_port and _is(report.network, own))

        wanted = local_port if runtime_port is None else runtime_port
        port, reports = self._find_port(wanted, runtimes, suits)
        done = [own] if port == local_port else []
        hosts = _one_of_each(reports, done)
        self._expose({host: runtimes[host] for host in hosts}, local_port, port)
        return port

    def expose_port_from_runtime_to_group(
        self,
        host: str,
        runtime_port: int,
        group_port: int | Sequence[int] | None = None,
    ) -> int:
        """Make a service of one host reachable on all others, on one port.

        The connections go through the manager. If the port is free there, it leads to the service
        on the manager, too. It is exposed to all hosts or to none, see `expose_port_to_runtimes`.

        Args:
            host: The host of the service.
            runtime_port: The port of the service.
            group_port: The port on the other hosts, or a list, of which the first is taken that is
                free on all of them. Defaults to None, the number of `runtime_port`.

        Returns:
            The port on the other hosts.

        Raises:
            ValueError: If a port is invalid, or the host is not in the group.
            PortInUseError: If the port is in use on one of the other hosts.
            NoPortsLeftError: If no port of the list is free on all of them.
            GroupError: If a port cannot be exposed for another reason; `errors` have it.
        """
        checked_port(runtime_port, "runtime_port")
        if not host:
            raise ValueError("The host of the service is missing.")
        server = self.get_runtime(host)
        runtimes = self.get_runtimes(exclude_hosts=[host])
        network = self._reports([], {host: server})[host].network
        own = own_ports.network_id()

        def suits(report: _Report, port: int) -> bool:
            return port in report.free or (port == runtime_port and _is(report.network, network))

        wanted = runtime_port if group_port is None else group_port
        port, reports = self._find_port(wanted, runtimes, suits)
        local_port, made = runtime_port, list[_Exposure]()
        if not _is(network, own):  # else the service is one of the manager
            needed = any(_is(report.network, own) for report in reports.values())
            local_port, made = self._expose_here(server, runtime_port, port, needed)
        # On the host of the service, and on the manager, the port may be there already.
        done = [network] if port == runtime_port else []
        done += [own] if port == local_port else []
        hosts = _one_of_each(reports, done)
        self._expose({name: runtimes[name] for name in hosts}, local_port, port, made)
        return port

    def _expose_here(
        self, server: Runtime, runtime_port: int, port: int, needed: bool
    ) -> tuple[int, list[_Exposure]]:
        """Expose the port of a host on the manager; on another port if it may be another.

        Returns:
            The port on the manager, and the exposure.
        """
        try:
            key = server.expose_port_from_runtime(runtime_port, port)
        except PortInUseError:
            if needed:  # A host of the group is the manager.
                raise
            key = server.expose_port_from_runtime(runtime_port, 0)
        exposure = server.get_process(key)
        assert isinstance(exposure, PortExposure)
        return exposure.port, [(server, key)]

    def _find_port(
        self,
        wanted: int | Iterable[int],
        runtimes: Mapping[str, Runtime],
        suits: Callable[[_Report, int], bool],
        *,
        on_manager: bool = False,
    ) -> tuple[int, dict[str, _Report]]:
        """Return the port, or the first of several, that suits all hosts; and what hosts report.

        Raises:
            PortInUseError: If one port was wanted, and it suits some host not.
            NoPortsLeftError: If none of several suits all.
        """
        if isinstance(wanted, int):
            port = checked_port(wanted)
            reports = self._reports([port], runtimes)
            used = [host for host, report in reports.items() if not suits(report, port)]
            if used:
                raise _in_use(port, used)
            return port, reports
        ports = [checked_port(port) for port in listed(wanted, "ports", "ports")]
        for start in range(0, len(ports), MOST_PORTS):
            some = ports[start : start + MOST_PORTS]
            reports = self._reports(some, runtimes)
            for port in some:
                is_free = all(suits(report, port) for report in reports.values())
                if is_free and (not on_manager or own_ports.port_is_free(port)):
                    return port, reports
        raise NoPortsLeftError(
            f"None of the {len(ports)} ports is free on {folded_hosts(runtimes) or 'no hosts'}."
        )

    def _reports(self, ports: list[int], runtimes: Mapping[str, Runtime]) -> dict[str, _Report]:
        asked = self._ask_all(lambda one: one._operate("free_ports", ports=ports), runtimes)
        return {host: _Report(one["free"], one["network"]) for host, one in asked.items()}

    def _expose(
        self,
        runtimes: Mapping[str, Runtime],
        local_port: int,
        port: int,
        made: Sequence[_Exposure] = (),
    ) -> None:
        """Expose a port of the manager on hosts; if one fails, end all, also what was made before.

        Raises:
            PortInUseError: If the port is in use on a host.
            GroupError: If one failed for another reason.
        """

        def expose(runtime: Runtime) -> _Exposure:
            return runtime, runtime.expose_port_to_runtime(local_port, port)

        work = {host: functools.partial(expose, one) for host, one in runtimes.items()}
        try:
            done, errors = in_parallel(work, on_late=lambda exposure: _stop(*exposure))
        except BaseException:
            self._stop_exposures(made)
            raise
        exposures = [*made, *(one for one in done.values() if one[1])]
        if not errors:
            with self._lock:
                self._exposures += exposures
            return
        self._stop_exposures(exposures)
        in_use = [host for host, error in errors.items() if isinstance(error, PortInUseError)]
        if in_use:
            raise _in_use(port, in_use)
        raise group_error({}, errors, len(work))

    def _stop_exposures(self, exposures: Iterable[_Exposure]) -> None:
        """End exposures at the same time; what has ended already does not matter."""
        work = {str(n): functools.partial(_stop, *one) for n, one in enumerate(exposures)}
        in_parallel(work)


def _stop(runtime: Runtime, key: str) -> None:
    exposure = runtime.get_processes().get(key)
    if exposure is None:
        return
    try:
        exposure.terminate()
    except LazyclusterError as error:
        runtime.log.warning("%s was not ended: %s", key, error)


def _in_use(port: int, hosts: Iterable[str]) -> PortInUseError:
    names = list(hosts)
    return PortInUseError(
        f"Port {port} is in use on {folded_hosts(names)}.", port=port, side=names[0]
    )


def _is(network: list[str] | None, other: list[str] | None) -> bool:
    """Return True if two networks are one, so that their ports are the same."""
    return network is not None and network == other


def _one_of_each(reports: Mapping[str, _Report], done: Iterable[list[str] | None]) -> list[str]:
    """Return one host of each network, but for those that are done."""
    seen = [network for network in done if network is not None]
    hosts = []
    for host, report in reports.items():
        if report.network is None or report.network not in seen:
            hosts.append(host)
        if report.network is not None:
            seen.append(report.network)
    return hosts
