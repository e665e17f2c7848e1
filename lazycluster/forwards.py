"""Forward: a port on one side of a connection that leads to a port on the other."""

from __future__ import annotations

import errno
import logging
import re
import socket
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from lazycluster._conversation.conversation import Conversation
from lazycluster._conversation.outcome import OsFailure, Outcome
from lazycluster._shared import ports
from lazycluster._ssh import argv as _openssh
from lazycluster._ssh import mux as _clients
from lazycluster.exceptions import ForwardError, LazyclusterError, PortInUseError

if TYPE_CHECKING:
    from lazycluster.connection import Connection

TRIES = 5  # to find a free port that nobody takes before ssh does
CANCEL_PATIENCE = 15.0  # seconds for a listener to go
PAUSE = 0.02  # seconds between two looks at a port that is to become free
PROBE_PATIENCE = 5.0  # seconds; whoever forbids says so at once, and some services never hang up
PROBED_PORT = 1  # of the host; tcpmux, which nobody runs

# As /proc/net/tcp and tcp6 have them, in the host's own order of bytes: 127.0.0.1, ::1 and
# ::ffff:127.0.0.1.
LOOPBACK = frozenset(
    (
        *("0100007F", "7F000001"),
        *("0" * 24 + "01000000", "0" * 31 + "1"),
        *("0" * 16 + "FFFF00000100007F", "0" * 20 + "FFFF7F000001"),
    )
)

logger = logging.getLogger("lazycluster")


class Forward:
    """A port on one side of a connection that leads to a port on the other; `Connection.forward`.

    It lives until `cancel`, or as long as the connection does. While it lives it keeps the
    connection from being collected. A context manager, which cancels it. Safe to use from many
    threads.

    Attributes:
        host: The host, as it was given.
        port: The port that is listened on, on 127.0.0.1.
        to_port: The port of the other side's localhost that it leads to.
        on_host: Whether the host listens, and the manager is led to (`-R`); else it is the other
            way around (`-L`).
    """

    def __init__(
        self,
        connection: Connection,
        conversation: Conversation,
        *,
        port: int,
        to_port: int,
        on_host: bool,
    ) -> None:
        self.host = connection.host
        self.port = port
        self.to_port = to_port
        self.on_host = on_host
        self._connection = connection
        self._conversation = conversation
        self._over = threading.Event()
        self._lost = False
        conversation.add_rider(self)

    def __repr__(self) -> str:
        state = "lives" if self.is_alive() else "lost" if self.lost else "has ended"
        return f"<{self}, {state}>"

    def __str__(self) -> str:
        if self.on_host:
            return f"Forward of port {self.port} of {self.host} to port {self.to_port} here"
        return f"Forward of port {self.port} here to port {self.to_port} of {self.host}"

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
        """Whether it has neither been cancelled nor ended with its connection."""
        return not self._over.is_set()

    @property
    def lost(self) -> bool:
        """Whether it ended because the connection was lost."""
        return self._lost

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end; whether that has come.

        Args:
            timeout: Seconds to wait at most. Defaults to None, no bound.
        """
        return self._over.wait(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))

    def cancel(self) -> None:
        """End it; returns when nobody listens on the port. A second time is fine.

        What is connected through it already stays connected.

        Raises:
            ForwardError: ssh could not end it, or somebody listens all the same.
        """
        if not self.is_alive():
            return
        self._connection.check_owner()
        conversation = self._conversation
        with conversation.forwarding:
            if not self.is_alive():
                return
            _cancel(conversation, self.port, self.to_port, self.on_host)
            _await_free(conversation, self.port, self.on_host)
            conversation.remove_rider(self)
            self._over.set()

    def end(self, *, lost: bool) -> None:
        """The connection has ended, and with it the forward; for our own rooms."""
        self._lost = lost
        self._over.set()


def open_forward(
    connection: Connection, conversation: Conversation, port: int, to_port: int, *, on_host: bool
) -> Forward:
    """Make a forward, and see that somebody listens.

    Args:
        connection: Whose forward it will be.
        conversation: Over which, open.
        port: The port to listen on; 0 for any that is free.
        to_port: The port to lead to.
        on_host: Whether the host listens.

    Raises:
        PortInUseError: The port is taken on the side that should listen.
        ForwardError: It cannot be made, for ssh's reason.
        ConnectionLostError: The connection has ended; there is no forward.
    """
    make = _listen_on_host if on_host else _listen_here
    with conversation.forwarding:
        for tries_left in reversed(range(TRIES)):
            try:
                found = make(conversation, port, to_port)
                break
            except PortInUseError:
                if port or not tries_left:
                    raise
        return Forward(connection, conversation, port=found, to_port=to_port, on_host=on_host)


# --- on the manager ---


def _listen_here(conversation: Conversation, port: int, to_port: int) -> int:
    port = port or _free_port()
    if not ports.port_is_free(port):
        raise _in_use(port, "manager")
    _check_permission(conversation, to_port)
    before = conversation.master.log_size()
    argv = _openssh.forward_argv(conversation.master.control_path, "forward", "-L", port, to_port)
    status, _, said = _clients.control(argv)
    if status != 0:
        log = conversation.master.log_since(before)
        why = re.search(r"^bind \[.*?\]:\d+: (.*)$", log, re.MULTILINE)
        if not _clients.master_answers(conversation):
            raise _clients.refusal(conversation, "forward", status, said, started=False)
        if not ports.port_is_free(port):
            raise _in_use(port, "manager")
        raise _failed(
            conversation,
            f"port {port} of this computer",
            why[1].strip() if why else _clients.reason(said),
            status,
            log + said,
        )
    if not _is_listened_on_here(port):
        _cancel(conversation, port, to_port, on_host=False)
        raise _failed(
            conversation,
            f"port {port} of this computer",
            "ssh says that it listens, but nobody does",
            status,
            said,
        )
    return port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_listened_on_here(port: int) -> bool:
    with socket.socket() as probe:
        # What is left of connections (TIME_WAIT) does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            # Who may not bind it cannot look either, and ssh says that it could.
            return error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EPERM)
    return False


def _check_permission(conversation: Conversation, to_port: int) -> None:
    """See whether sshd lets connections through: ssh listens without asking it.

    A connection to the user's service would be noticed there. So one to a port that nobody serves
    is asked for first: "connection refused" says that sshd has tried. Where that is forbidden,
    other ports may be allowed (PermitOpen); only then is the one in question asked for.
    """
    for port in (PROBED_PORT, to_port):
        before = conversation.master.log_size()
        status, said = _probe(conversation, port)
        log = conversation.master.log_since(before)
        if status == 0 or "administratively prohibited" not in log:
            return
    raise _failed(
        conversation,
        f"this computer to port {to_port} of the host",
        "its sshd does not let connections through (AllowTcpForwarding, PermitOpen)",
        status,
        log + said,
    )


def _probe(conversation: Conversation, port: int) -> tuple[int | None, str]:
    """Have sshd connect to a port of the host; status and stderr of the client that asked."""
    argv = _openssh.probe_argv(conversation.master.control_path, port)
    status, _, said = _clients.control(argv, PROBE_PATIENCE)
    return status, said


# --- on the host ---


def _listen_on_host(conversation: Conversation, port: int, to_port: int) -> int:
    host = conversation.settings.host
    if not port:
        # Told of port 0, sshd chooses one. But ssh knows that forward as "port 0" and has but one
        # of them for each target, so it is asked for again by its number.
        port = int(_ask_host(conversation, 0, to_port))
        _cancel(conversation, 0, to_port, on_host=True)
    # The one that sshd chose, too: it asks for no other address than its own, and Docker's name
    # server listens on any port of 127.0.0.11.
    if conversation.has_python and not _is_free_on_host(conversation, port)[0]:
        raise _in_use(port, host)
    _ask_host(conversation, port, to_port)
    if not conversation.has_python:
        return port
    try:
        free, listeners = _is_free_on_host(conversation, port)
        if free:
            raise _failed(
                conversation,
                f"port {port} of the host",
                "ssh says that the host listens, but nobody does",
                None,
                "",
            )
    except BaseException:
        _cancel(conversation, port, to_port, on_host=True)
        raise
    wide = [address for address in listeners if _is_any(address)]
    if wide:
        logger.warning(
            "Port %d of %s can be reached from its network, and not from itself alone: its sshd "
            "listens on all addresses, whatever it is asked (GatewayPorts yes).",
            port,
            host,
        )
    return port


def _ask_host(conversation: Conversation, port: int, to_port: int) -> str:
    """Have the host listen; what ssh printed."""
    argv = _openssh.forward_argv(conversation.master.control_path, "forward", "-R", port, to_port)
    status, printed, said = _clients.control(argv)
    if status == 0 and (port or printed.strip().isdigit()):
        return printed
    if not _clients.master_answers(conversation):
        raise _clients.refusal(conversation, "forward", status, said, started=False)
    if status is None:  # a late answer must not leave a listener
        _cancel(conversation, port, to_port, on_host=True)
    if port and conversation.has_python and not _is_free_on_host(conversation, port)[0]:
        raise _in_use(port, conversation.settings.host)
    why = "no answer came"
    if status is not None:
        why = _clients.reason(said).rpartition("request failed: ")[2].partition(" / ")[0]
        why += "; its sshd does not say why: AllowTcpForwarding, PermitListen, "
        why += "a port below 1024" if conversation.has_python else "a port below 1024 or in use"
    raise _failed(
        conversation,
        f"port {port} of the host" if port else "a port of the host",
        why,
        status,
        said,
    )


def _is_free_on_host(conversation: Conversation, port: int) -> tuple[bool, list[str]]:
    """Whether the port is free on the host, and the addresses that are listened on.

    The latter as /proc/net/tcp has them; none where there is no such thing.
    """
    printed: list[bytes] = []
    ask = {"kind": "operation", "operation": "port_is_free", "arguments": {"port": port}}
    # Built-ins of the shell alone. 0A: listening.
    look = {
        "kind": "command",
        "shell": "/bin/sh",
        "command": "for f in /proc/net/tcp /proc/net/tcp6; do [ -r $f ] && "
        f"while read -r n a b s r; do case $a-$s in *:{port:04X}-0A) echo ${{a%:*}};; esac; "
        "done <$f; done; :",
    }
    request = conversation.request(
        [ask, look],
        working_dir=None,
        environment={},
        on_output=lambda step, data: printed.append(bytes(data)) if step == 1 else None,
    )
    deadline = time.monotonic() + _clients.CONTROL_PATIENCE
    while not request.finished and time.monotonic() < deadline:
        request.wait(deadline)
    outcome = request.outcomes[0] if request.outcomes else Outcome()
    if not outcome.completed:
        reason = outcome.failure.message if isinstance(outcome.failure, OsFailure) else ""
        raise _failed(
            conversation,
            f"port {port} of the host",
            f"the host cannot say whether it is free: {reason or 'no answer came'}",
            None,
            "",
        )
    return bool(outcome.result), b"".join(printed).decode("ascii").split()


# --- either ---


def _cancel(conversation: Conversation, port: int, to_port: int, on_host: bool) -> None:
    argv = _openssh.forward_argv(
        conversation.master.control_path, "cancel", "-R" if on_host else "-L", port, to_port
    )
    status, _, said = _clients.control(argv)
    if status == 0 or conversation.ended or not _clients.master_answers(conversation):
        return  # it answers 0 when there is no such forward, too
    raise _failed(
        conversation, f"port {port}", f"it cannot be ended: {_clients.reason(said)}", status, said
    )


def _await_free(conversation: Conversation, port: int, on_host: bool) -> None:
    if on_host and not conversation.has_python:
        # ssh does not wait for sshd to cancel. But sshd does one thing after the other, so when it
        # answers something else that was asked for later, it has closed the port.
        _probe(conversation, PROBED_PORT)
        return
    deadline = time.monotonic() + CANCEL_PATIENCE
    while True:
        try:
            if on_host and conversation.ended:
                return
            is_over = _is_over_on_host(conversation, port) if on_host else _is_over_here(port)
        except LazyclusterError:
            if conversation.ended:
                return
            raise
        if is_over:
            return
        if time.monotonic() > deadline:
            raise _failed(
                conversation,
                f"port {port}",
                f"it was cancelled, but somebody still listens after {CANCEL_PATIENCE:g} s",
                None,
                "",
            )
        time.sleep(PAUSE)


# Somebody else may have begun to listen on the same port of another address meanwhile.


def _is_over_here(port: int) -> bool:
    return ports.port_is_free(port) or not _is_listened_on_here(port)


def _is_over_on_host(conversation: Conversation, port: int) -> bool:
    free, listeners = _is_free_on_host(conversation, port)
    return free or (bool(listeners) and not any(map(_may_be_sshd, listeners)))


def _may_be_sshd(address: str) -> bool:
    return address in LOOPBACK or _is_any(address)


def _is_any(address: str) -> bool:
    """Whether it is 0.0.0.0 or ::, all addresses."""
    return not address.strip("0")


def _in_use(port: int, side: str) -> PortInUseError:
    where = "this computer" if side == "manager" else side
    return PortInUseError(f"Port {port} of {where} is in use.", port=port, side=side)


def _failed(
    conversation: Conversation, what: str, why: str, status: int | None, said: str
) -> ForwardError:
    host = conversation.settings.host
    return ForwardError(
        f"Cannot forward {what} over the connection to {host}: {why}.",
        host=host,
        exit_status=status,
        stderr=said,
    )
