"""TCP ports of this host: whether one is in use, by binding it and by connecting to it."""

import errno
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

PATIENCE = 0.5  # seconds; loopback accepts or refuses at once, unless something drops the packets
LOOPBACK = ("127.0.0.1", "::1")
SOCKET_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")  # Linux
LISTENING = b"0A"  # in these
NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL)
NOT_ALLOWED = (errno.EACCES, errno.EPERM)  # a port below 1024, SELinux
NOBODY_THERE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH)


def first_free_port(ports: "list[int]") -> "int | None":
    """The first of the ports that is free; None if none is."""
    for port in ports:
        if port_is_free(port):
            return port
    return None


def port_is_free(port: "int") -> "bool":
    """Whether a server could listen on the port, on all addresses, IPv4 and IPv6.

    A port is in use if it is bound on any address, and also if connecting to it on loopback meets
    anything but a refusal: a rule of a firewall can serve a port that nobody has bound, as Docker
    publishes ports. What is left of closed connections (TIME_WAIT) does not matter as long as a
    server with SO_REUSEADDR, which nearly all have, could bind: Linux lets it if the socket that
    was there had SO_REUSEADDR too.

    Whoever may not bind the port (below 1024, say) cannot see what is bound without listening.

    Args:
        port: From 1 to 65535.

    Raises:
        OSError: It could not be found out, for want of descriptors say.
    """
    return not _is_bound(port) and not any(_answers(address, port) for address in LOOPBACK)


def _is_bound(port: "int") -> "bool":
    import socket  # costs some ms; most connections never need it

    for family in (socket.AF_INET, socket.AF_INET6):
        obstacle = _bind(family, port, reuse=False)
        if obstacle == errno.EADDRINUSE:
            if _bind(family, port, reuse=True) == errno.EADDRINUSE:
                return True
            # Left over from connections, or bound with SO_REUSEADDR and not listening yet. The
            # system's tables have the former only.
            states = _states(port)
            if states is not None and not states:
                return True
        elif obstacle in NOT_ALLOWED and LISTENING in (_states(port) or ()):
            return True
    return False


def _bind(family: "socket.AddressFamily", port: "int", reuse: "bool") -> "int | None":
    """Bind the port on all addresses of the family, and let go of it; what hindered that."""
    import socket

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


def _states(port: "int") -> "set[bytes] | None":
    """The states of the sockets of that local port that listen or are connected.

    None where the system has no such tables. Bound sockets that do neither are not in them.
    """
    ending = b":%04X" % port
    found = set()
    readable = False
    for path in SOCKET_TABLES:
        try:
            with open(path, "rb") as table:
                readable = True
                for line in table:
                    fields = line.split(None, 4)
                    if len(fields) > 3 and fields[1].endswith(ending):
                        found.add(fields[3])
        except OSError:
            continue
    return found if readable else None


def _answers(address: "str", port: "int") -> "bool":
    """Whether connecting meets anybody; silence is taken for somebody who has no time."""
    import socket

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(PATIENCE)
            error = probe.connect_ex((address, port))
            if error:
                return error not in (*NOBODY_THERE, *NOT_ALLOWED, *NO_SUCH_FAMILY)
            if probe.getsockname()[:2] != (address, port):
                return True
            # Linux may pick the very port as the source, and TCP connects a socket to itself.
            # No TIME_WAIT of ours stays behind.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError as failure:
        if failure.errno not in NO_SUCH_FAMILY:
            raise
    return False
