"""The socket of a forward on the manager: ssh makes it and does not remove it."""

from __future__ import annotations

import contextlib
import os
import posix
from collections.abc import Sequence

from lazycluster._shared.sockets import EXPECTED, remove_socket, socket_identity


class SocketFile:
    """A socket that ssh is to make; removed by `remove`, or by the guard if the manager dies.

    The guard finds two entries in the control folder: a link to the socket, whose name has the
    socket's inode number, and a file that is newer than the socket but older than any later one.
    Until the socket is there, the number is 0, and the guard removes any socket at its path, where
    nothing was before.

    Args:
        folder: The control folder.
        path: The path of the socket, at which nothing is.
    """

    def __init__(self, folder: str, path: str) -> None:
        self._folder = folder
        self._path = path
        self._identity: Sequence[int] = EXPECTED
        self._entries = self._make_entries()

    def claim(self) -> bool:
        """Return True if ssh has made the socket; a later one at its path is not ours."""
        identity = socket_identity(self._path)
        if identity is None:
            return False
        self._identity = identity
        before, self._entries = self._entries, self._make_entries()
        _unlink(before)
        return True

    def remove(self) -> None:
        """Remove the socket, unless another one is at its path; a second call does nothing."""
        with contextlib.suppress(OSError):  # its folder has gone, or may not be written any more
            remove_socket(self._path, self._identity)
        self.forget()

    def forget(self) -> None:
        """Leave what is at the path, since ssh has not made it."""
        _unlink(self._entries)

    def _make_entries(self) -> list[str]:
        name = f"{self._identity[1]}-{os.urandom(4).hex()}"
        entries = [os.path.join(self._folder, f"{kind}-{name}") for kind in ("made", "socket")]
        with contextlib.suppress(OSError):  # the connection has ended, or the disk is full
            posix.close(os.open(entries[0], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            os.symlink(self._path, entries[1])
        return entries


def _unlink(entries: Sequence[str]) -> None:
    for entry in reversed(entries):
        with contextlib.suppress(OSError):
            os.unlink(entry)
