"""Stop executions that pools wait for when the main thread has ended.

Python joins the workers of thread pools, asyncio's too, before it calls atexit handlers. Without
this a command without end keeps a program alive after Ctrl-C, `sys.exit` or an exception.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from typing import Protocol

from lazycluster.exceptions import LazyclusterError

STOP_TIMEOUT = 5.0  # seconds in which the host must report the end of what was stopped

_logger = logging.getLogger("lazycluster")


class Stoppable(Protocol):
    """What a thread waits for."""

    def request_stop(self) -> None:
        """Stop it without waiting for its end."""

    def abandon(self, reason: str) -> None:
        """Make the thread that waits for it raise an error."""

    def wait(self, timeout: float) -> bool:
        """Wait for its end; return True if it has ended."""


_running: dict[tuple[Stoppable, threading.Thread], None] = {}  # in this order
_main_thread_ended = False


def stop_with_main_thread(stoppable: Stoppable) -> None:
    """Stop what this thread is about to wait for when the main thread has ended; see `forget`.

    Raises:
        LazyclusterError: If the main thread has ended already.
    """
    thread = threading.current_thread()
    if thread is threading.main_thread() or thread.daemon:  # Python does not join daemons.
        return
    _register()
    if _main_thread_ended and _must_stop(thread):
        raise LazyclusterError("The program is ending, so nothing is started or waited for.")
    _running[stoppable, thread] = None


def forget(stoppable: Stoppable) -> None:
    """Take the end of what was given to `stop_with_main_thread`."""
    _running.pop((stoppable, threading.current_thread()), None)


_registration = threading.Lock()
_registered = False


def _register() -> None:
    global _registered
    with _registration:
        if _registered:
            return
        _registered = True
        # Python 3.9 to 3.14 have it. It raises a RuntimeError when the main thread has ended.
        with contextlib.suppress(AttributeError, RuntimeError):
            # The handler that joins the workers must be registered first: the last one runs first.
            import concurrent.futures.thread  # noqa: F401

            threading._register_atexit(_stop_all)  # type: ignore[attr-defined]


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
    _main_thread_ended = True
    stopped = {one: None for one, thread in list(_running) if _must_stop(thread)}
    if not stopped:
        return
    _logger.warning(
        "The program ends while other threads wait for %d executions, which are stopped. Wait for "
        "the threads before the end of the program, or call stop() of the tasks.",
        len(stopped),
    )
    for one in stopped:
        one.request_stop()
    deadline = time.monotonic() + STOP_TIMEOUT
    for one in stopped:
        if not one.wait(max(0.0, deadline - time.monotonic())):
            one.abandon("The program ends, and the host did not report the end of the step.")
