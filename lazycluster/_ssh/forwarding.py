"""Make and end forwards on the control master, and verify that the port is listened on."""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from typing import NamedTuple, Optional

from lazycluster._shared import ports
from lazycluster._ssh.argv import forward_argv, probe_argv
from lazycluster._ssh.mux import (
    CONTROL_TIMEOUT,
    NOTICE_TIMEOUT,
    client_error,
    control,
    master_answers,
    reason,
)
from lazycluster._ssh.transport import Transport
from lazycluster.exceptions import ForwardError, LazyclusterError, PortInUseError

TRIES = 5  # to find a free port that no other process takes before ssh does
# Seconds for a listener to go. ssh and sshd do one thing after the other, so the first look comes
# behind the end of the listener; this is for a server that does several at once.
CANCEL_TIMEOUT = 2.0
CANCEL_INTERVAL = 0.02  # seconds between two looks at a port that is to become free
PROBE_TIMEOUT = 5.0  # seconds; a refusal comes at once, and some services never hang up
PROBED_PORT = 1  # of the host; tcpmux, which is never in use

# The addresses that sshd may listen on, as `PortState` has them.
_ANY_ADDRESS = {"0.0.0.0", "::", "::ffff:0.0.0.0"}
_LISTENING_SSHD = _ANY_ADDRESS | {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

logger = logging.getLogger("lazycluster")


class PortState(NamedTuple):
    """What the host reports about one of its ports; see `_shared.ports.port_state`."""

    free: bool
    listeners: list[str]  # addresses; empty where the host has no socket tables


# Asks the host, and raises LazyclusterError or OSError; None for a host without Python.
HostPorts = Optional[Callable[[int], PortState]]


class Route(NamedTuple):
    """The two ends of a forward on loopback: the port that is listened on, and its target."""

    port: int
    to_port: int
    on_host: bool  # the host listens (-R), else the manager does (-L)

    @property
    def flag(self) -> str:
        """Return ssh's option for its direction."""
        return "-R" if self.on_host else "-L"


def open_forward(transport: Transport, wanted: Route, host_ports: HostPorts) -> Route:
    """Make a forward, and verify that its port is listened on.

    Port 0 stands for any free port; the forward that is returned has the port that was chosen.

    Raises:
        PortInUseError: If the port is in use on the side that should listen.
        ForwardError: If it cannot be made, for ssh's reason.
        ConnectionLostError: If the connection has ended; there is no forward then.
    """
    # sshd gives no reason for a refusal, and a port can be in use for a moment: a connection that
    # the system made has it as its source port.
    in_use = (PortInUseError, ForwardError) if wanted.on_host else PortInUseError
    with transport.forwarding:
        for tries_left in reversed(range(TRIES)):
            try:
                if wanted.on_host:
                    return _listen_on_host(transport, wanted, host_ports)
                return _listen_here(transport, wanted)
            except in_use as error:
                no_answer = isinstance(error, ForwardError) and error.exit_status is None
                if wanted.port or no_answer or not tries_left:
                    raise
    raise AssertionError("not reached")


def close_forward(
    transport: Transport, forward: Route, host_ports: HostPorts, on_end: Callable[[], None]
) -> None:
    """End a forward, and wait until its port is no longer listened on.

    Args:
        transport: What it goes over.
        forward: The forward.
        host_ports: Asks the host for a port.
        on_end: Called when ssh lets no connection through any more, whatever the server does.

    Raises:
        ForwardError: If ssh could not end it, or the port is still listened on.
    """
    with transport.forwarding:
        _cancel(transport, forward)
        try:
            _wait_until_closed(transport, forward, host_ports)
        finally:
            on_end()


def _wait_until_closed(transport: Transport, forward: Route, host_ports: HostPorts) -> None:
    if not forward.on_host:
        _wait_until_over(transport, forward, lambda: _is_over_here(forward.port))
    elif host_ports is None:
        # ssh does not wait for sshd to cancel. But sshd does one thing after the other, so when
        # it answers a later request, it has closed the port.
        _probe(transport, PROBED_PORT)
    else:
        report = host_ports
        _wait_until_over(transport, forward, lambda: _is_over_on_host(report(forward.port)))


def _listen_here(transport: Transport, wanted: Route) -> Route:
    forward = wanted._replace(port=wanted.port or _free_port())
    if not ports.port_is_free(forward.port):
        raise _in_use(transport, forward)
    _check_permission(transport, forward.to_port)
    before = transport.master.log_size()
    status, _, printed = control(_argv(transport, "forward", forward))
    what = f"forward port {forward.port} of this computer"
    if status != 0:
        log = transport.master.log_since(before)
        why = re.search(r"^bind \[.*?\]:\d+: (.*)$", log, re.MULTILINE)
        if not master_answers(transport):
            raise client_error(transport, "forward", status, printed, started=False)
        text = why[1].strip() if why else reason(printed)
        # The port may be free again, if it was the source port of a connection for example.
        if text == os.strerror(errno.EADDRINUSE) or not ports.port_is_free(forward.port):
            raise _in_use(transport, forward)
        raise _error(transport, what, text, status, log + printed)
    if not _is_listened_on_here(forward.port):
        if not master_answers(transport):  # it has ended meanwhile, and its listener with it
            raise client_error(transport, "forward", status, printed, started=False)
        _cancel(transport, forward)
        raise _error(transport, what, "ssh reports success, but the port is closed", status)
    return forward


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_listened_on_here(port: int) -> bool:
    with socket.socket() as probe:
        # What is left of connections (TIME_WAIT) does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            # An account that may not bind the port cannot look either, and ssh reported success.
            return error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EPERM)
    return False


def _is_over_here(port: int) -> bool:
    # Another process may have begun to listen on the same port of another address meanwhile.
    return ports.port_is_free(port) or not _is_listened_on_here(port)


def _check_permission(transport: Transport, to_port: int) -> None:
    """Find out whether sshd lets connections through: ssh listens without asking it.

    The user's service would notice a connection to it. So the first probe goes to a port that is
    never in use: "connection refused" shows that sshd has tried. Where that is forbidden, other
    ports may be allowed (PermitOpen); only then the port in question is probed.
    """
    status, log, printed = None, "", ""
    for port in (PROBED_PORT, to_port):
        before = transport.master.log_size()
        status, printed = _probe(transport, port)
        log = transport.master.log_since(before)
        if status == 0 or "administratively prohibited" not in log:
            return
    raise _error(
        transport,
        f"forward this computer to port {to_port} of the host",
        "its sshd does not let connections through (AllowTcpForwarding, PermitOpen)",
        status,
        log + printed,
    )


def _probe(transport: Transport, port: int) -> tuple[int | None, str]:
    """Make sshd connect to a port of the host; return the client's exit status and stderr."""
    argv = probe_argv(transport.master.control_path, port)
    status, _, printed = control(argv, PROBE_TIMEOUT)
    return status, printed


def _listen_on_host(transport: Transport, wanted: Route, host_ports: HostPorts) -> Route:
    forward = wanted._replace(port=wanted.port or _dynamic_port())
    if host_ports is not None and not host_ports(forward.port).free:
        raise _in_use(transport, forward)
    _request_listener(transport, forward, host_ports)
    if host_ports is None:
        return forward
    try:
        state = host_ports(forward.port)
        if state.free:
            what = f"forward port {forward.port} of the host"
            raise _error(transport, what, "ssh reports success, but the port is closed")
    except BaseException:
        _cancel(transport, forward)
        raise
    if _ANY_ADDRESS & {*state.listeners}:
        logger.warning(
            "Port %d of %s can be reached from its network, and not from itself alone: its sshd "
            "listens on all addresses, whatever it is asked (GatewayPorts yes).",
            forward.port,
            transport.settings.host,
        )
    return forward


def _dynamic_port() -> int:
    """Return a port of the range that IANA gives to no service.

    sshd is not asked for port 0: ssh knows that forward as "port 0" and can have one of them for
    each target, and dropbear does not end it to make it again by its number.
    """
    return 49152 + secrets.randbelow(1 << 14)


def _request_listener(transport: Transport, forward: Route, host_ports: HostPorts) -> None:
    """Make sshd listen."""
    status, _, printed = control(_argv(transport, "forward", forward))
    if status == 0:
        return
    if not master_answers(transport):
        raise client_error(transport, "forward", status, printed, started=False)
    if status is None:  # a late answer must not leave a listener
        _cancel(transport, forward)
    if host_ports is not None and not host_ports(forward.port).free:
        raise _in_use(transport, forward)
    why = f"no answer came within {CONTROL_TIMEOUT:g} s"
    if status is not None:
        why = reason(printed).rpartition("request failed: ")[2].partition(" / ")[0]
        why += "; its sshd does not report why: AllowTcpForwarding, PermitListen, "
        why += "a port below 1024" if host_ports is not None else "a port below 1024 or in use"
    raise _error(transport, f"forward port {forward.port} of the host", why, status, printed)


def _is_over_on_host(state: PortState) -> bool:
    # Another process may have begun to listen on the same port of another address meanwhile.
    return state.free or (bool(state.listeners) and not _LISTENING_SSHD & {*state.listeners})


def _argv(transport: Transport, action: str, forward: Route) -> list[str]:
    path = transport.master.control_path
    return forward_argv(path, action, forward.flag, forward.port, forward.to_port)


def _cancel(transport: Transport, forward: Route) -> None:
    status, _, printed = control(_argv(transport, "cancel", forward))
    if status == 0 or transport.ended:
        return  # it answers 0 as well when there is no such forward
    why = reason(printed)
    if not master_answers(transport):
        if transport.wait_until_ended(NOTICE_TIMEOUT):
            return
        path = transport.master.control_path
        why = (
            f"ssh runs, but nothing answers at its control socket {path}. The forward ends with "
            "the connection"
        )
    raise _error(transport, f"end the forward of port {forward.port}", why, status, printed)


def _wait_until_over(transport: Transport, forward: Route, is_over: Callable[[], bool]) -> None:
    deadline = time.monotonic() + CANCEL_TIMEOUT
    while True:
        try:
            if transport.ended or is_over():
                return
        except (LazyclusterError, OSError):
            if transport.ended:
                return
            raise
        if time.monotonic() > deadline:
            why = (
                "ssh lets no connection through any more, but the port is still listened on. "
                "dropbear before April 2026 keeps it in use until the connection ends"
            )
            raise _error(transport, f"end the forward of port {forward.port}", why)
        time.sleep(CANCEL_INTERVAL)


def _in_use(transport: Transport, forward: Route) -> PortInUseError:
    host = transport.settings.host
    where, side = (host, host) if forward.on_host else ("this computer", "manager")
    message = f"Port {forward.port} of {where} is in use."
    return PortInUseError(message, port=forward.port, side=side)


def _error(
    transport: Transport, what: str, why: str, status: int | None = None, printed: str = ""
) -> ForwardError:
    host = transport.settings.host
    return ForwardError(
        f"Cannot {what} over the connection to {host}: {why}.",
        host=host,
        exit_status=status,
        stderr=printed,
    )
