"""RemoteFuture: a call that runs on a host, as `concurrent.futures` knows them."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from collections.abc import Callable
from typing import NoReturn, Protocol, TypeVar

from lazycluster._checks import checked_wait
from lazycluster._interpreter_exit import Stoppable, stopped_with_main_thread
from lazycluster._tasks import unfinished
from lazycluster._tasks.completion import completion
from lazycluster._tasks.outcomes import own_exception
from lazycluster._tracebacks import short_tracebacks
from lazycluster._waits import wait_repeatedly
from lazycluster.exceptions import LazyclusterError, RemoteFunctionError

__all__ = ["RemoteFuture"]

T = TypeVar("T")


class Call(Stoppable, Protocol):
    """What a future needs of the call that it stands for; see `_tasks.invocation`."""

    name: str
    on_end: Callable[[BaseException | None], object] | None

    @property
    def host(self) -> str:
        """Return the host that it runs on."""

    @property
    def is_running(self) -> bool:
        """Return True while it runs on the host."""

    def drop(self) -> bool:
        """Return True if it may be cancelled now."""

    def stop(self) -> None:
        """End it without waiting."""

    def load_value(self) -> object:
        """Return its value, unpickled in this thread."""

    def wait_for_records(self) -> None:
        """Wait until loggers have handled what the function has logged."""


@short_tracebacks
class RemoteFuture(concurrent.futures.Future[T]):
    """A function that runs on a host; `Runtime.submit` returns it.

    It is a `concurrent.futures.Future`, so `wait`, `as_completed` and `asyncio.wrap_future` take
    it. `cancel` also ends a function that runs, as does cancelling the future of `wrap_future`.

    Callbacks of `add_done_callback` run in one thread for all of the process. They must not take
    long.
    """

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call
        self._pid = os.getpid()
        # It decides between the outcome and `cancel`. Reentrant for a signal handler.
        self._deciding = threading.RLock()
        self._loading = threading.RLock()
        self._loaded: tuple[T | None, BaseException | None] | None = None
        call.on_end = self._end
        unfinished.add(self, unfinished.CALL, call.name, lambda: self.host, lambda: not self.done())

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled() else "finished" if self.done() else "pending"
        if self.running():
            state = "running"
        return f"<RemoteFuture of {self._call.name} on {self.host!r}, {state}>"

    _stays_here = True  # see `_functions.pickler`

    def __reduce__(self) -> NoReturn:
        raise TypeError("A RemoteFuture cannot be pickled or copied; use its result().")

    @property
    def host(self) -> str:
        """Return the host, as the user gave it to the Runtime."""
        return self._call.host

    def running(self) -> bool:
        """Return True while the function runs on the host. Also then `cancel` ends it."""
        return not self.done() and self._call.is_running

    def cancel(self) -> bool:
        """End the function, and do not wait for that.

        The future is cancelled at once. Behind it, the host sends SIGTERM to the processes of the
        function, and SIGKILL five seconds later.

        Returns:
            True, or False if the function has ended already. False, too, for a method of an actor
            that runs: only a call that waits can be dropped.

        Raises:
            LazyclusterError: If this is a child that was forked after the call was submitted.
        """
        self._check_owner()
        with self._deciding:
            if self.cancelled():
                return True
            if not self._call.drop() or not super().cancel():
                return False
            self.set_running_or_notify_cancel()  # for `wait` and `as_completed`
        unfinished.discard(self)
        self._call.stop()
        return True

    def result(self, timeout: float | None = None) -> T:
        """Wait for the value; it is unpickled in the first thread that asks for it.

        Args:
            timeout: The most seconds to wait; the function goes on after them. Defaults to None, no
                bound.

        Raises:
            Exception: What the function has raised; its `__cause__` is the traceback on the host.
            RemoteFunctionError: If the function has ended in another way, or its exception cannot
                be pickled on the host or unpickled here.
            StepTimeoutError: If the function took longer than the `timeout` of `with_options`.
            ConnectionLostError: If the connection was lost or closed.
            concurrent.futures.CancelledError: If `cancel` was called.
            concurrent.futures.TimeoutError: If the function has not ended after `timeout` seconds.
            ValueError: If the timeout is negative or not a number.
        """
        self._wait(timeout)
        value, error = self._load()
        if error is None:
            return value  # type: ignore[return-value]
        try:
            raise error.with_traceback(None)  # it may have been raised before
        finally:
            del self, error  # The traceback would refer to itself.

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end, and return what `result` raises; None if it returns a value.

        Args:
            timeout: As for `result`.
        """
        self._wait(timeout)
        return self._load()[1]

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        """Call a function with this future at its end, in the thread of callbacks.

        Args:
            fn: The function. If the future has ended already, it is called now, in this thread.
        """
        if self.done():
            super().add_done_callback(fn)
            return
        completion.start()
        super().add_done_callback(lambda future: completion.post(lambda: fn(future)))

    def _wait(self, timeout: float | None) -> None:
        """Wait for the end.

        Raises:
            CancelledError, TimeoutError: As `concurrent.futures` does.
            ValueError: If the timeout is negative or not a number.
        """
        timeout = checked_wait(timeout)
        if self.done():
            super().exception(0)  # a CancelledError
            return
        self._check_owner()
        if completion.is_current:  # a callback, which the end of this call may need to come after
            deadline = None if timeout is None else time.monotonic() + timeout
            super().add_done_callback(lambda _: completion.post(lambda: None))
            completion.work_until(self.done, deadline)
            timeout = 0
        with stopped_with_main_thread(self._call):
            wait_repeatedly(lambda seconds: concurrent.futures.wait([self], seconds).done, timeout)
            super().exception(0)

    def _load(self) -> tuple[T | None, BaseException | None]:
        """Return the value and the exception, unpickled at the first call."""
        with self._loading:
            if self._loaded is None:
                self._call.wait_for_records()
                error = super().exception(0)
                if isinstance(error, RemoteFunctionError):
                    self._loaded = None, own_exception(error)
                elif error is not None:
                    self._loaded = None, error
                else:
                    try:
                        self._loaded = self._call.load_value(), None  # type: ignore[assignment]
                    except Exception as failure:
                        self._loaded = None, failure.with_traceback(None)
            assert self._loaded is not None
            return self._loaded

    def _end(self, error: BaseException | None) -> None:
        """Take the end of the invocation; no code of the user may run here."""
        unfinished.discard(self)
        with self._deciding:
            if self.done():  # It was cancelled.
                return
            if error is None:
                super().set_result(None)  # type: ignore[arg-type] # `result` loads it
            else:
                super().set_exception(error.with_traceback(None))

    def _get_snapshot(self) -> tuple[bool, bool, T | None, BaseException | None]:
        """Return what asyncio copies from Python 3.14 on."""
        if not self.done() or self.cancelled():
            return self.done(), self.cancelled(), None, None
        return True, False, *self._load()

    def _check_owner(self) -> None:
        if self._pid != os.getpid() and not self.done():
            raise LazyclusterError(
                f"The call of {self._call.name} belongs to process {self._pid}; this is "
                "a child forked from it. Make a new Runtime in the child."
            )
