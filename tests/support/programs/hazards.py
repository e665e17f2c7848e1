"""Settings of ssh_config that break programs which drive ssh, and what must be right with them.

    python hazards.py [--no-functions] [--one-session] <host> ...

checks each host and prints what is wrong as JSON: `{"<host>": null}` if nothing is. It needs only
lazycluster and the standard library, so it also runs without the other tests: on the managers of
tests/docker, and with another /etc/ssh.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from lazycluster import Connection, RuntimeTask
from lazycluster._ssh.options import Version, ssh_version
from lazycluster.exceptions import CommandError, PortInUseError, TaskExecutionError

TIMEOUT = 150.0
"""Seconds for what takes some milliseconds; a loaded computer is not a failure."""

AT_ONCE = 2
"""Hosts that are checked at the same time; each check mostly waits."""


EXIT = "ExitOnForwardFailure yes"


class Hazard(NamedTuple):
    """Settings of one kind, and the OpenSSH that knows their keywords first."""

    name: str
    lines: tuple[str, ...]
    """`{busy}` is a port in use, here and on the host; `{folder}` is a folder."""
    since: tuple[int, int] = (7, 0)
    silence: float = 0.0
    """Seconds that the connection has to be silent for the setting to count."""

    @property
    def alias(self) -> str:
        """The host that has these settings."""
        return "hazard-" + self.name


# A connection for each setting; settings that cannot hide each other share one.
HAZARDS = (
    # What takes the place of our command, its streams or its exit status.
    Hazard("remote-command", ("RemoteCommand tmux attach",), (7, 6)),
    Hazard("request-tty", ("RequestTTY force",)),
    Hazard("stdin-null", ("StdinNull yes",), (8, 7)),
    Hazard("fork", ("ForkAfterAuthentication yes",), (8, 7)),
    Hazard("session-none", ("SessionType none",), (8, 7)),
    Hazard("session-subsystem", ("SessionType subsystem",), (8, 7)),
    Hazard("escape-char", ("EscapeChar ~",)),
    # What prints.
    Hazard("local-command", ("PermitLocalCommand yes", "LocalCommand echo LOCALNOISE")),
    Hazard("visual-host-key", ("VisualHostKey yes", "FingerprintHash md5")),
    Hazard("quiet", ("LogLevel QUIET",)),
    Hazard("debug", ("LogLevel DEBUG3",)),
    Hazard("log-verbose", ("LogVerbose *:*:*",), (8, 5)),
    # Forwards of the user's own, which fail, and what is said of all forwards. With an address: of
    # two loopbacks one would do.
    Hazard("local-forward", ("LocalForward 127.0.0.1:{busy} [::1]:22", EXIT)),
    Hazard("remote-forward", ("RemoteForward 127.0.0.1:{busy} [::1]:22", EXIT)),
    Hazard("dynamic-forward", ("DynamicForward 127.0.0.1:{busy}", EXIT)),
    Hazard(
        "remote-socks", ("RemoteForward 127.0.0.1:{busy}", EXIT, "PermitRemoteOpen none"), (8, 5)
    ),
    Hazard("clear-all-forwardings", ("ClearAllForwardings yes",)),
    Hazard("forwards", (EXIT, "GatewayPorts yes", "StreamLocalBindUnlink yes")),
    Hazard("tunnel", ("Tunnel yes", EXIT)),
    Hazard("agent-and-x11", ("ForwardAgent yes", "ForwardX11 yes", "ForwardX11Timeout 1")),
    # A master of the user's own.
    Hazard("control-auto", ("ControlMaster auto", "ControlPath {folder}/%C")),
    Hazard("control-ask", ("ControlMaster autoask", "ControlPath {folder}/ask-%C")),
    Hazard(
        "control-persist",
        ("ControlMaster yes", "ControlPath {folder}/persist-%C", "ControlPersist 1h"),
    ),
    # What asks, and what is sent.
    Hazard(
        "questions",
        ("BatchMode no", "AddKeysToAgent ask", "UpdateHostKeys ask", "NumberOfPasswordPrompts 1"),
        (7, 2),
    ),
    Hazard("environment", ("SendEnv *", "SetEnv LC_HAZARD=a LANG=C LC_ALL=C"), (7, 8)),
    # The transport.
    Hazard(
        "keepalive",
        ("ServerAliveInterval 1", "ServerAliveCountMax 99", "TCPKeepAlive no"),
        silence=1.5,
    ),
    Hazard("channel-timeout", ("ChannelTimeout *=1s",), (9, 6), silence=2.5),
    Hazard("channel-timeout-global", ("ChannelTimeout global=1s",), (9, 7), silence=2.5),
    Hazard(
        "transport",
        ("Compression yes", "RekeyLimit 64K", "Ciphers aes128-ctr", "MACs hmac-sha2-256"),
    ),
    Hazard(
        "address",
        ("CanonicalizeHostname always", "CanonicalDomains invalid", "BindAddress 127.0.0.1"),
    ),
)


def known_hazards(version: Version | None = None) -> list[Hazard]:
    """Return the hazards whose keywords an ssh knows; by default the installed one."""
    version = version or ssh_version()
    return [hazard for hazard in HAZARDS if version >= hazard.since]


def config(
    common: str,
    *,
    busy: int,
    folder: str | os.PathLike[str],
    version: Version | None = None,
) -> str:
    """Return an ssh_config with a host for each hazard, without the settings of the others.

    It also has a keyword that no ssh knows, which is fatal wherever its IgnoreUnknown is lost.

    Args:
        common: Lines for all hosts.
        busy: A port that cannot be listened on.
        folder: Where control sockets may lie.
        version: The version of the ssh that will read it; None for the one that is here.
    """
    blocks = ["IgnoreUnknown NoSuchKey*\nNoSuchKeyword yes\n"]
    for hazard in known_hazards(version):
        lines = "\n".join(hazard.lines).format(busy=busy, folder=folder)
        blocks.append(f"Host {hazard.alias}\n{lines}\n")
    return "".join([*blocks, "Host *\n", common])


# ── what must be right ────────────────────────────────────────────────────────────────────────────

# Both streams; control characters, ssh's escape, a byte that is no UTF-8, no newline at the end.
COMMAND = (
    r"""cat; printf 'a\r\nb\t\033[1m\001\177\n~.\n~?\n\303\274\377'; printf 'c\nd' >&2; exit 3"""
)
STDOUT = b"a\r\nb\t\x1b[1m\x01\x7f\n~.\n~?\n\xc3\xbc\xff"
STDERR = b"c\nd"
DATA = bytes(range(256)) * 200 + b"\n~.\n"
"""More than one packet."""


def check(
    host: str,
    config_file: str | os.PathLike[str] | None = None,
    *,
    functions: bool = True,
    sessions: bool = True,
    silence: float = 0.0,
    taken: int | None = None,
) -> None:
    """Check that what can be done on a connection gives what it must, to the byte.

    Args:
        host: The host.
        config_file: The ssh_config; None for those that ssh finds by itself.
        functions: True if the host has this version of Python.
        sessions: True if the host allows a second session.
        silence: Seconds without traffic in between, on a connection and on a forward.
        taken: A port of the host that cannot be listened on.

    Raises:
        AssertionError: A result is wrong; the message names it.
    """
    settings = {"config_file": config_file, "connect_timeout": TIMEOUT}
    with tempfile.TemporaryDirectory() as folder, Connection(host, **settings) as connection:
        _check_command(connection)
        if functions:
            _check_function(connection)
        _check_files(connection, Path(folder))
        _check_ports(connection, silence, taken)
        if sessions:
            _check_session(connection, Path(folder))


def _check_command(connection: Connection) -> None:
    task = RuntimeTask().run_command(COMMAND).run_command("echo never")
    status = None
    try:
        task.execute(connection)
    except TaskExecutionError as error:
        if not isinstance(error.__cause__, CommandError):
            raise
        status = error.__cause__.exit_status
    _expect("exit status of a command", status, 3)
    printed = (STDOUT + STDERR).decode("utf-8", "backslashreplace")
    _expect("log of a command", task.execution_log, [printed, ""])


def _check_function(connection: Connection) -> None:
    task = RuntimeTask().run_function(_backwards, data=DATA).execute(connection)
    _expect("value of a function", list(task.function_returns), [(DATA[::-1], "kept")])
    _expect("log of a function", task.execution_log, ["printed\n"])
    task.cleanup()


def _backwards(data: bytes) -> tuple[bytes, str]:
    print("printed")
    return data[::-1], "kept"


def _check_files(connection: Connection, folder: Path) -> None:
    (there,) = RuntimeTask().run_command("mktemp -d").execute(connection).execution_log
    there = there.rstrip("\n")
    (folder / "sent").write_bytes(DATA)
    task = RuntimeTask().send_file(str(folder / "sent"), f"{there}/a file")
    task.run_command(f"wc -c <'{there}/a file'")
    task.get_file(f"{there}/a file", str(folder / "got")).run_command(f"rm -r '{there}'")
    task.execute(connection)
    _expect("size of a file that was sent", int(task.execution_log[1]), len(DATA))
    _expect("a file that was fetched", (folder / "got").read_bytes(), DATA)


def _check_ports(connection: Connection, silence: float, taken: int | None) -> None:
    """Connect through the host to a service of this process, and look at a port in use."""
    with _EchoService() as service:
        there = connection.forward_remote(0, service.port)
        here = connection.forward_local(0, there.port)
        with socket.create_connection(("127.0.0.1", here.port), TIMEOUT) as client:
            _expect("half of what a service answers", _answer(client, DATA), DATA)
            if silence:
                time.sleep(silence)  # silence is what is tested; no condition shows it
            _expect("the other half", _answer(client, DATA[::-1]), DATA[::-1])
        for forward in (here, there):
            assert forward.is_alive(), f"{forward} has ended"
            forward.cancel()
    if taken is not None:
        refused = False
        try:
            connection.forward_remote(taken, 1)
        except PortInUseError:
            refused = True
        _expect("whether a port that is taken was refused", refused, True)
    task = RuntimeTask().run_command("echo still there").execute(connection)
    _expect("log of the same connection", task.execution_log, ["still there\n"])


def _answer(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    answer = b""
    while len(answer) < len(data):
        part = client.recv(1 << 16)
        if not part:
            break
        answer += part
    return answer


class _EchoService:
    """Send each client its own bytes; stop at the end of the block."""

    def __enter__(self) -> _EchoService:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(TIMEOUT)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)


def _check_session(connection: Connection, folder: Path) -> None:
    """Run a command in a session of its own."""
    result = connection.run(COMMAND, check=False, timeout=TIMEOUT)
    _expect("stdout of a session", result.stdout_bytes, STDOUT)
    _expect("stderr of a session", result.stderr_bytes, STDERR)
    _expect("exit status of a session", result.exit_status, 3)


def _expect(what: str, actual: Any, expected: Any) -> None:
    assert actual == expected, f"{what}: {_short(actual)} and not {_short(expected)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}… ({len(value)})"


# ── as a program ──────────────────────────────────────────────────────────────────────────────────


def check_all(hosts: Iterable[str], **keywords: Any) -> dict[str, str | None]:
    """Check hosts, each with the silence that its hazard needs; return what is wrong with each."""
    silences = {hazard.alias: hazard.silence for hazard in HAZARDS}

    def check_one(host: str) -> str | None:
        try:
            check(host, silence=silences.get(host, 0.0), **keywords)
        except Exception:
            return traceback.format_exc()
        return None

    hosts = list(hosts)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(hosts, pool.map(check_one, hosts)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--no-functions", dest="functions", action="store_false")
    parser.add_argument("--one-session", dest="sessions", action="store_false")
    parser.add_argument("hosts", nargs="+")
    print(json.dumps(check_all(**vars(parser.parse_args()))))
