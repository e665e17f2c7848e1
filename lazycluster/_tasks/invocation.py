"""Run one step on a host without a task: no log file, and its output in memory or nowhere."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from lazycluster._interpreter_exit import stopped_with_main_thread
from lazycluster._tasks.completion import Timer, completion, timers
from lazycluster._tasks.endings import step_error
from lazycluster._tasks.execution import (
    INTERRUPT_TIMEOUT,
    KILL_TIMEOUT,
    TERMINATE_GRACE,
    Lacking,
    Target,
    find_lacking,
    send_once_more,
)
from lazycluster._tasks.lines import Lines
from lazycluster._tasks.log_records import LogRecords
from lazycluster._tasks.one_value import OneValue
from lazycluster._tasks.outcomes import timeout_error
from lazycluster._tasks.steps import Step
from lazycluster._tasks.values import ask_versions
from lazycluster._text import decoded_end
from lazycluster.exceptions import OUTPUT_IN_ERRORS, LazyclusterError

if TYPE_CHECKING:
    from lazycluster._conversation.outcome import Outcome
    from lazycluster._conversation.request import Request

OUTPUT, ERRORS = range(2)  # the streams of a step


def _drop(_index: int, _data: memoryview) -> None:
    """Drop a value that a step does not have."""


class Invocation:
    """One command or function on a host.

    A thread calls `run` and waits for the end, or it calls `start`, and the frames that arrive lead
    to `on_end`.

    Args:
        step: The step.
        host: The host, for messages.
        timeout: The most seconds from the request to the end; None for no bound.
        on_output: Called with each line, in the completion thread; None if lines are not wanted.
        keeps_output: True to keep all output in memory. Defaults to False, only its end.

    Attributes:
        name: The name of the step.
        host: The host.
        on_end: Called once after `start`, with the error or None, in a thread that must not be
            blocked.
        output: What it has printed to standard output, and to a separate standard error.
        owner: Lives at least until the end; a Runtime that is freed closes its connection.
        outcome: How the step ended; None if that is not known.
    """

    def __init__(
        self,
        step: Step,
        host: str,
        *,
        timeout: float | None = None,
        on_output: Callable[[str], object] | None = None,
        keeps_output: bool = False,
    ) -> None:
        self.name = step.name
        self._step: Step | None = step
        self.host = host
        self.on_end: Callable[[BaseException | None], object] | None = None
        self.output = (bytearray(), bytearray())
        self.owner: object = None
        self.outcome: Outcome | None = None
        self._value = OneValue()
        self._find_conversation: Callable[[], object] = lambda: None
        self._environment: Mapping[str, str] = {}
        self._records: LogRecords | None = None
        self._timeout = timeout
        self._lines = None if on_output is None else Lines(on_output, host)
        self._keeps_output = keeps_output
        self._request: Request | None = None
        self._lacking: Lacking | None = None
        self._timer: Timer | None = None
        self._timed_out = False
        self._is_stopped = False
        self._has_ended = False

    @property
    def step(self) -> Step | None:
        """Return the step in the form in which it was sent last; None at the end of `start`."""
        return self._step

    @property
    def is_running(self) -> bool:
        """Return True while its process runs on the host."""
        return self._request is not None and self._request.pid is not None

    @property
    def is_stopped(self) -> bool:
        """Return True if it is to end, or has been ended."""
        return self._is_stopped

    def tail(self) -> str:
        """Return the end of what it has printed, for an error."""
        return "".join(decoded_end(stream, OUTPUT_IN_ERRORS) for stream in self.output)

    def load_value(self) -> object:
        """Unpickle the value in this thread, and forget the bytes.

        Raises:
            SerializationError: If it cannot be unpickled here; another Exception if its class
                raises one.
        """
        return self._value.load(self.host, self.name, self._find_versions)

    def _find_versions(self, names: list[str]) -> Iterable[tuple[str, str | None]]:
        return ask_versions(self._find_conversation(), self._environment, names)

    def wait_for_records(self) -> None:
        """Wait until loggers have handled what the function has logged."""
        if self._records is not None:
            self._records.wait()

    def run(self, find_target: Callable[[], Target]) -> BaseException | None:
        """Run the step, and wait for its end.

        Args:
            find_target: Called first, and again if the connection has ended before it was used.

        Returns:
            The error that its end means; None for a success.

        Raises:
            LazyclusterError: If the step could not be sent.
        """
        if self._lines is not None:
            completion.start()
        try:
            with stopped_with_main_thread(self):
                self._follow(send_once_more(find_target, self._send))
                while self._changes_form():
                    self._follow(send_once_more(find_target, self._send))
        except BaseException as error:
            request = self._request
            if request is None:
                raise
            if error is not request.error:  # a KeyboardInterrupt, or what a signal handler raises
                request.kill_and_wait(TERMINATE_GRACE, INTERRUPT_TIMEOUT)
                raise
        if self._lines is not None:
            self._lines.finish_and_wait()
        if self._records is not None:
            self._records.wait()
        found = self._find_error()
        self._request = None  # it refers to this, and a call with large arguments must go at once
        return found

    def _follow(self, request: Request) -> None:
        """Wait for the end of the request, and enforce the timeout."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while not request.finished:
            request.wait(deadline)
            if deadline is not None and not request.finished and time.monotonic() >= deadline:
                self._timed_out = True
                request.kill_and_wait(TERMINATE_GRACE, TERMINATE_GRACE + KILL_TIMEOUT)
                return

    def _changes_form(self) -> bool:
        """Return True if the step, which has not started, must be sent again in another form."""
        request, step = self._request, self._step
        if request is None or step is None or not request.outcomes:
            return False
        outcome = request.outcomes[0]
        if outcome.failure is None:
            return False
        if outcome.lacking and self._lacking is None:
            self._lacking = find_lacking(step, request)
            return self._lacking is not None
        again = step.by_value(outcome)
        if again is not None:
            self._step = again
        return again is not None

    def start(self, target: Target) -> None:
        """Send the step to a target, and do not wait for its end.

        Raises:
            ConnectionLostError: If the connection has ended; `started` is then False, and it may
                be called again with another target.
        """
        if self._lines is not None:
            completion.start()
        if self._timeout is not None:
            timers.start()
            self._timer = timers.call_at(time.monotonic() + self._timeout, self._time_out)
        try:
            self._send(target)
        except BaseException:
            self._cancel_timer()
            raise

    def _send(self, target: Target) -> Request:
        step = self._step
        assert step is not None  # It has not ended.
        self._find_conversation = weakref.ref(target.conversation)  # which is not kept alive
        self._environment = target.environment
        if self._lacking is not None:
            target.send_lacking(self._lacking)
        described, contents = target.describe([step])
        request = target.conversation.request(
            described,
            working_dir=target.working_dir,
            environment=target.environment,
            cwd=target.cwd,
            chunks=step.chunks(None),
            contents=contents,
            on_output=lambda _, data: self._take_output(OUTPUT, data),
            on_errors=lambda _, data: self._take_output(ERRORS, data),
            # A hostile host may send these for a command.
            on_value=self._take_value if step.returns else _drop,
            on_logged=self._take_logged if step.returns else _drop,
            on_end=lambda request: self._take_end(request, target),
        )
        if not self._has_ended:  # The reader thread may have been faster.
            self._request = request
        if self._is_stopped:  # `stop` may have come before there was a request to kill.
            request.kill(TERMINATE_GRACE)
        return request

    def drop(self) -> bool:
        """Return True: it may be stopped at any time."""
        return True

    def stop(self) -> None:
        """Send SIGTERM to its processes on the host, SIGKILL five seconds later; do not wait."""
        self._is_stopped = True
        request = self._request
        if request is not None:
            request.kill(TERMINATE_GRACE)

    # For `_interpreter_exit`

    request_stop = stop

    def abandon(self, reason: str) -> None:
        """Make the end come now, with an error."""
        request = self._request
        if request is not None:
            request.fail(LazyclusterError(reason))

    # In the reader thread

    def _take_output(self, stream: int, data: memoryview) -> None:
        kept = self.output[stream]
        kept += data
        if not self._keeps_output and len(kept) > 2 * OUTPUT_IN_ERRORS:
            del kept[:-OUTPUT_IN_ERRORS]
        if self._lines is not None:
            self._lines.append(stream, data)

    def _take_value(self, _: int, data: memoryview) -> None:
        self._value.append(data)

    def _take_logged(self, _: int, data: memoryview) -> None:
        if self._records is None:
            self._records = LogRecords(self.host)
        self._records.append(data)

    def _take_end(self, request: Request, target: Target) -> None:
        if self.on_end is None or isinstance(request.error, SystemExit):
            return  # A thread waits in `run`, or the interpreter exits.
        self._request = request
        outcome = request.outcomes[0] if request.outcomes else None
        if outcome is not None and (outcome.failed_module is not None or outcome.lacking):
            completion.start()  # Pickling runs a user's code, which this thread does not.
            completion.post(lambda: self._send_again(target, request))
        else:
            self._report_end(request)

    def _send_again(self, target: Target, request: Request) -> None:
        """Send the step in another form, or report its end."""
        try:
            if self._changes_form():
                self._send(target)
            else:
                self._report_end(request)
        except Exception as error:
            self._cancel_timer()
            self.end(error)

    def _report_end(self, request: Request) -> None:
        self._cancel_timer()
        if not request.finished:  # Its output could not be stored, or the host does not end it.
            request.kill(TERMINATE_GRACE)
        error = self._find_error()
        if self._lines is None:
            self.end(error)
        else:
            self._lines.finish(lambda: self.end(error))

    def end(self, error: BaseException | None) -> None:
        """Report the end, once; also the end of what was never sent."""
        self._has_ended = True
        on_end, self.on_end = self.on_end, None
        # What only a running invocation needs may be large, and a future may be kept.
        self.owner = self._step = self._request = None
        if not self._keeps_output:
            self.output = (bytearray(), bytearray())
        if on_end is not None:
            on_end(error)

    def _find_error(self) -> BaseException | None:
        """Return the error that the end of the request means."""
        request, step = self._request, self._step
        assert request is not None and step is not None  # noqa: PT018 - this is not a test
        if self._timed_out:
            assert self._timeout is not None
            return timeout_error(self.host, step.kind, self.name, self._timeout, self.tail())
        if request.error is not None:
            return request.error
        if not request.outcomes:
            return LazyclusterError(f"{self.name} was stopped on {self.host} before it began.")
        self.outcome = outcome = request.outcomes[0]
        value = self._value
        if outcome.returned and step.returns:
            value.returned = True
        return step_error(step, self.host, outcome, self.tail, value)

    # In the thread of timers

    def _time_out(self) -> None:
        self._timed_out = True
        self.stop()
        end = time.monotonic() + TERMINATE_GRACE + KILL_TIMEOUT
        self._timer = timers.call_at(end, lambda: self.abandon("The host does not end it."))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
