"""Keep the output of one execution of a task, in memory while it is small and in a file.

One thread writes a log; other threads read it meanwhile without a lock. Bytes are only ever
appended, and a reader sees them only after the length that includes them was set.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
import os
import posix
import re
import sys
import threading
from collections.abc import Iterator

from lazycluster._tasks.log_files import (
    RemovedAtExitError,
    configured_main_directory,
    create_log_file,
    open_log_file,
)

MEMORY_LIMIT = 64 * 1024
"""The most bytes of a log that are in memory; they are its first ones, and in its file too."""

REST_LIMIT = 2**20
"""The most bytes that are kept in memory behind those in a file that cannot be written."""

READ_LIMIT = 2**20
"""The most bytes that `ExecutionLog.read_new` returns at once."""

_logger = logging.getLogger("lazycluster")
_warned_of: set[str] = set()  # reasons for which a WARNING has been logged


class ExecutionLog:
    """Hold the output of each step of one execution, in the order in which it came.

    Up to `MEMORY_LIMIT` bytes are in memory; the rest is in the file only, so that a gigabyte of
    output is not a gigabyte of memory. A copied or unpickled log is closed.

    Args:
        host: The host, for the name of the folder.
        task_name: The task, for the name of the file.
    """

    def __init__(self, host: str, task_name: str) -> None:
        self.host = host
        self.task_name = task_name
        self._lock = threading.RLock()  # reentrant for a signal handler that reads the log
        self._main_directory = configured_main_directory()  # it may be set anew meanwhile
        self._path: str | None = None  # None before the first byte and before `path` was read
        self._memory = bytearray()
        self._length = 0
        # For each step the spans [start, end) of the log that are its output: one span, unless
        # a process that an earlier step left in the background prints in between.
        self._steps: list[list[tuple[int, int]]] = []
        self._turns: list[tuple[int, int]] = []  # where a span begins, and its step
        self._fd: int | None = None
        self._closed = False
        self._failure: str | None = None  # why the file was given up
        self._unreported: str | None = None  # the same, until a WARNING was logged
        self._file_end = 0  # bytes in the file that was given up
        self._rest = bytearray()  # the last bytes behind those in the file
        self._rest_start = 0  # the position of the first of them

    def __getstate__(self) -> dict[str, object]:
        _ = self.path  # The copy has the path of this log, wherever it is read.
        with self._lock:
            state = self.__dict__.copy()
            state["_memory"], state["_rest"] = bytes(self._memory), bytes(self._rest)
            state["_steps"] = [list(spans) for spans in self._steps]
            state["_turns"] = list(self._turns)
        del state["_lock"]
        state.update(_fd=None, _closed=True)
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._memory, self._rest = bytearray(self._memory), bytearray(self._rest)
        self._lock = threading.RLock()

    def begin_step(self, index: int) -> None:
        """Make an entry for a step, and for each step before it."""
        with self._lock:
            self._begin_step(index)

    @property
    def path(self) -> str | None:
        """Return the path of the file; None if the file cannot be created, which a WARNING says.

        Nothing is created before the first byte, unless the path is read: then the file is there,
        and empty. It is not open before the first byte: thousands of silent executions may run.
        """
        if self._path is None:
            with self._lock:
                self._create_file()
            self._warn()
        return self._path

    def _create_file(self) -> None:
        """Create the file, unless it was created or given up meanwhile. The lock is held."""
        if self._path is None and self._failure is None:
            try:
                posix.close(self._open_new_file())
            except OSError as error:
                self._give_up(error)

    def append(self, index: int, data: bytes | memoryview) -> None:
        """Append output of a step to memory and file.

        If the file cannot be created or written, the last `REST_LIMIT` bytes are kept in memory, so
        that a full disk of the manager does not stop what runs on the host.

        Args:
            index: The step that printed it.
            data: The output.

        Raises:
            ValueError: If the log is closed.
        """
        with self._lock:
            if self._closed:
                raise ValueError(f"the log of {self.task_name!r} on {self.host} is closed")
            self._begin_step(index)
            view = memoryview(data)
            if self._failure is None:
                view = self._write_file(index, view)
            if view:
                self._publish(index, view)
                self._rest += view
                cut = max(0, len(self._rest) - REST_LIMIT)
                del self._rest[:cut]
                self._rest_start += cut
        self._warn()

    def _write_file(self, index: int, view: memoryview) -> memoryview:
        """Write to the file; return what could not be written. The lock is held."""
        try:
            if view and self._fd is None:
                self._fd = self._open_file()
            while view:
                assert self._fd is not None
                written = os.write(self._fd, view)
                self._publish(index, view[:written])
                view = view[written:]
        except OSError as error:
            self._give_up(error)
        return view

    def _open_file(self) -> int:
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):  # its folder has been removed
                return open_log_file(self._path)
        return self._open_new_file()

    def _open_new_file(self) -> int:
        self._path, fd = create_log_file(self.host, self.task_name, self._main_directory)
        return fd

    def _give_up(self, error: OSError) -> None:
        """Keep what follows in memory. The lock is held."""
        self._failure = error.strerror or str(error)
        self._rest_start = self._file_end = self._length
        if self._failure not in _warned_of and not isinstance(error, RemovedAtExitError):
            _warned_of.add(self._failure)
            self._unreported = str(error)

    def _warn(self) -> None:
        """Log why the file was given up, without the lock: a handler is code of the user."""
        reason, self._unreported = self._unreported, None
        if reason is not None:
            _logger.warning(
                "An execution log cannot be written: %s. Tasks go on, and the last %d MiB of "
                "their output are in memory.",
                reason,
                REST_LIMIT >> 20,
            )

    def close(self, steps: int = 0) -> None:
        """Make an entry for each of the steps and close the file. The log can still be read."""
        with self._lock:
            self._begin_step(steps - 1)
            self._closed = True
            fd, self._fd = self._fd, None
        if fd is not None:
            posix.close(fd)

    def _begin_step(self, index: int) -> None:
        while len(self._steps) <= index:
            self._steps.append([])

    def _publish(self, index: int, data: memoryview) -> None:
        """Show readers what was just appended. The lock is held."""
        start, end = self._length, self._length + len(data)
        left = MEMORY_LIMIT - start
        if left > 0:
            self._memory += data[:left]
        if not self._turns or self._turns[-1][1] != index:
            self._turns.append((start, index))
        self._length = end
        spans = self._steps[index]
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))

    def entry(self, index: int) -> str:
        r"""Return the whole output of a step so far, as UTF-8 with other bytes as `\xNN`.

        Raises:
            OSError: If it is not all in memory and the file cannot be read.
        """
        return _decode(b"".join(self._read(start, end) for start, end in self._spans(index)))

    def entries(self) -> list[str]:
        """Return the output of each step that has begun.

        Raises:
            OSError: If it is not all in memory and the file cannot be read.
        """
        return [self.entry(index) for index in range(len(self._steps))]

    @property
    def step_count(self) -> int:
        """Return the number of entries."""
        return len(self._steps)

    def read_step(self, index: int) -> Iterator[bytes]:
        """Yield the output of a step so far, in parts of at most `READ_LIMIT` bytes.

        Raises:
            OSError: If it is not all in memory and the file cannot be read.
        """
        for start, end in self._spans(index):
            for position in range(start, end, READ_LIMIT):
                yield self._read(position, min(end, position + READ_LIMIT))

    def tail(self, index: int, limit_bytes: int) -> str:
        """Return the last bytes of a step's output, beginning with a whole character.

        Raises:
            OSError: If it is not all in memory and the file cannot be read.
        """
        spans = self._spans(index)
        data = b""
        for start, end in reversed(spans):
            data = self._read(max(start, end - limit_bytes + len(data)), end) + data
        if len(data) < sum(end - start for start, end in spans):
            data = re.sub(rb"\A[\x80-\xbf]{1,3}", b"", data)  # the rest of a character that was cut
        return _decode(data)

    def read_new(self, position: int) -> tuple[bytes, int, int]:
        """Return what a step has printed behind `position`, to print it live.

        Returns:
            At most `READ_LIMIT` bytes, none if there is nothing new, the next position, and the
            index of the step.

        Raises:
            OSError: If it is not all in memory and the file cannot be read.
        """
        end = min(self._length, position + READ_LIMIT)
        if end <= position:
            return b"", position, 0
        turn = bisect.bisect_right(self._turns, (position, sys.maxsize)) - 1
        if turn + 1 < len(self._turns):
            end = min(end, self._turns[turn + 1][0])
        return self._read(position, end), end, self._turns[turn][1]

    def _spans(self, index: int) -> list[tuple[int, int]]:
        return list(self._steps[index]) if index < len(self._steps) else []

    def _read(self, start: int, end: int) -> bytes:
        parts = [bytes(self._memory[start:end])]
        start += len(parts[0])
        while start < end:
            with self._lock:  # a part at a time, since the writer waits
                part, start = self._read_part(start, end)
            parts.append(part)
        return b"".join(parts)

    def _read_part(self, start: int, end: int) -> tuple[bytes, int]:
        """Return bytes behind the first ones in memory, and the position behind them."""
        if self._failure is not None and self._file_end <= start < self._rest_start:
            end = min(end, self._rest_start)
            return f"[{end - start} bytes were not kept: {self._failure}]\n".encode(), end
        end = min(end, start + READ_LIMIT)
        if self._failure is None or start < self._file_end:
            end = end if self._failure is None else min(end, self._file_end)
            return self._read_file(start, end), end
        return bytes(self._rest[start - self._rest_start : end - self._rest_start]), end

    def _read_file(self, start: int, end: int) -> bytes:
        path = self._path
        assert path is not None  # Bytes beyond memory are in a file.
        try:
            if self._fd is not None:  # also if the folder has been removed meanwhile
                data = os.pread(self._fd, end - start, start)
            else:
                with open(path, "rb") as file:
                    data = os.pread(file.fileno(), end - start, start)
        except OSError as error:
            message = f"the execution log cannot be read any more: {error.strerror}"
            raise OSError(error.errno, message, path) from error
        if len(data) < end - start:
            raise OSError(f"the execution log has been cut short: {path!r}")
        return data


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
