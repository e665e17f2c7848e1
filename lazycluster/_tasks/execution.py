"""Execute a task once on a host: send requests, keep the log and the values, find the error."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from lazycluster._conversation.request import Request
from lazycluster._tasks.log import ExecutionLog, LivePrinter
from lazycluster._tasks.outcomes import timeout_error, with_side
from lazycluster._tasks.progress import REPORT_INTERVAL
from lazycluster._tasks.steps import Step
from lazycluster._tasks.transfers import Transfer
from lazycluster._tasks.values import Values
from lazycluster.exceptions import (
    OUTPUT_IN_ERRORS,
    ConnectionLostError,
    LazyclusterError,
    TaskExecutionError,
)

if TYPE_CHECKING:
    from lazycluster._conversation.conversation import Conversation

TERMINATE_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
KILL_TIMEOUT = 5.0  # seconds after SIGKILL in which the host must report the end

logger = logging.getLogger("lazycluster")


class Target(NamedTuple):
    """Where steps run; the home directory if there is no working directory."""

    conversation: Conversation
    working_dir: str | None = None
    environment: Mapping[str, str] = MappingProxyType({})

    def operate(self, operation: str, **arguments: Any) -> Any:
        """Run an operation on the host and return its result; see `Conversation.operate`."""
        return self.conversation.operate(
            operation, arguments, working_dir=self.working_dir, environment=self.environment
        )


class Execution:
    """Run the steps of a task once and hold what the run did.

    Args:
        name: The name of the task.
        steps: The steps.
        host: The host, for the log and the messages.
        task: The task, for the attribute of the error only.
        debug: True to print the output live.
        timeout: The most seconds that all steps together may take; None for no bound.

    Attributes:
        host: The host as the user typed it.
        log: What the steps printed.
        error: The error; None before a failure.
        stopped_by: The number of the signal that stopped the execution; 0 if none did.
        values: The values of the functions that have returned.
    """

    def __init__(
        self,
        name: str,
        steps: tuple[Step, ...],
        host: str,
        *,
        task: object,
        debug: bool = False,
        timeout: float | None = None,
    ) -> None:
        self.host = host
        self.log: ExecutionLog = ExecutionLog(host, name)
        self.error: TaskExecutionError | None = None
        self.stopped_by: int = 0
        self.values: Values = Values()
        self._name = name
        self._steps = steps
        self._task = task
        self._debug = debug
        self._timeout = timeout
        self._grace = 0.0  # seconds between SIGTERM and SIGKILL of the call of `stop`
        self._offset = 0  # index of the request's first step
        self._request: Request | None = None
        self._first_request: int | None = None  # its number identifies the task on the host
        self._transfer: Transfer | None = None
        self._done = threading.Event()
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_done"]
        state.update(_request=None, _transfer=None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pid = os.getpid()
        self._done = threading.Event()
        self._done.set()

    def run(self, find_target: Callable[[], Target]) -> None:
        """Run the steps one after the other, until one fails.

        Args:
            find_target: Called first, and again if the connection has ended before it was used.

        Raises:
            TaskExecutionError: If a step failed; its `__cause__` is the reason.
        """
        try:
            self._run(find_target)
        finally:
            self._done.set()

    def run_in_background(self, find_target: Callable[[], Target], name: str) -> None:
        """Run the steps in a daemon thread; an error is kept, and logged at level ERROR."""

        def run() -> None:
            try:
                self._run(find_target)
            except TaskExecutionError as error:
                level = logging.INFO if self.stopped_by else logging.ERROR
                logger.log(level, "%s", error)
            finally:
                self._done.set()

        try:
            threading.Thread(target=run, name=name, daemon=True).start()
        except BaseException:  # The process may have no thread left, or Ctrl-C comes.
            self._done.set()
            raise

    @property
    def pid(self) -> int | None:
        """Return the process id of the running step on the host; None between steps."""
        return None if self._request is None else self._request.pid

    @property
    def is_alive(self) -> bool:
        """Return True until the execution has ended."""
        return not self._done.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the execution has ended, at most `timeout` seconds; return True if it has."""
        if self.is_alive:
            self._check_owner()
        return self._done.wait(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))

    def stop(self, number: int, grace: float) -> None:
        """Stop the running step and wait until its processes have ended, `KILL_TIMEOUT` at most.

        `number` is the signal to report, `grace` the seconds between SIGTERM and SIGKILL.
        """
        if not self.is_alive:
            return
        self._check_owner()
        self._grace = grace
        self.stopped_by = number
        if self._request is not None:
            self._request.kill(grace)
        self.wait(grace + KILL_TIMEOUT)

    def _check_owner(self) -> None:
        if self._pid != os.getpid():
            raise LazyclusterError(
                f"The task {self._name!r} belongs to process {self._pid}; this is a child "
                "forked from it. Make a new Runtime in the child."
            )

    def _run(self, find_target: Callable[[], Target]) -> None:
        try:
            self._run_steps(find_target)
        except TaskExecutionError:
            raise
        except Exception as error:  # A thread must not lose any error.
            self._fail(self._named_side(error))
        except BaseException as error:  # A KeyboardInterrupt is not a success.
            self._note_failure(error)
            raise
        finally:
            with contextlib.ExitStack() as stack:
                stack.callback(self.log.close, len(self._steps))
                if self._transfer is not None:
                    stack.callback(self._transfer.abort)

    def _run_steps(self, find_target: Callable[[], Target]) -> None:
        end = None if self._timeout is None else time.monotonic() + self._timeout
        printer = LivePrinter(self.log) if self._debug else None
        target: Target | None = None
        while self._offset < len(self._steps):
            steps = self._next_steps()
            target, request = self._send(find_target, target, steps)
            if self.stopped_by:  # `stop` may have come before there was a request to kill.
                request.kill(self._grace)
            try:
                self._follow(request, end, printer)
            except TaskExecutionError:
                raise
            except BaseException:  # Ctrl-C, a full disk, a closed terminal
                self._kill_and_wait(request)
                raise
            finally:
                self._note_returns(request)
            self._check_outcomes(request, steps)
            self._offset += len(steps)

    def _next_steps(self) -> tuple[Step, ...]:
        """Return the steps of the next request: all before the next copy, or that copy."""
        rest = self._steps[self._offset :]
        if rest[0].copies:
            return rest[:1]
        return tuple(itertools.takewhile(lambda step: not step.copies, rest))

    def _send(
        self, find_target: Callable[[], Target], target: Target | None, steps: tuple[Step, ...]
    ) -> tuple[Target, Request]:
        """Send a request; the task's first one again, if the connection has ended before it.

        Later requests stay on the first one's connection: on another one the working directory may
        be another, too.
        """
        if target is None:
            target = find_target()
            try:
                return target, self._send_to(target, steps)
            except ConnectionLostError as error:
                if error.started is not False:
                    raise
                target = find_target()
        return target, self._send_to(target, steps)

    def _send_to(self, target: Target, steps: tuple[Step, ...]) -> Request:
        offset = self._offset
        self._request = None  # An error before the next one exists is not one of a started step.
        self._transfer = transfer = steps[0].transfer()
        if transfer is not None:
            transfer.leave_to_guard(target.conversation.control_folder)
        self._request = request = target.conversation.request(
            [step.describe() for step in steps],
            working_dir=target.working_dir,
            environment=target.environment,
            task=self._first_request,
            chunks=itertools.chain.from_iterable(step.chunks(transfer) for step in steps),
            on_output=lambda index, data: self.log.append(offset + index, data),
            on_value=lambda index, data: self._store_value(offset + index, data),
            live=self._debug,
        )
        self._first_request = self._first_request or request.number
        return request

    def _store_value(self, index: int, data: memoryview) -> None:
        if self._transfer is not None:
            self._transfer.feed(data)
        elif self._steps[index].returns:  # A hostile host may send a value of a command.
            self.values.append(index, data)

    def _follow(self, request: Request, end: float | None, printer: LivePrinter | None) -> None:
        """Wait for the end of the request, print new output, enforce the timeouts."""
        while not request.finished:
            timeout, deadline = self._deadline(request, end)
            index = self._offset + len(request.outcomes)
            self._wait(request, deadline)
            if request.step is not None:
                self.log.begin_step(self._offset + request.step)
            if printer is not None:
                printer.print_new()
            if request.finished or deadline is None or time.monotonic() < deadline:
                continue
            self._kill_and_wait(request)
            assert timeout is not None
            output = self.log.tail(index, OUTPUT_IN_ERRORS)
            self._fail(timeout_error(self.host, self._steps[index].name, timeout, output), index)
        request.wait()  # It raises the error of output that could not be stored before the end.
        if printer is not None:
            printer.print_new(last=True)  # The request may have ended before the first look.

    def _wait(self, request: Request, deadline: float | None) -> None:
        """Wait for news; with a progress callback, until it is due at the latest."""
        meter = None if self._transfer is None else self._transfer.meter
        if meter is None:
            request.wait(deadline)
            return
        due = time.monotonic() + REPORT_INTERVAL
        request.wait(due if deadline is None else min(due, deadline))
        meter.report()

    def _deadline(self, request: Request, end: float | None) -> tuple[float | None, float | None]:
        """Return the timeout that passes next, and when; (None, None) without one."""
        index = self._offset + len(request.outcomes)
        if index < len(self._steps) and request.step == len(request.outcomes):
            timeout = self._steps[index].timeout
            if timeout is not None:
                step_end = request.step_started + timeout
                if end is None or step_end < end:
                    return timeout, step_end
        return self._timeout, end

    def _kill_and_wait(self, request: Request) -> None:
        """Stop the request and wait until the host reports its end, `KILL_TIMEOUT` at most."""
        request.kill(TERMINATE_GRACE)
        deadline = time.monotonic() + TERMINATE_GRACE + KILL_TIMEOUT
        try:
            while not request.finished and time.monotonic() < deadline:
                request.wait(deadline)
        except (LazyclusterError, OSError, ValueError):
            return  # The connection has ended, and with it all that the request has started.

    def _note_returns(self, request: Request) -> None:
        for index, outcome in enumerate(request.outcomes, self._offset):
            # A command has no value. A hostile host that sends one must not get it unpickled.
            if outcome.returned and self._steps[index].returns:
                self.values.mark_returned(index)

    def _check_outcomes(self, request: Request, steps: tuple[Step, ...]) -> None:
        for index, (step, outcome) in enumerate(zip(steps, request.outcomes), self._offset):
            tail = functools.partial(self.log.tail, index, OUTPUT_IN_ERRORS)
            error = step.error(self.host, outcome, tail)
            if error is not None:
                self._fail(error, index)
            skipped = list(outcome.skipped)
            if self._transfer is not None:
                skipped += self._transfer.finish()
            for path, kind in skipped:
                line = f"skipped {path!r}: {kind}\n"
                self.log.append(index, line.encode("utf-8", "backslashreplace"))
        if len(request.outcomes) < len(steps):
            index = self._offset + len(request.outcomes)
            self._fail(LazyclusterError("It was stopped between two steps."), index)

    def _named_side(self, error: Exception) -> Exception:
        """Add the side (manager or host) on which a copy failed to its OSError."""
        copies = bool(self._steps) and self._steps[self._offset].copies
        if not copies or not isinstance(error, OSError) or error.errno is None:
            return error
        there = self._transfer is not None and self._transfer.failed_there
        return with_side(error, self.host if there else "the manager")

    def _fail(self, cause: Exception, index: int | None = None) -> NoReturn:
        raise self._note_failure(cause, index) from cause

    def _note_failure(self, cause: BaseException, index: int | None = None) -> TaskExecutionError:
        request = self._request
        if index is None:
            index = self._offset + (0 if request is None else len(request.outcomes))
            index = max(0, min(index, len(self._steps) - 1))
        if request is not None and request.closed and not self.stopped_by:
            self.stopped_by = signal.SIGTERM
        step = self._steps[index] if self._steps else Step(self._name)
        self.error = step.execution_error(
            f"Step {index} of the task {self._name!r} failed on {self.host}. "
            f"{str(cause) or type(cause).__name__}",
            cause,
            task=self._task,
            task_step_index=index,
            host=self.host,
            execution_log_file_path=self.log.path,
            output=self.log.tail(index, OUTPUT_IN_ERRORS),
        )
        self.error.__cause__ = cause
        return self.error
