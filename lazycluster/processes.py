"""The handles that `get_process` hands out: with the methods of `multiprocessing.Process`."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from lazycluster._tasks.execution import TERMINATE_GRACE, Execution

if TYPE_CHECKING:
    from lazycluster.forwards import Forward


class TaskProcess:
    """The asynchronous execution of a task.

    Args:
        name: Its process key.
        execution: What it is the handle of.
    """

    def __init__(self, name: str, execution: Execution) -> None:
        self._name = name
        self._execution = execution

    def __repr__(self) -> str:
        return f"<TaskProcess {self._name!r}, exitcode {self.exitcode}>"

    @property
    def name(self) -> str:
        """The process key."""
        return self._name

    @property
    def pid(self) -> int | None:
        """The process id of the running step on the host; None between steps."""
        return self._execution.pid

    @property
    def exitcode(self) -> int | None:
        """None while it is alive, then 0, 1 after an error, -15 or -9 after it was stopped."""
        if self._execution.is_alive:
            return None
        if self._execution.error is None:
            return 0
        return -self._execution.stopped_by or 1

    def is_alive(self) -> bool:
        """Whether the execution has not ended."""
        return self._execution.is_alive

    def join(self, timeout: float | None = None) -> None:
        """Wait until the execution has ended.

        Args:
            timeout: Seconds to wait at most. Defaults to None, no bound.
        """
        self._execution.wait(timeout)

    def terminate(self) -> None:
        """SIGTERM to all that the task started on the host, SIGKILL five seconds later.

        Returns when it has gone. Does nothing after the end.
        """
        self._execution.stop(signal.SIGTERM, TERMINATE_GRACE)

    def kill(self) -> None:
        """SIGKILL to all that the task started on the host; returns when it has gone."""
        self._execution.stop(signal.SIGKILL, 0)


class PortExposure:
    """A port that is exposed to a host or from it.

    Args:
        name: Its process key.
        forward: What it is the handle of.
    """

    pid = None
    """A forward is no process of its own: None."""

    def __init__(self, name: str, forward: Forward) -> None:
        self._name = name
        self._forward = forward
        self._stopped = False

    def __repr__(self) -> str:
        return f"<PortExposure {self._name!r}, exitcode {self.exitcode}>"

    @property
    def name(self) -> str:
        """The process key."""
        return self._name

    @property
    def port(self) -> int:
        """The port that is listened on, also where 0 was asked for."""
        return self._forward.port

    @property
    def to_port(self) -> int:
        """The port of the service."""
        return self._forward.to_port

    @property
    def exitcode(self) -> int | None:
        """None while it is alive, then -15 after it was stopped, 1 if the connection was lost.

        0 if the connection was closed.
        """
        if self._forward.is_alive():
            return None
        if self._forward.lost:
            return 1
        return -signal.SIGTERM if self._stopped else 0

    def is_alive(self) -> bool:
        """Whether it has neither been stopped nor ended with its connection."""
        return self._forward.is_alive()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended.

        Args:
            timeout: Seconds to wait at most. Defaults to None, no bound.
        """
        self._forward.wait(timeout)

    def terminate(self) -> None:
        """End it; returns when nobody listens on the port. Does nothing after the end.

        Raises:
            ForwardError: ssh could not end it.
        """
        if self._forward.is_alive():
            self._stopped = True
            self._forward.cancel()

    def kill(self) -> None:
        """The same as `terminate`."""
        self.terminate()
