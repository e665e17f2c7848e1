"""The processes of steps that are over, until they have exited."""

import _signal as signal  # see `child`
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

MOST_EXITING = 64  # of a connection; further steps wait
EXIT_TIMEOUT = 5.0  # seconds for an exit at least, and at most twice as long


class Exits:
    """Know the processes that only have to exit, and kill one that does not, as of a dead device.

    Args:
        call_later: Calls an action once, after some seconds.
    """

    def __init__(self, call_later: "Callable[[float, Callable[[], None]], object]") -> "None":
        self._call_later = call_later
        self._since = {}  # type: dict[int, float]  # by pid
        self._is_watched = False

    def __bool__(self) -> "bool":
        """Return True if there is one."""
        return bool(self._since)

    @property
    def are_too_many(self) -> "bool":
        """Return True if the next step must wait for one of them."""
        return len(self._since) >= MOST_EXITING

    def add(self, pid: "int") -> "None":
        """Take a child of this process, which has not been waited for."""
        self._since[pid] = time.monotonic()
        self._watch()

    def handle_reaped(self, pid: "int") -> "None":
        """Take the pid of a child that has been waited for: the number may be given again."""
        self._since.pop(pid, None)

    def _watch(self) -> "None":
        if self._since and not self._is_watched:
            self._is_watched = True
            self._call_later(EXIT_TIMEOUT, self._kill_late)

    def _kill_late(self) -> "None":
        now = time.monotonic()
        for pid, since in self._since.items():
            if now - since >= EXIT_TIMEOUT:
                os.kill(pid, signal.SIGKILL)
        self._is_watched = False
        self._watch()
