"""What the host reports about its ports and sockets, where it has Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lazycluster._shared.ports import LOOPBACK
from lazycluster._ssh.endpoints import LOCALHOST


class PortState(NamedTuple):
    """What the host reports about one of its ports; see `_shared.ports.port_state`."""

    free: bool
    listeners: list[str]  # addresses; empty where the host has no socket tables


class HostSide:
    """Operations of the host that forwards need; each method raises LazyclusterError or OSError.

    Args:
        operate: Runs an operation (see `_shared.operations`) with its arguments; if `meanwhile` is
            given, calls that while the host works.
    """

    def __init__(self, operate: Callable[..., Any]) -> None:
        self._operate = operate

    def port_is_free(self, port: int, addresses: Sequence[str]) -> bool:
        """Return True if a server could listen on the port, on all of the addresses.

        Without the listeners, which a Linux with much memory takes ten milliseconds to list.
        """
        return bool(self._operate("port_is_free", {"port": port, "addresses": list(addresses)}))

    def port_state(self, port: int, addresses: Sequence[str]) -> PortState:
        """Return whether the port is free on the addresses, and who listens on it."""
        result = self._operate("port_state", {"port": port, "addresses": list(addresses)})
        listeners = [str(address) for address in result["listeners"] or []]
        return PortState(bool(result["free"]), listeners)

    def service_address(self, port: int, meanwhile: Callable[[], object]) -> str:
        """Return "localhost", or the only address by which the service on a port is reached.

        `meanwhile` is called while the host looks.
        """
        address = self._operate("service_address", {"port": port}, meanwhile=meanwhile)
        # It becomes a part of an argument, and only these are ours.
        return address if address in LOOPBACK else LOCALHOST

    def expect_socket(self, path: str) -> bool:
        """Return True if nothing is at the path; then a socket there is removed in the end."""
        return bool(self._operate("expect_socket", {"path": path}))

    def forget_socket(self, path: str) -> None:
        """Report that no socket was made where one was expected."""
        self._operate("forget_socket", {"path": path})

    def socket_accepts(self, path: str) -> bool:
        """Return True if a server accepts a connection at the path."""
        return bool(self._operate("socket_accepts", {"path": path}))

    def claim_socket(self, path: str) -> list[int] | None:
        """Make the host remove this socket at the path in the end, and no later one.

        Returns:
            What distinguishes it from a later socket there; None if there is none.
        """
        identity = self._operate("socket_identity", {"path": path})
        return [int(number) for number in identity] if identity else None

    def remove_socket(self, path: str, identity: Sequence[int]) -> None:
        """Remove a socket that was claimed, unless another one is at its path."""
        self._operate("remove_socket", {"path": path, "identity": list(identity)})
