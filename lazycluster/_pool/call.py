"""A call that waits for a host, or runs on one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lazycluster._tasks.steps import RunFunction
from lazycluster.exceptions import (
    ConnectionLostError,
    LazyclusterError,
    PythonNotFoundError,
    PythonVersionError,
)

if TYPE_CHECKING:
    from lazycluster._runtime.calls import Options
    from lazycluster._tasks.invocation import Invocation

_UNUSABLE = (PythonNotFoundError, PythonVersionError)


@dataclass(frozen=True)
class Need:
    """What a call needs of its host, and how often it may run.

    Attributes:
        options: How it runs, see `Runtime.with_options`.
        gpus: How many GPUs it has for itself.
        retries: How often it is repeated although it may have started.
    """

    options: Options
    gpus: int = 0
    retries: int = 0


@dataclass(frozen=True)
class Loss:
    """A call that its host has not ended.

    Attributes:
        error: Why.
        host_is_unusable: True if the host cannot run functions at all.
    """

    error: LazyclusterError
    host_is_unusable: bool = False

    @property
    def never_started(self) -> bool:
        """Return True if it is known that the function was not called."""
        return self.host_is_unusable or getattr(self.error, "started", None) is False


def find_loss(error: BaseException | None) -> Loss | None:
    """Return what an error of a call says about its host; None if the call has ended there."""
    if isinstance(error, _UNUSABLE):
        return Loss(error, host_is_unusable=True)
    return Loss(error) if isinstance(error, ConnectionLostError) else None


def _do_nothing() -> None:
    """Do nothing: there is no future yet, or the call has ended."""


class PoolCall:
    """A call of a Pool, for its future; see `futures.Call`.

    Args:
        step: The pickled call.
        need: What it needs.
        number: Its place in the order of all calls.
        on_stop: Called after `stop`, in any thread.

    Attributes:
        cancel: Cancels its future.
        on_end: Takes its end, in a thread that must not be blocked.
    """

    def __init__(
        self, step: RunFunction, need: Need, number: int, on_stop: Callable[[PoolCall], object]
    ) -> None:
        self.name = step.name
        self.step: RunFunction | None = step
        self.need = need
        self.number = number
        self.retries_left = need.retries
        self.is_stopped = False
        self.cancel: Callable[[], object] = _do_nothing
        self.on_end: Callable[[BaseException | None], object] | None = None
        self._on_stop = on_stop
        self._invocation: Invocation | None = None

    @property
    def host(self) -> str:
        """Return the host that it runs or ran on last; an empty string before that."""
        invocation = self._invocation
        return "" if invocation is None else invocation.host

    @property
    def is_running(self) -> bool:
        """Return True while its process runs on a host."""
        return self._invocation is not None and self._invocation.is_running

    def assign(self, invocation: Invocation) -> bool:
        """Take the invocation that is about to start; return False if the call is to end."""
        self._invocation = invocation  # before the look at `is_stopped`, which `stop` sets first
        return not self.is_stopped

    def drop(self) -> bool:
        """Return True: it may be stopped at any time."""
        return True

    def stop(self) -> None:
        """End it without waiting."""
        self.is_stopped = True
        if self._invocation is not None:
            self._invocation.stop()
        self._on_stop(self)

    request_stop = stop

    def abandon(self, reason: str) -> None:
        """Make its end come now, with an error."""
        self.end(LazyclusterError(reason))

    def load_value(self) -> object:
        """Return its value, unpickled in this thread."""
        assert self._invocation is not None
        return self._invocation.load_value()

    def wait_for_records(self) -> None:
        """Wait until loggers have handled what the function has logged."""
        if self._invocation is not None:
            self._invocation.wait_for_records()

    def end(self, error: BaseException | None) -> None:
        """Report the end, once."""
        on_end, self.on_end = self.on_end, None
        self.step = None  # it may be large, and a future may be kept
        self.cancel = _do_nothing  # else the future would refer to itself
        if on_end is not None:
            on_end(error)
