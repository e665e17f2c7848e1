"""Execute a task once on a host: send requests, keep the log and the values, find the error."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from lazycluster._conversation.request import Request
from lazycluster._functions.preload import Preload
from lazycluster._interpreter_exit import stopped_with_main_thread
from lazycluster._shared.tree_stream import CHANGED, SKIPS
from lazycluster._tasks import unfinished
from lazycluster._tasks.endings import step_error
from lazycluster._tasks.log_records import LogRecords
from lazycluster._tasks.outcomes import (
    as_cause,
    task_message,
    timeout_error,
    with_side,
    without_tracebacks,
)
from lazycluster._tasks.printing import LivePrinter
from lazycluster._tasks.progress import REPORT_INTERVAL, ProgressError
from lazycluster._tasks.record import Record
from lazycluster._tasks.steps import Step
from lazycluster._tasks.transfers import Transfer, Upload
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
INTERRUPT_TIMEOUT = 5.0  # seconds that an exception waits for the end of the step that it stops

logger = logging.getLogger("lazycluster")

_Sent = TypeVar("_Sent")


class Lacking(NamedTuple):
    """The shared values that a host did not have for a step, which has not started.

    Attributes:
        values: The values.
        request: The number of the request.
    """

    values: Sequence[Any]
    request: int


def find_lacking(step: Step, request: Request) -> Lacking | None:
    """Return what must be sent before a step is sent again; None if nothing must."""
    outcome = request.outcomes[-1]
    values = [step.shared[key] for key in outcome.lacking if key in step.shared]
    return Lacking(values, request.number) if values else None


class Target(NamedTuple):
    """Where steps run; the home directory if there is no working directory.

    `owner` identifies the Runtime, whose shared values the steps may use.
    """

    conversation: Conversation
    working_dir: str | None = None
    environment: Mapping[str, str] = MappingProxyType({})
    cwd: str | None = None
    preload: Preload = Preload()
    owner: object = None

    def describe(self, steps: Sequence[Step]) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
        """Return the descriptions of steps, and what they refer to by key.

        Raises:
            ValueError: If a shared value was closed, or belongs to another Runtime.
        """
        described: list[dict[str, Any]] = []
        contents: dict[str, bytes] = {}
        forked = []
        preloads = bool(self.preload.names)
        for step in steps:
            for value in step.shared.values():
                value._held.check(self.owner)
            description = step.describe()
            described.append(description)
            contents.update(step.contents)
            if step.forks_from_branch(preloads):
                forked.append(description)
        if forked:
            preload, modules = self.preload.pack()
            contents.update(modules)
            for description in forked:
                description["preload"] = preload
        return described, contents

    def send_lacking(self, lacking: Lacking) -> None:
        """Send shared values again that the host did not have for a step.

        Raises:
            ValueError: If one was closed.
            ConnectionLostError: If the connection has ended.
        """
        for value in lacking.values:
            value._held.send_again(self, lacking.request)

    def operate(self, operation: str, **arguments: Any) -> Any:
        """Run an operation on the host and return its result; see `Conversation.operate`."""
        return self.conversation.operate(
            operation, arguments, working_dir=self.working_dir, environment=self.environment
        )


def send_once_more(find_target: Callable[[], Target], send: Callable[[Target], _Sent]) -> _Sent:
    """Find a target and send something to it; once more if its connection has ended before that.

    Raises:
        ConnectionLostError: If it may have started, or the second target has ended, too.
    """
    target = find_target()
    try:
        return send(target)
    except ConnectionLostError as error:
        if error.started is not False:
            raise
    return send(find_target())


def stop_all(executions: Iterable[Execution], number: int, grace: float) -> None:
    """Stop executions; each is told before any is waited for. See `Execution.stop`."""
    running = [execution for execution in executions if execution.is_alive]
    for execution in running:
        execution._check_owner()
        execution.request_stop(number, grace)
    deadline = time.monotonic() + grace + KILL_TIMEOUT
    for execution in running:
        if execution._thread != threading.get_ident():  # as in a signal handler
            execution.wait(max(0.0, deadline - time.monotonic()))


class Execution(Record):
    """Run the steps of a task once and hold what the run did.

    Args:
        name: The name of the task.
        steps: The steps.
        host: The host, for the log and the messages.
        task: The task, for the attribute of the error only.
        debug: True to print the output live.
        names_host: True to print the host before each line, also while no other host prints.
        timeout: The most seconds that all steps together may take; None for no bound.
        on_end: Called with the execution at its end, in the thread that runs it.

    Attributes:
        timeout: As given.
        grace: Seconds between SIGTERM and SIGKILL of the call of `stop`.
        raised: The error that `run` has raised. The caller takes it: tracebacks hold the variables
            of all callers, and the error the task, for as long as a Runtime keeps the execution.
    """

    _request: Request | None = None

    def __init__(
        self,
        name: str,
        steps: tuple[Step, ...],
        host: str,
        *,
        task: object,
        debug: bool = False,
        names_host: bool = False,
        timeout: float | None = None,
        on_end: Callable[[Execution], None] | None = None,
    ) -> None:
        super().__init__(host, name, task)
        self.headings: tuple[str, ...] = tuple(step.heading for step in steps)
        self.functions: tuple[int, ...] = tuple(
            index for index, step in enumerate(steps) if step.returns
        )
        self._steps = steps
        self._task: object = task
        self._on_end = on_end
        self._debug = debug
        self._names_host = names_host
        self.timeout: float | None = timeout
        self._end: float | None = None  # when it has passed
        self.raised: TaskExecutionError | None = None
        self._thread = 0  # the identifier of the thread that runs it
        self.grace: float = 0.0
        self._offset = 0  # index of the request's first step
        self._first_request: int | None = None  # its number identifies the task on the host
        self._transfer: Transfer | None = None
        self._lacking: Lacking | None = None
        self._records = LogRecords(host)

    def run(self, find_target: Callable[[], Target]) -> None:
        """Run the steps one after the other, until one fails.

        Args:
            find_target: Called first, and again if the connection has ended before it was used.

        Raises:
            TaskExecutionError: If a step failed; its `__cause__` is the reason.
        """
        try:
            self.run_steps(find_target)
        finally:
            self.finish()

    def finish(self) -> None:
        """Free what only a running execution needs, and notify the threads that wait for it."""
        try:
            error = self.error
            if error is not None and self.in_background:
                cause = error.__cause__
                traceback.clear_frames(None if cause is None else cause.__traceback__)
            elif error is not None:
                self.raised, self.error = error, without_tracebacks(error)
            if self.error is not None:
                self.error.task = None
            self._steps, self._task, self._request, self._transfer = (), None, None, None
            on_end, self._on_end = self._on_end, None
            if on_end is not None:
                on_end(self)
        finally:
            unfinished.discard(self)
            self._report_end()

    # For `background`

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return the steps that are still to be sent."""
        return self._steps[self._offset :]

    @property
    def needs_thread(self) -> bool:
        """Return True if a thread has to read or write files for it, or to print.

        Without steps there is no request whose end could drive it.
        """
        return self._debug or not self._steps or any(step.copies for step in self._steps)

    @property
    def has_timeout(self) -> bool:
        """Return True if the task or a step has a timeout."""
        return self.timeout is not None or any(step.timeout is not None for step in self._steps)

    def step_timeout(self, index: int) -> float | None:
        """Return the timeout of a step; None without one, or after the end."""
        return self._steps[index].timeout if index < len(self._steps) else None

    @property
    def running_step(self) -> int | None:
        """Return the index of the step that runs, or is the next; None without a request."""
        request = self._request
        if request is None or request.finished:
            return None
        return self._offset + len(request.outcomes)

    def kill(self, grace: float) -> None:
        """Kill the running step, which is not a stop by the user."""
        request = self._request
        if request is not None:
            request.kill(grace)

    def _has_succeeded(self, request: Request) -> bool:
        """Return True if no step of a request has failed, and no logger is to be waited for."""
        self._request = request
        return (
            request.error is None
            and len(request.outcomes) == len(self.steps)
            and all(outcome.returned or outcome.exit_status == 0 for outcome in request.outcomes)
            and all(outcome.failure is None for outcome in request.outcomes)
            and self._records.is_empty
        )

    def _take_outcomes(self, request: Request) -> bool:
        """Take the end of a request; return True if there are steps to send.

        Raises:
            TaskExecutionError: If a step has failed.
        """
        self._offset += self._check_outcomes(request, self.steps)
        self._records.wait()
        return self._offset < len(self._steps)

    def fail_late(self, timeout: float, index: int) -> NoReturn:
        """Raise the error of a step that took longer than its or the task's timeout."""
        step, output = self._steps[index], self.log.tail(index, OUTPUT_IN_ERRORS)
        self._fail(timeout_error(self.host, step.kind, step.name, timeout, output), index)

    def wait_for_records(self) -> None:
        """Wait until loggers have handled what functions have logged."""
        self._records.wait()

    def forget_request(self) -> None:
        """Drop the request of an execution that has ended."""
        self._request = None

    def close_log(self) -> None:
        """Make an entry for each step, and close the file."""
        self.log.close(len(self._steps))

    @property
    def pid(self) -> int | None:
        """Return the process id of the running step on the host; None between steps."""
        return None if self._request is None else self._request.pid

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the execution has ended, at most `timeout` seconds; return True if it has."""
        if not self.is_alive:
            return super().wait(timeout)
        with stopped_with_main_thread(self):
            return super().wait(timeout)

    def stop(self, number: int, grace: float) -> None:
        """Stop the running step and wait until its processes have ended, `KILL_TIMEOUT` at most.

        `number` is the signal to report, `grace` the seconds between SIGTERM and SIGKILL.
        """
        stop_all([self], number, grace)

    def request_stop(self, number: int = signal.SIGTERM, grace: float = TERMINATE_GRACE) -> None:
        """Stop the running step without waiting; see `stop`."""
        self.grace = grace
        self.stopped_by = number
        request = self._request
        if request is not None:
            request.kill(grace)

    def abandon(self, reason: str) -> None:
        """Make the thread that runs the steps raise an error."""
        request = self._request
        if request is not None:
            request.fail(LazyclusterError(reason))

    def run_steps(self, find_target: Callable[[], Target]) -> None:
        """Do what `run` does, but for `finish`."""
        self._thread = threading.get_ident()
        try:
            with stopped_with_main_thread(self):
                self._run_steps(find_target)
        except TaskExecutionError:
            raise
        except BaseException as error:  # A KeyboardInterrupt is not a success.
            self.note_failure(error)
            if self._request is not None:  # Another exception may come meanwhile.
                self._request.kill_and_wait(TERMINATE_GRACE, INTERRUPT_TIMEOUT)
            if not isinstance(error, Exception) or not self._is_known(error):
                raise
            self._fail(self._named_side(error))
        finally:
            with contextlib.ExitStack() as stack:
                stack.callback(self.log.close, len(self._steps))
                if self._transfer is not None:
                    stack.callback(self._transfer.abort)

    def _is_known(self, error: Exception) -> bool:
        """Return False for an exception that a signal handler may have raised in this thread.

        It passes as it is: a SoftTimeLimitExceeded of Celery, a TimeoutError of a decorator. Such
        an OSError has no errno.
        """
        if self.in_background or (self._request is not None and error is self._request.error):
            return True  # No signal handler runs in a thread.
        # A ValueError is about a path, or a description that is too long.
        if isinstance(error, (LazyclusterError, ProgressError)) or type(error) is ValueError:
            return True
        return isinstance(error, OSError) and error.errno is not None

    def _run_steps(self, find_target: Callable[[], Target]) -> None:
        self._end = None if self.timeout is None else time.monotonic() + self.timeout
        with contextlib.ExitStack() as stack:
            printer = None
            if self._debug:
                printer = stack.enter_context(LivePrinter(self.log, self._names_host))
            self._run_requests(find_target, printer)

    def _run_requests(self, find_target: Callable[[], Target], printer: LivePrinter | None) -> None:
        target: Target | None = None
        while self._offset < len(self._steps):
            steps = self._next_steps()
            target, request = self._send(find_target, target, steps)
            if self.stopped_by:  # `stop` may have come before there was a request to kill.
                request.kill(self.grace)
            try:
                self._follow(request, printer)
            finally:
                self._note_returns(request)
            self._offset += self._check_outcomes(request, steps)

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
        if target is not None:
            return target, self._send_to(target, steps)
        return send_once_more(find_target, lambda found: (found, self._send_to(found, steps)))

    def _send_to(
        self,
        target: Target,
        steps: tuple[Step, ...],
        *,
        on_start: Callable[[int], object] = lambda _: None,
        on_end: Callable[[Request], object] = lambda _: None,
    ) -> Request:
        """Send steps to a target.

        Args:
            target: Where they run.
            steps: The next ones.
            on_start: Called in the reader thread with the index of a step that has started.
            on_end: Called once with the request at its end, most often in the reader thread.
        """
        offset = self._offset
        self._request = None  # An error before the next one exists is not one of a started step.
        self._transfer = transfer = steps[0].transfer()
        if transfer is not None:
            transfer.leave_to_guard(target.conversation.control_folder)
        self.values.come_from(target.conversation, target.environment)
        listed = steps[0].describe_list()
        if listed is not None and isinstance(transfer, Upload):
            self._compare(target, listed, transfer)
        if self._lacking is not None:
            target.send_lacking(self._lacking)
        described, contents = target.describe(steps)
        self._request = request = target.conversation.request(
            described,
            working_dir=target.working_dir,
            environment=target.environment,
            cwd=target.cwd,
            task=self._first_request,
            chunks=itertools.chain.from_iterable(step.chunks(transfer) for step in steps),
            contents=contents,
            on_output=lambda index, data: self.log.append(offset + index, data),
            on_value=lambda index, data: self._store_value(offset + index, data),
            on_logged=lambda index, data: self._take_logged(offset + index, data),
            on_start=lambda index: self._take_start(offset + index, on_start),
            on_end=on_end,
            live=self._debug,
        )
        self._first_request = self._first_request or request.number
        return request

    def _compare(self, target: Target, description: dict[str, Any], transfer: Upload) -> None:
        """Find what has changed: the host lists the destination while we read the source."""
        index = self._offset
        self._request = request = target.conversation.request(
            [description],
            working_dir=target.working_dir,
            environment=target.environment,
            cwd=target.cwd,
            task=self._first_request,
            on_output=lambda _, data: self.log.append(index, data),
            on_value=lambda _, data: transfer.feed(data),
        )
        self._first_request = self._first_request or request.number
        if self.stopped_by:
            request.kill(self.grace)
        transfer.scan()
        self._follow(request, None)
        for outcome in request.outcomes:
            tail = functools.partial(self.log.tail, index, OUTPUT_IN_ERRORS)
            error = self._steps[index].error(self.host, outcome, tail)
            if error is not None:
                self._fail(error, index)
        if self.stopped_by or not request.outcomes:
            self._fail(LazyclusterError("It was stopped before the copy."), index)
        transfer.compare()

    def _take_start(self, index: int, on_start: Callable[[int], object]) -> bool:
        """Make an entry for a step; return True if the waiting thread must know when it began."""
        self.log.begin_step(index)
        on_start(index)
        return self._debug or self.step_timeout(index) is not None

    def _store_value(self, index: int, data: memoryview) -> None:
        if self._transfer is not None:
            self._transfer.feed(data)
        # A hostile host may send a value of a command, and a stopped step one after the end.
        elif index < len(self._steps) and self._steps[index].returns:
            self.values.append(index, data)

    def _take_logged(self, index: int, data: memoryview) -> None:
        if index < len(self._steps) and self._steps[index].returns:
            self._records.append(data)

    def _follow(self, request: Request, printer: LivePrinter | None) -> None:
        """Wait for the end of the request, print new output, enforce the timeouts."""
        while not request.finished:
            self._wait(request, self._deadline(request)[1])
            if printer is not None:
                # What a step has printed is in the log before its outcome is there.
                printer.print_new(self._offset + len(request.outcomes))
            timeout, deadline = self._deadline(request)  # of the step that runs now
            index = self._offset + len(request.outcomes)
            if request.finished or deadline is None or time.monotonic() < deadline:
                continue
            request.kill_and_wait(TERMINATE_GRACE, TERMINATE_GRACE + KILL_TIMEOUT)
            assert timeout is not None
            self.fail_late(timeout, index)
        request.wait()  # It raises the error of output that could not be stored before the end.
        if printer is not None:
            printer.print_new()  # The request may have ended before the first look.
        self._records.wait()

    def _wait(self, request: Request, deadline: float | None) -> None:
        """Wait for news; with a progress callback, until it is due at the latest."""
        meter = None if self._transfer is None else self._transfer.meter
        if meter is None:
            request.wait(deadline)
            return
        due = time.monotonic() + REPORT_INTERVAL
        request.wait(due if deadline is None else min(due, deadline))
        meter.report()

    def _deadline(self, request: Request) -> tuple[float | None, float | None]:
        """Return the timeout that passes next, and when; (None, None) without one."""
        end = self._end
        index = self._offset + len(request.outcomes)
        if index < len(self._steps) and request.step == len(request.outcomes):
            timeout = self._steps[index].timeout
            if timeout is not None:
                step_end = request.step_started + timeout
                if end is None or step_end < end:
                    return timeout, step_end
        return self.timeout, end

    def _note_returns(self, request: Request) -> None:
        """Note which functions of a request have returned."""
        for index, outcome in enumerate(request.outcomes, self._offset):
            # A command has no value. A hostile host that sends one must not get it unpickled.
            if outcome.returned and self._steps[index].returns:
                self.values.mark_returned(index)

    def _check_outcomes(self, request: Request, steps: tuple[Step, ...]) -> int:
        """Raise the error of a request; return how many of its steps need not be sent again."""
        for index, (step, outcome) in enumerate(zip(steps, request.outcomes), self._offset):
            again = step.by_value(outcome)
            if again is None and outcome.lacking:
                self._lacking, before = find_lacking(step, request), self._lacking
                if before is None and self._lacking is not None:
                    return index - self._offset
            elif again is not None:  # its function has not started
                self._steps = (*self._steps[:index], again, *self._steps[index + 1 :])
                return index - self._offset
            tail = functools.partial(self.log.tail, index, OUTPUT_IN_ERRORS)
            error = step_error(step, self.host, outcome, tail, self.values, index)
            if error is not None:
                self._fail(error, index)
            skipped = list(outcome.skipped)
            if self._transfer is not None:
                skipped += self._transfer.finish()
            for path, reason in skipped:
                self._note_skipped(index, path, reason)
        if len(request.outcomes) < len(steps):
            index = self._offset + len(request.outcomes)
            self._fail(LazyclusterError("It was stopped between two steps."), index)
        return len(steps)

    def _note_skipped(self, index: int, path: str, reason: str) -> None:
        """Name in the log what a copy has left out, or what it may have half of."""
        line = f"skipped {path!r}: {reason}\n"
        if reason == SKIPS[CHANGED]:
            line = f"{path!r} {reason}\n"
        else:
            self.skipped.append((path, reason))
        self.log.append(index, line.encode("utf-8", "backslashreplace"))

    def _named_side(self, error: Exception) -> Exception:
        """Add the side (manager or host) on which a copy failed to its OSError."""
        copies = bool(self._steps) and self._steps[self._offset].copies
        if not copies or not isinstance(error, OSError) or error.errno is None:
            return error
        there = self._transfer is not None and self._transfer.failed_there
        return with_side(error, self.host if there else "the manager")

    def _fail(self, cause: Exception, index: int | None = None) -> NoReturn:
        raise self.note_failure(cause, index)

    def note_failure(self, cause: BaseException, index: int | None = None) -> TaskExecutionError:
        request = self._request
        if index is None:
            index = self._offset + (0 if request is None else len(request.outcomes))
            index = max(0, min(index, len(self._steps) - 1))
        if request is not None and request.closed and not self.stopped_by:
            self.stopped_by: int = signal.SIGTERM
        step = self._steps[index] if self._steps else Step(self.name)
        output = self.log.tail(index, OUTPUT_IN_ERRORS)
        self.error: TaskExecutionError | None = step.execution_error(
            task_message(index, self.name, self.host, cause, self.log.path, output),
            cause,
            task=self._task,
            task_step_index=index,
            host=self.host,
            execution_log_file_path=self.log.path,
            output=output,
        )
        self.error.__cause__ = as_cause(cause)
        return self.error
