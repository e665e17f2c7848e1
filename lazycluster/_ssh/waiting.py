"""Wait for a descriptor, also where eventlet has removed `select.poll`."""

from __future__ import annotations

import select
from collections.abc import Iterable

from lazycluster._waits import wait_repeatedly


def wait_readable(fd: int, seconds: float | None) -> bool:
    """Wait until there is something to read, or the end; return False if the time passes first.

    Args:
        fd: The descriptor.
        seconds: The time to wait; None for no bound.
    """
    return bool(readable((fd,), seconds))


def readable(fds: Iterable[int], seconds: float | None) -> set[int]:
    """Wait like `wait_readable` for one of several descriptors; return those that are readable."""
    if not hasattr(select, "poll"):
        return wait_repeatedly(lambda left: set(select.select(fds, [], [], left)[0]), seconds)
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)

    def wait(left: float | None) -> set[int]:
        return {fd for fd, _ in poller.poll(None if left is None else left * 1000 + 1)}

    return wait_repeatedly(wait, seconds)


class Readable:
    """Wait for one descriptor, again and again.

    Args:
        fd: The descriptor.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poller = select.poll() if hasattr(select, "poll") else None
        if self._poller is not None:
            self._poller.register(fd, select.POLLIN)

    def wait(self, seconds: float | None) -> bool:
        """Wait like `wait_readable`."""
        if self._poller is None:
            return wait_readable(self._fd, seconds)
        return bool(self._poller.poll(None if seconds is None else seconds * 1000 + 1))


def wait_writable(fd: int, seconds: float) -> None:
    """Wait until something can be written, or the time has passed."""
    if not hasattr(select, "poll"):
        select.select([], [fd], [], seconds)
        return
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    poller.poll(seconds * 1000 + 1)
