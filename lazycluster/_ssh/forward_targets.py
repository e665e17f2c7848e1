"""Choose how a forward's target is spelled, and find out whether sshd lets connections through.

Without `to_host` the target is on loopback, which has a name and two addresses. The name may be
unknown, or lead to only one of the addresses, and sshd may permit some of the three (PermitOpen).
"""

from __future__ import annotations

import re

from lazycluster._shared import ports
from lazycluster._ssh import forward_errors
from lazycluster._ssh.endpoints import LOCALHOST, Endpoint, Route
from lazycluster._ssh.forward_control import Probe, probe
from lazycluster._ssh.host_side import HostSide
from lazycluster._ssh.listeners import Listener
from lazycluster._ssh.transport import Transport

PROBED_PORT = 1  # of the host; tcpmux, which is never in use

# What a server replies for a socket that it does not connect to: sshd the first.
_SOCKET_REFUSED = re.compile(
    r"open failed: (connect failed: open failed|unknown channel type|administratively prohibited.*)"
)


def choose_target(transport: Transport, route: Route, host: HostSide | None) -> Route:
    """Return the route with a host for its target.

    ssh listens on the manager without asking sshd, so sshd's permission is found out here. The
    user's service would notice a connection to it, and a third host one to another port. So sshd is
    asked for a port of its own that is never in use: "connection refused" shows that it has tried.
    Only where that is forbidden, and other targets may be allowed, the target itself is probed.

    Raises:
        ForwardError: If sshd does not let connections through.
    """
    to = route.to
    if to.path:
        return route
    if route.on_host:  # the manager connects
        return _with_host(route, to.host or ports.service_address(to.port))
    if to.host:
        first = probe(transport, Endpoint(LOCALHOST, PROBED_PORT))
        if first.refusal:
            refusal = probe(transport, to).refusal
            if refusal:
                raise forward_errors.target_refused(transport, to, refusal)
        return route
    probes: dict[str, Probe] = {}

    def probe_usual() -> None:
        probes[LOCALHOST] = probe(transport, Endpoint(LOCALHOST, PROBED_PORT))

    # One round trip for both: what the host answers is most often the usual name.
    preferred = LOCALHOST if host is None else host.service_address(to.port, probe_usual)
    spellings = dict.fromkeys((preferred, LOCALHOST, *ports.LOOPBACK))
    refusal = ""
    forbidden = []
    for spelling in spellings:
        found = probes.get(spelling) or probe(transport, Endpoint(spelling, PROBED_PORT))
        if not found.refusal and not found.is_unknown:
            return _with_host(route, spelling)
        if found.refusal:
            refusal = found.refusal
            forbidden.append(spelling)
    for spelling in forbidden:
        if not probe(transport, Endpoint(spelling, to.port)).refusal:
            return _with_host(route, spelling)
    raise forward_errors.target_refused(transport, to, refusal)


def _with_host(route: Route, host: str) -> Route:
    return route._replace(to=route.to._replace(host=host))


def check_socket_target(listener: Listener, host: HostSide | None) -> None:
    """Find out whether sshd lets connections through to a socket of the host; else end the forward.

    sshd replies to a forbidden socket as to one without a server ("connect failed"), so only a
    server that is there shows it, by a connection to it. Without one, or without Python on the
    host, the first connection through the forward is the one that fails.

    Raises:
        ForwardError: If sshd does not let connections through.
    """
    transport, to = listener.transport, listener.route.to
    if listener.route.on_host or not to.path or host is None or not host.socket_accepts(to.path):
        return
    probed = Endpoint(LOCALHOST, PROBED_PORT)
    of_probe = 1 if probe(transport, probed).refusal else 0
    before = transport.master.log_size()
    with listener.connect():
        # The master and sshd do one thing after the other: this answer comes behind the other one.
        probe(transport, probed)
    refusals = _SOCKET_REFUSED.findall(transport.master.log_since(before))
    if len(refusals) > of_probe:
        raise forward_errors.target_refused(transport, to, refusals[0].strip())
