"""Frames to the lifeline, whole and in order, without ever holding up who sends them.

A KeyboardInterrupt can come between any two instructions of the main thread, and a frame of which
half is written is the end of a connection. So what is small is one write of at most PIPE_BUF
bytes, which a pipe takes whole or not at all, and all else is written by a thread of its own, in
which no signal is handled.
"""

from __future__ import annotations

import collections
import os
import select
import threading
import time
from typing import Protocol

ATOMIC = select.PIPE_BUF  # bytes, see pipe(7)
POLL = 100  # milliseconds between two looks at whether a full pipe is to be closed


class Source(Protocol):
    """Something with bytes for the host, a piece at a time."""

    def next_frame(self) -> bytes | None:
        """The next piece as a frame; None while there is none to send."""

    def fail(self, error: Exception) -> None:
        """Told when there should be one and it cannot be read."""


class Writer:
    """Writes to a non-blocking pipe.

    Args:
        fd: The pipe.
        name: For the thread.

    Attributes:
        last: When something was written last, by `time.monotonic()`.
    """

    def __init__(self, fd: int, name: str) -> None:
        self.last = time.monotonic()
        self._fd = fd
        self._pid = os.getpid()
        self._name = name
        self._changed = threading.Condition()
        self._queue: collections.deque[bytes] = collections.deque()
        self._sources: collections.deque[Source] = collections.deque()
        self._writing = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def send(self, data: bytes) -> None:
        """Write whole frames, now or behind those that wait; never blocks.

        A broken pipe is no error here: whoever reads from the host finds the reason.
        """
        with self._changed:
            # In a forked child the number may be another file's.
            if self._closed or os.getpid() != self._pid:
                return
            if not self._writing and not self._queue and len(data) <= ATOMIC:
                try:
                    os.write(self._fd, data)
                    self.last = time.monotonic()
                    return
                except BlockingIOError:
                    pass
                except OSError:
                    return
            self._queue.append(data)
            self._wake()

    def heartbeat(self, frame: bytes) -> None:
        """Write a frame if nothing else is being written; any frame counts as one."""
        with self._changed:
            busy = self._writing or self._queue
        if not busy:
            self.send(frame)
        self.last = time.monotonic()

    def feed(self, source: Source) -> None:
        """Write what a source has, a frame at a time and by turns with others, until it has none.

        Called again when it has more.
        """
        with self._changed:
            if not self._closed and not any(source is known for known in self._sources):
                self._sources.append(source)
                self._wake()

    def close(self) -> bool:
        """Write nothing more; whether the pipe is no longer used and can be closed."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._sources.clear()
            self._changed.notify_all()
            until = time.monotonic() + 5 * POLL / 1000
            while self._writing and time.monotonic() < until:
                self._changed.wait(POLL / 1000)
            return not self._writing

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                while not self._queue and not self._sources and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                self._writing = True
                data = self._queue.popleft() if self._queue else None
                source = self._sources.popleft() if data is None else None
            if source is not None:
                data = self._take(source)
            if data is not None and not self._write(data):
                with self._changed:
                    self._closed = True

    def _take(self, source: Source) -> bytes | None:
        try:
            data = source.next_frame()
        except Exception as error:
            source.fail(error)
            return None
        if data is not None:
            with self._changed:
                self._sources.append(source)
        return data

    def _write(self, data: bytes) -> bool:
        view = memoryview(data)
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        while view:
            if self._closed:
                return False
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                poller.poll(POLL)
            except OSError:
                return False
        self.last = time.monotonic()
        return True
