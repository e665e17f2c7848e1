"""Run callbacks of users in one thread of the process, and actions at a time in another.

The reader threads of connections must not run a user's code: what blocks them stops the connection.
A callback must not hold up a timeout either. The threads are daemons, and a forked child starts its
own.
"""

from __future__ import annotations

import atexit
import heapq
import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable

Action = Callable[[], object]

MOST_TIMERS = 1000  # that are kept, before the cancelled ones among them are removed
MOST_SECONDS = 86400.0  # of one wait
EXIT_TIMEOUT = 1.0  # seconds at the interpreter's exit for a callback that runs

_logger = logging.getLogger("lazycluster")


class Timer:
    """An action at a time; `cancel` drops it."""

    def __init__(self, when: float, action: Action) -> None:
        self.when = when
        self.action: Action | None = action

    def cancel(self) -> None:
        """Drop the action. A second call, or one after the time, does nothing."""
        self.action = None


class CompletionThread:
    """Call actions one after the other, in the order in which they came.

    Args:
        name: The name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        # Reentrant, so that a signal handler may post while its thread does.
        self._queue: queue.SimpleQueue[Action] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._timers: list[tuple[float, int, Timer]] = []  # used by the thread alone
        self._numbers = itertools.count()
        self._most_timers = MOST_TIMERS
        self._is_stopping = False

    def start(self) -> None:
        """Start the thread at the first call.

        Raises:
            RuntimeError: If no thread can be started.
        """
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                self._thread.start()
            except BaseException:
                self._thread = None
                raise
            atexit.register(self._stop)

    def _stop(self) -> None:
        """End the thread at the interpreter's exit: a callback that prints later would crash it."""
        thread = self._thread
        if thread is None:
            return
        self._is_stopping = True
        self.post(lambda: None)
        thread.join(EXIT_TIMEOUT)
        if not thread.is_alive():  # An exit handler that comes later may need another one.
            self._thread, self._is_stopping = None, False

    @property
    def is_current(self) -> bool:
        """Return True in this thread."""
        return threading.current_thread() is self._thread

    def post(self, action: Action) -> None:
        """Call an action soon. It must not wait for another one."""
        self._queue.put(action)

    def call_at(self, when: float, action: Action) -> Timer:
        """Call an action at a time by `time.monotonic()`."""
        timer = Timer(when, action)
        self.post(lambda: self._add(timer))
        return timer

    def _run(self) -> None:
        while not self._is_stopping:
            self._call_next()

    def work_until(self, is_over: Callable[[], bool], deadline: float | None) -> None:
        """Call actions in a callback that waits, until something is over.

        Args:
            is_over: Called after each action; what ends the waiting must post one.
            deadline: The time by `time.monotonic()` to return at; None for no limit.
        """
        late = None if deadline is None else self.call_at(deadline, lambda: None)
        while not is_over() and not self._is_stopping:
            if deadline is not None and time.monotonic() >= deadline:
                break
            self._call_next()
        if late is not None:
            late.cancel()

    def _call_next(self) -> None:
        action = self._due() or self._next()
        if action is None:
            return
        try:
            action()
        except BaseException:  # a user's callback may raise a SystemExit
            _logger.exception("A callback failed.")

    def _due(self) -> Action | None:
        """Return the action of a timer whose time has come."""
        while self._timers:
            when, _, timer = self._timers[0]
            if timer.action is not None and when > time.monotonic():
                return None
            heapq.heappop(self._timers)
            if timer.action is not None:
                return timer.action
        return None

    def _next(self) -> Action | None:
        """Wait for an action, until the next timer at most."""
        timeout = None
        if self._timers:
            timeout = min(max(0.0, self._timers[0][0] - time.monotonic()), MOST_SECONDS)
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            return None

    def _add(self, timer: Timer) -> None:
        heapq.heappush(self._timers, (timer.when, next(self._numbers), timer))
        if len(self._timers) > self._most_timers:  # many calls with long timeouts have ended
            self._timers = [entry for entry in self._timers if entry[2].action is not None]
            heapq.heapify(self._timers)
            self._most_timers = max(MOST_TIMERS, 2 * len(self._timers))


completion = CompletionThread("lazycluster callbacks")
timers = CompletionThread("lazycluster timers")


def _start_anew() -> None:
    for thread in (completion, timers):
        thread.__init__(thread._name)  # type: ignore[misc]


os.register_at_fork(after_in_child=_start_anew)
