"""The manager's half of the talk with the host: requests, their streams, heartbeat, kill.

A reader thread takes what comes from the host, stores it and wakes who waits; it never prints and
never runs a user's code. Whoever has a request writes it, and waits for it, in a thread of his own.
"""

from __future__ import annotations

import atexit
import copy
import json
import logging
import math
import os
import select
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from lazycluster._conversation.bootstrap import (
    Handshake,
    HandshakeReply,
    bootstrap_command,
    bootstrap_input,
    make_token,
    python_error,
)
from lazycluster._conversation.host_sources import module_archive
from lazycluster._conversation.request import Request, Storage
from lazycluster._conversation.writer import Writer
from lazycluster._shared import frames
from lazycluster._shared.operations import BOOTSTRAP_MODULES, OPERATIONS, STEP_MODULES
from lazycluster._ssh import argv as _openssh
from lazycluster._ssh import diagnosis as _diagnosis
from lazycluster._ssh import errors as _ssh_errors
from lazycluster._ssh import lifelines as _lifelines
from lazycluster._ssh.askpass import Askpass
from lazycluster._ssh.master import GUARD_PATIENCE, Master
from lazycluster._ssh.settings import Settings
from lazycluster._text import last_lines
from lazycluster.exceptions import (
    ConnectionLostError,
    LazyclusterError,
    ProtocolError,
    PythonNotFoundError,
    PythonVersionError,
)

PERSON_PATIENCE = 150.0  # seconds for a person to answer; sshd itself waits 120 (LoginGraceTime)
CLOSE_PATIENCE = 6.0  # seconds for the host's half to end what it started; it takes at most 4
READ = 1 << 18  # bytes from the host, at most, at once
DESCRIPTION_LIMIT = 1 << 26  # bytes of a request's commands and environment, encoded

# What comes of frames that no supervisor sends: JSON may be nested too deep, a number infinite.
_NO_SENSE = (
    frames.FrameError,
    ValueError,
    KeyError,
    TypeError,
    OverflowError,
    RecursionError,
)

logger = logging.getLogger("lazycluster")

_live: weakref.WeakSet[Conversation] = weakref.WeakSet()
_exit_registered = False
_exiting = False


def _ignore(_index: int, _data: memoryview) -> None:
    """What nobody asked for."""


class Rider(Protocol):
    """Something that lives on the master beside the session, and ends with it: a forward."""

    def end(self, *, lost: bool) -> None:
        """Told in the reader thread that the connection was lost, or else closed."""


class Conversation:
    """One login and all that is said over it.

    Nobody waits for the login: requests are written at once, and fail with its error if it does.

    On a host without Python, or with an old one, it is a master and nothing more: a session that
    waits for the end of its input, on which mux clients and forwards ride. Every request fails
    then. Nothing there says anything, so there is no heartbeat: a link that goes silent is found by
    TCP, by the user's own ServerAliveInterval, or not at all.

    Args:
        settings: What the user asked of ssh.
        began: Since when `connect_timeout` runs, by time.monotonic(); None for now.

    Attributes:
        ended: Whether it is over, by `close` or by a loss. It never begins again.
        dropped: Whether sshd dropped the login before anybody was asked or a key refused.
        master: The ssh that it goes over.
        session_ended: When a mux client's session ended last, by time.monotonic().
        forwarding: Held by whoever makes or ends a forward: two of one port must not cross.
    """

    def __init__(self, settings: Settings, began: float | None = None) -> None:
        self.settings = settings
        self.ended = False
        self.dropped = False
        self._pid = os.getpid()
        self._request_lock = threading.Lock()  # requests are written in the order of their numbers
        self._state = threading.Condition()
        self._requests: dict[int, Request] = {}
        self._last_number = 0
        self._modules_sent: set[str] = set()
        self._closing = False
        self._answered = False
        self._error: LazyclusterError | None = None
        self._no_python: PythonNotFoundError | PythonVersionError | None = None
        self._riders: list[Rider] = []
        self._held: set[int] = set()
        self.session_ended = -math.inf
        self.forwarding = threading.Lock()
        self._token = make_token()
        self._buffer = memoryview(bytearray(READ))
        self._received = time.monotonic()
        # ssh's own ConnectTimeout names the hop that failed; ours is for what it does not cover.
        started = self._received if began is None else began
        self._login_deadline = started + settings.connect_timeout + 1
        self.master = Master(settings, bootstrap_command())
        try:
            self._begin()
        except BaseException:  # there may be no thread to be had, or a KeyboardInterrupt
            self.master.release()
            self.master.wait()
            raise
        if self.master.askpass is not None:
            self._attend(self.master.askpass)

    def _begin(self) -> None:
        host = self.settings.host
        self._writer = Writer(self.master.lifeline, f"lazycluster writer {host}")
        self._thread = threading.Thread(target=self._run, name=f"lazycluster {host}", daemon=True)
        _register_exit()
        _live.add(self)
        self._thread.start()
        self._writer.send(bootstrap_input(self._token, self.settings))

    def _attend(self, askpass: Askpass) -> None:
        """Answer what is asked at the login, until that is over."""
        try:
            askpass.attend(self._allow_for_person)
        finally:  # a question that nobody can answer, or a KeyboardInterrupt from who was asked
            if not self._answered:
                self.close()
            askpass.close()

    def _allow_for_person(self, asked: bool) -> None:
        patience = PERSON_PATIENCE if asked else self.settings.connect_timeout + 1
        self._login_deadline = time.monotonic() + patience

    # For those who have something to ask

    def wait_until_open(self) -> None:
        """Wait until the host has answered, `connect_timeout` at most.

        Raises:
            ConnectError, LazyclusterError: Why it has not.
        """
        with self._state:
            while not self._answered and self._error is None:
                self._state.wait()
        if self._error is not None and not self._answered:
            raise copy.copy(self._error)

    def request(
        self,
        steps: Sequence[Mapping[str, Any]],
        *,
        working_dir: str | None,
        environment: Mapping[str, str],
        task: int | None = None,
        pieces: Iterator[bytes] | None = None,
        on_output: Storage = _ignore,
        on_value: Storage = _ignore,
        live: bool = False,
    ) -> Request:
        """Have the host do some steps, one after the other, until one fails.

        Args:
            steps: What the supervisor calls a step.
            working_dir: The directory to start in, None for the home directory.
            environment: Variables to set.
            task: The number of the first request of the same task; a kill concerns all of them.
            pieces: What the steps read, at most `frames.CHUNK` bytes each.
            on_output: Called in the reader thread with a step's index and what it printed.
            on_value: Called in the reader thread with a step's index and a piece of its value.
            live: Whether `Request.wait` returns for output, too.

        Raises:
            ValueError: The description is absurdly long.
            ConnectionLostError: The connection has ended; the steps have not started.
            OSError: The first of the pieces cannot be read; nothing was sent.
        """
        description = _json(
            {
                "steps": steps,
                "working_dir": working_dir,
                "environment": dict(environment),
                "task": task,
            }
        )
        if len(description) > DESCRIPTION_LIMIT:
            raise ValueError(
                f"The commands and variables make {len(description)} bytes; "
                f"at most {DESCRIPTION_LIMIT} can be sent. Send a file instead."
            )
        data = []
        # It reads the first piece, which a file may not have, and a folder only after a while: not
        # under the lock.
        request = Request(
            0, len(steps), self._writer, pieces or iter(()), on_output, on_value, live=live
        )
        with self._request_lock:
            request.number = number = self._last_number + 1
            self._last_number = number
            needed, modules = self._modules_for(steps)
            data += [frames.encode(frames.MODULES, 0, packed) for packed in modules]
            for start in range(0, len(description), frames.CHUNK):
                last = start + frames.CHUNK >= len(description)
                kind = frames.REQUEST if last else frames.REQUEST_PART
                piece = description[start : start + frames.CHUNK]
                data.append(frames.encode(kind, number, piece))
            first_input = request.next_frame()  # most often all of it
            if first_input is not None:
                data.append(first_input)
            with self._state:
                if self._error is not None:
                    raise self._error_for(started=False)
                if self._no_python is not None:
                    raise copy.copy(self._no_python)
                self._requests[number] = request
            try:
                self._writer.send(b"".join(data))
            except BaseException:  # a KeyboardInterrupt: nobody will wait for it
                request.kill(0)
                raise
            self._modules_sent |= needed
        if request.has_input:
            self._writer.feed(request)
        return request

    def _modules_for(self, steps: Sequence[Mapping[str, Any]]) -> tuple[set[str], list[bytes]]:
        """What these steps need on the host, and the archives of what it has not got yet."""
        needed = {_module_for(step) for step in steps}
        return needed, [module_archive(name) for name in sorted(needed - self._modules_sent - {""})]

    # For those who ride on the master

    @property
    def has_python(self) -> bool:
        """Whether requests can be made; to be asked when it is open."""
        return self._no_python is None

    def add_rider(self, rider: Rider) -> None:
        """Have a rider told of the end; at once if that has come already."""
        with self._state:
            if self._error is None:
                self._riders.append(rider)
                return
        rider.end(lost=not self._closing)

    def remove_rider(self, rider: Rider) -> None:
        """It has ended by itself; a second time is fine."""
        with self._state:
            self._riders = [known for known in self._riders if known is not rider]

    @property
    def closing(self) -> bool:
        """Whether the manager has begun to close it."""
        return self._closing

    def hold(self, lifeline: int) -> None:
        """Have a mux client's lifeline closed when this is, which would wait for the client."""
        with self._state:
            self._held.add(lifeline)
            if self._closing:
                self.let_go(lifeline)

    def let_go(self, lifeline: int) -> None:
        """Close the lifeline of a mux client; a second time is fine."""
        with self._state:  # its number may be another's as soon as it is closed
            if lifeline in self._held:
                self._held.discard(lifeline)
                _lifelines.close(lifeline)

    def await_end(self, timeout: float) -> bool:
        """Wait until the reader thread has noticed the end, `timeout` seconds at most."""
        with self._state:
            return self._state.wait_for(lambda: self._error is not None, timeout)

    def end_error(self, started: bool | None) -> LazyclusterError:
        """Why it has ended, for something that had started by then, or had not."""
        with self._state:
            return self._error_for(started)

    # The end, as the manager wants it

    def begin_close(self) -> None:
        """Let the host's half end; do not wait. A second time, or in a forked child, is fine."""
        if os.getpid() != self._pid or self._closing:
            return
        self._closing = True
        with self._state:
            for lifeline in tuple(self._held):
                self.let_go(lifeline)
        if self._writer.close() and self._answered and self._no_python is None:
            self.master.close_lifeline()
        else:  # the pipe is full, or ssh is still logging in, or nothing runs that must be awaited
            self.master.release()

    def close(self) -> None:
        """Close the lifeline and wait until ssh, its guard and their folder have gone."""
        if os.getpid() != self._pid:
            return
        self.begin_close()
        self._thread.join(CLOSE_PATIENCE)
        if self._thread.is_alive():
            self.master.release()
            self._thread.join(GUARD_PATIENCE + 1)

    # The reader thread

    def _run(self) -> None:
        error: LazyclusterError
        try:
            try:
                answer = self._log_in()
                if answer.kind != "python":
                    log = self.master.log()
                    self._refuse_requests(python_error(answer, self.settings, log))
                with self._state:
                    self._answered = True
                    self._state.notify_all()
            finally:
                if self.master.askpass is not None:
                    self.master.askpass.finish()
            error = self._await_end_of_master() if self._no_python else self._talk(answer.rest)
        except LazyclusterError as failure:
            error = failure
        except Exception as failure:
            logger.exception("The conversation with %s failed.", self.settings.host)
            error = ProtocolError(
                f"The conversation with {self.settings.host} failed: {failure!r}.",
                host=self.settings.host,
            )
        self._end(error)

    def _log_in(self) -> HandshakeReply:
        """Wait for the host's answer."""
        settings = self.settings
        preamble = Handshake(self._token)
        while True:
            data = self._read(self._login_deadline)
            answer = preamble.feed(bytes(data)) if data else None
            if answer is not None:
                break
            if self._closing and not data:
                raise self._lost(started=False)
            ended = data is not None and not data
            if not ended and time.monotonic() < self._login_deadline:
                continue  # noise came, which may never end; or a person is asked, or was
            if not ended:
                self.master.release()
                raise _ssh_errors.silence_error(
                    self.master.log(),
                    host=settings.host,
                    connect_timeout=settings.connect_timeout,
                    noise=preamble.noise,
                    ssh_command=_openssh.login_command(settings),
                    jump_host=_diagnosis.jump_host(settings),
                )
            self.master.release(ending=True)
            exit_status = self.master.wait()
            log = self.master.log()  # the last words come behind the end of the output
            given = self.master.askpass.answered if self.master.askpass else ""
            asked = given or settings.interactive
            self.dropped = not asked and _ssh_errors.was_dropped(log)
            raise _ssh_errors.login_error(
                log,
                host=settings.host,
                exit_status=exit_status,
                noise=preamble.noise,
                given=given,
                ssh_command=_openssh.login_command(settings),
                jump_host=_diagnosis.jump_host(settings),
                locked_key="" if settings.may_be_asked else _diagnosis.locked_key(settings),
            )
        return answer

    def _refuse_requests(self, error: PythonNotFoundError | PythonVersionError) -> None:
        """There is nobody on the host to answer them."""
        with self._state:
            self._no_python = error
            requests = list(self._requests.values())
            self._requests.clear()
        for request in requests:
            request.fail(copy.copy(error))

    def _await_end_of_master(self) -> LazyclusterError:
        while self._read(math.inf):
            pass  # what else prints there
        return self._lost(started=None)

    def _talk(self, data: bytes | memoryview) -> LazyclusterError:
        """Take frames until the end; why it came."""
        reader = frames.FrameReader(frames.TO_MANAGER)
        keepalive = self.settings.keepalive
        self._received = time.monotonic()
        while True:
            try:
                self._take(reader.feed(data))
            except _NO_SENSE as error:
                return ProtocolError(
                    f"{self.settings.host} sent bytes that make no sense: {error}. "
                    "The connection has been closed.",
                    host=self.settings.host,
                )
            silent_at = self._received + frames.SILENT_PERIODS * keepalive
            more = self._read(min(self._writer.last + keepalive, silent_at))
            if more:
                data = more
                self._received = time.monotonic()
                continue
            data = b""
            if more is not None:
                return self._lost(started=None)
            if time.monotonic() >= silent_at:
                return ConnectionLostError(
                    f"{self.settings.host} gave no sign of life for "
                    f"{frames.SILENT_PERIODS * keepalive:g} s. The connection has been closed.",
                    host=self.settings.host,
                    stderr=self.master.log(),
                    started=None,
                )
            self._writer.heartbeat(frames.encode(frames.HEARTBEAT, 0))

    def _read(self, deadline: float) -> memoryview | None:
        """What comes: empty at the end, None when the deadline passes first.

        It is there until the next call: a new buffer for each would cost more than the reading.
        """
        poller = select.poll()
        poller.register(self.master.output, select.POLLIN)
        left = max(0.0, deadline - time.monotonic())
        if not poller.poll(None if left == math.inf else left * 1000 + 1):
            return None
        return self._buffer[: os.readv(self.master.output, [self._buffer])]

    def _take(self, found: list[tuple[int, int, Any]]) -> None:
        """Hand on what has come together, and then wake who waits for any of it."""
        concerned: dict[int, Request] = {}
        try:
            for kind, number, payload in found:
                if kind in (frames.HELLO, frames.HEARTBEAT):
                    continue
                request = self._requests[number]
                if kind == frames.FINISHED:
                    with self._state:
                        del self._requests[number]
                if request.take(kind, payload):
                    concerned[number] = request
        finally:  # also before what makes no sense
            for request in concerned.values():
                request.wake()

    # The end

    def _end(self, error: LazyclusterError) -> None:
        with self._state:
            self._error = error
            self.ended = True
            requests = list(self._requests.values())
            self._requests.clear()
            riders, self._riders = self._riders, []
            self._state.notify_all()
        for rider in riders:
            rider.end(lost=not self._closing)
        for request in requests:
            request.closed = self._closing
            runs = request.step is not None and request.step == len(request.outcomes)
            error = self._error_for(started=True if runs else None)
            # At the exit only daemon threads are left, of which nobody wants a traceback.
            request.fail(SystemExit(str(error)) if _exiting else error)
        self.master.release()  # a full pipe breaks then
        self.master.wait()
        self._writer.close()
        self.master.close_lifeline()
        if not self._closing:
            for rider in riders:
                logger.warning("%s has ended, with the connection to it.", rider)

    def _error_for(self, started: bool | None) -> LazyclusterError:
        """The end's error, as it concerns one request."""
        error = copy.copy(self._error)
        assert error is not None
        if isinstance(error, ConnectionLostError):
            error.started = started
        return error

    def _lost(self, started: bool | None) -> ConnectionLostError:
        host = self.settings.host
        if self._closing:
            return ConnectionLostError(
                f"The connection to {host} was closed.", host=host, started=started
            )
        log = self.master.log()
        said = last_lines(log, _ssh_errors.NOISE)
        reason = f" ssh printed: {said}." if said else ""
        return ConnectionLostError(
            f"The connection to {host} was lost.{reason}",
            host=host,
            stderr=log,
            started=started,
        )


def _module_for(step: Mapping[str, Any]) -> str:
    """Return the module that the step needs and that the bootstrap lacks; empty if none."""
    kind = step["kind"]
    name = OPERATIONS[step["operation"]] if kind == "operation" else STEP_MODULES.get(kind, "")
    return "" if name in BOOTSTRAP_MODULES else name


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode("ascii")


def _register_exit() -> None:
    global _exit_registered
    if not _exit_registered:
        atexit.register(_close_all)
        os.register_at_fork(after_in_child=_live.clear)
        _exit_registered = True


def _close_all() -> None:
    """At the interpreter's exit, in the process that began them: all at once, then wait."""
    global _exiting
    _exiting = True
    conversations = list(_live)
    for conversation in conversations:
        conversation.begin_close()
    for conversation in conversations:
        conversation.close()
