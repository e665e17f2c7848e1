"""Run a command in a session of its own, by a mux client."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from typing import NamedTuple

from lazycluster._ssh import lifelines
from lazycluster._ssh.argv import run_argv
from lazycluster._ssh.mux import client_error, in_session, master_answers, start_client
from lazycluster._ssh.scripts import read_line
from lazycluster._ssh.transport import Transport
from lazycluster.exceptions import SshError

COMMAND_LIMIT = 100_000  # bytes, encoded; Linux takes at most 128 KiB as one word of an argv
STOP_TIMEOUT = 4.0  # seconds for a stopped command to go; the host needs at most 2


class Ending(NamedTuple):
    """What a command printed, and how it ended: no exit status if a signal or we ended it."""

    exit_status: int | None
    stdout: bytes
    stderr: bytes
    timed_out: bool


def session_command(command: str) -> str:
    """Make the line for the login shell that runs a command by the account's shell.

    Raises:
        ValueError: If the command holds a NUL, or is too long for an argv.
    """
    data = os.fsencode(command)
    if b"\0" in data:
        raise ValueError("The command holds a NUL, which no shell can read.")
    # What is left as it is means nothing to any shell between single quotes, nor to printf.
    encoded = re.sub(rb"[^\w ./,:;=@%+\"$()<>|&*?~#\[\]{}^`-]", _octal, data).decode("ascii")
    if len(encoded) > COMMAND_LIMIT:
        raise ValueError(
            f"The command makes {len(encoded)} bytes; at most {COMMAND_LIMIT} can be sent. "
            "Copy a script to the host instead, or use a task."
        )
    return f"exec /bin/sh -c '{read_line('session')}' lazycluster '{encoded}'"


def _octal(match: re.Match[bytes]) -> bytes:
    return b"\\0%03o" % match[0][0]


def run(transport: Transport, command: str, timeout: float | None) -> Ending:
    """Run a command in a session of its own, and wait for its end.

    Raises:
        ConnectionLostError: If the connection ended; `started` says whether the command had
            started.
        SshError: If the host or the master refused the session.
    """
    line = session_command(command)
    return in_session(transport, lambda: _run(transport, line, timeout))


def _run(transport: Transport, line: str, timeout: float | None) -> Ending:
    log_file = os.path.join(transport.master.folder, f"run-{os.urandom(8).hex()}")
    argv = run_argv(transport.master.control_path, log_file, line)
    with contextlib.ExitStack() as stack:
        try:
            # Opened here, before the guard removes it with its folder at the master's end.
            log = stack.enter_context(open(log_file, "x+b"))
        except OSError as error:
            what = "run a command"
            raise client_error(transport, what, None, str(error), started=False) from None
        stack.callback(_remove, log_file)
        reader, lifeline = lifelines.pipe()
        stack.callback(transport.release_client, lifeline)
        transport.register_client(lifeline)
        try:
            client = start_client(argv, stdin=reader)
        finally:
            lifelines.close(reader)
        try:
            stdout, stderr = client.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            transport.release_client(lifeline)
            return Ending(None, *_stop(client), timed_out=True)
        except BaseException:
            transport.release_client(lifeline)
            _stop(client)
            raise
        printed = log.read().decode("utf-8", "backslashreplace")
    status = _exit_status(transport, client, printed, stderr)
    return Ending(status, stdout, stderr, timed_out=False)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):  # the guard has removed it
        os.unlink(path)


def _exit_status(
    transport: Transport, client: subprocess.Popen[bytes], log: str, stderr: bytes
) -> int | None:
    """Return the command's exit status; None if a signal ended it.

    The client's own status is 255 in that case, for a command's 255, and for all that can go wrong.
    """
    reported = re.search(r"Received exit status from master (\d+)", log)
    if reported:
        return int(reported[1])
    opened = "master session id:" in log
    if opened and master_answers(transport):
        if client.returncode < 0:
            host = transport.settings.host
            raise SshError(
                f"The ssh that ran a command on {host} was killed.", host=host, stderr=log
            )
        return None
    # The connection may have ended before the answer to the request, which follows the hello.
    hello = re.search(r"mux_client_hello_exchange: (read packet failed|write packet)?", log)
    asked = hello is not None and not hello[1]
    printed = log + stderr.decode("utf-8", "backslashreplace")
    started = True if opened else None if asked else False
    raise client_error(transport, "run a command", client.returncode, printed, started=started)


def _stop(client: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Wait until the host has ended the command, within bounds; return what was printed."""
    for seconds in (STOP_TIMEOUT, 1.0):
        try:
            return client.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            printed = error.stdout or b"", error.stderr or b""
            client.kill()
    for file in (client.stdout, client.stderr):  # the master itself holds the pipes, and hangs
        assert file is not None
        file.close()
    client.wait()
    return printed
