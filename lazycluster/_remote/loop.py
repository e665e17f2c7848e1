"""The one selector of the supervisor: frames in and out, pipes that are read, timers, heartbeat."""

import collections
import heapq
import itertools
import math
import os
import selectors
import signal
import sys
import time

from .._shared import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    Reader = Callable[[int], object]

READ = 1 << 18  # bytes from the manager, at most, at once
HOLD = 0.002  # seconds
SMALL = 1 << 12  # bytes of a frame that are copied so that others can go with it
MOST_FRAMES = 64  # in one write; the system's limit is 1024
QUEUE_LIMIT = 1 << 18  # bytes for the manager that may wait before the steps' pipes do

# What comes of frames that no manager sends: JSON may be nested too deep, a number infinite.
NO_SENSE = (
    frames.FrameError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)


class Loop:
    """Serves until the manager has gone or a signal says to end.

    Args:
        source: Where the manager's frames come from.
        sink: Where frames for it go.
        keepalive: Seconds between two heartbeats.
        on_frame: Called with each frame's kind, request and payload; a ValueError, KeyError or
            TypeError from it says that the frame made no sense.
        on_child: Called when a child process may have ended.
    """

    def __init__(
        self,
        source: "int",
        sink: "int",
        keepalive: "float",
        on_frame: "Callable[[int, int, Any], None]",
        on_child: "Callable[[], None]",
    ) -> "None":
        self._source, self._sink = source, sink
        self._keepalive = keepalive
        self._on_frame, self._on_child = on_frame, on_child
        self._frames = frames.FrameReader(frames.TO_SUPERVISOR)
        self._selector = selectors.DefaultSelector()
        self._readers = {}  # type: dict[int, Reader]
        self._paused = False
        # Buffers of its own: a new one for each read costs page faults, which cost more than it.
        self._input = memoryview(bytearray(READ))
        self._relayed = memoryview(bytearray(frames.HEADER.size + frames.CHUNK))
        self._queue = collections.deque()  # type: collections.deque[memoryview]
        self._queued = 0
        self._flush_at = math.inf  # by time.monotonic()
        self._is_full = False  # the pipe to the manager
        self._timers = []  # type: list[tuple[float, int, Callable[[], None]]]
        self._timer_count = 0
        self._received = self._sent = time.monotonic()
        self._ending = False
        self._wake = os.pipe()
        for fd in (*self._wake, source, sink):
            os.set_blocking(fd, False)
        for fd in (source, sink):
            frames.enlarge_pipe_buffer(fd)
        self._selector.register(source, selectors.EVENT_READ, self._read_manager)
        self._selector.register(self._wake[0], selectors.EVENT_READ, self._woken)
        signal.set_wakeup_fd(self._wake[1])
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._told_to_end)

    def run(self) -> "None":
        """Serve until the end."""
        self._flush()
        while not self._ending:
            for key, _ in self._selector.select(self._next_timer()):
                # An event before this one may have closed it, and the number is another pipe's.
                if self._selector.get_map().get(key.fd) is key:
                    key.data(key.fd)
            if self._flush_at <= time.monotonic():
                self._flush()
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()
            self._heartbeat()
            if self._flush_at <= time.monotonic():
                self._flush()
            self._pause_or_resume()

    def later(self, seconds: "float", action: "Callable[[], None]") -> "None":
        """Call an action once, after some seconds."""
        self._timer_count += 1  # two of the same moment are not compared further
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._timer_count, action))

    def send(
        self, kind: "int", request: "int", payload: "bytes" = b"", hold: "bool" = False
    ) -> "None":
        """Write a frame, with all others of this turn: each write wakes half a dozen processes.

        Args:
            kind: The frame's.
            request: The number of the request.
            payload: The frame's.
            hold: Nobody waits for it: it may go with the next one, but HOLD seconds later at most.
        """
        self._append(frames.encode(kind, request, payload), hold)

    def relay(self, fd: "int", kind: "int", request: "int", hold: "bool" = False) -> "int | None":
        """Read what is there, CHUNK bytes at most, and send it, copied as little as can be.

        How many bytes it was: 0 at the end, None if nothing is there now.

        Args:
            fd: Where to read.
            kind: The frame's.
            request: The number of the request.
            hold: As for `send`, if it is little.
        """
        try:
            count = os.readv(fd, [self._relayed[frames.HEADER.size :]])
        except BlockingIOError:
            return None
        if count:
            frames.HEADER.pack_into(self._relayed, 0, kind, request, count)
            frame = self._relayed[: frames.HEADER.size + count]
            written = 0
            if count > SMALL:
                hold = False
                self._flush()
                written = 0 if self._queue else self._write([frame])
            if written < len(frame):
                self._append(bytes(frame[written:]), hold)
        return count

    def _append(self, data: "bytes", hold: "bool") -> "None":
        self._sent = time.monotonic()
        self._queue.append(memoryview(data))
        self._queued += len(data)
        if not hold:
            self._flush_at = 0.0
        elif self._flush_at == math.inf:
            self._flush_at = self._sent + HOLD

    def _flush(self) -> "None":
        """Write what the pipe takes, and watch it while something is left."""
        self._flush_at = math.inf
        while self._queue:
            written = self._write(list(itertools.islice(self._queue, MOST_FRAMES)))
            if not written:
                break
            self._queued -= written
            while written:
                first = self._queue[0]
                if written < len(first):
                    self._queue[0] = first[written:]
                    break
                written -= len(first)
                self._queue.popleft()
        if bool(self._queue) != self._is_full:
            self._is_full = not self._is_full
            if self._is_full:
                self.write_to(self._sink, lambda _: self._flush())
            else:
                self.stop_writing(self._sink)

    def _write(self, pieces: "list[memoryview]") -> "int":
        try:
            return os.writev(self._sink, pieces)
        except BlockingIOError:
            return 0
        except OSError:  # EPIPE: the manager has gone
            self._ending = True
            return 0

    def read_from(self, fd: "int", action: "Reader") -> "None":
        """Call an action whenever there is something to read, unless the manager is slow."""
        os.set_blocking(fd, False)
        self._readers[fd] = action
        if not self._paused:
            self._selector.register(fd, selectors.EVENT_READ, action)

    def close_reader(self, fd: "int") -> "None":
        """Close a descriptor that was or was to be read from."""
        if self._readers.pop(fd, None) is not None and not self._paused:
            self._selector.unregister(fd)
        os.close(fd)

    def write_to(self, fd: "int", action: "Reader") -> "None":
        """Call an action whenever something can be written, until `stop_writing`."""
        if fd not in self._selector.get_map():
            self._selector.register(fd, selectors.EVENT_WRITE, action)

    def stop_writing(self, fd: "int") -> "None":
        """No longer; a second time is fine."""
        if fd >= 0 and fd in self._selector.get_map():
            self._selector.unregister(fd)

    def close_readers(self) -> "None":
        """Read from nothing any more but the manager."""
        for fd in list(self._readers):
            self.close_reader(fd)

    def close_in_child(self) -> "None":
        """In a forked process: none of these descriptors is its own."""
        for fd in (*self._readers, *self._wake, self._source, self._sink):
            os.close(fd)
        self._selector.close()

    def _told_to_end(self, *_: "object") -> "None":
        self._ending = True

    def _next_timer(self) -> "float":
        due = time.monotonic() + self._keepalive
        if not self._queue:  # or the heartbeat could not be sent anyway
            due = min(due, self._sent + self._keepalive)
        if self._timers:
            due = min(due, self._timers[0][0])
        if not self._is_full:
            due = min(due, self._flush_at)
        return max(0.0, due - time.monotonic())

    def _heartbeat(self) -> "None":
        now = time.monotonic()
        if now - self._received > frames.SILENT_PERIODS * self._keepalive:
            self._ending = True
        elif now - self._sent >= self._keepalive and not self._queue:
            self.send(frames.HEARTBEAT, 0)

    def _woken(self, fd: "int") -> "None":
        os.read(fd, 4096)
        self._on_child()

    def _pause_or_resume(self) -> "None":
        """Let the steps' pipes wait while the manager is slow; memory stays flat."""
        pause = self._queued > (QUEUE_LIMIT // 4 if self._paused else QUEUE_LIMIT)
        if pause == self._paused:
            return
        self._paused = pause
        for fd, action in self._readers.items():
            if pause:
                self._selector.unregister(fd)
            else:
                self._selector.register(fd, selectors.EVENT_READ, action)

    def _read_manager(self, fd: "int") -> "None":
        try:
            count = os.readv(fd, [self._input])
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self._ending = True
            return
        self._received = time.monotonic()
        try:
            for kind, number, payload in self._frames.feed(self._input[:count]):
                self._on_frame(kind, number, payload)
        except NO_SENSE as error:
            name = type(error).__name__  # no more: what was sent may be a secret
            sys.stderr.write("lazycluster: the manager sent no sense: {}\n".format(name))
            sys.stderr.flush()  # which it does not do by itself before 3.9
            self._ending = True
