"""A request under way: the input of its steps, and what came back."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lazycluster._conversation.outcome import Outcome, parse_outcome
from lazycluster._conversation.writer import Writer
from lazycluster._shared import frames
from lazycluster._waits import acquire

SMALL = 1 << 11  # bytes of input that are sent by the thread that has them

Sink = Callable[[int, memoryview], object]  # takes a step's index and bytes, valid until it returns


# The outcomes of most steps are the same few bytes.
MOST_BYTES = 128
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # it has no types


def _loads(payload: bytes) -> Any:
    """Return what a payload means, in fewer calls than `json.loads`: it has no spaces around it."""
    text = payload.decode("utf-8", "surrogatepass")
    try:
        content, end = _scan(text, 0)
    except StopIteration:
        raise ValueError("a payload that is no JSON") from None
    if end != len(text):
        raise ValueError("a payload that goes on after its JSON")
    return content


def _read_outcome(payload: bytes) -> Outcome:
    # What an operation returns may be changed by its caller.
    is_known = len(payload) <= MOST_BYTES and b"result" not in payload
    return _read_known(payload) if is_known else parse_outcome(_loads(payload))


@functools.lru_cache(maxsize=64)
def _read_known(payload: bytes) -> Outcome:
    return parse_outcome(_loads(payload))


def ignore_start(_step: int) -> bool:
    """Do nothing at the start of a step: a notification costs two threads time."""
    return False


class Request:
    """Steps under way on the host. The reader thread fills it; one thread may wait for it.

    Args:
        number: The request's number.
        count: The number of its steps.
        writer: Writes to the host.
        chunks: The input of the steps.
        sinks: What takes the bytes that come, by the kind of their frames; each is called in the
            reader thread.
        on_start: Called with the index of a step that has started, in the reader thread; returns
            True if the waiting thread must be notified of it.
        on_end: Called once with the request, when it is finished or has an error; most often in the
            reader thread.
        live: If True, output and the end of each step notify the waiting thread, too.
    """

    def __init__(
        self,
        number: int,
        count: int,
        writer: Writer,
        chunks: Iterator[bytes],
        sinks: Mapping[int, Sink],
        on_end: Callable[[Request], object],
        *,
        live: bool,
        on_start: Callable[[int], bool] = ignore_start,
    ) -> None:
        self.number = number
        self._count = count
        self._writer = writer
        self._chunks = chunks
        self._next = next(chunks, None)
        self._sinks = sinks
        self._on_start = on_start
        self._on_end: Callable[[Request], object] | None = on_end
        self._live = live
        self._lock = threading.RLock()  # reentrant for a signal handler
        # Held until there is news; None while no thread waits. A Condition would cost a call more
        # than all the rest of its waiting.
        self._waiter: threading.Lock | None = None
        self._news = False
        self._credit = frames.FIRST_WINDOW
        self.error: BaseException | None = None  # what `wait` raises
        self.step: int | None = None  # the index of the step that was started last
        self.pid: int | None = None  # of the running step's process on the host
        self.step_started: float = 0.0  # by the manager's `time.monotonic()`
        self.outcomes: list[Outcome] = []  # of the steps that have ended, in order
        self.finished: bool = False
        self.closed = False  # True if it ended because the manager closed the connection

    def wait(self, deadline: float | None = None) -> None:
        """Wait until something has changed since the last call, or the deadline has passed.

        Raises:
            LazyclusterError: If the connection was lost or did not come up.
            OSError: If what came could not be stored.
            SystemExit: If the interpreter exits, which closes the connection.
        """
        waiter = None
        with self._lock:
            if not self._news and not self.finished and self.error is None:
                waiter = self._waiter = threading.Lock()
                waiter.acquire(blocking=False)
        if waiter is not None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            acquire(waiter, left)
        self._news = False
        if self.error is not None:
            raise self.error

    def kill(self, grace: float) -> None:
        """Send SIGTERM to all that the request started, and SIGKILL after `grace` seconds.

        This does not wait. The request is finished when the process groups have gone.
        """
        payload = json.dumps({"grace": grace}).encode("ascii")
        self._writer.send(frames.encode(frames.KILL, self.number, payload))

    def kill_and_wait(self, grace: float, timeout: float) -> None:
        """Kill it, and wait until the host reports its end, at most `timeout` seconds."""
        self.kill(grace)
        deadline = time.monotonic() + timeout
        try:
            while not self.finished and time.monotonic() < deadline:
                self.wait(deadline)
        except BaseException as error:
            if error is not self.error:
                raise
            # The connection has ended, and with it all that the request has started.

    @property
    def has_input(self) -> bool:
        """Return True if there is more input, requested by the host or not."""
        return self._next is not None

    def next_frame(self) -> bytes | None:
        """Return the next chunk of input as a frame; None while the host takes no more."""
        with self._lock:
            chunk = self._next
            over = self.finished or self.error is not None
            if chunk is None or over or self._credit < len(chunk):
                return None
            self._credit -= len(chunk)
        # Not under the lock: it may come from a slow disk, and the reader thread takes that lock.
        self._next = next(self._chunks, None)
        return frames.encode(frames.INPUT, self.number, chunk)

    def add_input(self, chunks: Iterator[bytes], first: bytes = b"") -> None:
        """Send more input to a step that wants it; all before has been sent.

        Args:
            chunks: The input, which the writer thread reads.
            first: The input before that.
        """
        with self._lock:
            self._chunks = chunks
            is_sent = 0 < len(first) <= min(SMALL, self._credit)
            if is_sent:
                self._credit -= len(first)
            else:
                self._next = first
        if is_sent:
            self._writer.send(frames.encode(frames.INPUT, self.number, first))
        else:
            self._writer.feed(self)

    def fail(self, error: BaseException) -> None:
        """Raise an error in the waiting thread, unless the request is over."""
        with self._lock:
            if not self.finished and self.error is None:
                self.error = error
        self._wake()
        self._report_end()

    def handle_frame(self, kind: int, payload: Any) -> bool:
        """Store what came; return True if the waiting thread must be notified.

        Raises:
            ValueError, KeyError, TypeError: If the frame is malformed.
        """
        if kind in self._sinks:
            return self._store(kind, payload)
        if kind == frames.CREDIT:
            with self._lock:
                self._credit += int(_loads(payload)["bytes"])
            self._writer.feed(self)
            return False
        if kind == frames.STARTED:
            report = _loads(payload)
            step = int(report["step"])
            if step != len(self.outcomes) or step == self.step or step >= self._count:
                raise ValueError("a step that starts out of turn")
            self.pid = int(report["pid"])
            self.step_started = time.monotonic()
            self.step = step  # the last of them, because other threads look at it first
            return self._on_start(step)
        if kind == frames.ENDED:
            if len(self.outcomes) == self._count:
                raise ValueError("a step that ends out of turn")
            self.outcomes.append(_read_outcome(payload))
            self.pid = None
            return self._live
        if kind == frames.FINISHED:
            self.finished = True
        return True

    def _store(self, kind: int, payload: memoryview) -> bool:
        if self.step is None or self.error is not None:
            return False
        try:
            self._sinks[kind](self.step, payload)
        except (OSError, ValueError) as error:  # a full disk; the waiting thread kills the request
            self.fail(error)
            return False
        # To notify for each chunk would cost as much as all the rest.
        return self._live and kind not in (frames.VALUE, frames.LOGGED)

    def notify(self) -> None:
        """Notify the waiting thread, once for all frames that came together.

        Each notification costs two threads time.
        """
        self._wake()
        if self.finished:
            self._report_end()

    def _wake(self) -> None:
        with self._lock:
            self._news = True
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.release()

    def _report_end(self) -> None:
        with self._lock:
            on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)
