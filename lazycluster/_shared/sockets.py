"""Unix sockets in the file system: what is at a path, and remove a forward's socket, but no other.

Neither ssh nor sshd removes the socket of a forward. Another program may have replaced it by then,
with a socket that has the freed inode number. So a socket is known by its time, too.
"""

import os
import socket
import stat

CONNECT_TIMEOUT = 5.0  # seconds, for a server whose backlog is full

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence


def path_is_taken(path: "str") -> "bool":
    """Return True if there is anything at the path: a file, a folder, a socket, a link."""
    return os.path.lexists(path)


def socket_accepts(path: "str") -> "bool":
    """Return True if a server accepts a connection at the path; it is closed at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT)
        try:
            return probe.connect_ex(path) == 0
        except OSError:  # the path is too long
            return False


def socket_identity(path: "str") -> "list[int] | None":
    """Return what distinguishes the socket at the path from a later one; None if there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISSOCK(status.st_mode):
        return None
    return [status.st_dev, status.st_ino, status.st_mtime_ns]


def remove_socket(path: "str", identity: "Sequence[int]") -> "bool":
    """Remove the socket at the path if it is the one with this identity; return True if it was.

    Raises:
        OSError: If it cannot be removed.
    """
    if socket_identity(path) != list(identity):
        return False
    os.unlink(path)
    return True
