"""Signals whose handlers raise exceptions in the main thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNAL = signal.SIGUSR1  # SIGALRM is pytest-timeout's
SOON = 0.3  # seconds


class Alarm:
    """A signal that comes soon, and its handler.

    Args:
        error: What the handler raises; by default another KeyboardInterrupt each time.
        times: How often the signal comes; it comes again soon after the handler.
    """

    def __init__(self, error: BaseException | None = None, *, times: int = 1) -> None:
        self.error = error
        self.raised: list[BaseException] = []
        self._times = times
        self._timers: list[threading.Timer] = []

    def handle(self, *_: object) -> None:
        """Raise the exception, as the handler of the signal."""
        self.raised.append(self.error or KeyboardInterrupt(f"number {len(self.raised)}"))
        if len(self.raised) < self._times:
            self.set()
        raise self.raised[-1]

    def set(self) -> None:
        """Send the signal to the main thread."""
        main = threading.main_thread().ident
        assert main is not None
        self._start(lambda: signal.pthread_kill(main, SIGNAL))

    def set_aside(self) -> None:
        """Send the signal to another thread, so that it ends no system call of the main thread.

        The main thread has to find it like one that came just before the system call.
        """
        self._start(lambda: signal.pthread_kill(threading.get_ident(), SIGNAL))

    def _start(self, send: Callable[[], object]) -> None:
        timer = threading.Timer(SOON, send)
        self._timers.append(timer)
        timer.start()

    def cancel(self) -> None:
        """Send the signal no more."""
        for timer in self._timers:
            timer.cancel()
            timer.join()


@contextmanager
def handled(alarm: Alarm, handle: Callable[..., object] | None = None) -> Iterator[Alarm]:
    """Install the handler of an alarm, which is not set yet, or another handler for it."""
    before = signal.signal(SIGNAL, handle or alarm.handle)
    try:
        yield alarm
    finally:
        alarm.cancel()
        signal.signal(SIGNAL, before)
