"""TCP ports of this host: whether a port is in use, found by binding it and by connecting to it."""

import errno
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CONNECT_TIMEOUT = 0.5  # seconds; loopback answers at once unless a firewall drops the packets
SYSCTL_TIMEOUT = 10.0  # seconds
LOOPBACK = ("127.0.0.1", "::1")
SOCKET_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")  # Linux
BOOT_ID = "/proc/sys/kernel/random/boot_id"  # Linux
NETWORK_NAMESPACE = "/proc/self/ns/net"  # Linux
LISTENING = b"0A"  # the state of a socket in these tables
NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL)
NOT_ALLOWED = (errno.EACCES, errno.EPERM)  # a port below 1024, SELinux
REFUSED = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH)


def first_free_port(ports: "list[int]") -> "int | None":
    """Return the first free port of a list; None if none is free."""
    return next(filter(port_is_free, ports), None)


def port_is_free(port: "int") -> "bool":
    """Return True if a server could listen on the port, on all addresses of IPv4 and IPv6.

    A port is in use if it is bound on any address, and also if connecting to it on loopback meets
    anything but a refusal: a firewall rule can serve a port that no process has bound, as Docker
    publishes ports. What is left of closed connections (TIME_WAIT) does not matter as long as a
    server with SO_REUSEADDR could bind the port: Linux allows it if the earlier socket had it too.
    An account that may not bind the port (below 1024, for example) cannot see a socket that is
    bound but does not listen.

    Raises:
        OSError: If the check failed, for lack of file descriptors for example.
    """
    return not _is_bound(port) and not any(_answers(address, port) for address in LOOPBACK)


def port_state(port: "int") -> "dict[str, Any]":
    """Return `free`, see `port_is_free`, and `listeners`.

    These are the addresses of the port's listening sockets, such as "127.0.0.1", "::1" and
    "::ffff:127.0.0.1"; None where the system has no socket tables.
    """
    return {"free": port_is_free(port), "listeners": _listeners(port)}


def network_id() -> "list[str] | None":
    """Return what is equal for two processes if they share their ports; None if unknown.

    On Linux it is the boot of the kernel and the network namespace, of which a container has its
    own. macOS has no namespaces.
    """
    try:
        with open(BOOT_ID, encoding="ascii") as file:
            boot = file.read().strip()
        namespace = os.stat(NETWORK_NAMESPACE)
    except OSError:
        boot = _boot_session()
        return [boot] if boot else None
    return [boot, str(namespace.st_dev), str(namespace.st_ino)]


def _boot_session() -> "str":
    """Return macOS's name of the time since it was booted; empty elsewhere."""
    import subprocess

    try:
        argv = ["sysctl", "-n", "kern.bootsessionuuid"]
        printed = subprocess.check_output(
            argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=SYSCTL_TIMEOUT
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return printed.decode("ascii", "replace").strip()


def _is_bound(port: "int") -> "bool":
    for family in (socket.AF_INET, socket.AF_INET6):
        obstacle = _bind(family, port, reuse=False)
        if obstacle == errno.EADDRINUSE:
            if _bind(family, port, reuse=True) == errno.EADDRINUSE:
                return True
            # Closed connections are left over, or a socket is bound with SO_REUSEADDR and does not
            # listen yet. The socket tables list only the former.
            if _sockets(port) == []:
                return True
        elif obstacle in NOT_ALLOWED and _listeners(port):
            return True
    return False


def _bind(family: "socket.AddressFamily", port: "int", reuse: "bool") -> "int | None":
    """Bind and release the port on all addresses of the family; return the errno of a failure."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if reuse:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # IPv4 has a probe of its own
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, *NOT_ALLOWED, *NO_SUCH_FAMILY):
            return error.errno
        raise
    return None


def _sockets(port: "int") -> "list[tuple[bytes, bytes]] | None":
    """Return address and state of each socket of that local port, as the socket tables have them.

    They lack a socket that is bound but neither listens nor is connected. None without tables.
    """
    found = []  # type: list[tuple[bytes, bytes]]
    readable = False
    for path in SOCKET_TABLES:
        try:
            with open(path, "rb") as table:
                readable = True
                for line in table:
                    fields = line.split(None, 4)  # number, local address, remote address, state
                    if len(fields) > 3 and fields[1].endswith(b":%04X" % port):
                        found.append((fields[1].partition(b":")[0], fields[3]))
        except OSError:
            continue
    return found if readable else None


def _listeners(port: "int") -> "list[str] | None":
    sockets = _sockets(port)
    if sockets is None:
        return None
    return [_address_text(address) for address, state in sockets if state == LISTENING]


def _address_text(address: "bytes") -> "str":
    """Return the usual form of an address: the tables print 32-bit words in the host's order."""
    words = [int(address[start : start + 8], 16) for start in range(0, len(address), 8)]
    packed = struct.pack("=%dI" % len(words), *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)


def _answers(address: "str", port: "int") -> "bool":
    """Return True unless connecting is refused; silence counts as a server that is busy."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_TIMEOUT)
            error = probe.connect_ex((address, port))
            if error:
                return error not in (*REFUSED, *NOT_ALLOWED, *NO_SUCH_FAMILY)
            if probe.getsockname()[:2] != (address, port):
                return True
            # Linux may pick this very port as the source port, and TCP then connects the socket to
            # itself. With SO_LINGER 0 the probe leaves no TIME_WAIT behind.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError as failure:
        if failure.errno not in NO_SUCH_FAMILY:
            raise
    return False
