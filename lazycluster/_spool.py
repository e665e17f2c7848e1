"""Append-only bytes, in memory while they are few, in an unlinked file when they are many.

A pickler writes a call into a spool, and an execution writes values into one. The size, 200 bytes
or 200 MB, is not known beforehand.
"""

from __future__ import annotations

import collections
import io
import itertools
import os
import posix
import threading
import weakref
from typing import BinaryIO, Union

MEMORY_LIMIT = 2**20
"""A spool of at most this many bytes is in memory and needs no file."""

BLOCK = 2**16
"""Bytes of a block of the file; the file system stores only the pages that were written."""

_Buffer = Union[bytes, bytearray, memoryview]


class _File:
    """The blocks of an unlinked temporary file (mode 0600), closed with the last spool in it.

    All spools of a process share one file, so that they take one descriptor together. A forked
    child makes a file of its own.
    """

    def __init__(self) -> None:
        import tempfile  # imports random and shutil, which most calls do not need

        self._pid = os.getpid()
        self._folder = tempfile.gettempdir()
        self._unused = itertools.count()
        # Its methods are atomic: the garbage collector may free a spool at any moment.
        self.free: collections.deque[int] = collections.deque()
        with tempfile.TemporaryFile(buffering=0) as file:
            self.fd = os.dup(file.fileno())
        # Not __del__: another thread can find the file in `_files` and use it while that closes the
        # descriptor. Weak references are dead when this is called.
        closing = weakref.finalize(self, posix.close, self.fd)
        closing.atexit = False  # type: ignore[misc]  # the exit of the process closes it

    def new_block(self) -> int:
        try:
            return self.free.popleft()
        except IndexError:
            return next(self._unused)

    def write(self, block: int, start: int, data: memoryview) -> None:
        offset = block * BLOCK + start
        try:
            while data:
                written = os.pwrite(self.fd, data, offset)
                offset, data = offset + written, data[written:]
        except OSError as error:  # such as a full disk; add the folder
            raise OSError(error.errno, error.strerror, self._folder) from error

    def read(self, block: int, start: int, size: int) -> bytes:
        if os.getpid() != self._pid:  # the parent may have given the block to another spool
            raise OSError(f"Large values can be read only in process {self._pid}, not in a fork.")
        return os.pread(self.fd, size, block * BLOCK + start)


class _Blocks(list):  # type: ignore[type-arg]  # of numbers
    """The blocks of one spool, which the file gets back when they are freed.

    Most spools have none, and a `__del__` of their own would take time of each call.
    """

    def __init__(self, file: _File) -> None:
        super().__init__()
        self._file = file

    def __del__(self) -> None:
        self._file.free.extend(self)


_files: weakref.WeakValueDictionary[int, _File] = weakref.WeakValueDictionary()  # by process id


class Spool:
    """Append-only bytes.

    Up to `MEMORY_LIMIT` bytes are in memory. Beyond it all of them are in the process's unlinked
    temporary file, which leaves nothing behind after a `kill -9`. Readers take no lock.

    A pickled spool is its contents. A deep copy is the spool itself: what was written never
    changes, so 200 MB need not be there twice.

    Args:
        contents: The first bytes. Defaults to none.
    """

    def __init__(self, contents: _Buffer = b"") -> None:
        self._lock = threading.Lock()  # for writers; readers see the bytes below `_length`
        is_small = len(contents) <= MEMORY_LIMIT
        self._memory = bytearray(contents if is_small else b"")
        self._file: _File | None = None
        self._blocks: list[int] = []  # none in memory
        self._length = len(self._memory)
        if not is_small:
            self.write(contents)

    def __len__(self) -> int:
        """Return the number of bytes written."""
        return self._length

    def write(self, data: _Buffer) -> int:
        """Append a copy of bytes; a pickler can dump into the spool.

        Returns:
            The number of bytes written, always all of them.

        Raises:
            OSError: If the file cannot be made or written; then nothing is appended.
        """
        view = memoryview(data)
        if view.format != "B":
            view = view.cast("B")
        with self._lock:
            if self._file is None and self._length + len(view) > MEMORY_LIMIT:
                self._move_to_file()
            if self._file is None:
                self._memory += view
            else:
                self._write_blocks(self._file, self._length, view)
            self._length += len(view)
        return len(view)

    @property
    def in_memory(self) -> int:
        """Return the number of bytes in memory."""
        return len(self._memory)

    def spill(self) -> None:
        """Move the bytes to the file.

        Raises:
            OSError: If the file cannot be made or written; the bytes stay in memory.
        """
        with self._lock:
            if self._file is None:
                self._move_to_file()

    def _move_to_file(self) -> None:
        file = _files.get(os.getpid())
        if file is None:
            file = _files[os.getpid()] = _File()
        self._blocks = _Blocks(file)
        try:
            self._write_blocks(file, 0, memoryview(self._memory))
        except OSError:
            self._blocks = []
            raise
        self._file = file  # before the next line: a reader that finds no file reads memory
        self._memory = bytearray()  # replaced, not cleared: a reader may use the old one

    def _write_blocks(self, file: _File, offset: int, data: memoryview) -> None:
        while data:
            index, start = divmod(offset, BLOCK)
            if index == len(self._blocks):
                self._blocks.append(file.new_block())
            part = data[: BLOCK - start]
            file.write(self._blocks[index], start, part)
            offset, data = offset + len(part), data[len(part) :]

    def read_at(self, offset: int, size: int) -> bytes:
        """Read up to `size` bytes at `offset`; fewer, or none, at the end.

        Raises:
            OSError: If the file cannot be read, or belongs to the process that this was forked of.
        """
        end = min(self._length, offset + size)
        memory = self._memory  # before `_file`, see `_move_to_file`
        if self._file is None:
            return bytes(memory[offset:end])
        parts = []
        while offset < end:
            index, start = divmod(offset, BLOCK)
            parts.append(
                self._file.read(self._blocks[index], start, min(BLOCK - start, end - offset))
            )
            offset += len(parts[-1])
        return b"".join(parts)

    def open(self, start: int = 0, end: int | None = None) -> BinaryIO | io.BufferedReader:
        """Return a binary file for reading from `start` to `end`, such as `pickle.load` takes."""
        memory = self._memory  # before `_file`, see `_move_to_file`
        if self._file is None:
            return io.BytesIO(memory[start : self._length if end is None else end])
        return io.BufferedReader(_Reader(self, start, len(self) if end is None else end), BLOCK)

    def __deepcopy__(self, memo: object) -> Spool:
        return self

    def __reduce__(self) -> tuple[type[Spool], tuple[bytes]]:
        return Spool, (self.read_at(0, self._length),)


class _Reader(io.RawIOBase):
    """A file of a part of a spool, with a position."""

    def __init__(self, spool: Spool, start: int, end: int) -> None:
        super().__init__()
        self._spool = spool
        self._position = start
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), MEMORY_LIMIT, self._end - self._position)
        data = self._spool.read_at(self._position, size)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
