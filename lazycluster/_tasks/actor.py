"""Run the process of an actor on a host: one request, whose input is one call after the other."""

from __future__ import annotations

import collections
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from lazycluster._conversation.outcome import Outcome
from lazycluster._functions.payload import dump_by_value
from lazycluster._functions.pickled_call import PickledCall
from lazycluster._interpreter_exit import stopped_with_main_thread
from lazycluster._shared import messages
from lazycluster._tasks.actor_messages import (
    RETURNED,
    MessageReader,
    StartActor,
    call_message,
)
from lazycluster._tasks.completion import Timer, completion, timers
from lazycluster._tasks.crashes import crash_stack, likely_reason
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
from lazycluster._tasks.log import ExecutionLog
from lazycluster._tasks.log_records import LogRecords
from lazycluster._tasks.one_value import OneValue
from lazycluster._tasks.outcomes import ending, timeout_error
from lazycluster._tasks.steps import RunFunction
from lazycluster._tasks.values import ask_versions
from lazycluster._text import decoded_end
from lazycluster._waits import acquire
from lazycluster.exceptions import (
    OUTPUT_IN_ERRORS,
    ActorLostError,
    LazyclusterError,
    SerializationError,
)

if TYPE_CHECKING:
    from lazycluster._conversation.request import Request

CLOSE_TIMEOUT = 5.0  # seconds for a running call and for exit functions, before SIGTERM

_SMALL = 1 << 10  # bytes of a call that is sent by the thread that makes it


class ActorCall:
    """One call of a method, which a RemoteFuture can stand for.

    Args:
        actor: The process.
        call: What is called.
        owner: Lives at least until the end: an actor that is freed is closed.
    """

    def __init__(self, actor: ActorProcess, call: PickledCall, owner: object = None) -> None:
        self.name: str = call.name
        self.host: str = actor.host
        self.on_end: Callable[[BaseException | None], object] | None = None
        self.call: PickledCall | None = call
        self.value: OneValue = OneValue()
        self.is_waited_for: bool = False  # a thread waits in `ActorProcess.call`
        self._actor = actor
        self._owner = owner

    @property
    def is_running(self) -> bool:
        """Return True while it runs on the host."""
        return self._actor.runs(self)

    def drop(self) -> bool:
        """Do not send it any more; return False if it was sent."""
        return self._actor.drop(self)

    def stop(self) -> None:
        """Do nothing: what was dropped is not sent, and what was sent goes on."""

    def request_stop(self) -> None:
        """End the actor, so that the thread that waits for the call wakes up."""
        self._actor.request_stop()

    def abandon(self, reason: str) -> None:
        """Make the end come now, with an error."""
        self._actor.abandon(reason)

    def load_value(self) -> object:
        """Unpickle the value in this thread, and forget the bytes.

        Raises:
            SerializationError: If it cannot be unpickled here; another Exception if its class
                raises one.
        """
        return self.value.load(self.host, self.name, self._actor.find_versions)

    def wait_for_records(self) -> None:
        """Wait until loggers have handled what has been logged."""
        self._actor.records.wait()

    def end(self, error: BaseException | None) -> None:
        """Report the end, once."""
        on_end, self.on_end = self.on_end, None
        self.call = self._owner = None
        if on_end is not None:
            on_end(error)


_NO_CHUNKS: Iterator[bytes] = iter(())


class ActorProcess:
    """The process of an actor: its calls run in order, one at a time.

    Args:
        name: The name of the class.
        host: The host, for messages.
        timeout: The most seconds of each call, from the time when it is sent; None for no bound.
        on_output: Called with each line, in the completion thread; None if lines are not wanted.

    Attributes:
        records: What it logs.
    """

    def __init__(
        self,
        name: str,
        host: str,
        *,
        timeout: float | None = None,
        on_output: Callable[[str], object] | None = None,
    ) -> None:
        self.name: str = name
        self.host: str = host
        self.records: LogRecords = LogRecords(host)
        self._timeout = timeout
        self._lines = None if on_output is None else Lines(on_output, host)
        self._pid = os.getpid()
        self._log = ExecutionLog(host, f"actor-{name}")
        self._printed = bytearray()  # the end of it
        # For the five below. Reentrant, since a signal handler may use the actor, too.
        self._lock = threading.RLock()
        self._current: ActorCall | None = None  # what was sent; at first the call of the class
        self._queue: collections.deque[ActorCall] = collections.deque()
        self._end: tuple[str, BaseException | None] | None = None  # the reason, and its cause
        self._is_closing = False
        self._late: ActorCall | None = None  # the call that has taken too long
        self._is_made = False
        self._failure: Outcome | None = None  # of the class, until the process has ended
        self._timer: Timer | None = None  # of the current call
        self._end_timer: Timer | None = None
        self._ended = threading.Event()
        self._passed: set[str] = set()  # keys of contents that it has
        self._step = StartActor(name)
        self._target: Target | None = None
        self._lacking: Lacking | None = None
        self._request: Request | None = None
        self._reader = self._make_reader()

    def _make_reader(self) -> MessageReader:
        return MessageReader(self._take_whole, self._take_part, self._take_outcome)

    # Starting

    def start(self, find_target: Callable[[], Target], call: PickledCall) -> None:
        """Start the process, and wait until the object is made.

        Args:
            find_target: Called first, and again if the connection has ended before it was used.
            call: The call of the class.

        Raises:
            LazyclusterError: If it could not be started, or the error of the call.
        """
        timers.start()
        if self._lines is not None:
            completion.start()
        step: RunFunction | None = StartActor(self.name, call=call)
        error: BaseException | None = None
        while isinstance(step, StartActor):
            self._step, self._failure, self._end = step, None, None
            self._passed = set(step.contents)
            self._ended.clear()
            self._current = first = ActorCall(self, step.call)
            try:
                error = self._wait_for(first, lambda: send_once_more(find_target, self._send))
            except BaseException:
                if self._request is not None:  # a KeyboardInterrupt
                    self._request.kill_and_wait(TERMINATE_GRACE, INTERRUPT_TIMEOUT)
                raise
            step = self._find_next_form(step)
        if error is not None:
            raise error

    def _find_next_form(self, step: StartActor) -> RunFunction | None:
        """Return the step in which the class is to be called again; None if it is not."""
        request = self._request
        if self._failure is not None:
            return step.by_value(self._failure)
        if self._lacking is None and request is not None and request.outcomes:
            self._lacking = find_lacking(step, request)
            return None if self._lacking is None else step
        return None

    def _send(self, target: Target) -> Request:
        if self._lacking is not None:
            target.send_lacking(self._lacking)
        assert self._current is not None
        self._reader = self._make_reader()
        self._target = target
        described, contents = target.describe([self._step])
        first = self._current
        self._request = target.conversation.request(
            described,
            working_dir=target.working_dir,
            environment=target.environment,
            cwd=target.cwd,
            chunks=self._step.chunks(None),
            contents=contents,
            on_output=lambda _, data: self._take_output(data),
            on_value=lambda _, data: self._reader.feed(data),
            on_logged=lambda _, data: self.records.append(data),
            on_end=self._take_end,
        )
        self._start_timer(first)
        return self._request

    # Calls

    def check_owner(self) -> None:
        """Raise a LazyclusterError in a child that was forked from the actor's process."""
        if self._pid != os.getpid():
            raise LazyclusterError(
                f"The actor {self.name} belongs to process {self._pid}; this is a child forked "
                "from it. Make a new Runtime and a new actor in the child."
            )

    def call(self, call: ActorCall) -> object:
        """Send a call, wait for its end, and return the value.

        Raises:
            BaseException: The error that its end means.
        """
        try:
            error = self._wait_for(call, lambda: self.submit(call))
        except BaseException:
            self.drop(call)
            raise
        if error is not None:
            raise error
        return call.load_value()

    def _wait_for(self, call: ActorCall, send: Callable[[], object]) -> BaseException | None:
        """Send a call, wait for its end, and return its error."""
        errors: list[BaseException | None] = []
        done = threading.Lock()
        done.acquire(blocking=False)

        def end(error: BaseException | None) -> None:
            errors.append(error)
            done.release()

        call.on_end = end
        call.is_waited_for = True
        with stopped_with_main_thread(call):
            send()
            acquire(done)
        if self._lines is not None:
            self._lines.finish_and_wait()
        self.records.wait()
        return errors[0]

    def submit(self, call: ActorCall) -> None:
        """Send a call, now or behind those that wait.

        Raises:
            ActorLostError: If the actor has ended.
            SerializationError: If the process does not have a shared value that it needs.
            LazyclusterError: In a child that was forked.
        """
        self.check_owner()
        if call.call is not None and not call.call.shared.keys() <= self._step.shared.keys():
            raise SerializationError(
                f"The call cannot be pickled: {call.name} gets a shared value that its process "
                "does not have. Give it to the class in actor(), too."
            )
        with self._lock:
            has_ended = self._end is not None or self._is_closing
            is_next = self._current is None
            if is_next and not has_ended:
                self._current = call
            elif not has_ended:
                self._queue.append(call)
        if has_ended:
            raise self._lost_error(call.name, started=False)
        if is_next:
            self._send_call(call)

    def drop(self, call: ActorCall) -> bool:
        """Remove a call that waits; return False if there is none, since it was sent."""
        with self._lock:
            if call in self._queue:
                self._queue.remove(call)
                return True
        return False

    def runs(self, call: ActorCall) -> bool:
        """Return True if a call was sent and has not ended."""
        return self._current is call

    def _send_call(self, call: ActorCall) -> None:
        request, target, pickled = self._request, self._target, call.call
        assert request is not None
        assert target is not None
        assert pickled is not None
        if not pickled.contents.keys() <= self._passed:
            fresh = {k: data for k, data in pickled.contents.items() if k not in self._passed}
            target.conversation.pass_contents(request, fresh)
            self._passed |= fresh.keys()
        self._start_timer(call)
        payload = pickled.payload
        if len(payload) <= _SMALL:
            data = payload.read_at(0, _SMALL)
            request.add_input(_NO_CHUNKS, messages.encode(messages.CALL, data))
        else:
            request.add_input(call_message(payload))

    # In the reader thread

    def _take_output(self, data: memoryview) -> None:
        self._log.append(0, data)
        self._printed += data
        if len(self._printed) > 2 * OUTPUT_IN_ERRORS:
            del self._printed[:-OUTPUT_IN_ERRORS]
        if self._lines is not None:
            self._lines.append(0, data)

    def _tail(self) -> str:
        return decoded_end(self._printed, OUTPUT_IN_ERRORS)

    def find_versions(self, names: list[str]) -> Iterable[tuple[str, str | None]]:
        """Return the versions of packages on the host; nothing if the host cannot be asked."""
        target = self._target
        if target is None:
            return ()
        return ask_versions(target.conversation, target.environment, names)

    def _take_whole(self, data: memoryview) -> None:
        """Take a small value, as most are, and the end of its call."""
        call = self._current
        if call is None or call is self._late or not call.value.is_empty or not self._is_made:
            self._take_part(data)
            self._take_outcome(RETURNED)
            return
        call.value.append(data)
        call.value.returned = True
        self._cancel_timer()
        self._finish(call, None)

    def _take_part(self, data: memoryview) -> None:
        if self._current is not None:
            self._current.value.append(data)

    def _take_outcome(self, outcome: Outcome) -> None:
        call = self._current
        if call is None:
            raise ValueError("a reply without a call")
        if not self._is_made and not outcome.returned:
            self._failure = outcome  # The process ends now, and then the call.
            return
        self._cancel_timer()
        self._is_made = True
        if outcome.failed_module is not None:
            completion.start()  # Pickling runs a user's code, which this thread does not.
            completion.post(lambda: self._send_again(call, outcome))
        else:
            self._finish(call, self._find_error(call, outcome))

    def _find_error(self, call: ActorCall, outcome: Outcome) -> Exception | None:
        if call is self._late:
            return self._timeout_error(call)
        if outcome.returned:
            call.value.returned = True
        return step_error(RunFunction(call.name), self.host, outcome, self._tail, call.value)

    def _timeout_error(self, call: ActorCall) -> Exception:
        assert self._timeout is not None
        return timeout_error(self.host, "function", call.name, self._timeout, self._tail())

    def _finish(self, call: ActorCall, error: Exception | None) -> None:
        """Send the next call, and report the end of the one before."""
        with self._lock:
            has_next = self._queue and self._late is None  # else the process is ending
            following = self._current = self._queue.popleft() if has_next else None
            closes = following is None and self._is_closing
        if following is not None:
            try:
                self._send_call(following)
            except Exception as failure:  # its spool cannot be read
                self._finish(following, failure)
        elif closes:
            self._send_close()
        self._report(call, error)

    def _report(self, call: ActorCall, error: BaseException | None) -> None:
        if self._lines is None or call.is_waited_for:
            call.end(error)
        else:
            self._lines.finish(lambda: call.end(error))

    def _send_again(self, call: ActorCall, outcome: Outcome) -> None:
        """Send a call with a module by value that the host could not import, or report its end."""
        try:
            assert call.call is not None
            assert outcome.failed_module is not None
            again = dump_by_value(call.call, outcome.failed_module)
            if again is not None:
                call.call = again
                self._send_call(call)
                return
            error = self._find_error(call, outcome)
        except Exception as failure:
            error = failure
        self._finish(call, error)

    # The end

    def _take_end(self, request: Request) -> None:
        """Take the end of the process, or of the connection."""
        self._cancel_timer()
        if self._end_timer is not None:
            self._end_timer.cancel()
        if not request.finished:
            request.kill(TERMINATE_GRACE)  # Its output could not be stored.
        end = self._find_reason(request)
        with self._lock:
            self._end = end
            call, self._current = self._current, None
            queued = list(self._queue)
            self._queue.clear()
        self._log.close()
        if call is not None:
            self._report(call, self._error_of_last(call, request))
        for each in queued:
            self._report(each, self._lost_error(each.name, started=False))
        self._ended.set()

    def _find_reason(self, request: Request) -> tuple[str, BaseException | None]:
        error = request.error
        if self._late is not None:
            return f"{self._late.name} took longer than {self._timeout:g} seconds", None
        if self._is_closing and error is None:
            return "it was closed", None
        if isinstance(error, LazyclusterError):
            text = error._reason()
            return text[:1].lower() + text[1:], error._as_cause()
        if error is not None:
            return f"{type(error).__name__}: {error}", error
        outcome = request.outcomes[0] if request.outcomes else Outcome()
        if outcome.failure is not None:
            error = step_error(self._step, self.host, outcome, self._tail, OneValue())
            return str(error).rstrip("."), None
        text = f"its process ended {ending(outcome)}"
        reason = likely_reason(outcome) if outcome.signal is not None else None
        return f"{text}: {reason}" if reason else text, None

    def _error_of_last(self, call: ActorCall, request: Request) -> BaseException | None:
        """Return the error of the call that had been sent when the process ended."""
        if call is self._late:
            return self._timeout_error(call)
        if self._is_made:
            return self._lost_error(call.name, started=None if request.error else True)
        if request.error is not None:
            return request.error
        if self._failure is not None:
            return step_error(self._step, self.host, self._failure, self._tail, call.value)
        if request.outcomes:
            return step_error(self._step, self.host, request.outcomes[0], self._tail, call.value)
        return LazyclusterError(f"{self.name} was stopped on {self.host} before it began.")

    def _lost_error(self, name: str, *, started: bool | None) -> ActorLostError:
        """Return the error of a call that the end of the actor has met."""
        reason, cause = self._end or ("it was closed", None)
        text = f"{name} had started."
        if started is None:
            text = f"Whether {name} had started is not known."
        elif not started:
            text = f"{name} was not called."
        message = f"The actor {self.name} on {self.host} has ended: {reason}. {text}"
        if self._printed and self._log.path is not None:
            message += f" Log: {self._log.path}"
        stack = crash_stack(self._tail())
        if stack is not None:
            message += f"\n{stack}"
        return ActorLostError(message, cause, host=self.host, reason=reason, started=started)

    def close(self, *, wait: bool) -> None:
        """End the process when the running call has ended; drop the calls that wait.

        What has not ended after CLOSE_TIMEOUT gets SIGTERM, and SIGKILL five seconds later.

        Args:
            wait: True to return when it has ended.
        """
        if self._pid != os.getpid():
            return
        with self._lock:
            is_first = not self._is_closing and self._end is None
            self._is_closing = True
            is_idle = self._current is None
            queued = list(self._queue)
            self._queue.clear()
        for each in queued:
            self._report(each, self._lost_error(each.name, started=False))
        if is_first:
            if is_idle:
                self._send_close()
            self._end_timer = timers.call_at(time.monotonic() + CLOSE_TIMEOUT, self._kill)
        if wait:
            self._ended.wait(CLOSE_TIMEOUT + TERMINATE_GRACE + KILL_TIMEOUT)
            if self._lines is not None:
                self._lines.finish_and_wait()

    def _send_close(self) -> None:
        assert self._request is not None
        self._request.add_input(_NO_CHUNKS, messages.encode(messages.CLOSE))

    # For `_interpreter_exit`

    def request_stop(self) -> None:
        """Send SIGTERM to its processes on the host, SIGKILL five seconds later; do not wait."""
        self._is_closing = True
        if self._request is not None:
            self._request.kill(TERMINATE_GRACE)

    def abandon(self, reason: str) -> None:
        """Make the end come now, with an error."""
        if self._request is not None:
            self._request.fail(LazyclusterError(reason))

    # In the thread of timers

    def _start_timer(self, call: ActorCall) -> None:
        if self._timeout is not None:
            when = time.monotonic() + self._timeout
            self._timer = timers.call_at(when, lambda: self._time_out(call))

    def _time_out(self, call: ActorCall) -> None:
        with self._lock:
            is_late = self._current is call
            if is_late:
                self._late = call
        if is_late:
            self._kill()

    def _kill(self) -> None:
        assert self._request is not None
        self._request.kill(TERMINATE_GRACE)
        when = time.monotonic() + TERMINATE_GRACE + KILL_TIMEOUT
        self._end_timer = timers.call_at(when, lambda: self.abandon("The host does not end it."))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
