"""Hold logins back, so that no sshd drops them.

sshd drops connections that have not authenticated yet at random from the tenth on (MaxStartups
10:30:100, its default). So at most eight logins of this process, in whatever threads, are on their
way to the same first hop. The others wait in the order in which they came.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque

from lazycluster._interpreter_exit import wait_for

MOST_LOGINS = 8  # at once to the same first hop; two places of ten are left for other programs

_lock = threading.RLock()  # a signal handler may close what its thread waits for
_running: Counter[str] = Counter()  # by the name of the first hop
_waiting: dict[str, deque[Place]] = {}


class Place:
    """The permission for one login; `leave` gives it to the next one.

    Args:
        hop: The first hop on the way to the host, see `ResolvedConfig.first_hop`.
    """

    def __init__(self, hop: str) -> None:
        self._hop = hop
        self._changed = threading.Condition(_lock)
        self._taken = self._left = False

    def take(self, closed: threading.Event) -> bool:
        """Wait for the permission; return False if `closed` is set before it comes.

        After `closed` has been set, call `wake`.

        Raises:
            LazyclusterError: If the main thread has ended.
        """
        may_begin = False
        try:
            with self._changed:
                if _running[self._hop] < MOST_LOGINS:
                    self._begin()
                else:
                    _waiting.setdefault(self._hop, deque()).append(self)
            wait_for(self._changed, lambda: self._taken or closed.is_set())
            may_begin = not closed.is_set()
            return may_begin
        finally:
            if not may_begin:  # it was closed, or a KeyboardInterrupt came
                self.leave()

    def leave(self) -> None:
        """Let the next login begin; a second call does nothing."""
        with self._changed:
            if self._left:
                return
            self._left = True
            queue = _waiting.get(self._hop, deque())
            if self._taken:
                _running[self._hop] -= 1
                if queue:
                    queue.popleft()._begin()
            elif self in queue:
                queue.remove(self)
            if not queue:
                _waiting.pop(self._hop, None)
            if not _running[self._hop]:
                del _running[self._hop]

    def _begin(self) -> None:
        _running[self._hop] += 1
        self._taken = True
        self._changed.notify_all()


def wake() -> None:
    """Let each waiting login look whether it has been closed."""
    with _lock:
        for queue in _waiting.values():
            for place in queue:
                place._changed.notify_all()


def _forget_all() -> None:
    """Begin anew in a forked child, which has none of the logins."""
    global _lock
    _lock = threading.RLock()  # a thread that the child does not have may hold it
    _running.clear()
    _waiting.clear()


os.register_at_fork(after_in_child=_forget_all)
