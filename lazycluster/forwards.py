"""Forward: the handle of a port or socket that leads to the other side of a connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from lazycluster._checks import checked_wait
from lazycluster._interpreter_exit import wait_for
from lazycluster._ssh.endpoints import Route
from lazycluster._tracebacks import short_tracebacks

if TYPE_CHECKING:
    from lazycluster._conversation.conversation import Conversation
    from lazycluster._conversation.login import Login
    from lazycluster._ssh.host_side import HostSide


@short_tracebacks
class Forward:
    """A forwarded port or socket, made by `Connection.forward_local` and `forward_remote`.

    It lives until `cancel`, or as long as its connection. While it lives, its connection is not
    garbage-collected. As a context manager it cancels itself. It can be used from many threads.

    Attributes:
        host: The host, as it was given.
        port: The port that is listened on; 0 for a socket.
        path: The absolute path of the socket that is listened on; "" for a port.
        bind_address: The address that is listened on, as it was given; "" for loopback.
        to_port: The port that it leads to; 0 for a socket.
        to_path: The absolute path of the socket that it leads to; "" for a port.
        to_host: The host that it leads to, as it was given; "" for the other side's localhost.
        on_host: True if the host listens (`-R`), False if the manager does (`-L`).
    """

    def __init__(self, host: str, route: Route, close: Callable[[Forward], None]) -> None:
        self.host: str = host
        self.port: int = route.listen.port
        self.path: str = route.listen.path
        self.bind_address: str = route.listen.host
        self.to_port: int = route.to.port
        self.to_path: str = route.to.path
        self.to_host: str = route.to.host
        self.on_host: bool = route.on_host
        self._route = route
        self._close = close
        self._cancelling = threading.Lock()
        self._changed = threading.Condition()
        self._ended = False
        self._lost = False
        self._conversation: Conversation | None = None

    def __repr__(self) -> str:
        state = "is alive" if self.is_alive() else "was lost" if self.lost else "has ended"
        return f"<{self}, {state}>"

    def __str__(self) -> str:
        return self._route.text(self.host)

    _stays_here = True  # see `_functions.pickler`

    def __reduce__(self) -> NoReturn:
        raise TypeError("A Forward cannot be pickled or copied.")

    def __enter__(self) -> Forward:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def is_alive(self) -> bool:
        """Return True until it is cancelled or ends with its connection."""
        return not self._ended

    @property
    def lost(self) -> bool:
        """Return True if it ended because the connection was lost."""
        return self._lost

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end; return True if that has come.

        Args:
            timeout: Seconds to wait at most, 0 or more. Defaults to None, no bound.

        Raises:
            LazyclusterError: If the program ends while a pool's thread waits.
            ValueError: If the timeout is negative or not a number.
        """
        timeout = checked_wait(timeout)
        return wait_for(self._changed, lambda: self._ended, timeout)

    def cancel(self) -> None:
        """End it; return when its port is no longer listened on. A second call does nothing.

        Connections that are open through it stay open.

        Raises:
            ForwardError: If ssh could not end it, and it is still alive; or if it has ended, but
                the host still listens on its port and hangs up, as with dropbear before April 2026.
        """
        with self._cancelling:
            if self.is_alive():
                self._close(self)

    def _end(self, lost: bool) -> str:
        """End, by `cancel` or with the connection; return the name for a log."""
        with self._changed:
            if not self._ended:
                self._ended, self._lost = True, lost
            self._changed.notify_all()
        return str(self)


def _make_forward(login: Login, conversation: Conversation, route: Route) -> Forward:
    """Make a forward; see `Connection.forward_local` for the errors.

    Args:
        login: The connection, which lives as long as the forward.
        conversation: The login that the forward goes over.
        route: The forward; port 0 stands for any free port.
    """
    from lazycluster._ssh.forwarding import close_forward, open_forward

    transport = conversation.transport
    listener = open_forward(transport, route, _host_side(conversation))

    def close(forward: Forward) -> None:
        login._check_owner()

        def on_end() -> None:
            transport.remove_dependent(end)
            forward._end(False)

        close_forward(listener, on_end)

    def end(lost: bool) -> str:
        if not route.on_host:
            listener.remove_socket()
        return forward._end(lost)

    forward = Forward(login._host, listener.asked, close)
    forward._conversation = conversation
    transport.add_dependent(end)
    return forward


def _host_side(conversation: Conversation) -> HostSide | None:
    """Return what asks the host about its ports; None without Python there."""
    if not conversation.has_python:
        return None
    from lazycluster._ssh.host_side import HostSide
    from lazycluster._ssh.mux import CONTROL_TIMEOUT

    def operate(
        operation: str,
        arguments: Mapping[str, Any],
        meanwhile: Callable[[], object] | None = None,
    ) -> Any:
        deadline = time.monotonic() + CONTROL_TIMEOUT
        return conversation.operate(operation, arguments, deadline=deadline, meanwhile=meanwhile)

    return HostSide(operate)
