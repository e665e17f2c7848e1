"""Bytes and binary file objects as the source or the target of a copy."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Union

from lazycluster._shared.tree_stream import READ, FormatError, pack_contents
from lazycluster._shared.unpacker import Unpacker
from lazycluster._spool import Spool
from lazycluster._tasks.progress import Meter
from lazycluster._tasks.transfers import Transfer

Contents = Union[bytes, bytearray, memoryview, BinaryIO]


def is_contents(source: object) -> bool:
    """Return True for bytes, and for an object with the methods of a file."""
    if isinstance(source, (str, os.PathLike)):
        return False
    is_bytes = isinstance(source, (bytes, bytearray, memoryview))
    return is_bytes or hasattr(source, "read") or hasattr(source, "write")


def check_file_object(file: Any, method: str) -> None:
    """Check a file object that will be read or written; `method` is "read" or "write".

    Raises:
        TypeError: If it is open in text mode, or lacks the method.
        ValueError: If it is closed, or not open for that.
    """
    if isinstance(file, io.TextIOBase):
        raise TypeError(f"The file object must be open in binary mode, like 'rb' or 'wb': {file!r}")
    if not callable(getattr(file, method, None)):
        raise TypeError(f"The file object has no method {method!r}: {file!r}")
    if getattr(file, "closed", False):
        raise ValueError(f"The file object is closed: {file!r}")
    allows = getattr(file, "readable" if method == "read" else "writable", None)
    if allows is not None and not allows():
        raise ValueError(f"The file object is not open to {method}: {file!r}")


def check_has_name(path: str) -> None:
    """Check a target for what has no name of its own.

    Raises:
        ValueError: If the path is that of a folder: it ends with a slash, `.` or `..`.
    """
    if os.path.basename(path) in ("", ".", "..") or path in ("~", "$HOME", "${HOME}"):
        raise ValueError(f"The remote path {path!r} must end with the name of the new file.")


def describe_contents(source: Any) -> str:
    """Return what the steps of a task call it."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"{memoryview(source).nbytes} bytes"
    name = getattr(source, "name", None)
    return f"the file object {name}" if isinstance(name, str) else "a file object"


class Source:
    """What one execution sends: bytes, or what a file object has from its position on.

    The file object is read once, in the thread that executes the task, before anything is sent: it
    may be slow, and the thread that writes to the host serves other requests, too.

    Args:
        contents: The bytes or the file object.
    """

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._spool: Spool | None = None

    def read(self) -> Spool:
        """Return all of it.

        Raises:
            TypeError: If the file object returns something other than bytes.
        """
        if self._spool is not None:
            return self._spool
        spool = Spool()
        if isinstance(self._contents, (bytes, bytearray, memoryview)):
            spool.write(self._contents)
        else:
            while True:
                data: object = self._contents.read(READ)
                if not isinstance(data, (bytes, bytearray, memoryview)):
                    kind = type(data).__name__
                    raise TypeError(f"The file object must return bytes, and returned {kind}.")
                if not data:
                    break
                spool.write(data)
        self._spool = spool
        return spool


class ContentsUpload(Transfer):
    """Send bytes as a file.

    Args:
        meter: Counts the bytes; None without a progress callback.
        source: The bytes.
    """

    def __init__(self, meter: Meter | None, source: Source) -> None:
        super().__init__(meter)
        self._spool = source.read()

    def chunks(self) -> Iterator[bytes]:
        """Return the chunks of the stream."""
        if self.meter is not None:
            self.meter.total = len(self._spool)
        return pack_contents(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        for start in range(0, len(self._spool), READ):
            piece = self._spool.read_at(start, READ)
            if self.meter is not None:
                self.meter.add(len(piece))
            yield piece


class ContentsDownload(Transfer):
    """Receive a file, and write it to a file object once it is complete.

    Args:
        meter: Counts the bytes; None without a progress callback.
        file: The file object, which is written in the thread that executes the task.
    """

    def __init__(self, meter: Meter | None, file: BinaryIO) -> None:
        super().__init__(meter)
        self._file = file
        self._spool = Spool()
        on_data = None if meter is None else meter.add
        self._unpacker = Unpacker(os.devnull, None, on_data, writer=_SpoolWriter(self._spool))

    @property
    def failed_there(self) -> bool:  # type: ignore[override]
        """Return True if the OSError that was raised is the host's, with a path on the host."""
        return self._unpacker.failed_there

    def chunks(self) -> Iterator[bytes]:
        """Return nothing: the host needs no more than the step."""
        return iter(())

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next chunk of the stream.

        Raises:
            OSError: If it cannot be stored.
            ValueError: If it is malformed.
        """
        self._unpacker.feed(data)
        if self.meter is not None:
            self.meter.total = self._unpacker.measure

    def finish(self) -> list[tuple[str, str]]:
        """Write the file, and return what is to be said of it.

        Raises:
            OSError: If the stream is not complete, or the file object cannot be written.
        """
        skipped = self._unpacker.finish()
        for start in range(0, len(self._spool), READ):
            data = memoryview(self._spool.read_at(start, READ))
            while data:
                written: object = self._file.write(data)
                # A raw file may take less; what is no raw file takes all and may return None.
                data = data[written:] if isinstance(written, int) else data[len(data) :]
        super().finish()
        return skipped


class _SpoolWriter:
    """Take the place of a `TreeWriter`: keep one file, and refuse all else."""

    depth = 0

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def start_file(self, name: bytes) -> None:
        """Begin the file."""

    def write(self, data: memoryview) -> None:
        self._spool.write(data)

    def end_file(self, attributes: object, keeps_mode: bool) -> None:
        """Complete the file."""

    def drop_entry(self) -> str:
        """Give up the file; an error follows."""
        return ""

    def enter(self, name: bytes, attributes: object) -> None:
        raise FormatError("a folder in place of a file")

    def usual_attributes(self) -> tuple[int, int]:
        return 0, 0

    def finish(self) -> None:
        """Do nothing: the file object is written later, by the thread of the task."""

    def abort(self) -> None:
        """Do nothing: a spool leaves nothing behind."""

    def explain(self, error: OSError, of_sender: bool) -> OSError:
        return error
