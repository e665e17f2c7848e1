"""A request under way: what its steps were given, what has come of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from lazycluster._conversation.outcome import Outcome, parse_outcome
from lazycluster._conversation.writer import Writer
from lazycluster._shared import frames

Storage = Callable[[int, memoryview], object]  # takes the index of a step, and bytes for now


class Request:
    """Steps under way on the host. The reader thread fills it; one thread waits for it.

    Args:
        number: The request's number.
        count: How many steps it has.
        writer: What writes to the host.
        pieces: What the steps read.
        on_output: Called in the reader thread with a step's index and what it printed.
        on_value: Called in the reader thread with a step's index and a piece of its value.
        live: Whether who waits is woken by output, too.

    Attributes:
        number: The request's number.
        step: The index of the step that was started last, None before the first.
        pid: Of the running step's process on the host, None between steps.
        step_started: When it was started, by the manager's `time.monotonic()`.
        outcomes: How each step ended that has, in order, as the supervisor told it.
        finished: Whether the request is over.
        closed: Whether it ended because the manager closed the connection.
    """

    def __init__(
        self,
        number: int,
        count: int,
        writer: Writer,
        pieces: Iterator[bytes],
        on_output: Storage,
        on_value: Storage,
        *,
        live: bool,
    ) -> None:
        self.number = number
        self._count = count
        self._writer = writer
        self._pieces = pieces
        self._next = next(pieces, None)
        self._on_output = on_output
        self._on_value = on_value
        self._live = live
        self._changed = threading.Condition()
        self._news = False
        self._credit = frames.FIRST_WINDOW
        self._error: BaseException | None = None
        self.step: int | None = None
        self.pid: int | None = None
        self.step_started = 0.0
        self.outcomes: list[Outcome] = []
        self.finished = False
        self.closed = False

    def wait(self, deadline: float | None = None) -> None:
        """Wait until something has changed since the last time, or the deadline has passed.

        Args:
            deadline: By `time.monotonic()`; None for none.

        Raises:
            LazyclusterError: The connection was lost or did not come up.
            OSError: What came could not be stored.
            SystemExit: The interpreter exits, which closes the connection.
        """
        with self._changed:
            while not self._news and not self.finished and self._error is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return
                self._changed.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
            self._news = False
            if self._error is not None:
                raise self._error

    def kill(self, grace: float) -> None:
        """SIGTERM to all that the request started, SIGKILL after `grace` seconds; do not wait.

        The request is finished when the process groups have gone.
        """
        told = json.dumps({"grace": grace}).encode("ascii")
        self._writer.send(frames.encode(frames.KILL, self.number, told))

    # For the writer

    @property
    def has_input(self) -> bool:
        """Whether there is more for the host, wanted or not."""
        return self._next is not None

    def next_frame(self) -> bytes | None:
        """The next piece of input as a frame, if the host wants one."""
        with self._changed:
            piece = self._next
            over = self.finished or self._error is not None
            if piece is None or over or self._credit < len(piece):
                return None
            self._credit -= len(piece)
        # Not under the lock: it may come from a slow disk, and the reader thread takes that lock.
        self._next = next(self._pieces, None)
        return frames.encode(frames.INPUT, self.number, piece)

    def fail(self, error: BaseException) -> None:
        """Have who waits get an error, unless the request is over."""
        with self._changed:
            if not self.finished and self._error is None:
                self._error = error
                self._changed.notify_all()

    # For the reader

    def take(self, kind: int, payload: Any) -> bool:
        """Store what has come; whether who waits is to be woken.

        Args:
            kind: The frame's.
            payload: Bytes; of BULK a view that holds until this returns.

        Raises:
            ValueError, KeyError, TypeError: It makes no sense.
        """
        if kind in (frames.OUTPUT, frames.VALUE):
            if self.step is None or self._error is not None:
                return False
            store = self._on_output if kind == frames.OUTPUT else self._on_value
            try:
                store(self.step, payload)
            except (
                OSError,
                ValueError,
            ) as error:  # a full disk; who waits kills the request
                self.fail(error)
                return False
            if kind == frames.VALUE or not self._live:
                return False  # to wake who waits, for each piece, costs as much as all the rest
        if kind == frames.CREDIT:
            with self._changed:
                self._credit += int(json.loads(payload)["bytes"])
            self._writer.feed(self)
            return False
        with self._changed:
            if kind == frames.STARTED:
                told = json.loads(payload)
                step = int(told["step"])
                if step != len(self.outcomes) or step == self.step or step >= self._count:
                    raise ValueError("a step that starts out of turn")
                self.step, self.pid = step, int(told["pid"])
                self.step_started = time.monotonic()
            elif kind == frames.ENDED:
                if len(self.outcomes) == self._count:
                    raise ValueError("a step that ends out of turn")
                self.outcomes.append(parse_outcome(json.loads(payload)))
                self.pid = None
            elif kind == frames.FINISHED:
                self.finished = True
            self._news = True
        return True

    def wake(self) -> None:
        """Have who waits look; once for all that came together, as it costs two threads time."""
        with self._changed:
            self._changed.notify_all()
