"""One login from its start to its end: the state of the ssh master, and what depends on it."""

from __future__ import annotations

import atexit
import contextlib
import copy
import enum
import logging
import math
import os
import re
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from lazycluster._interpreter_exit import Wait, stopped_with_main_thread, wait_for
from lazycluster._ssh import lifelines
from lazycluster._ssh.argv import login_command
from lazycluster._ssh.errors import NOISE, login_error, silence_error, was_dropped
from lazycluster._ssh.master import GUARD_TIMEOUT, Master
from lazycluster._ssh.resolved import ResolvedConfig
from lazycluster._ssh.settings import Settings
from lazycluster._ssh.waiting import Readable
from lazycluster._text import last_lines
from lazycluster.exceptions import ConnectionLostError, LazyclusterError, ProtocolError

PERSON_TIMEOUT = 150.0  # seconds for a person to answer; sshd itself waits 120 (LoginGraceTime)
CLOSE_TIMEOUT = 6.0  # seconds for the host's program to end what it started; it needs at most 5
STOPPED = 1.0  # seconds that a wait lasts too long if this program could not run meanwhile
SLOW_LOGIN = 10  # times connect_timeout for a login that makes progress all the time
READ = 1 << 18  # bytes from the host, at most, at once

# What ssh prints for a single forward or mux client does not end a connection.
_OF_CHANNELS = re.compile(
    NOISE.pattern + r"|^channel \d+: |^stdio forwarding failed|^mux_|^channel_setup_|^unix_listener"
    r"|^connect_to .*(?:failed|unknown host)|^connect to .* port -?\d+ failed|^bind \["
)

logger = logging.getLogger("lazycluster")

_live: weakref.WeakSet[Transport] = weakref.WeakSet()
_exit_registered = False
_exiting = False


class State(enum.Enum):
    """The stages of a login. The last four are final."""

    LOGGING_IN = "is logging in"
    OPEN = "is open"
    CLOSING = "is being closed"
    CLOSED = "was closed"
    LOST = "was lost"
    FAILED = "failed to log in"
    DROPPED = "was dropped by sshd before a question was asked or a key refused"


def _do_nothing() -> None:
    """Do nothing when a login is over that nothing waits for."""


class Session(Protocol):
    """The program that a transport carries bytes to and from; called in the reader thread."""

    def find_reply(self, data: bytes) -> bytes | None:
        """Look for the program's first reply; return what follows it, None while it is missing."""

    @property
    def noise(self) -> str:
        """Return the end of what came in place of a reply."""

    @property
    def progress(self) -> int:
        """Return how often the host has reported that it is receiving the program."""

    @property
    def python_started(self) -> bool:
        """Return True if the host has started a Python for the program."""

    def serve(self, data: bytes) -> LazyclusterError:
        """Handle what comes until the transport ends; return the reason."""

    def stop_writing(self) -> bool:
        """Write nothing more; return True if the program must be left the time to end by itself."""

    def end(self, error: LazyclusterError) -> None:
        """React to the end of the transport."""


class Transport:
    """The life of one ssh master, and of what uses it: mux clients and forwards.

    A reader thread reads what comes from the host.

    Args:
        settings: What the user asked of ssh.
        config: What ssh makes of the user's ssh_config.
        remote_command: The line for the account's login shell.
        spent: Seconds of `connect_timeout` that have passed before this login. Defaults to 0.
        on_login_over: Called when sshd has accepted the login, or at its end, and perhaps again.

    Attributes:
        settings: What the user asked of ssh.
        began: The start of `connect_timeout`, by time.monotonic().
        master: The ssh.
        state: The stage that it has reached.
        session_ended: The end of the last mux client's session, by time.monotonic().
        forwarding: Held while a forward is made or ended, so that two of one port do not cross.
        watch: The forwards that have been made, see `_ssh.forward_watch`; None before the first.
    """

    def __init__(
        self,
        settings: Settings,
        config: ResolvedConfig,
        remote_command: str,
        spent: float = 0.0,
        on_login_over: Callable[[], object] = _do_nothing,
    ) -> None:
        self.settings = settings
        self.state: State = State.LOGGING_IN
        self.session_ended: float = -math.inf
        self.forwarding: threading.Lock = threading.Lock()
        self.watch: Any = None
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._error: LazyclusterError | None = None
        self._failure = State.FAILED  # the final state of a login that fails
        self._dependents: list[Callable[[bool], str]] = []
        self._clients: set[int] = set()
        self._buffer = memoryview(bytearray(READ))
        self._config = config
        self._on_login_over = on_login_over
        # ssh's own ConnectTimeout names the address that failed; ours is for the rest.
        self.began: float = time.monotonic() - spent
        self._login_deadline = self.began + settings.connect_timeout + 1
        self._last_deadline = self.began + SLOW_LOGIN * settings.connect_timeout
        self.master: Master = Master(settings, remote_command, config.connect_timeout())

    def start(self, session: Session) -> None:
        """Start the reader thread."""
        self._session = session
        self._output = Readable(self.master.output)
        name = f"lazycluster {self.settings.host}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        with contextlib.ExitStack() as on_error:  # no more threads, or a KeyboardInterrupt
            on_error.callback(self.master.wait)
            on_error.callback(self.master.release)
            _register_exit()
            self._thread.start()
            _live.add(self)
            on_error.pop_all()

    def answer_questions(self) -> None:
        """Answer what ssh asks at the login, until the login is over.

        Raises:
            AuthenticationError: If a question cannot be answered.
        """
        askpass = self.master.askpass
        if askpass is None:
            return
        try:
            with stopped_with_main_thread(Wait(self.begin_close)):
                askpass.attend(self._allow_for_person)
        finally:  # a question without an answer, or a KeyboardInterrupt from the person asked
            if self.state is State.LOGGING_IN:
                self.close()
            askpass.close()

    def _allow_for_person(self, asked: bool) -> None:
        seconds = PERSON_TIMEOUT if asked else self.settings.connect_timeout + 1
        self._login_deadline = time.monotonic() + seconds

    # State

    @property
    def is_open(self) -> bool:
        """Return True from the host's reply to the end."""
        return self.state is State.OPEN

    @property
    def ended(self) -> bool:
        """Return True if the end has come, by `close` or by itself; it never begins again."""
        return self._error is not None

    @property
    def closing(self) -> bool:
        """Return True if the manager closes or closed it."""
        return self.state in (State.CLOSING, State.CLOSED)

    @property
    def was_dropped(self) -> bool:
        """Return True if sshd dropped the login, so that another one may work."""
        return self.state is State.DROPPED

    @property
    def was_lost(self) -> bool:
        """Return True if it was open and then ended by itself."""
        return self.state is State.LOST

    def wait_until_open(self) -> None:
        """Wait until the host has replied, `connect_timeout` at most.

        Raises:
            LazyclusterError: If the login failed; most often a ConnectError.
        """
        wait_for(self._changed, lambda: self.state is State.OPEN or self._error is not None)
        with self._changed:
            error = None if self.state in (State.OPEN, State.LOST) else self._error
        if error is not None:
            raise copy.copy(error)

    def wait_until_ended(self, timeout: float) -> bool:
        """Wait until the reader thread has noticed the end, `timeout` seconds at most."""
        return wait_for(self._changed, lambda: self._error is not None, timeout)

    def end_error(self, started: bool | None) -> LazyclusterError:
        """Return the reason of the end, for something that had started by then or had not."""
        error = copy.copy(self._error)
        assert error is not None
        if isinstance(error, ConnectionLostError):
            error.started = started
        return error

    def lost_error(self, started: bool | None, note: str = "") -> ConnectionLostError:
        """Make the error for a connection that ends now; `note` is a sentence to add.

        It does not wait for ssh's last words, which may come behind the end of its output: a
        request that is made meanwhile would be sent to a dead connection.
        """
        host = self.settings.host
        if self.closing:
            return ConnectionLostError(
                f"The connection to {host} was closed.", host=host, started=started
            )
        log = self.master.log()
        # ssh ends its own lines with a carriage return; programs on the host end theirs without.
        own = "\n".join(re.findall(r"^(.*)\r\n", log, re.MULTILINE))
        printed = last_lines(own, _OF_CHANNELS)
        reason = f" ssh printed: {printed}." if printed else ""
        if not printed and (printed := last_lines(log, _OF_CHANNELS)):
            reason = f" The host printed: {printed}."
        return ConnectionLostError(
            f"The connection to {host} was lost.{reason}{note}",
            host=host,
            stderr=log,
            started=started,
        )

    # What depends on it

    def add_dependent(self, on_end: Callable[[bool], str]) -> None:
        """Call `on_end` at the end; at once if that has come already.

        Args:
            on_end: Takes True if the connection was lost, False if it was closed. Returns the name
                of what ended, for a WARNING. Called in the reader thread.
        """
        with self._changed:
            if self._error is None:
                self._dependents.append(on_end)
                return
        on_end(not self.closing)

    def remove_dependent(self, on_end: Callable[[bool], str]) -> None:
        """Forget a dependent that has ended by itself; a second call does nothing."""
        with self._changed:
            self._dependents = [known for known in self._dependents if known != on_end]

    def register_client(self, lifeline: int) -> None:
        """Close a mux client's lifeline when this is closed, which would wait for the client."""
        with self._changed:
            self._clients.add(lifeline)
            if self.closing:
                self.release_client(lifeline)

    def write_to_client(self, lifeline: int, data: bytes | memoryview) -> int | None:
        """Write what the lifeline of a mux client takes now; return how much, None if released.

        Raises:
            OSError: If the client has ended.
        """
        with self._changed:  # the number may be another's as soon as it is closed
            if lifeline not in self._clients:
                return None
            try:
                return os.write(lifeline, data)
            except BlockingIOError:
                return 0

    def release_client(self, lifeline: int) -> None:
        """Close the lifeline of a mux client; a second call does nothing."""
        with self._changed:  # the number may be another's as soon as it is closed
            if lifeline in self._clients:
                self._clients.discard(lifeline)
                lifelines.close(lifeline)

    # The end that the manager wants

    def begin_close(self) -> None:
        """Let the host's program end, without waiting.

        A second call, or one in a forked child, does nothing.
        """
        if os.getpid() != self._pid:
            return
        with self._changed:
            was_open = self.state is State.OPEN
            if not was_open and self.state is not State.LOGGING_IN:
                return
            self.state = State.CLOSING
            for lifeline in tuple(self._clients):
                self.release_client(lifeline)
        if self._session.stop_writing() and was_open:
            self.master.close_lifeline()
        else:  # the pipe is full, ssh is still logging in, or nothing there must be waited for
            self.master.release()

    def close(self) -> None:
        """Let the host's program end, and wait until ssh, its guard and their folder have gone."""
        if os.getpid() != self._pid:
            return
        self.begin_close()
        self._thread.join(CLOSE_TIMEOUT)
        if self._thread.is_alive():
            self.master.release()
            self._thread.join(GUARD_TIMEOUT + 1)

    # The reader thread

    def read(self, deadline: float) -> memoryview | None:
        """Read what comes from the host.

        Args:
            deadline: By time.monotonic(); math.inf for none.

        Returns:
            The bytes, which are valid until the next call: a new buffer for each would cost more
            than the reading. Empty at the end, None if the deadline passes first.
        """
        left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        # Look again: a program that was stopped finds the deadline passed, though data has come.
        if not self._output.wait(left) and not self._output.wait(0):
            return None
        return self._buffer[: os.readv(self.master.output, [self._buffer])]

    def _run(self) -> None:
        error: LazyclusterError
        try:
            try:
                rest = self._log_in()
                with self._changed:
                    if self.state is State.LOGGING_IN:
                        self.state = State.OPEN
                    self._changed.notify_all()
            finally:
                self._on_login_over()
                if self.master.askpass is not None:
                    self.master.askpass.finish()
            error = self._session.serve(rest)
        except LazyclusterError as failure:
            error = failure
        except Exception as failure:
            host = self.settings.host
            logger.exception("The conversation with %s failed.", host)
            error = ProtocolError(f"The conversation with {host} failed: {failure!r}.", host=host)
        self._end(error)

    def _log_in(self) -> bytes:
        """Wait for the host's reply; return what came behind it."""
        progress = 0
        while True:
            deadline = self._login_deadline
            data = self.read(deadline)
            if data:  # the account's shell runs
                self._on_login_over()
            rest = self._session.find_reply(bytes(data)) if data else None
            if rest is not None:
                return rest
            now = time.monotonic()
            if self._session.progress > progress:
                progress = self._session.progress
                slow = min(now + self.settings.connect_timeout, self._last_deadline)
                self._login_deadline = max(self._login_deadline, slow)
            if data is None and now > deadline + STOPPED:  # this program did not run meanwhile
                self._login_deadline += now - deadline
            if self.closing and not data:
                raise self.lost_error(started=False)
            if data is not None and not data:
                raise self._login_error()
            # Noise came, which may never end; or a person is asked, or was.
            if now >= self._login_deadline:
                raise self._silence_error()

    def _silence_error(self) -> LazyclusterError:
        self.master.release()
        return silence_error(
            self.master.log(),
            host=self.settings.host,
            connect_timeout=self.settings.connect_timeout,
            noise=self._session.noise,
            python=self._python(),
            ssh_command=login_command(self.settings),
            jump_host=self._config.jump_host(),
        )

    def _login_error(self) -> LazyclusterError:
        """Wait for ssh's end, and make the error from what it printed."""
        settings = self.settings
        self.master.release(ending=True)
        exit_status = self.master.wait()
        log = self.master.log()  # ssh's last words come behind the end of its output
        given = self.master.askpass.answered if self.master.askpass else ""
        if not given and not settings.interactive and was_dropped(log):
            self._failure = State.DROPPED
        return login_error(
            log,
            host=settings.host,
            exit_status=exit_status,
            noise=self._session.noise,
            python=self._python(),
            given=given,
            ssh_command=login_command(settings),
            jump_host=self._config.jump_host(),
            locked_key="" if settings.may_be_asked else self._config.locked_key(),
        )

    def _python(self) -> str | None:
        """Return what the host has started as Python; see `login_error`."""
        return (self.settings.python or "") if self._session.python_started else None

    def _end(self, error: LazyclusterError) -> None:
        with self._changed:
            if self.state is State.CLOSING:
                self.state = State.CLOSED
            else:
                self.state = State.LOST if self.state is State.OPEN else self._failure
            self._error = error
            dependents, self._dependents = self._dependents, []
            self._changed.notify_all()
        ended = [on_end(not self.closing) for on_end in dependents]
        self._session.end(error)
        self.master.release()  # a full pipe breaks then
        self.master.wait()
        self._session.stop_writing()
        self.master.close_lifeline()
        if not self.closing:
            for name in ended:
                logger.warning("%s has ended, with the connection to it.", name)


def is_exiting() -> bool:
    """Return True while the interpreter exits."""
    return _exiting


def _register_exit() -> None:
    global _exit_registered
    if not _exit_registered:
        atexit.register(_close_all)
        os.register_at_fork(after_in_child=_live.clear)
        _exit_registered = True


def _close_all() -> None:
    """Close all transports of this process at its exit: all at once, then wait for each."""
    global _exiting
    _exiting = True
    transports = list(_live)
    for transport in transports:
        transport.begin_close()
    for transport in transports:
        transport.close()
