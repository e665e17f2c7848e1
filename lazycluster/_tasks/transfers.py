"""Copy a file or folder to and from the host: the manager's side of a stream of frames."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from lazycluster._shared import listing
from lazycluster._shared.tree_stream import Packer
from lazycluster._shared.unpacker import Unpacker
from lazycluster._tasks.copy_options import CopyOptions
from lazycluster._tasks.progress import Meter


def own_name(path: str) -> str | None:
    """Return the name that a copy gets in a target folder; None if its contents go there.

    As for rsync, the contents are meant by a path that ends with `/`, or is or ends with `.` or
    `..`. The home directory of the host has a name that is not known here: the name is empty.
    """
    name = os.path.basename(path)
    if name in ("~", "$HOME", "${HOME}") and name == path:
        return ""
    return None if name in ("", ".", "..") else name


class Transfer:
    """Hold what one execution of a copy needs on the manager.

    Args:
        meter: Counts the bytes; None without a progress callback.
    """

    failed_there = False
    """True if the OSError that was raised is the host's, with a path on the host."""

    def __init__(self, meter: Meter | None) -> None:
        self.meter = meter

    def leave_to_guard(self, folder: str) -> None:
        """Let the guard remove an incomplete copy if the manager dies."""

    def chunks(self) -> Iterator[bytes]:
        """Return what is sent to the host."""
        raise NotImplementedError

    def feed(self, data: bytes | memoryview) -> None:
        """Write the next chunk; only a hostile host sends one of what it receives."""

    def finish(self) -> list[tuple[str, str]]:
        """Complete a copy after its success on the host.

        Returns:
            What a download has skipped, as (path, kind).
        """
        if self.meter is not None:
            self.meter.report(last=True)
            self.meter.close()
        return []

    def abort(self) -> None:
        """Remove an incomplete copy and end the progress line; does nothing after `finish`."""
        if self.meter is not None:
            self.meter.close()


class Upload(Transfer):
    """Send a file or folder.

    Args:
        meter: Counts the bytes; None without a progress callback.
        local_path: The source.
        options: What the user has said of the copy.
    """

    def __init__(self, meter: Meter | None, local_path: str, options: CopyOptions) -> None:
        super().__init__(meter)
        self._packer = Packer(
            local_path,
            None if meter is None else meter.add,
            exclude=options.exclude,
            skip_errors=options.skip_errors,
            keeps_names=options.delete,
        )
        self._list = bytearray()

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the list of the destination.

        Raises:
            ValueError: If the list is too long.
        """
        self._list += data
        if len(self._list) > listing.MOST_BYTES:
            raise ValueError("a list of the destination without end")

    def scan(self) -> None:
        """Read the folders while the host lists the destination."""
        self._packer.scan()

    def compare(self) -> None:
        """Find what differs from the list of the destination."""
        self._packer.compare(bytes(self._list))
        self._list.clear()

    def chunks(self) -> Iterator[bytes]:
        """Return the chunks of the stream.

        Raises:
            OSError: If the source cannot be read; raised with the first chunk.
        """
        if self.meter is not None:
            self.meter.total = self._packer.measure()
        return self._packer.stream()


class Download(Transfer):
    """Receive a file or folder under a temporary name and rename it once it is complete.

    Args:
        meter: Counts the bytes; None without a progress callback.
        local_path: The target, see `paths.destination`.
        remote_path: The path that was asked for. The copy gets its last part as the name in a
            target folder, never a name that the host sends.
        options: What the user has said of the copy.

    Raises:
        ValueError: If the target is a folder and the remote path has no name of its own.
    """

    def __init__(
        self, meter: Meter | None, local_path: str, remote_path: str, options: CopyOptions
    ) -> None:
        super().__init__(meter)
        self._options = options
        on_data = None if meter is None else meter.add
        name, given = own_name(remote_path), options.for_receiver()
        self._unpacker = Unpacker(local_path, name, on_data, self._guard, **given)
        self._control_folder: str | None = None
        self._link: str | None = None

    @property
    def failed_there(self) -> bool:  # type: ignore[override]
        """Return True if the OSError that was raised is the host's, with a path on the host."""
        return self._unpacker.failed_there

    def leave_to_guard(self, folder: str) -> None:
        """Let the guard remove an incomplete copy if the manager dies.

        A link in the control folder leads to the temporary of the copy. After `kill -9` of the
        manager only the guard is left to remove it. An unnamed temporary file (O_TMPFILE) would go
        by itself, but cannot be a folder and cannot replace an old file.

        Args:
            folder: The control folder, which the guard removes at the end of the connection.
        """
        self._control_folder = folder

    def _guard(self, temporary: str) -> None:
        """Make the link to a temporary, or let it lead to one in another folder."""
        if self._control_folder is None:
            return
        link = os.path.join(self._control_folder, os.path.basename(temporary))
        try:
            if self._link is None:
                os.symlink(temporary, link)
            else:
                os.symlink(temporary, link + "-next")
                os.replace(link + "-next", link)
        except OSError:  # The connection has ended, or the disk is full: the copy goes on without.
            return
        self._link = link

    def chunks(self) -> Iterator[bytes]:
        """Return the list of the destination, if the host needs it."""
        if self._options.only_changed:
            return listing.frame(listing.make_list(self._unpacker.path))
        return iter(())

    def feed(self, data: bytes | memoryview) -> None:
        """Write the next chunk of the stream.

        Raises:
            OSError: If it cannot be written; the incomplete copy has been removed.
            ValueError: If it is malformed; the incomplete copy has been removed.
        """
        self._unpacker.feed(data)
        if self.meter is not None:
            self.meter.total = self._unpacker.measure

    def finish(self) -> list[tuple[str, str]]:
        """Rename the complete copy to its target and return what the host has skipped.

        Raises:
            OSError: If it cannot be renamed, or the guard has begun to remove it.
        """
        if not self._take_back():
            self._unpacker.abort()
            raise OSError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED), self._unpacker.path)
        skipped = self._unpacker.finish()
        super().finish()
        return skipped

    def abort(self) -> None:
        """Remove an incomplete copy. A second call, or one after `finish`, does nothing."""
        try:
            self._unpacker.abort()
            self._take_back()
        finally:
            super().abort()

    def _take_back(self) -> bool:
        """Return False if the guard has removed the link, and removes the copy."""
        link, self._link = self._link, None
        if link is not None:
            try:
                os.unlink(link)
            except OSError:
                return False
        return True
