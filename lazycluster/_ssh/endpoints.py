"""The two ends of a forward, as the user gives them and as ssh reads them."""

from __future__ import annotations

import os
import re
import sys
from typing import NamedTuple, Union

from lazycluster._checks import checked_path, checked_port
from lazycluster._shared.paths import absolute
from lazycluster._shared.ports import ALL_ADDRESSES, LOOPBACK

PortOrPath = Union[int, str, "os.PathLike[str]"]
"""A TCP port, or the path of a unix socket in its place."""

LOCALHOST = "localhost"  # as an address to listen on: ssh and sshd take IPv4 and IPv6
# sun_path has 108 bytes on Linux and 104 on macOS and BSD, one of them for the NUL.
SOCKET_PATH_LIMIT = 107 if sys.platform.startswith("linux") else 103

_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.(?!-)[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
_ALL_DIGITS = re.compile(r"(?:.*\.)?(?:\d+|0[xX][\da-fA-F]*)\.?", re.ASCII)
_LONGEST_NAME = 253


class Endpoint(NamedTuple):
    """One end of a forward.

    Attributes:
        host: The address to listen on, or the host to lead to; "" for loopback.
        port: The TCP port; 0 for a socket, or for any free port to listen on.
        path: The absolute path of a unix socket; "" for a port.
    """

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"socket {self.path}"
        if self.host in ("", LOCALHOST):
            return f"port {self.port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"port {host}:{self.port}"

    @property
    def key(self) -> str:
        """Return its part of a process key: the port alone on loopback, as in 0.2."""
        return str(self).partition(" ")[2]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return the addresses to listen on, for `_shared.ports`."""
        if self.host == "*":
            return ALL_ADDRESSES
        return LOOPBACK if self.host in ("", LOCALHOST) else (self.host,)

    @property
    def is_private(self) -> bool:
        """Return True if only the same machine can connect to it."""
        return bool(self.path) or self.addresses == LOOPBACK or self.host in LOOPBACK


class Route(NamedTuple):
    """A forward: where it listens, and what it leads to on the other side."""

    listen: Endpoint
    to: Endpoint
    on_host: bool  # the host listens (-R), else the manager does (-L)

    @property
    def flag(self) -> str:
        """Return ssh's option for its direction."""
        return "-R" if self.on_host else "-L"

    def text(self, host: str) -> str:
        """Return a name for messages; `host` as the user gave it."""
        if self.on_host:
            return f"Forward of {self.listen} of {host} to {self.to} here"
        way = "through" if self.to.host else "of"
        return f"Forward of {self.listen} here to {self.to} {way} {host}"

    @property
    def keys(self) -> tuple[str, str]:
        """Return the parts of a process key: what listens, then what it leads to."""
        return self.listen.key, self.to.key


def checked_route(
    port: PortOrPath,
    to_port: PortOrPath,
    *,
    to_host: str | None,
    bind_address: str | None,
    on_host: bool,
) -> Route:
    """Return the route that the user asked for.

    Raises:
        ValueError: If an argument is invalid, or a host or address is given for a socket.
        TypeError: If a path is bytes.
    """
    listen = checked_end(port, "port", lowest=0, on_host=on_host)
    to = checked_end(to_port, "to_port", lowest=1, on_host=not on_host)
    if bind_address is not None:
        if listen.path:
            raise ValueError(f"bind_address has no meaning for the socket {listen.path!r}.")
        listen = listen._replace(host=checked_bind_address(bind_address))
    if to_host is not None:
        if to.path:
            raise ValueError(f"to_host has no meaning for the socket {to.path!r}.")
        to = to._replace(host=checked_to_host(to_host))
    return Route(listen, to, on_host)


def is_path(port: PortOrPath) -> bool:
    """Return True for the path of a socket; a string is one if it contains a slash."""
    return isinstance(port, (bytes, os.PathLike)) or (isinstance(port, str) and "/" in port)


def checked_end(port: PortOrPath, what: str, *, lowest: int, on_host: bool) -> Endpoint:
    """Return one end, a port or a socket.

    Args:
        port: The port or path.
        what: The parameter's name.
        lowest: The lowest port.
        on_host: True if it is on the host, where a relative path begins nowhere.

    Raises:
        ValueError: If it is invalid.
        TypeError: If a path is bytes.
    """
    if not is_path(port):
        if isinstance(port, str):
            raise ValueError(
                f"Invalid {what} {port!r}: a port is a number, and the path of a socket contains "
                f"a slash, as './{port}'."
            )
        assert not isinstance(port, os.PathLike)
        return Endpoint("", checked_port(port, what, lowest=lowest))
    assert not isinstance(port, int)
    path = checked_path(port, f"The socket path {what}")
    if on_host and not os.path.isabs(path):
        raise ValueError(f"Invalid {what} {path!r}: the path of a socket on a host is absolute.")
    path = absolute(path)
    if path.endswith(("/", "/..")):
        raise ValueError(f"Invalid {what} {path!r}: that is a folder, not a socket.")
    if "${" in path or re.search(r"[\0-\x1f\x7f]", path):
        raise ValueError(
            f"Invalid {what} {path!r}: ssh takes no path of a socket with `${{` or with a control "
            "character."
        )
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT:
        raise ValueError(
            f"Invalid {what} {path!r}: the path has {length} bytes, and the system takes at most "
            f"{SOCKET_PATH_LIMIT} for a socket. Choose a shorter one."
        )
    return Endpoint("", 0, path)


def checked_bind_address(address: str) -> str:
    """Return an address to listen on.

    Raises:
        ValueError: If it is neither an IP address nor "localhost" nor "*".
    """
    if address in (LOCALHOST, "*") or _is_address(address):
        return address
    raise ValueError(
        f"Invalid bind_address {address!r}: it must be an IPv4 or IPv6 address without brackets, "
        "'localhost', or '*' for all addresses."
    )


def checked_to_host(host: str) -> str:
    """Return a host to lead to.

    Raises:
        ValueError: If it is neither a host name nor an IP address.
    """
    if _is_address(host):
        return host
    named = isinstance(host, str) and len(host) <= _LONGEST_NAME and _NAME.fullmatch(host)
    if not named or _ALL_DIGITS.fullmatch(host):
        raise ValueError(
            f"Invalid to_host {host!r}: it must be a host name, or an IPv4 or IPv6 address without "
            "brackets; the port is another argument."
        )
    return host


def _is_address(text: str) -> bool:
    if not isinstance(text, str) or not re.fullmatch(
        r"[0-9A-Fa-f.:]+(?:%[\w.-]+)?", text, re.ASCII
    ):
        return False
    import ipaddress  # takes a few milliseconds

    address, _, zone = text.partition("%")  # Python 3.9.0 to 3.9.4 take anything behind a `%`
    try:
        return ipaddress.ip_address(address).version == 6 or not zone
    except ValueError:
        return False


def forward_text(route: Route, *, expands_paths: bool) -> str:
    """Return the argument of `-L` or `-R`.

    Args:
        route: The forward; both hosts are chosen, so that none is "".
        expands_paths: True if this ssh expands `%` in the path of a socket (8.4 and newer).
    """
    return ":".join(_end_text(end, expands_paths) for end in (route.listen, route.to))


def _end_text(end: Endpoint, expands_paths: bool) -> str:
    if not end.path:
        return f"[{end.host}]:{end.port}"
    path = end.path.replace("%", "%%") if expands_paths else end.path
    return re.sub(r"([\\:])", r"\\\1", path)
