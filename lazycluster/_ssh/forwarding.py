"""Make and end forwards on the control master."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from lazycluster._ssh import forward_errors
from lazycluster._ssh.endpoints import LOCALHOST, Endpoint, Route
from lazycluster._ssh.forward_control import cancel, probe
from lazycluster._ssh.forward_targets import PROBED_PORT, check_socket_target, choose_target
from lazycluster._ssh.forward_watch import ForwardWatch
from lazycluster._ssh.host_listeners import HostListener, VerifiedHostListener
from lazycluster._ssh.host_side import HostSide
from lazycluster._ssh.listeners import Listener
from lazycluster._ssh.transport import Transport
from lazycluster.exceptions import (
    ConnectionLostError,
    ForwardError,
    LazyclusterError,
    PortInUseError,
)

TRIES = 5  # to find a free port that no other process takes before ssh does
# Seconds for a listener to go. ssh and sshd do one thing after the other, so the first look comes
# behind the end of the listener; this is for a server that does several at once.
CANCEL_TIMEOUT = 2.0
CANCEL_INTERVAL = 0.02  # seconds between two looks at a port that is to become free


def open_forward(transport: Transport, wanted: Route, host: HostSide | None) -> Listener:
    """Make a forward, and verify that it is listened on.

    Args:
        transport: What it goes over.
        wanted: The forward; port 0 stands for any free port.
        host: Asks the host; None for a host without Python.

    Returns:
        The listener, whose route has the port that was chosen.

    Raises:
        PortInUseError: If the port or path is in use on the side that should listen.
        ForwardError: If it cannot be made, for ssh's reason.
        ConnectionLostError: If the connection has ended; there is no forward then.
    """
    # sshd gives no reason for a refusal, and a port can be in use for a moment: a connection that
    # the system made has it as its source port.
    in_use = (PortInUseError, ForwardError) if wanted.on_host else PortInUseError
    end = wanted.listen
    may_choose = not end.port and not end.path
    asked = wanted
    with _forwarding(transport) as watch, _without_trace():
        for other in watch.listeners:
            # On a host without Python only we know: ssh says yes to one forward twice.
            if other.route.on_host == wanted.on_host and other.has_end(end):
                raise forward_errors.in_use(transport, wanted)
        wanted = choose_target(transport, wanted, host)
        refusal: ForwardError | None = None
        for tries_left in reversed(range(TRIES)):
            listener = _make_listener(transport, wanted, asked, host)
            try:
                listener.open()
            except in_use as error:
                no_answer = isinstance(error, ForwardError) and error.exit_status is None
                if not may_choose or no_answer:
                    raise
                if isinstance(error, ForwardError):
                    refusal = refusal or error
                if not tries_left and refusal is not None:
                    # By chance the last port may be in use; sshd's refusal says more.
                    raise refusal from refusal.__cause__
                if not tries_left:
                    raise
            else:
                try:
                    check_socket_target(listener, host)
                except BaseException:
                    listener.abandon()
                    raise
                watch.add(listener)
                return listener
    raise AssertionError("not reached")


@contextlib.contextmanager
def _without_trace() -> Iterator[None]:
    """Say of a connection that is lost meanwhile that nothing was started: the forward is gone."""
    try:
        yield
    except ConnectionLostError as error:
        error.started = False
        raise


@contextlib.contextmanager
def _forwarding(transport: Transport) -> Iterator[ForwardWatch]:
    """Hold the lock of forwards; the log lines of our own probes are not those of clients."""
    with transport.forwarding:
        if transport.watch is None:
            transport.watch = ForwardWatch(transport)
        watch: ForwardWatch = transport.watch
        watch.begin()
        try:
            yield watch
        finally:
            watch.end()


def _make_listener(
    transport: Transport, wanted: Route, asked: Route, host: HostSide | None
) -> Listener:
    if not wanted.on_host:
        return Listener(transport, wanted, asked, host)
    if host is None:
        return HostListener(transport, wanted, asked, None)
    return VerifiedHostListener(transport, wanted, asked, host)


def close_forward(listener: Listener, on_end: Callable[[], None]) -> None:
    """End a forward, and wait until its port is no longer listened on.

    Args:
        listener: What `open_forward` has returned.
        on_end: Called when ssh lets no connection through any more, whatever the server does.

    Raises:
        ForwardError: If ssh could not end it, or the port is still listened on.
    """
    transport = listener.transport
    with _forwarding(transport) as watch:
        cancel(transport, listener.route)
        watch.remove(listener)
        try:
            if type(listener) is HostListener:
                # ssh does not wait for sshd to cancel. But sshd does one thing after the other, so
                # when it answers a later request, it has closed the port.
                probe(transport, Endpoint(LOCALHOST, PROBED_PORT))
            _wait_until_over(listener)
        finally:
            on_end()


def _wait_until_over(listener: Listener) -> None:
    transport = listener.transport
    deadline = time.monotonic() + CANCEL_TIMEOUT
    while True:
        try:
            if listener.is_over() or transport.ended:
                return
        except (LazyclusterError, OSError):
            if transport.ended:
                return
            raise
        if time.monotonic() > deadline:
            why = (
                "ssh lets no connection through any more, but the port is still listened on. "
                "dropbear before April 2026 keeps it in use until the connection ends"
            )
            what = f"end the forward of {listener.end}"
            raise forward_errors.error(transport, what, why)
        time.sleep(CANCEL_INTERVAL)
