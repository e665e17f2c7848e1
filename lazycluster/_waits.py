"""Wait so that the main thread soon runs the handlers of signals.

A signal ends the system call in which the main thread waits, and then Python runs the handler. But
Python releases the GIL before it makes that call. A signal that comes between the two ends nothing,
and its handler runs after the wait. Measured: one in ten, if another thread waits for the GIL and
sends the signal as soon as it has it. So no single wait of the main thread is long.
"""

from __future__ import annotations

import os
import threading
import time
from _thread import get_ident
from collections.abc import Callable
from typing import TypeVar

INTERVAL = 1.0  # seconds of one wait of the main thread, at most

T = TypeVar("T")


_main_thread = threading.main_thread().ident


def in_main_thread() -> bool:
    """Return True in the main thread; `threading` needs more function calls to find out."""
    return get_ident() == _main_thread


def _note_main_thread() -> None:
    global _main_thread
    _main_thread = get_ident()


os.register_at_fork(after_in_child=_note_main_thread)


def one_wait(seconds: float | None) -> float | None:
    """Return how many of the seconds to wait at once; None for no bound."""
    if in_main_thread():
        return INTERVAL if seconds is None else min(seconds, INTERVAL)
    return None if seconds is None else min(seconds, threading.TIMEOUT_MAX)


def acquire(lock: threading.Lock, seconds: float | None = None) -> bool:
    """Acquire a lock that another thread releases; return False if the time passes first."""
    if seconds is not None:
        return wait_repeatedly(lambda left: lock.acquire(timeout=left or 0.0), seconds)
    # Each call waits here, so it does without the function calls of `wait_repeatedly`.
    longest = INTERVAL if in_main_thread() else -1
    while not lock.acquire(timeout=longest):
        pass
    return True


def wait_repeatedly(wait: Callable[[float | None], T], seconds: float | None = None) -> T:
    """Call a wait, such as `Event.wait`, until it returns something true or the time has passed.

    Args:
        wait: Waits as many seconds as it gets; None for no bound.
        seconds: The time to wait; None for no bound.

    Returns:
        What the last call has returned.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    left = seconds
    while True:
        found = wait(one_wait(left))
        if deadline is not None:
            left = deadline - time.monotonic()
        if found or (left is not None and left <= 0):
            return found
