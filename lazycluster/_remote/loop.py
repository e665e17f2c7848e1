"""The supervisor's event loop: frames in and out, pipes, timers and the heartbeat."""

import _signal as signal  # see `child`
import collections
import heapq
import itertools
import math
import os
import select
import sys
import time

from .._shared import frames
from . import plain_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    Reader = Callable[[int], object]

READ = 1 << 18  # bytes; the maximum of one read from the manager
FLUSH_DELAY = 0.002  # seconds that a frame may wait for the next one
SMALL = 1 << 12  # bytes; up to this size a frame is copied so that others can go with it
MOST_FRAMES = 64  # in one write; the system's limit is 1024
QUEUE_LIMIT = 1 << 18  # bytes that may wait for the manager before the steps' pipes are paused

# Raised for frames that no manager sends: JSON may be nested too deeply, a number infinite.
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


# These buffers are reused, also by the loop of a rehearsal: a new one for each read costs more in
# page faults than the read.
_input = memoryview(bytearray(READ))
_relayed = memoryview(bytearray(frames.HEADER.size + frames.CHUNK))

READABLE, WRITABLE = select.POLLIN, select.POLLOUT  # epoll has the same numbers


class Poller:
    """Wait for descriptors: `selectors` takes four function calls for each of these.

    Attributes:
        actions: What is to be called, by descriptor.
    """

    def __init__(self) -> "None":
        self.actions = {}  # type: dict[int, Reader]
        self._poll = None  # type: Any
        self._second = 0

    def open(self) -> "None":
        """Open the system's poll object, before anything is added."""
        is_linux = hasattr(select, "epoll")
        self._poll = select.epoll() if is_linux else select.poll()
        self._second = 1 if is_linux else 1000

    def add(self, fd: "int", events: "int", action: "Reader") -> "None":
        """Wait for events of a descriptor, too."""
        self._poll.register(fd, events)
        self.actions[fd] = action

    def remove(self, fd: "int") -> "None":
        """Wait no longer for a descriptor, which is still open."""
        del self.actions[fd]
        self._poll.unregister(fd)

    def wait(self, timeout: "float") -> "list[tuple[int, int]]":
        """Return descriptors and their events, after `timeout` seconds an empty list."""
        return self._poll.poll(timeout * self._second)  # type: ignore[no-any-return]

    def close(self) -> "None":
        """Close what it has of its own."""
        if self._second == 1:
            self._poll.close()


class Loop:
    """Serve until the manager has gone or a signal arrives; `Supervisor` explains the arguments.

    `on_frame` is called with each frame's kind, request and payload, and `on_frames_end` after all
    that came together; one of _MALFORMED from them ends the loop. `on_child` is called when a child
    process may have ended.
    """

    def __init__(
        self,
        source: "int",
        sink: "int",
        keepalive: "float",
        orphan_timeout: "float",
        on_frame: "Callable[[int, int, Any], None]",
        on_frames_end: "Callable[[], None]",
        on_child: "Callable[[], None]",
    ) -> "None":
        self._source, self._sink = source, sink
        self._keepalive = keepalive
        self._orphan_timeout = orphan_timeout
        self._on_frame, self._on_frames_end, self._on_child = on_frame, on_frames_end, on_child
        self._frames = frames.FrameReader(frames.TO_SUPERVISOR)
        self._poller = Poller()
        self._readers = {}  # type: dict[int, Reader]
        self._paused = False
        self._queue = collections.deque()  # type: collections.deque[memoryview]
        self._queued = 0
        self._flush_at = math.inf  # by time.monotonic()
        self._is_full = False  # whether the pipe to the manager is
        self._timers = []  # type: list[tuple[float, int, Callable[[], None]]]
        self._timer_numbers = itertools.count()
        self._received = self._sent = time.monotonic()
        self._ending = False
        self._wakeup = ()  # type: tuple[int, ...]

    def start(self) -> "None":
        """Open the poll object and the wakeup pipe, and handle signals; call it before `run`."""
        self._poller.open()
        self._wakeup = os.pipe()
        for fd in (*self._wakeup, self._source, self._sink):
            os.set_blocking(fd, False)
        for fd in (self._source, self._sink):
            frames.enlarge_pipe_buffer(fd)
        self._poller.add(self._source, READABLE, self.read_manager)
        self._poller.add(self._wakeup[0], READABLE, self._handle_wakeup)
        signal.set_wakeup_fd(self._wakeup[1])
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._end_on_signal)

    def run(self) -> "None":
        """Serve until the end."""
        self.flush()
        while not self._ending:
            for fd, _ in self._poller.wait(self._next_timer()):
                # An earlier event may have closed it, and its number may be another pipe's now,
                # which then has nothing to read.
                action = self._poller.actions.get(fd)
                if action is not None:
                    action(fd)
            if self._flush_at <= time.monotonic():
                self.flush()
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()
            self._heartbeat()
            if self._flush_at <= time.monotonic():
                self.flush()
            self._pause_or_resume()

    def call_later(self, seconds: "float", action: "Callable[[], None]") -> "None":
        """Call an action once, after some seconds."""
        number = next(self._timer_numbers)  # without it, equal times would compare the actions
        heapq.heappush(self._timers, (time.monotonic() + seconds, number, action))

    def send(
        self, kind: "int", request: "int", payload: "bytes" = b"", may_wait: "bool" = False
    ) -> "None":
        """Write a frame, with all others of this turn: each write wakes half a dozen processes.

        With `may_wait` it may wait up to FLUSH_DELAY for the next one.
        """
        self._append(frames.encode(kind, request, payload), may_wait)

    def send_json(
        self, kind: "int", request: "int", content: "object", may_wait: "bool" = False
    ) -> "None":
        """Write a frame whose payload is JSON; see `send`."""
        self.send(kind, request, plain_json.dumps(content).encode("ascii"), may_wait)

    def relay(
        self,
        fd: "int",
        kind: "int",
        request: "int",
        may_wait: "bool" = False,
        limit: "int" = frames.CHUNK,
    ) -> "int | None":
        """Read what is there, `limit` bytes at most, and send it, copied as little as possible.

        Return how many bytes it was: 0 at the end of the file, None if nothing is there now.
        """
        try:
            count = os.readv(fd, [_relayed[frames.HEADER.size : frames.HEADER.size + limit]])
        except BlockingIOError:
            return None
        if count:
            frames.HEADER.pack_into(_relayed, 0, kind, request, count)
            frame = _relayed[: frames.HEADER.size + count]
            written = 0
            if count > SMALL:
                may_wait = False
                self.flush()
                written = 0 if self._queue else self._write([frame])
            if written < len(frame):
                self._append(bytes(frame[written:]), may_wait)
        return count

    def _append(self, data: "bytes", may_wait: "bool") -> "None":
        self._sent = time.monotonic()
        self._queue.append(memoryview(data))
        self._queued += len(data)
        if not may_wait:
            self._flush_at = 0.0
        elif self._flush_at == math.inf:
            self._flush_at = self._sent + FLUSH_DELAY

    def flush(self) -> "None":
        """Write what the pipe takes, and watch the pipe while something is left."""
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
        self._is_full = bool(self._queue)
        if self._is_full:
            self.add_writer(self._sink, lambda _: self.flush())
        else:
            self.remove_writer(self._sink)

    def _write(self, chunks: "list[memoryview]") -> "int":
        try:
            return os.writev(self._sink, chunks)
        except BlockingIOError:
            return 0
        except OSError:  # EPIPE: the manager has gone
            self._ending = True
            return 0

    def add_reader(self, fd: "int", action: "Reader") -> "None":
        """Call an action whenever there is something to read, unless the manager is slow."""
        os.set_blocking(fd, False)
        self._readers[fd] = action
        if not self._paused:
            self._poller.add(fd, READABLE, action)

    def close_reader(self, fd: "int") -> "None":
        """Stop reading from a descriptor, if the loop does, and close it."""
        if self._readers.pop(fd, None) is not None and not self._paused:
            self._poller.remove(fd)
        os.close(fd)

    def add_writer(self, fd: "int", action: "Reader") -> "None":
        """Call an action whenever something can be written, until `remove_writer`."""
        if fd not in self._poller.actions:
            self._poller.add(fd, WRITABLE, action)

    def remove_writer(self, fd: "int") -> "None":
        """Stop calling the action; a second call does nothing."""
        if fd in self._poller.actions:
            self._poller.remove(fd)

    def close_readers(self) -> "None":
        """Close all descriptors that are read from, except the manager's."""
        for fd in list(self._readers):
            self.close_reader(fd)

    def close_in_child(self) -> "None":
        """Close the loop's descriptors in a forked process, which does not own them."""
        for fd in (*self._readers, *self._wakeup, self._source, self._sink):
            os.close(fd)
        self._poller.close()

    def _end_on_signal(self, *_: "object") -> "None":
        self._ending = True

    def _next_timer(self) -> "float":
        due = time.monotonic() + self._keepalive
        if not self._queue:  # otherwise a heartbeat could not be sent anyway
            due = min(due, self._sent + self._keepalive)
        if self._timers:
            due = min(due, self._timers[0][0])
        if not self._is_full:
            due = min(due, self._flush_at)
        return max(0.0, due - time.monotonic())

    def _heartbeat(self) -> "None":
        now = time.monotonic()
        if now - self._received > self._orphan_timeout:
            self._ending = True
        elif now - self._sent >= self._keepalive and not self._queue:
            self.send(frames.HEARTBEAT, 0)

    def _handle_wakeup(self, fd: "int") -> "None":
        os.read(fd, 4096)
        self._on_child()

    def _pause_or_resume(self) -> "None":
        """Pause the steps' pipes while the manager is slow, so that memory stays flat."""
        pause = self._queued > (QUEUE_LIMIT // 4 if self._paused else QUEUE_LIMIT)
        if pause == self._paused:
            return
        self._paused = pause
        for fd, action in self._readers.items():
            if pause:
                self._poller.remove(fd)
            else:
                self._poller.add(fd, READABLE, action)

    def read_manager(self, fd: "int") -> "None":
        """Read once from the manager, and handle the frames that are complete."""
        try:
            count = os.readv(fd, [_input])
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self._ending = True
            return
        self._received = time.monotonic()
        try:
            for kind, number, payload in self._frames.feed(_input[:count]):
                self._on_frame(kind, number, payload)
            self._on_frames_end()
        except _MALFORMED as error:
            text = "lazycluster: the manager sent data that violates the protocol:"
            # Only the type: what was sent may be a secret. Before 3.9, a line is not flushed.
            print(text, type(error).__name__, file=sys.stderr, flush=True)
            self._ending = True
