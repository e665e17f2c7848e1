"""Make the manager's ssh listen for a forward, verify that it does, and see its end."""

from __future__ import annotations

import errno
import os
import re
import socket

from lazycluster._shared import ports
from lazycluster._shared.sockets import path_is_taken
from lazycluster._ssh import forward_errors
from lazycluster._ssh.endpoints import LOCALHOST, Endpoint, Route
from lazycluster._ssh.forward_control import ask, cancel
from lazycluster._ssh.host_side import HostSide
from lazycluster._ssh.mux import client_error, master_answers, reason
from lazycluster._ssh.socket_files import SocketFile
from lazycluster._ssh.transport import Transport

CONNECT_TIMEOUT = 5.0  # seconds to connect to our own listener


class Listener:
    """A forward's listener on the manager; see `host_listeners` for those on the host.

    Args:
        transport: The login.
        wanted: The forward; its target has a host, and port 0 stands for any free port.
        asked: The forward as the user asked for it.
        host: Asks the host; None for a host without Python.

    Attributes:
        route: The forward as it was made, once `open` has returned.
        has_warned: True if a connection through it found no server, and a WARNING said so.
    """

    def __init__(
        self, transport: Transport, wanted: Route, asked: Route, host: HostSide | None
    ) -> None:
        self.transport = transport
        self.host = host
        self.has_warned = False
        self._asked = asked
        self.route = wanted
        self._wanted = wanted.listen
        self._socket: SocketFile | None = None
        # A port of our own choice is free on all addresses: with GatewayPorts yes, sshd would share
        # it with another program that listens on one of them.
        self._is_chosen = not wanted.listen.path and not wanted.listen.port

    @property
    def asked(self) -> Route:
        """Return the forward as the user asked for it, with the port that was chosen."""
        return self._asked._replace(listen=self._asked.listen._replace(port=self.end.port))

    @property
    def end(self) -> Endpoint:
        """Return where it listens."""
        return self.route.listen

    def has_end(self, end: Endpoint) -> bool:
        """Return True if another forward cannot listen there."""
        if self.end.path or end.path:
            return self.end.path == end.path
        return self.end.port == end.port and bool({*self.end.addresses} & {*end.addresses})

    def open(self) -> None:
        """Listen, and verify it.

        Raises:
            PortInUseError: If the port or path is in use.
            ForwardError: If it cannot be made, for ssh's reason.
            ConnectionLostError: If the connection has ended; there is no listener then.
        """
        what = f"listen on {self.end} of this computer"
        try:
            port = _free_port(self.end.addresses[0]) if self._is_chosen else self.end.port
        except OSError as failure:  # the address is not one of this computer, or is IPv6
            why = failure.strerror or str(failure)
            raise forward_errors.error(self.transport, what, why) from failure
        self._choose(port, self.end.host or LOCALHOST)
        if not self._is_free():
            raise forward_errors.in_use(self.transport, self.route)
        if self.end.path:
            self._socket = SocketFile(self.transport.master.folder, self.end.path)
        before = self.transport.master.log_size()
        status, printed = ask(self.transport, "forward", self.route)
        log = self.transport.master.log_since(before)
        if status != 0 and not master_answers(self.transport):
            raise client_error(self.transport, "forward", status, printed, started=False)
        reasons = re.findall(r"^(?:bind \[.*?\]:\d+|unix_listener: .*?): (.*)$", log, re.MULTILINE)
        # One of the addresses is enough for ssh. The port may be free again, if it was the source
        # port of a connection for example.
        taken = os.strerror(errno.EADDRINUSE) in [text.strip() for text in reasons]
        if status not in (0, None) and self._socket is not None:
            self._socket.forget()
        if taken or (status != 0 and not self._is_free()):
            if status == 0:
                self.abandon()
            raise forward_errors.in_use(self.transport, self.route)
        if status != 0:
            why = reasons[0].strip() if reasons else reason(printed)
            raise forward_errors.error(self.transport, what, why, status, log + printed)
        if not self._has_come():
            if not master_answers(self.transport):  # it has ended meanwhile, and its listener too
                raise client_error(self.transport, "forward", status, printed, started=False)
            self.abandon()
            why = "ssh reports success, but nothing listens there"
            if self.end.addresses == ports.LOOPBACK and not self.end.path:
                why += " (does ssh_config have AddressFamily inet6? Then give bind_address='::1')"
            raise forward_errors.error(self.transport, what, why, status)

    def _choose(self, port: int, host: str) -> None:
        end = self.end if self.end.path else Endpoint(host, port)
        self.route = self.route._replace(listen=end)

    def _is_free(self) -> bool:
        if self.end.path:
            return not path_is_taken(self.end.path)
        return ports.port_is_free(self.end.port, self._to_be_free)

    @property
    def _to_be_free(self) -> tuple[str, ...]:
        return ports.ALL_ADDRESSES if self._is_chosen else self.end.addresses

    def _has_come(self) -> bool:
        """Return True if ssh listens; without IPv6 it does so on IPv4 alone."""
        if self._socket is not None:
            return self._socket.claim()
        return ports.is_listened_on(self.end.addresses[0], self.end.port)

    def is_over(self) -> bool:
        """Return True if nothing of it is left; remove its socket.

        Another process may have begun to listen on the same port of another address meanwhile.
        """
        if self.end.path:
            self.remove_socket()
            return True
        port, addresses = self.end.port, self.end.addresses
        if ports.port_is_free(port, addresses):
            return True
        return not any(ports.is_listened_on(address, port) for address in addresses)

    def connect(self) -> socket.socket:
        """Connect to it as a client of the manager does."""
        if not self.end.path:
            return socket.create_connection((self.end.addresses[0], self.end.port), CONNECT_TIMEOUT)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(CONNECT_TIMEOUT)
        client.connect(self.end.path)
        return client

    def abandon(self) -> None:
        """End it, because it is not what was asked for."""
        cancel(self.transport, self.route)
        self.remove_socket()

    def remove_socket(self) -> None:
        """Remove the socket on the manager, if there is one; a second call does nothing."""
        if self._socket is not None:
            self._socket.remove()


def _free_port(address: str) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
