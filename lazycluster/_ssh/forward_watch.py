"""Warn once for each forward through which a connection finds no server.

ssh accepts a client's connection before the other side has tried to connect, so the client sees no
more than its end. The reason is in the master's log. For a remote forward the log names the target;
for a local forward it does not, so the host is asked which of the targets are not listened on.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable

from lazycluster._shared import ports
from lazycluster._ssh.listeners import Listener
from lazycluster._ssh.transport import Transport
from lazycluster.exceptions import LazyclusterError

INTERVAL = 1.0  # seconds between two looks at the log

_BY_HOST = re.compile(r"^channel \d+: open failed: (.*)")
_BY_MANAGER = re.compile(
    r"^connect(?:_to| to) (?P<name>.+?)(?: port (?P<port>-?\d+))?(?:: | )"
    r"(?P<reason>failed.*|unknown host.*)"
)
# What sshd replies for a socket. It does so for a session that is one too many, too.
_NO_SOCKET = "connect failed: open failed"
_SHOWN = 100  # characters of a name, at most, in ssh's messages

logger = logging.getLogger("lazycluster")


class ForwardWatch:
    """The forwards of a transport, and the thread that reads ssh's log while there are any.

    Args:
        transport: The login.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._listeners: list[Listener] = []
        self._position = 0
        self._text = ""  # of the last line, which is not complete
        # Lines that are not looked at yet, each with the forwards that there were when it came.
        self._lines: list[tuple[str, tuple[Listener, ...]]] = []
        self._runs = False

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """Return the forwards that have been made and not cancelled."""
        return tuple(self._listeners)

    # For the thread that makes or ends a forward; it holds `transport.forwarding`.

    def begin(self) -> None:
        """Read what has come before our own probes, which leave the same lines."""
        if not self._listeners:  # what was printed before concerns none
            self._position, self._text = self._transport.master.log_size(), ""
        data = self._transport.master.log_bytes(self._position)
        while data:
            self._position += len(data)
            self._text += data.decode("utf-8", "backslashreplace")
            data = self._transport.master.log_bytes(self._position)
        lines = self._text.splitlines(keepends=True)
        self._text = lines.pop() if lines and not lines[-1].endswith("\n") else ""
        self._lines += [(line.strip(), self.listeners) for line in lines]

    def end(self) -> None:
        """Pass over what has come since `begin`."""
        self._position = self._transport.master.log_size()

    def add(self, listener: Listener) -> None:
        """Add a forward that has been made."""
        self._listeners.append(listener)
        if not self._runs:
            self._runs = True
            name = f"lazycluster forwards {self._transport.settings.host}"
            threading.Thread(target=self._run, name=name, daemon=True).start()

    def remove(self, listener: Listener) -> None:
        """Forget a forward that has ended."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    # The thread

    def _run(self) -> None:
        lock = self._transport.forwarding
        while not self._transport.wait_until_ended(INTERVAL):
            if not lock.acquire(blocking=False):
                continue
            try:
                if not self._listeners:
                    self._runs = False
                    return
                self.begin()
                lines, self._lines = self._lines, []
                listeners = self.listeners
            finally:
                lock.release()
            for line, known in lines:
                try:
                    self._handle(line, [one for one in known if one in listeners])
                except (LazyclusterError, OSError):  # the host did not answer
                    continue

    def _handle(self, line: str, listeners: Iterable[Listener]) -> None:
        found = _BY_MANAGER.match(line)
        if found:
            self._warn([one for one in listeners if _is_target(one, found)], found["reason"])
            return
        found = _BY_HOST.match(line)
        if found:
            is_socket = found[1] == _NO_SOCKET
            local = [one for one in listeners if not one.route.on_host]
            may_be = [one for one in local if bool(one.route.to.path) == is_socket]
            self._warn(_suspects(may_be), found[1])

    def _warn(self, suspects: list[Listener], reason: str) -> None:
        new = [one for one in suspects if not one.has_warned]
        if not new:
            return
        for one in new:
            one.has_warned = True
        host = self._transport.settings.host
        names = ", or the ".join(one.asked.text(host) for one in new)
        logger.warning(
            "A connection through the %s found no server: %s. Later ones are not reported.",
            names,
            reason.rstrip("."),
        )


def _is_target(listener: Listener, found: re.Match[str]) -> bool:
    to = listener.route.to
    if not listener.route.on_host or found["name"] != (to.path or to.host)[:_SHOWN]:
        return False
    return bool(to.path) or found["port"] in (None, str(to.port))


def _suspects(listeners: list[Listener]) -> list[Listener]:
    """Return the local forwards that a reply of sshd can be about."""
    if len(listeners) == 1 and not listeners[0].route.to.path:
        return listeners
    states = [(one, _has_server(one)) for one in listeners]
    without = [one for one, state in states if state is False]
    unknown = [one for one, state in states if state is None]
    if without or any(one.has_warned for one in unknown):
        return without
    return unknown


def _has_server(listener: Listener) -> bool | None:
    """Return False if the target on the host is not listened on; None if that is not known."""
    to, host = listener.route.to, listener.host
    if host is None:
        return None
    if to.path:
        return host.socket_accepts(to.path)
    if to.host not in ("localhost", *ports.LOOPBACK):
        return None
    return not host.port_state(to.port, ports.LOOPBACK).free
