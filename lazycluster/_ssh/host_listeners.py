"""Make the host listen for a forward, verify it where the host has Python, and see its end."""

from __future__ import annotations

import logging
import secrets

from lazycluster._shared import ports
from lazycluster._ssh import forward_errors
from lazycluster._ssh.endpoints import LOCALHOST, Route
from lazycluster._ssh.forward_control import ask, cancel
from lazycluster._ssh.host_side import HostSide
from lazycluster._ssh.listeners import Listener
from lazycluster._ssh.mux import CONTROL_TIMEOUT, client_error, master_answers, reason
from lazycluster._ssh.transport import Transport
from lazycluster.exceptions import LazyclusterError

# What sshd listens on with GatewayPorts yes, as `PortState` has it.
_WILDCARDS = {"0.0.0.0", "::", "::ffff:0.0.0.0"}

logger = logging.getLogger("lazycluster")


class HostListener(Listener):
    """A listener on a host without Python: what sshd says is believed."""

    may_be_used = True

    def open(self) -> None:
        """Make sshd listen; see `Listener.open`. The name and the addresses are tried in turn."""
        port = _dynamic_port() if self._is_chosen else self.end.port
        refusals: list[LazyclusterError] = []
        for spelling in self._spellings():
            if refusals and self._takes_half(port):
                break
            self._choose(port, spelling)
            if not self._is_free():
                raise forward_errors.in_use(self.transport, self.route)
            refusal = self._request()
            if refusal is None:
                return self._verify()
            self._forget()
            refusals.append(refusal)
        raise refusals[0]

    def _spellings(self) -> tuple[str, ...]:
        """Return the addresses to try: PermitListen may allow only one of those for loopback."""
        if self._wanted.host or self._wanted.path:
            return (self._wanted.host,)
        return ("127.0.0.1", LOCALHOST)

    def _takes_half(self, port: int) -> bool:
        """Return True if sshd would listen on ::1 alone, since 127.0.0.1 is in use.

        For localhost that is enough for it, and without Python the host cannot be asked.
        """
        self._choose(port, "::1")
        if self._request() is not None:
            return False
        cancel(self.transport, self.route)
        return True

    def _request(self) -> LazyclusterError | None:
        """Make sshd listen; return the error if it refuses."""
        status, printed = ask(self.transport, "forward", self.route)
        if status == 0:
            return None
        if not master_answers(self.transport):
            raise client_error(self.transport, "forward", status, printed, started=False)
        if status is None:  # a late answer must not leave a listener
            cancel(self.transport, self.route)
            what = f"listen on {self.end} of the host"
            why = f"no answer came within {CONTROL_TIMEOUT:g} s"
            raise forward_errors.error(self.transport, what, why, None, printed)
        if not self._is_free():
            self._forget()
            raise forward_errors.in_use(self.transport, self.route)
        quote = reason(printed).rpartition("request failed: ")[2].partition(" / ")[0]
        end = self._wanted._replace(port=self.end.port)
        return forward_errors.listener_refused(
            self.transport, end, quote, status, printed, may_be_used=self.may_be_used
        )

    def _is_free(self) -> bool:
        return True

    def _verify(self) -> None:
        """Check what sshd has made."""

    def _forget(self) -> None:
        """Expect no socket any more."""

    def is_over(self) -> bool:
        """Return True; the caller lets sshd answer a later request first."""
        return True


class VerifiedHostListener(HostListener):
    """A listener on a host with Python, which is asked before and after."""

    may_be_used = False

    def __init__(self, transport: Transport, wanted: Route, asked: Route, host: HostSide) -> None:
        super().__init__(transport, wanted, asked, host)
        self._host = host
        self._identity: list[int] | None = None

    def _is_free(self) -> bool:
        if self.end.path:
            return self._host.expect_socket(self.end.path)
        return self._host.port_is_free(self.end.port, self._to_be_free)

    def _spellings(self) -> tuple[str, ...]:
        if self._wanted.host or self._wanted.path:
            return (self._wanted.host,)
        return (LOCALHOST, *ports.LOOPBACK)

    def _takes_half(self, port: int) -> bool:
        return False  # that is verified afterwards

    def _verify(self) -> None:
        try:
            (self._verify_socket if self.end.path else self._verify_port)()
        except BaseException:
            self.abandon()
            raise

    def _forget(self) -> None:
        if self.end.path:
            self._host.forget_socket(self.end.path)

    def _verify_socket(self) -> None:
        self._identity = self._host.claim_socket(self.end.path)
        if self._identity is None:
            self._forget()
            raise self._missing()

    def _verify_port(self) -> None:
        end = self.end
        state = self._host.port_state(end.port, end.addresses)
        listeners = {*state.listeners}
        expected = self._expected(*end.addresses)
        if state.free if not listeners else not listeners & expected:
            if not end.is_private and not self._host.port_is_free(end.port, ports.LOOPBACK):
                raise forward_errors.only_loopback(self.transport, end)
            raise self._missing()
        if listeners:
            absent = [one for one in end.addresses if not listeners & self._expected(one)]
            if any(not self._host.port_is_free(end.port, [one]) for one in absent):
                raise forward_errors.in_use(self.transport, self.route)
        if _WILDCARDS & listeners and end.host not in ("*", *_WILDCARDS):
            logger.warning(
                "Port %d of %s can be reached from its network, and not from %s alone: its sshd "
                "listens on all addresses, whatever it is asked (GatewayPorts yes).",
                end.port,
                self.transport.settings.host,
                "itself" if end.is_private else end.host,
            )

    def _expected(self, *addresses: str) -> set[str]:
        """Return the addresses that sshd may listen on for these."""
        plain = {address.partition("%")[0] for address in addresses}
        return _WILDCARDS | plain | {"::ffff:" + address for address in plain}

    def _missing(self) -> LazyclusterError:
        what = f"listen on {self.end} of the host"
        why = "ssh reports success, but nothing listens there"
        return forward_errors.error(self.transport, what, why)

    def is_over(self) -> bool:
        """Return True if nothing of it is left; remove its socket."""
        if self.end.path:
            self.remove_socket()
            return True
        state = self._host.port_state(self.end.port, self.end.addresses)
        return state.free or (
            bool(state.listeners) and not self._expected(*self.end.addresses) & {*state.listeners}
        )

    def remove_socket(self) -> None:
        """Make the host remove the socket, if there is one; a second call does nothing."""
        identity, self._identity = self._identity, None
        if identity is not None:
            self._host.remove_socket(self.end.path, identity)


def _dynamic_port() -> int:
    """Return a port of the range that IANA gives to no service.

    sshd is not asked for port 0: ssh knows that forward as "port 0" and can have one of them for
    each target, and dropbear does not end it to make it again by its number.
    """
    return 49152 + secrets.randbelow(1 << 14)
