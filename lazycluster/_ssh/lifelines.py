"""Pipes whose end tells another process that this one has gone.

They are held by this process alone: a forked child that kept a copy open would keep everything
alive after the manager's death (seen with `os.fork` and with multiprocessing). exec closes them,
as it does all of Python's descriptors.
"""

from __future__ import annotations

import fcntl
import os
import threading

_lock = threading.Lock()
_held: set[int] = set()
_watching_forks = False


def pipe() -> tuple[int, int]:
    """A new pipe's end to read and end to write; to be closed by `close`."""
    global _watching_forks
    with _lock:  # no fork may come between a pipe and its entry
        if not _watching_forks:
            os.register_at_fork(
                before=_lock.acquire,
                after_in_parent=_lock.release,
                after_in_child=_close_in_child,
            )
            _watching_forks = True
        reading, writing = (_above_the_standard_ones(fd) for fd in os.pipe())
        _held.update((reading, writing))
        return reading, writing


def _above_the_standard_ones(fd: int) -> int:
    """The same under a number that nothing prints to, if a standard stream was closed at start."""
    if fd > 2:
        return fd
    higher: int = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return higher


def close(fd: int) -> int:
    """Close an end, unless it is closed or a forked child's; -1, to be kept in place of it."""
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
