"""One report for the copies to or from many hosts."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterable

from lazycluster._tasks.progress import REPORT_INTERVAL, Meter, Progress, ProgressError


class GroupProgress:
    """Add up how far the copies are, and report it as one.

    The bytes in total grow while hosts begin, unless they are known: for a copy that has not begun,
    those of the others count.

    Args:
        progress: The user's callable, or True for a line on the terminal.
        name: The name of the copies in that line.
        hosts: The hosts.
    """

    def __init__(self, progress: Progress, name: str, hosts: Iterable[str]) -> None:
        self._meter = Meter(progress, name)
        self._lock = threading.Lock()  # one report after the other, also of the user's callable
        self._states: dict[str, tuple[int, int] | None] = dict.fromkeys(hosts)
        self._done = 0
        self._error: Exception | None = None
        self._reported = 0.0  # by time.monotonic()

    def of(self, host: str) -> Callable[[int, int], object]:
        """Return what the copy of one host reports to."""
        return functools.partial(self._take, host)

    def end(self, host: str) -> None:
        """Take the end of a copy, which may have failed before it began."""
        with self._lock:
            if self._states[host] is None:
                del self._states[host]  # its bytes are not to come any more

    def close(self) -> None:
        """Report what was held back, and end the line on the terminal; all copies have ended."""
        # Only the failure of a copy leaves something held back, and that failure is raised.
        with self._lock, contextlib.suppress(Exception):
            self._report(at_once=True)
        self._meter.close()

    def _take(self, host: str, done: int, total: int) -> None:
        with self._lock:
            self._states[host] = done, total
            self._report(at_once=False)

    def _report(self, *, at_once: bool) -> None:
        if self._error is not None:  # The exception of the callable stops all copies.
            raise self._error
        known = [state for state in self._states.values() if state is not None]
        if not known:
            return
        sums = [sum(state[index] for state in known) for index in (0, 1)]
        of_unknown = (len(self._states) - len(known)) * (sums[1] // len(known))
        is_last = not of_unknown and sums[0] >= sums[1]
        now = time.monotonic()
        if not (at_once or is_last) and now - self._reported < REPORT_INTERVAL:
            return
        self._reported = now
        self._meter.add(sums[0] - self._done)
        self._meter.total, self._done = sums[1] + of_unknown, sums[0]
        try:
            self._meter.report()
        except ProgressError as error:
            self._error = error.error
            raise self._error from None  # the copy's own meter makes a ProgressError of it
