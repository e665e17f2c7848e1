"""Execute a task while its caller goes on: driven by the frames that arrive, without a thread.

The reader thread ends an execution that has succeeded. What may run code of a user, as a handler of
a logger does, is done in the completion thread. Copies read and write files, and live output is
printed; an execution with one of them has a thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from lazycluster._conversation.request import Request
from lazycluster._tasks import unfinished
from lazycluster._tasks.completion import Timer, completion, timers
from lazycluster._tasks.execution import (
    KILL_TIMEOUT,
    TERMINATE_GRACE,
    Execution,
    Target,
)
from lazycluster._tasks.outcomes import log_line
from lazycluster._tasks.starter import Starter
from lazycluster.exceptions import LazyclusterError, TaskExecutionError

_logger = logging.getLogger("lazycluster")


def run_in_background(
    execution: Execution,
    name: str,
    find_open: Callable[[], Target | None],
    find_target: Callable[[], Target],
    starter: Starter,
) -> None:
    """Run an execution; an error is kept, and logged at level ERROR.

    Args:
        execution: The execution.
        name: The name of a thread, if it needs one.
        find_open: Returns where it runs; None if a login is needed first.
        find_target: Logs in, and returns where it runs.
        starter: Logs in for those that have no thread.

    Raises:
        RuntimeError: If it needs a thread, and no thread can be started.
    """
    execution.in_background = True
    unfinished.add(
        execution,
        unfinished.TASK,
        execution.name,
        lambda: execution.host,
        lambda: not execution.stopped_by,
    )
    try:
        if execution.needs_thread:
            run = _run_in_thread
            threading.Thread(
                target=run, args=(execution, find_target), name=name, daemon=True
            ).start()
        else:
            completion.start()
            if execution.has_timeout:
                timers.start()
            starter.start(_Background(execution, find_target), find_open(), find_target)
    except BaseException as error:  # The process may have no thread left, or Ctrl-C comes.
        execution.note_failure(error)
        execution.kill(TERMINATE_GRACE)
        execution.finish()
        raise


def _run_in_thread(execution: Execution, find_target: Callable[[], Target]) -> None:
    try:
        execution.run_steps(find_target)
    except TaskExecutionError as error:
        _log(execution, error)
    finally:
        execution.finish()


def _log(execution: Execution, error: TaskExecutionError) -> None:
    execution.logged = True
    level = logging.INFO if execution.stopped_by else logging.ERROR
    _logger.log(level, "%s", log_line(error))  # a handler may keep what it gets


class _Background:
    """Drive an execution.

    Args:
        execution: The execution.
        owner: Lives until the end; a Runtime that is freed closes its connection.
    """

    def __init__(self, execution: Execution, owner: object) -> None:
        self.name = execution.name
        self._execution = execution
        self._owner: object = owner
        self._target: Target | None = None
        self._timers: list[Timer] = []  # of the whole task, of the running step, of the end
        self._timed_out: tuple[float, int] | None = None  # the timeout, and the step
        timeout = execution.timeout
        self._end = None if timeout is None else time.monotonic() + timeout

    @property
    def is_stopped(self) -> bool:
        """Return True if it is to end, or has been ended."""
        return bool(self._execution.stopped_by)

    def start(self, target: Target) -> None:
        """Send all steps to a target, and do not wait for their end.

        Raises:
            ConnectionLostError: If the connection has ended; `started` is then False, and it may
                be called again with another target.
        """
        execution = self._execution
        self._target = target
        try:
            request = execution._send_to(
                target, execution.steps, on_start=self._take_start, on_end=self._take_end
            )
        except (OSError, ValueError) as error:  # of a spool; the description is too long
            if isinstance(error, LazyclusterError):
                raise
            self.end(error)
            return
        if not execution.is_alive:  # The reader thread may have been faster.
            execution.forget_request()
        elif execution.stopped_by:  # `stop` may have come before there was a request to kill.
            execution.request_stop(execution.stopped_by, execution.grace)
        if self._end is not None and not self._timers:
            timeout = execution.timeout
            assert timeout is not None
            self._call_at(self._end, lambda: self._time_out(timeout, None))
            if request.finished:
                self._cancel_timers()

    def end(self, error: BaseException) -> None:
        """Report the end of what was not sent."""
        self._post(lambda: self._fail(error))

    # In the reader thread

    def _take_start(self, index: int) -> None:
        """Begin the timeout of a step."""
        timeout = self._execution.step_timeout(index)
        if timeout is not None:
            end = time.monotonic() + timeout
            self._call_at(end, lambda: self._time_out(timeout, index))

    def _take_end(self, request: Request) -> None:
        execution = self._execution
        if not execution.is_alive:  # An exception has ended it while it was sent.
            return
        if isinstance(request.error, SystemExit):  # The interpreter exits.
            execution.note_failure(request.error)
            self._finish()
        elif self._timed_out is None and execution._has_succeeded(request):
            self._conclude(request)
        else:
            self._post(lambda: self._conclude(request))

    def _post(self, action: Callable[[], object]) -> None:
        try:
            completion.start()  # At the exit it may have ended.
        except RuntimeError:
            action()
        else:
            completion.post(action)

    # In the reader thread after a success, else in the completion thread

    def _conclude(self, request: Request) -> None:
        """Take the end of a request: it is the end, or a step must be sent in another form."""
        execution = self._execution
        execution._note_returns(request)
        try:
            if request.error is not None and not request.finished:  # Its output was not stored.
                request.kill(TERMINATE_GRACE)
            if self._timed_out is not None:
                execution.fail_late(*self._timed_out)
            if request.error is not None:
                raise request.error
            if execution._take_outcomes(request):
                assert self._target is not None
                self.start(self._target)
                return
        except BaseException as error:
            cause = error
            self._post(lambda: self._fail(cause))
            return
        self._finish()

    def _fail(self, error: BaseException) -> None:
        execution = self._execution
        try:
            if not isinstance(error, TaskExecutionError):
                error = execution.note_failure(error)
            execution.wait_for_records()
            _log(execution, error)
        finally:
            self._finish()

    def _finish(self) -> None:
        self._cancel_timers()
        self._owner = self._target = None
        self._execution.close_log()
        self._execution.finish()

    # In the thread of timers

    def _call_at(self, when: float, action: Callable[[], object]) -> None:
        self._timers.append(timers.call_at(when, action))

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _time_out(self, timeout: float, index: int | None) -> None:
        """Stop the running step, if it is the one that has a timeout, or the task has it."""
        execution = self._execution
        running = execution.running_step
        if running is None or self._timed_out or (index is not None and index != running):
            return
        self._timed_out = timeout, running
        execution.kill(TERMINATE_GRACE)
        end = time.monotonic() + TERMINATE_GRACE + KILL_TIMEOUT
        self._call_at(end, lambda: execution.abandon("The host does not end it."))
