"""Make pipes whose end tells another process that this process has ended.

Only this process holds them. A forked child that kept a copy open would keep the other process
alive after the manager's death (seen with `os.fork` and with multiprocessing), so a child closes
its copies. exec closes them, like all of Python's descriptors.
"""

from __future__ import annotations

import fcntl
import os
import threading

_lock = threading.Lock()
_held: set[int] = set()
_watching_forks = False


def pipe() -> tuple[int, int]:
    """Return the read end and the write end of a new pipe; close each with `close`."""
    global _watching_forks
    with _lock:  # no fork may come between a pipe and its entry
        if not _watching_forks:
            os.register_at_fork(
                before=_lock.acquire,
                after_in_parent=_lock.release,
                after_in_child=_close_in_child,
            )
            _watching_forks = True
        reading, writing = (_above_standard_streams(fd) for fd in os.pipe())
        _held.update((reading, writing))
        return reading, writing


def _above_standard_streams(fd: int) -> int:
    """Return `fd` with a number above 2: a standard stream may have been closed at the start.

    Otherwise what a library prints to standard output would go into the pipe.
    """
    if fd > 2:
        return fd
    higher: int = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return higher


def close(fd: int) -> int:
    """Close an end if this process holds it; return -1, for the caller to store in its place."""
    with _lock:
        if fd in _held:
            _held.discard(fd)
            os.close(fd)
    return -1


def _close_in_child() -> None:
    for fd in _held:
        os.close(fd)
    _held.clear()
    _lock.release()
