"""The errors of forwards. sshd gives no reason for a refusal, so each says what can refuse it."""

from __future__ import annotations

from collections.abc import Sequence

from lazycluster._ssh.endpoints import Endpoint, Route
from lazycluster._ssh.transport import Transport
from lazycluster.exceptions import ForwardError, PortInUseError

_DISABLED = "DisableForwarding must be `no`."
_KEY = "The key's line in authorized_keys must not have `restrict` or `no-port-forwarding`."


def in_use(transport: Transport, route: Route) -> PortInUseError:
    """Return the error of a port or path that is taken on the side that should listen."""
    host = transport.settings.host
    where, side = (host, host) if route.on_host else ("this computer", "manager")
    end = route.listen
    if end.path:
        message = f"The path {end.path} of {where} exists already; remove it or choose another."
        return PortInUseError(message, port=0, side=side)
    message = f"{str(end).capitalize()} of {where} is in use."
    return PortInUseError(message, port=end.port, side=side)


def error(
    transport: Transport, what: str, why: str, status: int | None = None, printed: str = ""
) -> ForwardError:
    """Return the error of what cannot be done, like "forward port 80 of the host"."""
    host = transport.settings.host
    return ForwardError(
        f"Cannot {what} over the connection to {host}: {why.rstrip('.')}.",
        host=host,
        exit_status=status,
        stderr=printed,
    )


def target_refused(transport: Transport, to: Endpoint, quote: str) -> ForwardError:
    """Return the error of a target that sshd does not connect to; `quote` is what it replied."""
    if to.path:
        causes = ["AllowStreamLocalForwarding must be `yes` or `local`.", _DISABLED, _KEY]
        if "unknown channel type" in quote:
            causes = ["It is not OpenSSH, and forwards no unix sockets."]
    else:
        causes = [
            "AllowTcpForwarding must be `yes` or `local`.",
            f"PermitOpen must allow {to.host or 'localhost'}:{to.port}.",
            _DISABLED,
            _KEY,
        ]
    what = f"forward this computer to {to} {'through' if to.host else 'of'} the host"
    return error(transport, what, _refusal(quote, causes), printed=quote)


def listener_refused(
    transport: Transport, end: Endpoint, quote: str, status: int, printed: str, *, may_be_used: bool
) -> ForwardError:
    """Return the error of a listener on the host that sshd refuses.

    Args:
        transport: The login.
        end: Where sshd should listen.
        quote: What ssh printed of it.
        status: The mux client's exit status.
        printed: What the mux client printed.
        may_be_used: True if it is not known whether it is in use.
    """
    if end.path:
        causes = [
            "AllowStreamLocalForwarding must be `yes` or `remote`.",
            "AllowTcpForwarding must be `yes` or `remote`, for sockets, too.",
            _DISABLED,
            "The account must be able to write to the socket's folder.",
        ]
    else:
        causes = [
            "AllowTcpForwarding must be `yes` or `remote`.",
            f"PermitListen must allow {end.host or 'localhost'}:{end.port}.",
            _DISABLED,
        ]
        if not end.is_private and end.host != "*":
            causes.append(f"{end.host} must be an address of the host.")
        if end.port < 1024:
            causes.append("A port below 1024 needs root.")
    causes.append(_KEY)
    if may_be_used:
        causes.append("It must not be in use.")
    what = f"listen on {end} of the host"
    return error(transport, what, _refusal(quote, causes), status, printed)


def _refusal(quote: str, causes: Sequence[str]) -> str:
    return f"its sshd refuses it, and does not say why ({quote}). " + " ".join(causes)


def only_loopback(transport: Transport, end: Endpoint) -> ForwardError:
    """Return the error of an address that sshd replaces by loopback."""
    why = (
        "its sshd listens on loopback, whatever it is asked (GatewayPorts no). GatewayPorts must "
        "be `clientspecified`, or `yes` for all addresses; dropbear needs its option -a"
    )
    return error(transport, f"listen on {end} of the host", why)
