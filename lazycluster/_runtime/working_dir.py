"""The working directory of a Runtime."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from lazycluster._tasks.execution import Target
from lazycluster.exceptions import ConnectError, ConnectionLostError, PathCreationError

if TYPE_CHECKING:
    from lazycluster._conversation.conversation import Conversation
    from lazycluster.connection import Connection

_logger = logging.getLogger("lazycluster")


def make_directory(host: str, target: Target, operation: str, **arguments: str) -> str:
    """Run an operation that makes a directory and return its path.

    Raises:
        PathCreationError: If the directory cannot be made; the message has the host's reason.
        LazyclusterError: If the process of the operation did not finish it.
    """
    try:
        return str(target.operate(operation, **arguments))
    except OSError as error:
        path = str(error.filename or arguments.get("path"))
        raise PathCreationError(
            f"{path} cannot be made on {host}: {error.strerror}.", host=host, path=path
        ) from None


class WorkingDirectory:
    """The directory on the host in which the steps of a Runtime start.

    A temporary one ends with its conversation, so another one is made after a lost connection.

    Args:
        connection: The connection to the host.
        on_change: Called with each new path.
    """

    def __init__(self, connection: Connection, on_change: Callable[[str], None]) -> None:
        self._connection = connection
        self._on_change = on_change
        self._lock = threading.RLock()  # for the two below, never held over a request
        self._path = ""
        self._temporary_of: Conversation | None = None
        # Held by the thread that makes a new temporary directory; those that need it wait.
        self._renewal = threading.Lock()

    @property
    def path(self) -> str:
        """Return the absolute path on the host."""
        with self._lock:
            return self._path

    def open(self, path: str | None) -> None:
        """Log in and make the directory.

        Args:
            path: The directory; None for a temporary one.
        """
        if path is not None:
            self._set(self._make_at_login("make_directory", path=path)[1], None)
        else:
            conversation, made = self._make_at_login("make_private_directory")
            self._set(made, conversation)

    def _set(self, path: str, temporary_of: Conversation | None) -> None:
        with self._lock:
            self._path, self._temporary_of = path, temporary_of
            self._on_change(path)

    def change(self, path: str) -> None:
        """Make another directory and use it; remove a temporary one that it replaces.

        A temporary directory that contains the new one is not removed.
        """
        self._connection._check_owner()
        made = self._make_at_login("make_directory", path=path)[1]
        with self._lock:
            old, conversation = self._path, self._temporary_of
        is_needed = False
        # After a lost connection the temporary directory is gone already.
        with contextlib.suppress(ConnectionLostError):
            if conversation is not None:
                is_needed = Target(conversation).operate("contains", folder=old, path=made)
        with self._lock:
            self._set(made, conversation if is_needed else None)
        with contextlib.suppress(ConnectionLostError):
            if conversation is not None and not is_needed:
                Target(conversation).operate("remove_tree", path=old)

    def find(self, closed: threading.Event | None = None) -> tuple[Conversation, str]:
        """Return the live conversation, after a login if there is none, and the directory's path.

        After a lost connection a temporary directory is a new one, which a WARNING says.

        Args:
            closed: See `Login._start`.
        """
        conversation = self._connection._open(closed=closed)
        with self._lock:
            path, owner = self._path, self._temporary_of
        if owner is None or owner is conversation:
            return conversation, path
        with self._renewal:
            return conversation, self._renew(conversation)

    def find_open(self) -> tuple[Conversation, str] | None:
        """Return what `find` returns; None if that would take a login."""
        conversation = self._connection._find_open()
        with self._lock:
            path, owner = self._path, self._temporary_of
        if conversation is None or (owner is not None and owner is not conversation):
            return None
        return conversation, path

    def _renew(self, conversation: Conversation) -> str:
        """Make a temporary directory, unless another thread has made it or changed the path."""
        with self._lock:
            old, owner = self._path, self._temporary_of
        if owner is None or owner is conversation:
            return old
        host = self._connection.host
        made = make_directory(host, Target(conversation), "make_private_directory")
        with self._lock:
            if self._path != old:  # changed meanwhile; `made` ends with its conversation
                return self._path
            self._set(made, conversation)
        _logger.warning(
            "The connection to %s was opened again. The temporary working directory is "
            "now %s, which is empty, in place of %s.",
            host,
            made,
            old,
        )
        return made

    def _make_at_login(self, operation: str, **arguments: str) -> tuple[Conversation, str]:
        """Make a directory; send the request with the login, and again if sshd drops the login."""
        error: ConnectError | None = None
        for conversation in self._connection._logins():
            target = Target(conversation)
            try:
                made = make_directory(self._connection.host, target, operation, **arguments)
            except ConnectError as failure:
                error = failure
            else:
                return conversation, made
        assert error is not None
        raise error
