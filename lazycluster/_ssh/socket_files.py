"""The socket of a forward on the manager: ssh makes it and does not remove it."""

from __future__ import annotations

import contextlib
import os
import posix
from collections.abc import Sequence

from lazycluster._shared.sockets import remove_socket


class SocketFile:
    """A socket that ssh has just made; removed by `remove`, or by the guard if the manager dies.

    The guard finds two entries in the control folder: a link to the socket, whose name has the
    socket's inode number, and a file that is newer than the socket but older than any later one.

    Args:
        folder: The control folder.
        path: The path of the socket.
        identity: What distinguishes it from a later socket there.
    """

    def __init__(self, folder: str, path: str, identity: Sequence[int]) -> None:
        self._path = path
        self._identity = identity
        name = f"{identity[1]}-{os.urandom(4).hex()}"
        self._entries = [os.path.join(folder, f"{kind}-{name}") for kind in ("made", "socket")]
        with contextlib.suppress(OSError):  # the connection has ended, or the disk is full
            posix.close(os.open(self._entries[0], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            os.symlink(path, self._entries[1])

    def remove(self) -> None:
        """Remove it, unless another one is at its path; a second call does nothing."""
        with contextlib.suppress(OSError):  # its folder has gone, or may not be written any more
            remove_socket(self._path, self._identity)
        for entry in reversed(self._entries):
            with contextlib.suppress(OSError):
                os.unlink(entry)
