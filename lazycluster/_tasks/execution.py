"""One execution of a task on a host: requests out, the log, the values and the ending back."""

from __future__ import annotations

import codecs
import functools
import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from lazycluster._conversation.request import Request
from lazycluster._functions import payload as _payload
from lazycluster._spool import Spool
from lazycluster._tasks.log import ExecutionLog
from lazycluster._tasks.outcomes import step_error
from lazycluster._tasks.progress import PERIOD, Meter
from lazycluster._tasks.steps import Step
from lazycluster._tasks.transfers import Download
from lazycluster._text import show
from lazycluster.exceptions import (
    ConnectionLostError,
    FileTransferError,
    LazyclusterError,
    StepTimeoutError,
    TaskExecutionError,
    command_message,
)

if TYPE_CHECKING:
    from lazycluster._conversation.conversation import Conversation
    from lazycluster.tasks import RuntimeTask

TERMINATE_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
KILL_PATIENCE = 5.0  # seconds beyond the grace that the host has to say that all are gone
OUTPUT_IN_ERRORS = 1 << 14  # bytes of a step's output that its error carries

logger = logging.getLogger("lazycluster")


class Place(NamedTuple):
    """Where steps run: over which conversation, in which directory, with which variables."""

    conversation: Conversation
    working_dir: str | None
    environment: Mapping[str, str]


class Execution:
    """One execution of a task; it runs once.

    Args:
        task: The task, whose steps are taken as they are now.
        host: The host, for the log and the messages.
        debug: Whether the output is printed live.
        timeout: Seconds for the whole, None for no bound.

    Attributes:
        log: What the steps printed.
        error: How it failed, None while it has not.
        stopped_by: The signal that somebody stopped it with, 0 if nobody has.
    """

    def __init__(
        self,
        task: RuntimeTask,
        host: str,
        *,
        debug: bool = False,
        timeout: float | None = None,
    ) -> None:
        self.host = host
        self.log = ExecutionLog(host, task.name)
        self.error: TaskExecutionError | None = None
        self.stopped_by = 0
        self._grace = 0.0  # seconds between SIGTERM and SIGKILL, of who stopped it
        self._task = task
        self._steps: tuple[Step, ...] = task.steps
        self._debug = debug
        self._timeout = timeout
        self._values = Spool()
        self._value_sizes: dict[int, int] = {}  # bytes that have come, by step
        self._returned: set[int] = set()  # the steps whose function has returned
        self._offset = 0  # of the first step of the request
        self._request: Request | None = None
        self._first_request: int | None = None  # its number, by which the host knows the task
        self._download: Download | None = None
        self._meter: Meter | None = None  # of a copy under way, if somebody wants to know
        self._done = threading.Event()
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_done"]
        state.update(_request=None, _download=None, _meter=None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pid = os.getpid()
        self._done = threading.Event()
        self._done.set()

    # For the thread that runs it

    def run(self, find_place: Callable[[], Place]) -> None:
        """Run the steps one after the other, until one fails.

        Args:
            find_place: Called first, and again if the connection turns out to have ended before.

        Raises:
            TaskExecutionError: A step failed; its cause says how.
        """
        try:
            self._run_to_end(find_place)
        finally:
            self._done.set()

    def _run_to_end(self, find_place: Callable[[], Place]) -> None:
        try:
            self._run(find_place)
        except TaskExecutionError:
            raise
        except Exception as error:  # whatever it is, it must not get lost in a thread
            self._fail(self._with_side(error))
        except BaseException as error:  # a KeyboardInterrupt goes on, and is no success
            self._note_failure(error)
            raise
        finally:
            if self._download is not None:
                self._download.abort()
            if self._meter is not None:
                self._meter.close()
            if self._steps:
                self.log.begin_step(len(self._steps) - 1)
            self.log.close()

    def run_in_background(self, find_place: Callable[[], Place], name: str) -> None:
        """The same in a daemon thread; an error is kept, and logged at ERROR."""

        def run() -> None:
            try:
                self._run_to_end(find_place)
            except TaskExecutionError as error:
                level = logging.INFO if self.stopped_by else logging.ERROR
                logger.log(level, "%s", error)
            finally:
                self._done.set()

        try:
            threading.Thread(target=run, name=name, daemon=True).start()
        except BaseException:  # there may be no more threads to be had
            self._done.set()
            raise

    def _run(self, find_place: Callable[[], Place]) -> None:
        end = None if self._timeout is None else time.monotonic() + self._timeout
        printer = _LivePrinter(self.log) if self._debug else None
        place: Place | None = None
        while self._offset < len(self._steps):
            steps = self._next_steps()
            place = self._ask(find_place, place, steps)
            request = self._request
            assert request is not None
            if self.stopped_by:  # before there was a request to kill, though it may run by now
                request.kill(self._grace)
            try:
                self._follow(request, end, printer)
            except TaskExecutionError:
                raise
            except BaseException:  # KeyboardInterrupt, a full disk, a closed terminal
                self._kill_and_wait(request)
                raise
            finally:
                self._note_returns(request)
            self._judge(request, steps)
            self._offset += len(steps)

    def _next_steps(self) -> tuple[Step, ...]:
        """The steps that are the next request: all up to a file, or a file by itself."""
        rest = self._steps[self._offset :]
        if rest[0].alone:
            return rest[:1]
        return tuple(itertools.takewhile(lambda step: not step.alone, rest))

    def _ask(
        self, find_place: Callable[[], Place], place: Place | None, steps: tuple[Step, ...]
    ) -> Place:
        """Write the request; where it was written.

        Once more if the connection has ended before anything of the task was written. After that
        the task stays on its connection: on another the working directory may be another, too.
        """
        if place is None:
            place = find_place()
            try:
                self._request_at(place, steps)
                return place
            except ConnectionLostError as error:
                if error.started is not False:
                    raise
                place = find_place()
        self._request_at(place, steps)
        return place

    def _request_at(self, place: Place, steps: tuple[Step, ...]) -> None:
        offset = self._offset
        self._request = None  # what fails here has not started
        self._meter = meter = steps[0].meter()
        self._download = steps[0].download(meter)
        if self._download is not None:
            self._download.leave_to_guard(place.conversation.master.folder)
        self._request = place.conversation.request(
            [step.describe() for step in steps],
            working_dir=place.working_dir,
            environment=place.environment,
            task=self._first_request,
            pieces=itertools.chain.from_iterable(step.pieces(meter) for step in steps),
            on_output=lambda index, data: self.log.append(offset + index, data),
            on_value=lambda index, data: self._take_value(offset + index, data),
            live=self._debug,
        )
        self._first_request = self._first_request or self._request.number

    def _take_value(self, index: int, data: memoryview) -> None:
        if self._download is not None:
            self._download.feed(data)
        elif self._steps[index].returns:  # whatever a host says
            self._values.write(data)
            self._value_sizes[index] = self._value_sizes.get(index, 0) + len(data)

    def _follow(self, request: Request, end: float | None, printer: _LivePrinter | None) -> None:
        """Wait for the request's end, print what comes, keep the timeouts."""
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
            self._fail(self._timeout_error(index, timeout), index)
        request.wait()  # what came may have found a full disk, and the end come behind it at once
        if printer is not None:
            printer.print_new(last=True)  # it may have been over before we looked

    def _wait(self, request: Request, deadline: float | None) -> None:
        """Wait for news; looking now and then how far a copy is, if somebody wants to know."""
        if self._meter is None:
            request.wait(deadline)
            return
        look = time.monotonic() + PERIOD
        request.wait(look if deadline is None else min(look, deadline))
        self._meter.report()

    def _note_returns(self, request: Request) -> None:
        for index, outcome in enumerate(request.outcomes):
            # A command has no value, whatever a host says: that would be unpickled.
            if outcome.get("returned") and self._steps[self._offset + index].returns:
                self._returned.add(self._offset + index)

    def _deadline(self, request: Request, end: float | None) -> tuple[float | None, float | None]:
        """The timeout that passes next, and when; None where there is none."""
        index = self._offset + len(request.outcomes)
        if index < len(self._steps) and request.step == len(request.outcomes):
            timeout = self._steps[index].timeout
            if timeout is not None:
                step_end = request.step_started + timeout
                if end is None or step_end < end:
                    return timeout, step_end
        return self._timeout, end

    def _kill_and_wait(self, request: Request, grace: float = TERMINATE_GRACE) -> None:
        """Stop what runs and wait until the host says that it has gone, within bounds."""
        request.kill(grace)
        deadline = time.monotonic() + grace + KILL_PATIENCE
        try:
            while not request.finished and time.monotonic() < deadline:
                request.wait(deadline)
        except (LazyclusterError, OSError, ValueError):
            return  # the connection has gone, and with it all that the request started

    # How it ended

    def _judge(self, request: Request, steps: tuple[Step, ...]) -> None:
        for number, (step, outcome) in enumerate(zip(steps, request.outcomes)):
            index = self._offset + number
            tail = functools.partial(self.log.tail, index, OUTPUT_IN_ERRORS)
            error = step_error(self.host, step, outcome, tail)
            if error is not None:
                self._fail(error, index)
            skipped = outcome.get("skipped", [])
            if self._download is not None:
                skipped = self._download.finish()
                self._download = None
            if self._meter is not None:
                self._meter.report(last=True)
                self._meter.close()
                self._meter = None
            for path, what in skipped:
                line = f"skipped {path!r}: {what}\n"
                self.log.append(index, line.encode("utf-8", "backslashreplace"))
        if len(request.outcomes) < len(steps):
            index = self._offset + len(request.outcomes)
            self._fail(LazyclusterError("It was stopped between two steps."), index)

    def _with_side(self, error: Exception) -> Exception:
        """An error of a copy that came from here, or through here from the host, says which."""
        copies = bool(self._steps) and self._steps[self._offset].paths is not None
        if not copies or not isinstance(error, OSError) or error.errno is None:
            return error
        there = self._download is not None and self._download.failed_there
        side = self.host if there else "the manager"
        return OSError(error.errno, f"{os.strerror(error.errno)} (on {side})", error.filename)

    def _fail(self, cause: Exception, index: int | None = None) -> NoReturn:
        raise self._note_failure(cause, index) from cause

    def _note_failure(self, cause: BaseException, index: int | None = None) -> TaskExecutionError:
        request = self._request
        if index is None:
            index = self._offset + (0 if request is None else len(request.outcomes))
            index = max(0, min(index, len(self._steps) - 1))
        if request is not None and request.closed and not self.stopped_by:
            self.stopped_by = signal.SIGTERM
        message = (
            f"Step {index} of the task {self._task.name!r} failed on {self.host}. "
            f"{str(cause) or type(cause).__name__}"
        )
        details: dict[str, Any] = {
            "task": self._task,
            "task_step_index": index,
            "host": self.host,
            "execution_log_file_path": self.log.path,
            "output": self.log.tail(index, OUTPUT_IN_ERRORS),
        }
        paths = self._steps[index].paths if self._steps else None
        if paths is None:
            self.error = TaskExecutionError(message, **details)
        else:
            number = cause.errno if isinstance(cause, OSError) else None
            local, remote = paths
            self.error = FileTransferError(
                message, **details, local_path=local, remote_path=remote, errno=number
            )
        self.error.__cause__ = cause
        return self.error

    def _timeout_error(self, index: int, timeout: float) -> StepTimeoutError:
        step = self._steps[index]
        output = self.log.tail(index, OUTPUT_IN_ERRORS)
        message = command_message(host=self.host, command=step.name, timeout=timeout, output=output)
        return StepTimeoutError(
            message, host=self.host, command=step.name, output=output, timeout=timeout
        )

    # For everybody

    @property
    def pid(self) -> int | None:
        """Of the running step's process on the host; None between steps."""
        return None if self._request is None else self._request.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return not self._done.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most `timeout` seconds; whether it has."""
        if self.is_alive:
            self._check_owner()
        return self._done.wait(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))

    def _check_owner(self) -> None:
        if self._pid != os.getpid():
            raise LazyclusterError(
                f"The task {self._task.name!r} belongs to process {self._pid}; this is a child "
                "forked from it. Make a new Runtime in the child."
            )

    def stop(self, number: int, grace: float) -> None:
        """Stop it and return when its process groups have gone, within bounds."""
        if not self.is_alive:
            return
        self._check_owner()
        self._grace = grace
        self.stopped_by = number
        if self._request is not None:
            self._request.kill(grace)
        self.wait(grace + KILL_PATIENCE)

    def values(self) -> Iterator[object]:
        """The values of the functions that have returned, in order, unpickled now."""
        start = 0
        for index, size in sorted(self._value_sizes.items()):
            if index in self._returned:
                yield _payload.load_value(self._values.open(start, start + size))
            start += size

    def drop_values(self) -> None:
        """Forget them; a copy of the execution keeps them."""
        self._returned = set()
        self._values = Spool()


class _LivePrinter:
    """Prints what a log has got since the last time, in the thread of the one who waits."""

    def __init__(self, log: ExecutionLog) -> None:
        self._log = log
        self._position = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def print_new(self, *, last: bool = False) -> None:
        """Print it; `last` says that no more comes, so that half a character is shown as well."""
        while True:
            data, self._position = self._log.read_new(self._position)
            text = self._decoder.decode(data, final=last and not data)
            if text:
                show(text)
                if sys.stdout is not None:
                    sys.stdout.flush()
            if not data:
                return
