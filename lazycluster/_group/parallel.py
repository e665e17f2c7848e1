"""Do something for each host at the same time, in a thread for each."""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from lazycluster._interpreter_exit import Wait, stopped_with_main_thread
from lazycluster._tasks.execution import INTERRUPT_TIMEOUT
from lazycluster._waits import wait_repeatedly

T = TypeVar("T")


# A NamedTuple cannot be generic before Python 3.11.
class Outcomes(tuple[dict[str, T], dict[str, Exception]]):
    """What came out for each host, in the order of the hosts; each host is in one of both."""

    @property
    def results(self) -> dict[str, T]:
        """Return the results by host."""
        return self[0]

    @property
    def errors(self) -> dict[str, Exception]:
        """Return the exceptions by host."""
        return self[1]


def _do_nothing(*_: object) -> None:
    """Do nothing."""


def in_parallel(
    work: Mapping[str, Callable[[], T]],
    *,
    most: int | None = None,
    stop: Callable[[], object] = _do_nothing,
    on_late: Callable[[T], object] = _do_nothing,
) -> Outcomes[T]:
    """Call a function for each host, and wait for all of them.

    Args:
        work: The functions by host.
        most: The most functions at the same time. Defaults to None, all of them.
        stop: Called if the waiting thread is interrupted; it makes the functions end soon.
        on_late: Called with each result that comes after an interruption.

    Raises:
        BaseException: What interrupts the waiting thread, such as KeyboardInterrupt; or what a
            function has raised that is not an Exception.
    """
    batch = _Batch(work, on_late)
    wait = Wait(batch.wake)
    with stopped_with_main_thread(wait):
        try:
            batch.start(len(work) if most is None else min(most, len(work)))
            while batch.has_more():
                wait.check()
        except BaseException:
            batch.abandon()
            stop()
            batch.wait_for_workers(INTERRUPT_TIMEOUT)
            raise
    results = {host: batch.results[host] for host in work if host in batch.results}
    raised = dict(batch.errors)
    batch.forget()
    errors: dict[str, Exception] = {}
    for host in work:
        error = raised.get(host)
        if isinstance(error, Exception):
            errors[host] = error
        elif error is not None:
            raise error
    return Outcomes((results, errors))


class _Batch(Generic[T]):
    """The threads of one call of `in_parallel`, and what came out so far."""

    def __init__(self, work: Mapping[str, Callable[[], T]], on_late: Callable[[T], object]) -> None:
        self.results: dict[str, T] = {}
        self.errors: dict[str, BaseException] = {}
        self._count = len(work)
        self._on_late = on_late
        self._waiting = collections.deque(work.items())
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()  # one for each end, or a wake-up
        self._lock = threading.RLock()  # for results and the flag; reentrant for a signal handler
        self._is_abandoned = False
        self._threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        for number in range(count):
            name = f"lazycluster group {number}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def has_more(self) -> bool:
        """Return False if all have ended; else wait for the next end, or a wake-up."""
        if len(self.results) + len(self.errors) == self._count:
            return False
        wait_repeatedly(self._take_news, None)
        return True

    def _take_news(self, seconds: float | None) -> bool:
        try:
            self._news.get(timeout=seconds)
        except queue.Empty:
            return False
        return True

    def wake(self) -> None:
        """Make `has_more` return soon."""
        self._news.put(None)

    def abandon(self) -> None:
        """Begin nothing more, and treat what still comes as late, also what has come already."""
        with self._lock:
            self._is_abandoned = True
            late = list(self.results.values())
            self.results.clear()
        self._waiting.clear()
        for result in late:
            self._on_late(result)

    def forget(self) -> None:
        """Forget what came out: the tracebacks of errors keep this, and with it all results."""
        self.results.clear()
        self.errors.clear()

    def wait_for_workers(self, timeout: float) -> None:
        """Wait until all threads have ended, at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        with contextlib.suppress(IndexError):  # nothing is left
            while True:
                host, function = self._waiting.popleft()
                self._do(host, function)

    def _do(self, host: str, function: Callable[[], T]) -> None:
        try:
            result = function()
        except BaseException as error:
            with self._lock:
                self.errors[host] = error
        else:
            with self._lock:
                is_late = self._is_abandoned
                if not is_late:
                    self.results[host] = result
            if is_late:
                self._on_late(result)
        self._news.put(None)
