"""Stop what pools wait for when the main thread has ended.

Python joins the workers of thread pools, asyncio's too, before it calls atexit handlers. Without
this a wait without end keeps a program alive after Ctrl-C, `sys.exit` or an exception.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Protocol

from lazycluster._waits import wait_repeatedly
from lazycluster.exceptions import LazyclusterError

STOP_TIMEOUT = 5.0  # seconds in which the host must report the end of what was stopped
ENDING = "The program is ending, so nothing is started or waited for."

_logger = logging.getLogger("lazycluster")


class Stoppable(Protocol):
    """What a thread waits for."""

    def request_stop(self) -> None:
        """Stop it without waiting for its end."""

    def abandon(self, reason: str) -> None:
        """Make the thread that waits for it raise an error."""


class Wait:
    """A wait that is over as soon as it is to be stopped.

    Args:
        wake: Wakes the waiting thread, which looks at `stopped`.
    """

    def __init__(self, wake: Callable[[], object] = lambda: None) -> None:
        self.stopped = False
        self._wake = wake

    def request_stop(self) -> None:
        """Wake the waiting thread."""
        self.stopped = True
        self._wake()

    def abandon(self, reason: str) -> None:
        """Do nothing: the thread is awake."""

    def check(self) -> None:
        """Raise a LazyclusterError if the wait was stopped."""
        if self.stopped:
            raise LazyclusterError(ENDING)


class _Entry:
    """A thread that Python joins, and what it waits for."""

    def __init__(self, stoppable: Stoppable, thread: threading.Thread) -> None:
        self.stoppable = stoppable
        self.thread = thread


_changed = threading.Condition()
_entries: list[_Entry] = []  # in the order of their waits
_main_thread_ended = False
_registered = False


def joined_at_exit() -> bool:
    """Return True if Python waits for the end of this thread; daemons are not waited for."""
    thread = threading.current_thread()
    return thread is not threading.main_thread() and not thread.daemon


class stopped_with_main_thread:  # noqa: N801 - a context manager, as contextlib names its own
    """Stop what this thread waits for in the block when the main thread has ended.

    It is a class, because a generator would cost each call more than all that it does.

    Raises:
        LazyclusterError: If the main thread has ended already.
    """

    def __init__(self, stoppable: Stoppable) -> None:
        self._stoppable = stoppable
        self._entry: _Entry | None = None

    def __enter__(self) -> None:
        if not joined_at_exit():
            return
        entry = _Entry(self._stoppable, threading.current_thread())
        with _changed:
            _register()
            if _main_thread_ended and _must_stop(entry.thread):
                raise LazyclusterError(ENDING)
            _entries.append(entry)
        self._entry = entry

    def __exit__(self, *_: object) -> None:
        entry = self._entry
        if entry is None:
            return
        with _changed:
            if entry in _entries:  # this may be a forked child
                _entries.remove(entry)
            _changed.notify_all()


def wait_for(
    condition: threading.Condition, predicate: Callable[[], bool], timeout: float | None = None
) -> bool:
    """Wait like `Condition.wait_for`, without its lock, until the main thread has ended.

    Raises:
        LazyclusterError: If the main thread has ended.
    """

    def wake() -> None:
        with condition:
            condition.notify_all()

    wait = Wait(wake)
    with stopped_with_main_thread(wait), condition:
        wait_repeatedly(
            lambda seconds: condition.wait_for(lambda: predicate() or wait.stopped, seconds),
            timeout,
        )
        if predicate():
            return True
    wait.check()
    return False


def _register() -> None:
    global _registered, _main_thread_ended
    if _registered:
        return
    _registered = True
    os.register_at_fork(after_in_child=_forget_all)
    # The handler that joins the workers must be registered first: the last one runs first.
    import concurrent.futures.thread  # noqa: F401

    try:
        threading._register_atexit(_stop_all)  # type: ignore[attr-defined]
    except AttributeError:  # Python 3.9 to 3.14 have it.
        pass
    except RuntimeError:  # It is too late.
        _main_thread_ended = True


def _forget_all() -> None:
    global _changed
    _changed = threading.Condition()  # a thread that the child does not have may hold its lock
    _entries.clear()


def _must_stop(thread: threading.Thread) -> bool:
    """Return True for a worker of a pool, and for every thread after an uncaught exception.

    After a normal end or `sys.exit` Python waits for the other threads, as their authors know.
    """
    if getattr(sys, "last_value", None) is not None:
        return True
    pools = sys.modules.get("concurrent.futures.thread")
    return thread in getattr(pools, "_threads_queues", ())


def _stop_all() -> None:
    global _main_thread_ended
    with _changed:
        _main_thread_ended = True
        stopped = [entry for entry in _entries if _must_stop(entry.thread)]
    if not stopped:
        return
    _logger.warning(
        "The program ends while other threads (%d) wait for a host; what they wait for is stopped. "
        "Wait for the threads before the end of the program, or call stop() of the tasks.",
        len({entry.thread for entry in stopped}),
    )
    for stoppable in {entry.stoppable: None for entry in stopped}:
        stoppable.request_stop()
    with _changed:
        _changed.wait_for(lambda: not any(entry in _entries for entry in stopped), STOP_TIMEOUT)
        left = {entry.stoppable: None for entry in stopped if entry in _entries}
    for stoppable in left:
        stoppable.abandon("The program ends, and the host did not report the end of the step.")
