"""Start what was submitted while there is no connection, in a thread that logs in."""

from __future__ import annotations

import collections
import copy
import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

from lazycluster._tasks.execution import Target, send_once_more
from lazycluster.exceptions import ConnectError, ConnectionLostError, LazyclusterError


class Startable(Protocol):
    """What can be sent: a call, or an execution of a task."""

    @property
    def name(self) -> str:
        """Return the name, for messages."""

    @property
    def is_stopped(self) -> bool:
        """Return True if it is to end, or has been ended."""

    def start(self, target: Target) -> None:
        """Send it, and do not wait for its end."""

    def end(self, error: BaseException) -> None:
        """Report the end of what was not sent."""


class _Waiting(NamedTuple):
    invocation: Startable
    find_target: Callable[[], Target]


class Starter:
    """Start invocations without blocking the thread that submits them.

    With an open connection they are sent at once. Else they wait for a thread that logs in, and
    that lives as long as something waits.

    Args:
        host: The host, for the name of the thread.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._lock = threading.RLock()  # reentrant for a signal handler
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._has_thread = False

    def start(
        self,
        invocation: Startable,
        target: Target | None,
        find_target: Callable[[], Target],
    ) -> None:
        """Send an invocation, now or after a login.

        Args:
            invocation: The invocation.
            target: Where it runs; None if a login is needed first.
            find_target: Logs in, and returns where it runs.

        Raises:
            ValueError: If the description of the step is too long.
            RuntimeError: If no thread can be started.
        """
        if target is not None:
            try:
                invocation.start(target)
                return
            except LazyclusterError as error:
                if not isinstance(error, ConnectionLostError) or error.started is not False:
                    invocation.end(error)
                    return
        with self._lock:
            self._waiting.append(_Waiting(invocation, find_target))
            if self._has_thread:
                return
            name = f"lazycluster login {self._host}"
            try:
                threading.Thread(target=self._run, name=name, daemon=True).start()
            except BaseException:  # The process may have no thread left.
                self._waiting.pop()
                raise
            self._has_thread = True

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._has_thread = False
                    return
                waiting = self._waiting.popleft()
            self._start(waiting)
            del waiting  # it holds the arguments of a function

    def _start(self, waiting: _Waiting) -> None:
        invocation, find_target = waiting
        if invocation.is_stopped:
            invocation.end(LazyclusterError(f"{invocation.name} was stopped."))
            return
        try:
            send_once_more(find_target, invocation.start)
        except Exception as error:
            invocation.end(error)
            if isinstance(error, ConnectError):
                self._fail_all(error)

    def _fail_all(self, error: ConnectError) -> None:
        """Fail what waits for the same login, since each would take as long to fail."""
        with self._lock:
            failed = list(self._waiting)
            self._waiting.clear()
        for waiting in failed:
            waiting.invocation.end(copy.copy(error))
