"""TCP ports of this host: whether a port is in use, found by binding it and by connecting to it.

The servers of unix sockets, too: whether one accepts a connection.
"""

import errno
import os
import socket
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Sequence

RETRIES = 3  # of a port that is bound and that no table has
RETRY_INTERVAL = 0.003  # seconds
CONNECT_TIMEOUT = 0.5  # seconds; loopback answers at once unless a firewall drops the packets
BACKLOG_TIMEOUT = 5.0  # seconds, for a server of a unix socket whose backlog is full
SYSCTL_TIMEOUT = 10.0  # seconds
LOOPBACK = ("127.0.0.1", "::1")
ALL_ADDRESSES = ("0.0.0.0", "::")
SOCKET_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")  # Linux
BOOT_ID = "/proc/sys/kernel/random/boot_id"  # Linux
NETWORK_NAMESPACE = "/proc/self/ns/net"  # Linux
LOOPBACK_OF = dict(zip(ALL_ADDRESSES, LOOPBACK))  # to connect to
LISTENING = b"0A"  # the state of a socket in these tables
NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL)
NOT_ALLOWED = (errno.EACCES, errno.EPERM)  # a port below 1024, SELinux
REFUSED = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH)


def first_free_port(ports: "list[int]") -> "int | None":
    """Return the first free port of a list; None if none is free."""
    found = next((port for port in ports if _is_free_now(port)), None)
    return found or next(iter(_free(ports)), None)


def free_ports(ports: "list[int]") -> "dict[str, Any]":
    """Return which ports of a list are `free`, and the `network` of this host, see `network_id`."""
    return {"free": _free(ports), "network": network_id()}


def port_is_free(port: "int", addresses: "Sequence[str]" = ALL_ADDRESSES) -> "bool":
    """Return True if a server could listen on the port, on all of the addresses.

    By default these are all addresses of IPv4 and IPv6. A port is in use if it is bound on one of
    the addresses, and also if connecting to it there meets anything but a refusal: a firewall rule
    can serve a port that no process has bound, as Docker publishes ports. What is left of closed
    connections (TIME_WAIT) does not matter as long as a server with SO_REUSEADDR could bind the
    port: Linux allows it if the earlier socket had it too. An account that may not bind the port
    (below 1024, for example) cannot see a socket that is bound but does not listen.

    Raises:
        OSError: If the check failed, for lack of file descriptors for example.
    """
    return bool(_free([port], addresses))


def _free(ports: "list[int]", addresses: "Sequence[str]" = ALL_ADDRESSES) -> "list[int]":
    """Return the ports that are free.

    Another process that asks the same has a port bound for some microseconds. So a port that is
    bound, and that no socket of the tables has, is looked at again.
    """
    free = {port for port in ports if _is_free_now(port, addresses)}
    for _ in range(RETRIES):
        taken = set(ports) - free
        unclear = taken - _ports_of_tables() if taken else taken
        if not unclear:
            break
        time.sleep(RETRY_INTERVAL)
        free |= {port for port in unclear if _is_free_now(port, addresses)}
    return [port for port in ports if port in free]


def _is_free_now(port: "int", addresses: "Sequence[str]" = ALL_ADDRESSES) -> "bool":
    return not any(_is_bound(address, port) for address in addresses) and not any(
        _answers(LOOPBACK_OF.get(address, address), port) for address in addresses
    )


def port_state(port: "int", addresses: "Sequence[str]" = ALL_ADDRESSES) -> "dict[str, Any]":
    """Return `free`, see `port_is_free`, and `listeners`.

    These are the addresses of the port's listening sockets, such as "127.0.0.1", "::1" and
    "::ffff:127.0.0.1", on any address; None where the system has no socket tables.
    """
    return {"free": port_is_free(port, addresses), "listeners": _listeners(port)}


def is_listened_on(address: "str", port: "int") -> "bool":
    """Return True if a socket listens on the port of the address, without connecting to it.

    Unlike `port_is_free`, what is left of connections does not count. An account that may not bind
    the port cannot look, and gets True.
    """
    return _bind(address, port, reuse=True) in (errno.EADDRINUSE, *NOT_ALLOWED)


def service_address(port: "int") -> "str":
    """Return the name or address by which a client on this host reaches what listens on a port.

    It is "localhost", unless that is unknown here or does not lead to the only address that is
    listened on: then it is "127.0.0.1" or "::1".
    """
    try:
        # As bytes: for a text Python imports its codec "idna", in each forked process anew (7 ms).
        found = socket.getaddrinfo(b"localhost", port, 0, socket.SOCK_STREAM)
    except OSError:
        found = []
    known = [str(info[4][0]) for info in found]
    if set(LOOPBACK) <= set(known):  # wherever it listens; the socket tables take milliseconds
        return "localhost"
    listeners = _listeners(port) or []
    reached = [address for address in LOOPBACK if _covering(address) & set(listeners)]
    if set(known) & set(reached or known):
        return "localhost"
    return (reached or LOOPBACK)[0]


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


def _is_bound(address: "str", port: "int") -> "bool":
    obstacle = _bind(address, port, reuse=False)
    if obstacle == errno.EADDRINUSE:
        # Else closed connections are left over, or a socket is bound with SO_REUSEADDR and does not
        # listen yet. The socket tables list only the former.
        return _bind(address, port, reuse=True) == errno.EADDRINUSE or _sockets(port) == []
    if obstacle in NOT_ALLOWED:
        listeners = set(_listeners(port) or ())
        return bool(listeners if address in ALL_ADDRESSES else listeners & _covering(address))
    return False


def _covering(address: "str") -> "set[str]":
    """Return the addresses of listeners that a connection to this address reaches."""
    if ":" in address:
        return {address.partition("%")[0], "::"}
    return {address, "0.0.0.0", "::", "::ffff:" + address, "::ffff:0.0.0.0"}


def _bind(address: "str", port: "int", reuse: "bool") -> "int | None":
    """Bind and release the port of an address; return the errno of a failure."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if reuse:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # IPv4 has a probe of its own
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address, port))
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


def _ports_of_tables() -> "set[int]":
    """Return the local ports of all sockets in the socket tables."""
    found = set()  # type: set[int]
    for path in SOCKET_TABLES:
        try:
            with open(path, "rb") as table:
                next(table, b"")  # the titles
                found.update(int(line.split(None, 2)[1].rpartition(b":")[2], 16) for line in table)
        except OSError:
            continue
    return found


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


def socket_accepts(path: "str") -> "bool":
    """Return True if a server accepts a connection at the path; it is closed at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(BACKLOG_TIMEOUT)
        try:
            return probe.connect_ex(path) == 0
        except OSError:  # the path is too long
            return False
