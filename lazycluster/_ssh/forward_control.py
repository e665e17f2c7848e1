"""Ask the control master to begin and end forwards, and sshd to connect to a target."""

from __future__ import annotations

import re
from typing import NamedTuple

from lazycluster._ssh import forward_errors
from lazycluster._ssh.argv import forward_argv, probe_argv
from lazycluster._ssh.endpoints import Endpoint, Route
from lazycluster._ssh.mux import NOTICE_TIMEOUT, control, master_answers, reason
from lazycluster._ssh.options import ssh_version
from lazycluster._ssh.transport import Transport

PROBE_TIMEOUT = 5.0  # seconds; a refusal comes at once, and some services never hang up

_REFUSED = re.compile(r"open failed: ((?:administratively prohibited|unknown channel type).*)")
_UNKNOWN = re.compile(r"open failed: connect failed: .*(?:[Nn]ame|resol|unknown host)")


class Probe(NamedTuple):
    """What came of an attempt to connect to a target."""

    refusal: str  # what sshd replied; "" if it does not refuse the target
    is_unknown: bool  # the name is not known there


def ask(transport: Transport, action: str, route: Route) -> tuple[int | None, str]:
    """Make the master "forward" or "cancel"; return the client's exit status and stderr."""
    path = transport.master.control_path
    status, _, printed = control(forward_argv(path, ssh_version(), action, route))
    return status, printed


def probe(transport: Transport, target: Endpoint) -> Probe:
    """Make sshd connect to a TCP target, and hang up."""
    before = transport.master.log_size()
    argv = probe_argv(transport.master.control_path, target.host, target.port)
    control(argv, PROBE_TIMEOUT)
    log = transport.master.log_since(before)
    refused = _REFUSED.search(log)
    return Probe(refused[1].strip(" :\r") if refused else "", bool(_UNKNOWN.search(log)))


def cancel(transport: Transport, route: Route) -> None:
    """Make the master end a forward; there may be none.

    Raises:
        ForwardError: If nothing answers at the control socket.
    """
    status, printed = ask(transport, "cancel", route)
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
    what = f"end the forward of {route.listen}"
    raise forward_errors.error(transport, what, why, status, printed)
