"""The login that a Connection uses, and the next one after a loss."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lazycluster._ssh.resolved import ResolvedConfig
from lazycluster._ssh.settings import Settings
from lazycluster._waits import wait_repeatedly
from lazycluster.exceptions import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    HostKeyError,
    LazyclusterError,
)

# What it takes to log in is imported at the first login: it is half of the time of our import.
if TYPE_CHECKING:
    from lazycluster._conversation.conversation import Conversation

# Seconds before another login when sshd has dropped one; each is changed at random by up to half,
# because logins that came at once would come at once again.
BACK_OFF = (0.5, 1.0, 2.0, 4.0, 8.0)
BACK_INTERVAL = 2.0  # seconds between two logins to a host that is to come back
RESTORE_TIMEOUT = 30.0  # seconds to wait for another thread that makes forwards again
MOST_LOST = 8  # tokens of lost connections that a login names

_logger = logging.getLogger("lazycluster")


class Login:
    """The part of a Connection that logs in, and knows whether it must log in again.

    Args:
        settings: What the user asked of ssh.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._host = settings.host
        self._config = ResolvedConfig(settings)
        self._lock = threading.RLock()  # a signal handler may close it
        self._pid = os.getpid()
        self._closed = threading.Event()
        self._current: Conversation | None = None
        self._lost: list[str] = []  # tokens, see `_lost_tokens`
        # Make again what a loss has ended; called before the first use of a new login.
        self._restorers: list[Callable[[Conversation], None]] = []
        self._restored: Conversation | None = None  # the login that they were last called with
        self._restoring = threading.Lock()
        self._finalizer: weakref.finalize[[], Login] | None = None

    def _close(self) -> None:
        """End the login; a second call, or one in a forked child, does nothing."""
        if not self._is_owner:
            return
        from lazycluster._ssh import login_queue

        with self._lock:
            current, self._current = self._current, None
            self._restorers.clear()
            self._closed.set()
            self._closed = threading.Event()
        login_queue.wake()
        if current is not None:
            current.transport.close()

    def _log_in_again(self, deadline: float, timeout: float) -> None:
        """Wait for the end of the login, and repeat logins until one works.

        Args:
            deadline: By time.monotonic().
            timeout: Seconds until then, for the message.
        """
        self._check_owner()
        current, closed = self._current, self._closed
        if current is not None and not current.transport.wait_until_ended(timeout):
            raise LazyclusterError(
                f"{self._host} is still connected after {timeout:g} s; wait_until_back first waits "
                "for the end of the connection."
            )
        while True:
            if closed.is_set():  # another thread wants no login any more
                raise self._closed_error()
            try:
                self._open(by_person=True)
                return
            except ConnectError as error:
                final = isinstance(error, HostKeyError) or (
                    isinstance(error, AuthenticationError) and self._settings.may_be_asked
                )
                if final or time.monotonic() + BACK_INTERVAL > deadline:
                    raise
            wait_repeatedly(closed.wait, BACK_INTERVAL)

    def _closed_error(self) -> ConnectionLostError:
        message = f"The connection to {self._host} was closed."
        return ConnectionLostError(message, host=self._host, started=False)

    @property
    def _is_owner(self) -> bool:
        """Return True in the process that made it, False in a child forked from that process."""
        return os.getpid() == self._pid

    def _check_owner(self) -> None:
        """Raise a LazyclusterError in a child forked from the process that made it."""
        if os.getpid() != self._pid:  # not `_is_owner`, which would be one more function call
            raise LazyclusterError(
                f"The connection to {self._host} belongs to process {self._pid}; this is a child "
                "forked from it. Make a new Runtime or Connection in the child."
            )

    def _find_open(self) -> Conversation | None:
        """Return the live conversation after the host's reply; None if `_open` has work to do."""
        self._check_owner()
        current = self._current
        if current is None or not current.transport.is_open:
            return None
        if self._restorers and not self._is_restored(current):
            return None
        return current

    def _open(
        self, *, by_person: bool = False, closed: threading.Event | None = None
    ) -> Conversation:
        """Return the live conversation, after the host's reply; see `_start`."""
        current = self._find_open()
        if current is not None and (closed is None or not closed.is_set()):
            return current
        error: ConnectError | None = None
        for conversation in self._logins(by_person=by_person, closed=closed):
            try:
                conversation.transport.wait_until_open()
            except ConnectError as failure:
                error = failure
            else:
                self._restore(conversation)
                return conversation
        assert error is not None
        raise error

    def _restore(self, conversation: Conversation) -> None:
        """Call what restores things, once for each login; other threads wait for it.

        They do so for a while only: a signal handler may have interrupted the thread that does it.
        """
        if self._is_restored(conversation) or not self._restoring.acquire(timeout=RESTORE_TIMEOUT):
            return
        try:
            if not self._is_restored(conversation):
                for restore in tuple(self._restorers):
                    restore(conversation)
                self._restored = conversation
        finally:
            self._restoring.release()

    def _is_restored(self, conversation: Conversation) -> bool:
        return not self._restorers or self._restored is conversation

    def _logins(
        self, *, by_person: bool = False, closed: threading.Event | None = None
    ) -> Iterator[Conversation]:
        """Yield the live conversation, and another one each time that sshd drops the login.

        The caller stops the iteration when one works, and raises the last error at its end. See
        `_start` for the arguments.
        """
        spent = 0.0
        ended = closed or self._closed
        for pause in (*BACK_OFF, 0.0):
            conversation = self._start(by_person=by_person, spent=spent, closed=closed)
            yield conversation
            import random

            pause *= random.uniform(0.5, 1.5)
            spent = time.monotonic() - conversation.transport.began + pause
            is_late = spent > self._settings.connect_timeout
            if not conversation.transport.was_dropped or not pause or is_late:
                return
            _logger.info("%s dropped a login; the next follows in %.1f s.", self._host, pause)
            if wait_repeatedly(ended.wait, pause):
                return

    def _lost_tokens(self, last: Conversation | None) -> list[str]:
        """Return the tokens of connections whose steps may still run on the host."""
        if last is None:
            return []
        # One that was open has ended the steps of those before it.
        before = [] if last.transport.was_lost else self._lost[1 - MOST_LOST :]
        return [*before, last.token]

    def _start(
        self,
        *,
        by_person: bool = False,
        spent: float = 0.0,
        closed: threading.Event | None = None,
    ) -> Conversation:
        """Return the live conversation; begin one if there is none, without waiting for the login.

        It may have to wait until other logins to the same host have come through.

        Args:
            by_person: True if the user asked for a login, so that a person can be asked again.
            spent: Seconds of `connect_timeout` that earlier logins have taken. Defaults to 0.
            closed: The event of the close that ends what needs the login. Defaults to None, any
                close before this is forgotten.

        Raises:
            ConnectionLostError: If that close has come.
        """
        from lazycluster._ssh.login_queue import Place

        self._check_owner()
        current = self._find_begun(by_person, closed)
        if current is not None:
            return current
        now = closed or self._closed
        place = Place(self._config.first_hop())
        if not place.take(now):
            raise self._closed_error()
        with contextlib.ExitStack() as on_error, self._lock:
            on_error.callback(place.leave)
            current = self._find_begun(by_person, now)  # another thread may have begun one
            if current is not None:
                return current
            current = self._begin(spent, place.leave)
            on_error.pop_all()
        current.transport.answer_questions()  # not under the lock: a person may take a while
        return current

    def _find_begun(self, by_person: bool, closed: threading.Event | None) -> Conversation | None:
        """Return the live conversation; None if `_start` may begin one."""
        with self._lock:
            if closed is not None and closed.is_set():
                raise self._closed_error()
            current = self._current
            if current is not None and not current.transport.ended:
                return current
            if current is not None and self._settings.interactive and not by_person:
                raise ConnectionLostError(
                    f"The connection to {self._host} was lost, and a person logged in to it "
                    "(interactive=True), so it is not opened again by itself. Call open(), or make "
                    "a new Runtime.",
                    host=self._host,
                    started=False,
                )
            return None

    def _begin(self, spent: float, on_login_over: Callable[[], object]) -> Conversation:
        """Begin a login, under the lock; see `Conversation` for the arguments."""
        from lazycluster._conversation.conversation import Conversation

        now, lost = self._closed, self._lost_tokens(self._current)
        current = Conversation(self._settings, self._config, lost, spent, on_login_over)
        self._current, self._lost = current, lost
        if now.is_set():  # a signal handler has closed the connection meanwhile
            current.transport.begin_close()
        # If the user forgets to close, the host's program ends with this object.
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, current.transport.begin_close)
        return current
