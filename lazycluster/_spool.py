"""Bytes that only grow: in memory while they are few, in an unlinked file when they are many.

A pickler writes a call into a spool, the conversation writes a value into one. Nobody knows
beforehand whether that will be 200 bytes or 200 MB.
"""

from __future__ import annotations

import io
import os
import threading
from typing import Union

MEMORY_LIMIT = 2**20
"""A spool of at most this many bytes lives in memory and costs no file."""

READ_LIMIT = 2**20
"""A reader of a spool holds at most about this many bytes at once."""

_Buffer = Union[bytes, bytearray, memoryview]


class _File:
    """The descriptor of an unlinked temporary file (mode 0600), closed with its last user.

    `Spool.close` drops its reference instead of closing: a number closed under another thread's
    `pread` may by then be another file.
    """

    __slots__ = ("fd", "folder")

    def __init__(self) -> None:
        import tempfile  # brings random and shutil, which most calls do without

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
            except OSError as error:  # a full disk: say which
                raise OSError(error.errno, error.strerror, self.folder) from error
            offset += written
            view = view[written:]

    def read_at(self, offset: int, size: int) -> bytes:
        pieces = []
        while size > 0:
            piece = os.pread(self.fd, size, offset)
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Spool:
    """Append-only bytes.

    Up to `MEMORY_LIMIT` they are in memory, beyond it all of them are in one unlinked temporary
    file, of which nothing is left after a `kill -9`. Any number of threads may write and read;
    a forked child may go on reading (reads take no lock and move no file position).

    A pickled spool is its contents. A deep copy shares the file: what is written never changes,
    so two readers of it cannot disturb one another, and 200 MB need not be there twice. Should
    either be written to afterwards, it first gets a file of its own.
    """

    def __init__(self, contents: _Buffer = b"") -> None:
        self._lock = threading.Lock()  # for writers; readers see what `_length` has published
        self._memory = bytearray()
        self._file: _File | None = None
        self._file_is_shared = False
        self._length = 0
        self._closed = False
        if contents:
            self.write(contents)

    def __len__(self) -> int:
        """How many bytes have been written."""
        return self._length

    def __bool__(self) -> bool:
        """True, also when it is empty: a spool is there or it is not."""
        return True

    def __repr__(self) -> str:
        place = "closed" if self._closed else "memory" if self._file is None else "file"
        return f"<{type(self).__name__} of {self._length} bytes, {place}>"

    def write(self, data: _Buffer) -> int:
        """Append bytes; a pickler can dump straight into this.

        Args:
            data: Bytes, or any other contiguous buffer. It is not kept.

        Returns:
            The number of bytes written, always all of them.

        Raises:
            ValueError: If the spool is closed.
            OSError: If the file cannot be made or written; nothing was appended then.
        """
        if not isinstance(data, (bytes, bytearray)):
            data = memoryview(data).cast("B")
        size = len(data)
        with self._lock:
            self._check_open()
            if self._file is None and self._length + size <= MEMORY_LIMIT:
                self._memory += data
            else:
                self._file_of_my_own().write_at(self._length, data)
            self._length += size
        return size

    def read_at(self, offset: int, size: int) -> bytes:
        """Read without moving anything.

        Args:
            offset: Where to begin, in bytes.
            size: How many bytes at most.

        Returns:
            The bytes there; fewer than `size`, or none, at the end.

        Raises:
            ValueError: If the spool is closed, or a number is negative.
        """
        if offset < 0 or size < 0:
            raise ValueError("offset and size of a read must not be negative")
        # In this order: a writer that moves to a file sets `_file` before it replaces `_memory`.
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
        """Give a binary file to read, fit for `pickle.load`, with a position of its own.

        Args:
            start: Where it begins, in bytes.
            end: Where it ends; None for the end of what is there when it is read.

        Returns:
            A reader. Closing it does not close the spool.
        """
        return io.BufferedReader(_Reader(self, start, end), 65536)

    def close(self) -> None:
        """Give memory and file back; twice is fine."""
        with self._lock:
            self._closed = True
            self._memory = bytearray()
            self._file = None

    def __deepcopy__(self, memo: object) -> Spool:
        copy = Spool()
        with self._lock:
            self._check_open()
            copy._memory = bytearray(self._memory)
            copy._file = self._file
            copy._file_is_shared = self._file_is_shared = self._file is not None
            copy._length = self._length
        return copy

    def __reduce__(self) -> tuple[type[Spool], tuple[bytes]]:
        return Spool, (self.read_at(0, self._length),)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the spool is closed")

    def _file_of_my_own(self) -> _File:
        """The file to append to, with all that was written so far in it. The lock is held."""
        if self._file is None:
            file = _File()
            file.write_at(0, self._memory)
            self._file = file
            self._memory = bytearray()  # replaced, not emptied: a reader may hold the old one
        elif self._file_is_shared:
            file = _File()
            for offset in range(0, self._length, READ_LIMIT):
                size = min(READ_LIMIT, self._length - offset)
                file.write_at(offset, self._file.read_at(offset, size))
            self._file = file
            self._file_is_shared = False
        return self._file


class _Reader(io.RawIOBase):
    """A position in a spool."""

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
