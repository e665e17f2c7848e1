"""Keep the output of one execution of a task, in memory while it is small and in a file.

One thread writes a log; other threads read it meanwhile without a lock. Bytes are only ever
appended, and a reader sees them only after the length that includes them was set.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
import threading

from lazycluster._tasks.log_files import create_log_file
from lazycluster._text import show

MEMORY_LIMIT = 64 * 1024
"""The most bytes of a log that are in memory; they are its first ones, and in its file too."""

READ_LIMIT = 2**20
"""The most bytes that `ExecutionLog.read_new` returns at once."""


class ExecutionLog:
    """Hold the output of each step of one execution, in the order in which it came.

    Up to `MEMORY_LIMIT` bytes are in memory; the rest is in the file only, so that a gigabyte of
    output is not a gigabyte of memory. A copied or unpickled log is closed.

    Args:
        host: The host, for the name of the folder.
        task_name: The task, for the name of the file.

    Attributes:
        path: The path of the file; None before the first byte.
    """

    def __init__(self, host: str, task_name: str) -> None:
        self.host = host
        self.task_name = task_name
        self._lock = threading.Lock()  # for writers
        self.path: str | None = None
        self._memory = bytearray()
        self._length = 0
        # For each step the spans [start, end) of the log that are its output: one span, unless
        # a process that an earlier step left in the background prints in between.
        self._steps: list[list[tuple[int, int]]] = []
        self._fd: int | None = None
        self._closed = False

    def __getstate__(self) -> dict[str, object]:
        with self._lock:
            state = self.__dict__.copy()
            state["_memory"] = bytes(self._memory)
            state["_steps"] = [list(spans) for spans in self._steps]
        del state["_lock"]
        state.update(_fd=None, _closed=True)
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._memory = bytearray(self._memory)
        self._lock = threading.Lock()

    def begin_step(self, index: int) -> None:
        """Make an entry for a step, and for each step before it."""
        with self._lock:
            self._begin_step(index)

    def append(self, index: int, data: bytes | memoryview) -> None:
        """Append output of a step to memory and file. The first byte creates the file.

        Raises:
            OSError: If the file cannot be created or written; it names the path. What was written
                before is in the log.
            ValueError: If the log is closed.
        """
        with self._lock:
            if self._closed:
                raise ValueError(f"the log of {self.task_name!r} on {self.host} is closed")
            self._begin_step(index)
            if not data:
                return
            if self._fd is None:
                self.path, self._fd = create_log_file(self.host, self.task_name)
            view = memoryview(data)
            while view:
                try:
                    written = os.write(self._fd, view)
                except OSError as error:
                    raise OSError(error.errno, error.strerror, self.path) from error
                self._publish(index, view[:written])
                view = view[written:]

    def close(self, steps: int = 0) -> None:
        """Make an entry for each of the steps and close the file. The log can still be read."""
        with self._lock:
            self._begin_step(steps - 1)
            self._closed = True
            fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _begin_step(self, index: int) -> None:
        while len(self._steps) <= index:
            self._steps.append([])

    def _publish(self, index: int, data: memoryview) -> None:
        """Show readers what was just appended to the file. The lock is held."""
        start, end = self._length, self._length + len(data)
        left = MEMORY_LIMIT - start
        if left > 0:
            self._memory += data[:left]
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

    def read_new(self, position: int) -> tuple[bytes, int]:
        """Return what all steps have printed behind `position`, to print it live.

        Returns:
            At most `READ_LIMIT` bytes, none if there is nothing new, and the next position.

        Raises:
            OSError: If it is not all in memory and the file cannot be read.
        """
        end = min(self._length, position + READ_LIMIT)
        if end <= position:
            return b"", position
        return self._read(position, end), end

    def _spans(self, index: int) -> list[tuple[int, int]]:
        return list(self._steps[index]) if index < len(self._steps) else []

    def _read(self, start: int, end: int) -> bytes:
        known = bytes(self._memory[start:end])
        start += len(known)
        return known + self._read_file(start, end) if start < end else known

    def _read_file(self, start: int, end: int) -> bytes:
        path = self.path
        assert path is not None  # Bytes beyond memory are in a file.
        # It is opened for each read, because the writer may close its descriptor meanwhile.
        try:
            with open(path, "rb") as file:
                file.seek(start)
                data = file.read(end - start)
        except OSError as error:
            message = f"the execution log cannot be read any more: {error.strerror}"
            raise OSError(error.errno, message, path) from error
        if len(data) < end - start:
            raise OSError(f"the execution log has been cut short: {path!r}")
        return data


class LivePrinter:
    """Print a log while it grows, in the thread that waits for the execution."""

    def __init__(self, log: ExecutionLog) -> None:
        self._log = log
        self._position = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def print_new(self, *, last: bool = False) -> None:
        """Print what has come since the last call; at last an incomplete character, too."""
        while True:
            data, self._position = self._log.read_new(self._position)
            text = self._decoder.decode(data, final=last and not data)
            if text:
                show(text)
                if sys.stdout is not None:
                    sys.stdout.flush()
            if not data:
                return


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
