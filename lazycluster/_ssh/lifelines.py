"""Make pipes whose end tells another process that this process has ended.

Only this process holds them. A forked child that kept a copy open would keep the other process
alive after the manager's death (seen with `os.fork` and with multiprocessing), so a child closes
its copies. exec closes them, like all of Python's descriptors.

`posix.close` is close(2). gevent replaces `os.close`: its own one returns at once and closes the
descriptor when its loop has had another event (seen with 25.9 and 26.9), which may be the very
event that the close should cause. So no module of the manager uses `os.close`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import posix
import threading
from collections.abc import Iterator


class _Inherited(threading.local):
    fds: tuple[int, ...] = ()


_lock = threading.Lock()
_held: set[int] = set()
_inherited = _Inherited()
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
    posix.close(fd)
    return higher


def close(fd: int) -> int:
    """Close an end if this process holds it; return -1, for the caller to store in its place."""
    with _lock:
        if fd in _held:
            _held.discard(fd)
            posix.close(fd)
    return -1


@contextlib.contextmanager
def inherited(*fds: int) -> Iterator[None]:
    """Keep these ends open in the child that this thread starts meanwhile.

    gevent's Popen starts it by `os.fork`, so that the child would close its own standard streams.
    """
    _inherited.fds = fds
    try:
        yield
    finally:
        _inherited.fds = ()


def _close_in_child() -> None:
    for fd in _held.difference(_inherited.fds):
        posix.close(fd)
    _held.clear()
    _lock.release()
