"""Handles of what runs in the background, with the methods of `multiprocessing.Process`."""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from lazycluster._tasks.execution import TERMINATE_GRACE, Execution
from lazycluster._tracebacks import short_tracebacks
from lazycluster.exceptions import LazyclusterError

if TYPE_CHECKING:
    from lazycluster._conversation.conversation import Conversation
    from lazycluster._ssh.endpoints import Route
    from lazycluster.forwards import Forward

__all__ = ["PortExposure", "Process", "TaskProcess"]

_logger = logging.getLogger("lazycluster")

END_TIMEOUT = 20.0  # seconds for a forward to end after its login has

KEY_DELIMITER = (
    "::"  # between the parts of a process key: the host, the kind and what identifies it
)
TASK = "task"
PORT_TO_RUNTIME = "-R"
PORT_FROM_RUNTIME = "-L"

_KIND = re.compile(
    f".+?{KEY_DELIMITER}({TASK}|{PORT_TO_RUNTIME}|{PORT_FROM_RUNTIME}){KEY_DELIMITER}", re.DOTALL
)


def kind_of(key: str) -> str | None:
    """Return the kind in a process key; None if the key does not belong to a process.

    A host such as `::1` and the name of a task may contain the delimiter. No host contains a kind,
    so the first kind in the key is the part behind the host.
    """
    found = _KIND.match(key)
    return None if found is None else found[1]


class Process(Protocol):
    """A process handle, as `Runtime.get_process` returns it."""

    @property
    def name(self) -> str:
        """Return the process key."""

    @property
    def pid(self) -> int | None:
        """Return the process id on the host; None if there is none."""

    @property
    def exitcode(self) -> int | None:
        """Return None while it is alive, then 0, 1 after an error, -15 or -9 after a signal."""

    def is_alive(self) -> bool:
        """Return True until it has ended."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended.

        Args:
            timeout: The most seconds to wait. Defaults to None, no bound.
        """

    def terminate(self) -> None:
        """Stop it gently and wait until it has ended. Does nothing after the end."""

    def kill(self) -> None:
        """Stop it by force and wait until it has ended. Does nothing after the end."""


@short_tracebacks
class TaskProcess:
    """An asynchronous execution of a task; see `Process`.

    Args:
        name: The process key.
        execution: The execution.
    """

    def __init__(self, name: str, execution: Execution) -> None:
        self.name: str = name
        self._execution = execution

    def __repr__(self) -> str:
        return f"<TaskProcess {self.name!r}, exitcode {self.exitcode}>"

    @property
    def pid(self) -> int | None:
        """Return the process id of the running step on the host; None between steps."""
        return self._execution.pid

    @property
    def exitcode(self) -> int | None:
        """Return None while it is alive, then 0, 1 after an error, -15 or -9 after a stop."""
        if self._execution.is_alive:
            return None
        if self._execution.error is None:
            return 0
        return -self._execution.stopped_by or 1

    def is_alive(self) -> bool:
        """Return True until the execution has ended."""
        return self._execution.is_alive

    def join(self, timeout: float | None = None) -> None:
        """Wait until the execution has ended, at most `timeout` seconds."""
        self._execution.wait(timeout)

    def terminate(self) -> None:
        """Send SIGTERM to its processes on the host, SIGKILL five seconds later, and wait."""
        self._execution.stop(signal.SIGTERM, TERMINATE_GRACE)

    def kill(self) -> None:
        """Send SIGKILL to its processes on the host, and wait."""
        self._execution.stop(signal.SIGKILL, 0)


@short_tracebacks
class PortExposure:
    """A port that is exposed to a host or from it; see `Process`.

    Args:
        name: The process key.
        forward: The forward.
    """

    pid: None = None
    """Always None, because a forward does not have a process of its own."""

    def __init__(self, name: str, forward: Forward) -> None:
        self.name: str = name
        self._forward = forward
        self._stopped = False
        self._restores = False
        self._changing = threading.Lock()  # stopped or made again, not both at once

    def __repr__(self) -> str:
        return f"<PortExposure {self.name!r}, exitcode {self.exitcode}>"

    @property
    def port(self) -> int:
        """Return the port that is listened on, also where 0 was given; 0 for a socket."""
        return self._forward.port

    @property
    def path(self) -> str:
        """Return the absolute path of the socket that is listened on; "" for a port."""
        return self._forward.path

    @property
    def to_port(self) -> int:
        """Return the port of the service; 0 for a socket."""
        return self._forward.to_port

    @property
    def to_path(self) -> str:
        """Return the absolute path of the service's socket; "" for a port."""
        return self._forward.to_path

    @property
    def exitcode(self) -> int | None:
        """Return None while it is alive, then -15 after a stop, 1 after a lost connection.

        It is 0 if the connection was closed, and None again when it has been made again.
        """
        if self._forward.is_alive():
            return None
        if self._forward.lost:
            return 1
        return -signal.SIGTERM if self._stopped else 0

    def is_alive(self) -> bool:
        """Return True until it is stopped or its connection ends."""
        return self._forward.is_alive()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most `timeout` seconds."""
        self._forward.wait(timeout)

    def terminate(self) -> None:
        """Stop listening, and wait until the port is free; it is not made again.

        Raises:
            ForwardError: If ssh could not end the forward.
        """
        with self._changing:
            self._restores = False
            if self._forward.is_alive():
                self._stopped = True
                self._forward.cancel()

    kill = terminate

    @property
    def _waits(self) -> bool:
        """Return True if it has been lost and is made again after the next login."""
        return self._restores and self._forward.lost

    def _restore(self, conversation: Conversation, make: Callable[[Route], Forward]) -> None:
        """Make it again on a new login if it waits for that; a failure is a WARNING."""
        with self._changing:
            if self._forward._conversation is conversation:
                return
            self._forward.wait(END_TIMEOUT)  # it ends a moment after its login
            if not self._waits:
                return
            try:
                self._forward = make(self._forward._route)
            except (LazyclusterError, OSError) as error:
                _logger.warning("The %s was not made again: %s", self._forward, error)
            else:
                _logger.info("The %s was made again.", self._forward)
