"""Wait for a descriptor, also where eventlet has removed `select.poll`."""

from __future__ import annotations

import select


def wait_readable(fd: int, seconds: float | None) -> bool:
    """Wait until there is something to read, or the end; return False if the time passes first.

    Args:
        fd: The descriptor.
        seconds: The time to wait; None for no bound.
    """
    if not hasattr(select, "poll"):
        return bool(select.select([fd], [], [], seconds)[0])
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(None if seconds is None else seconds * 1000 + 1))


def wait_writable(fd: int, seconds: float) -> None:
    """Wait until something can be written, or the time has passed."""
    if not hasattr(select, "poll"):
        select.select([], [fd], [], seconds)
        return
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    poller.poll(seconds * 1000 + 1)
