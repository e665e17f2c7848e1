"""Write frames to the lifeline, whole and in order, without blocking the sender.

A KeyboardInterrupt can come between any two instructions of the main thread, and a half-written
frame ends a connection. So a small frame is one write of at most PIPE_BUF bytes, which a pipe takes
whole or not at all, and everything else is written by a thread of its own, in which no signal is
handled.
"""

from __future__ import annotations

import collections
import os
import select
import threading
import time
from typing import Protocol

from lazycluster._ssh.waiting import wait_writable

PIPE_BUF = select.PIPE_BUF  # bytes that a pipe takes whole or not at all, see pipe(7)
POLL_INTERVAL = 0.1  # seconds between two looks at whether a full pipe is to be closed


class FrameSource(Protocol):
    """Something with input for the host, one frame at a time."""

    def next_frame(self) -> bytes | None:
        """Return the next frame; None while there is none to send."""

    def fail(self, error: Exception) -> None:
        """React to a frame that could not be read."""


class Writer:
    """Writes to a non-blocking pipe; its thread gets the name."""

    def __init__(self, fd: int, name: str) -> None:
        self.last: float = time.monotonic()  # when something was written
        self._fd = fd
        self._pid = os.getpid()
        self._name = name
        self._lock = threading.RLock()  # reentrant for a signal handler
        self._changed = threading.Condition(self._lock)
        self._queue: collections.deque[bytes] = collections.deque()
        self._sources: collections.deque[FrameSource] = collections.deque()
        self._writing = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def send(self, data: bytes) -> None:
        """Write whole frames, at once or behind those that wait; never block.

        A broken pipe is not an error here: the reader thread finds the reason.
        """
        with self._lock:  # two function calls fewer than by the Condition
            # In a forked child the number may be another file's.
            if self._closed or os.getpid() != self._pid:
                return
            if not self._writing and not self._queue and len(data) <= PIPE_BUF:
                try:
                    os.write(self._fd, data)
                    self.last = time.monotonic()
                    return
                except BlockingIOError:
                    pass
                except OSError as error:
                    if error.errno is None:
                        raise  # a TimeoutError of a signal handler: nothing was sent
                    return
            self._queue.append(data)
            self._notify()

    def heartbeat(self, frame: bytes) -> None:
        """Write a frame if nothing else is being written; any frame counts as a heartbeat."""
        with self._changed:
            busy = self._writing or self._queue
        if not busy:
            self.send(frame)
        self.last = time.monotonic()

    def feed(self, source: FrameSource) -> None:
        """Write the frames of a source, in turn with others, until it has none for now.

        Call it again when the source has more.
        """
        with self._changed:
            if not self._closed and not any(source is known for known in self._sources):
                self._sources.append(source)
                self._notify()

    def close(self) -> bool:
        """Write nothing more; return True if the pipe is no longer used and can be closed."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._sources.clear()
            self._changed.notify_all()
            until = time.monotonic() + 5 * POLL_INTERVAL
            while self._writing and time.monotonic() < until:
                self._changed.wait(POLL_INTERVAL)
            return not self._writing

    def _notify(self) -> None:
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
                data = self._next_of(source)
            if data is not None and not self._write(data):
                with self._changed:
                    self._closed = True

    def _next_of(self, source: FrameSource) -> bytes | None:
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
        while view:
            if self._closed:
                return False
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                wait_writable(self._fd, POLL_INTERVAL)
            except OSError:
                return False
        self.last = time.monotonic()
        return True
