"""Services that forwards lead to, and clients that come through them."""

from __future__ import annotations

import contextlib
import os
import socket
import threading

WORD = b"hello"


class Service:
    """Says its word to everybody who connects, until they hang up; counts them.

    Args:
        address: An IP address, or the path of a unix socket.
        port: The port; 0 for any free one.
    """

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.count = 0
        self.port = 0
        if "/" in address:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(address)
            self._listener.listen()
        else:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            self._listener = socket.create_server((address, port), family=family)
            self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.count += 1
                with connection, contextlib.suppress(OSError):
                    connection.sendall(WORD)

    def close(self) -> None:
        """End it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)


def fetch(port: int | str | os.PathLike[str], address: str = "127.0.0.1") -> bytes:
    """Return what a service says, at a port or at the path of a socket."""
    if isinstance(port, int):
        client = socket.create_connection((address, port), timeout=100)
    else:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(100)
        client.connect(os.fspath(port))
    with client, contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: client.recv(100), b""))
    return b""


def answers(port: int, address: str = "127.0.0.1") -> bool:
    """Return True if something listens on the port."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        return probe.connect_ex((address, port)) == 0


def free_port() -> int:
    """Return a port that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
