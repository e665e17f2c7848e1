"""Append-only bytes, in memory while they are few, in an unlinked file when they are many.

A pickler writes a call into a spool, and an execution writes values into one. The size, 200 bytes
or 200 MB, is not known beforehand.
"""

from __future__ import annotations

import io
import os
import threading
from typing import Union

MEMORY_LIMIT = 2**20
"""A spool of at most this many bytes is in memory and needs no file."""

READ_LIMIT = 2**20
"""A reader of a spool holds at most about this many bytes."""

_Buffer = Union[bytes, bytearray, memoryview]


class _File:
    """The descriptor of an unlinked temporary file (mode 0600), closed with the last reference.

    `Spool.close` drops its reference instead of closing the descriptor: while another thread is
    about to call `pread`, the number could become the number of another file.
    """

    __slots__ = ("fd", "folder")

    def __init__(self) -> None:
        import tempfile  # imports random and shutil, which most calls do not need

        self.fd = -1
        self.folder = tempfile.gettempdir()
        with tempfile.TemporaryFile(buffering=0) as file:
            self.fd = os.dup(file.fileno())

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def write_at(self, offset: int, data: _Buffer) -> None:
        view = memoryview(data)
        while view:
            try:
                written = os.pwrite(self.fd, view, offset)
            except OSError as error:  # such as a full disk; add the folder
                raise OSError(error.errno, error.strerror, self.folder) from error
            offset += written
            view = view[written:]

    def read_at(self, offset: int, size: int) -> bytes:
        chunks = []
        while size > 0:
            chunk = os.pread(self.fd, size, offset)
            if not chunk:
                break
            chunks.append(chunk)
            offset += len(chunk)
            size -= len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class Spool:
    """Append-only bytes.

    Up to `MEMORY_LIMIT` bytes are in memory. Beyond it all of them are in one unlinked temporary
    file, which leaves nothing behind after a `kill -9`. Any number of threads may write and read.
    A forked child may go on reading, because reads take no lock and move no file position.

    A pickled spool is its contents. A deep copy is the spool itself: what was written never
    changes, so 200 MB need not be there twice.

    Args:
        contents: The first bytes. Defaults to none.
    """

    def __init__(self, contents: _Buffer = b"") -> None:
        self._lock = threading.Lock()  # for writers; readers see the bytes below `_length`
        self._memory = bytearray()
        self._file: _File | None = None
        self._length = 0
        self._closed = False
        if contents:
            self.write(contents)

    def __len__(self) -> int:
        """Return the number of bytes written."""
        return self._length

    def __bool__(self) -> bool:
        """Return True, also if the spool is empty: a spool that was given differs from None."""
        return True

    def __repr__(self) -> str:
        place = "closed" if self._closed else "memory" if self._file is None else "file"
        return f"<{type(self).__name__} of {self._length} bytes, {place}>"

    def write(self, data: _Buffer) -> int:
        """Append bytes; a pickler can dump into the spool.

        Args:
            data: Bytes, or any other contiguous buffer. The spool copies them.

        Returns:
            The number of bytes written, always all of them.

        Raises:
            ValueError: If the spool is closed.
            OSError: If the file cannot be made or written; then nothing is appended.
        """
        if not isinstance(data, (bytes, bytearray)):
            data = memoryview(data).cast("B")
        size = len(data)
        with self._lock:
            self._check_open()
            if self._file is None and self._length + size <= MEMORY_LIMIT:
                self._memory += data
            else:
                self._open_file().write_at(self._length, data)
            self._length += size
        return size

    def read_at(self, offset: int, size: int) -> bytes:
        """Read without moving a position.

        Args:
            offset: The first byte to read, counted from 0.
            size: The largest number of bytes to read.

        Returns:
            The bytes; fewer than `size`, or none, at the end.

        Raises:
            ValueError: If the spool is closed, or a number is negative.
        """
        if offset < 0 or size < 0:
            raise ValueError(f"Invalid read of {size} bytes at {offset}: a number is negative.")
        # The order counts: a writer that moves to a file sets `_file` before it replaces `_memory`.
        length = self._length
        memory = self._memory
        file = self._file
        self._check_open()
        size = min(size, length - offset)
        if size <= 0:
            return b""
        if file is None:
            return bytes(memory[offset : offset + size])
        return file.read_at(offset, size)

    def open(self, start: int = 0, end: int | None = None) -> io.BufferedReader:
        """Return a binary file for reading, such as `pickle.load` takes, with its own position.

        Args:
            start: The first byte, counted from 0. Defaults to 0.
            end: The byte after the last one. Defaults to None, the end of the spool at each read.

        Returns:
            A reader. Closing it does not close the spool.
        """
        return io.BufferedReader(_Reader(self, start, end), 65536)

    def close(self) -> None:
        """Free memory and file; a second call does nothing."""
        with self._lock:
            self._closed = True
            self._memory = bytearray()
            self._file = None

    def __deepcopy__(self, memo: object) -> Spool:
        return self

    def __reduce__(self) -> tuple[type[Spool], tuple[bytes]]:
        return Spool, (self.read_at(0, self._length),)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("The spool is closed.")

    def _open_file(self) -> _File:
        """Return the file to append to, which then has all bytes; the caller holds the lock."""
        if self._file is None:
            file = _File()
            file.write_at(0, self._memory)
            self._file = file
            self._memory = bytearray()  # replaced, not cleared: a reader may use the old one
        return self._file


class _Reader(io.RawIOBase):
    """A file of a part of a spool, with a position."""

    def __init__(self, spool: Spool, start: int, end: int | None) -> None:
        super().__init__()
        self._spool = spool
        self._position = start
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), READ_LIMIT)
        if self._end is not None:
            size = min(size, max(0, self._end - self._position))
        data = self._spool.read_at(self._position, size)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
