"""A file or folder, to and from frames: the manager's half."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from lazycluster._shared import trees
from lazycluster._tasks.progress import Meter


def own_name(path: str) -> str | None:
    """The name under which a file or folder goes into a folder; None if its path has none."""
    name = os.path.basename(os.path.normpath(path))
    return None if name in ("", ".", "..") or path.rstrip("/") == "~" else name


def upload(local_path: str, meter: Meter | None) -> Iterator[bytes]:
    """A local file or folder as pieces of a stream, counted by `meter`.

    Raises:
        OSError: At the first piece, if it cannot be read.
    """
    if meter is None:
        return trees.pack(local_path)
    meter.total = trees.measure(local_path)
    return trees.pack(local_path, meter.add)


class Download:
    """Writes what comes from a host to where it belongs, once it is whole.

    Args:
        local_path: The target, see `trees.destination`.
        remote_path: What is asked for; its name goes into a folder, and nothing the host says.
        meter: What counts the bytes, if somebody wants to know.

    Raises:
        ValueError: The target is a folder and the remote path has no name of its own.
    """

    def __init__(self, local_path: str, remote_path: str, meter: Meter | None) -> None:
        on_data = None if meter is None else meter.add
        self._unpacker = trees.Unpacker(local_path, own_name(remote_path), on_data)
        self._meter = meter
        self._link: str | None = None

    def leave_to_guard(self, folder: str) -> None:
        """Have what is not whole at the connection's end removed, should nobody be left here.

        Args:
            folder: The connection's control folder.
        """
        link = os.path.join(folder, os.path.basename(self._unpacker.temporary))
        try:
            os.symlink(self._unpacker.temporary, link)
        except OSError:  # the connection has ended, or the disk is full: it is a precaution only
            return
        self._link = link

    @property
    def failed_there(self) -> bool:
        """Whether the OSError that was raised is the host's, with a path there."""
        return self._unpacker.failed_there

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next piece; an OSError or ValueError has removed what was written."""
        self._unpacker.feed(data)
        if self._meter is not None:
            self._meter.total = self._unpacker.measure

    def finish(self) -> list[tuple[str, str]]:
        """Put it where it belongs; what was skipped there, as (path, what it is).

        Raises:
            OSError: It cannot be put there, or the guard has begun to remove it.
        """
        if not self._take_back():
            self._unpacker.abort()
            raise OSError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED), self._unpacker.path)
        return self._unpacker.finish()

    def abort(self) -> None:
        """Remove what was written; a second time, or after `finish`, is fine."""
        self._unpacker.abort()
        self._take_back()

    def _take_back(self) -> bool:
        """Whether it is ours again; the guard may have been quicker."""
        link, self._link = self._link, None
        if link is not None:
            try:
                os.unlink(link)
            except OSError:
                return False
        return True
