"""Unix sockets in the file system: what is at a path, and remove a forward's socket, but no other.

Neither ssh nor sshd removes the socket of a forward. Another program may have replaced it by then,
with a socket that has the freed inode number. So a socket is known by its time, too. Before it is
made, nothing is at its path, and it is expected there: a side that is killed meanwhile leaves none.
"""

import os
import stat

EXPECTED = [0, 0, 0]  # the identity of a socket that may have been made where nothing was

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence


def path_is_taken(path: "str") -> "bool":
    """Return True if there is anything at the path: a file, a folder, a socket, a link."""
    return os.path.lexists(path)


def expect_socket(path: "str") -> "bool":
    """Return True if nothing is at the path; the supervisor then notes that a socket may come."""
    return not path_is_taken(path)


def forget_socket(path: "str") -> "None":
    """Do nothing; the supervisor notes that no socket of ours has come."""


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

    With the identity EXPECTED it is any socket.

    Raises:
        OSError: If it cannot be removed.
    """
    found = socket_identity(path)
    if found is None or list(identity) not in (found, EXPECTED):
        return False
    os.unlink(path)
    return True
