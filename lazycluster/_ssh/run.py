"""Run a command in a session of its own, by a mux client."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import threading
from select import PIPE_BUF
from typing import NamedTuple

from lazycluster._shared import frames
from lazycluster._ssh import lifelines
from lazycluster._ssh.argv import run_argv
from lazycluster._ssh.errors import INPUT_TAKEN, NO_INPUT
from lazycluster._ssh.mux import client_error, communicate, in_session, master_answers, start_client
from lazycluster._ssh.scripts import SPARE_LINES, read_line
from lazycluster._ssh.transport import Transport
from lazycluster._ssh.waiting import wait_writable
from lazycluster.exceptions import SshError

COMMAND_LIMIT = 100_000  # bytes, encoded; Linux takes at most 128 KiB as one word of an argv
FEED_INTERVAL = 0.1  # seconds between two looks at whether a full pipe is no longer the client's
STOP_TIMEOUT = 4.0  # seconds for a stopped command to go; the host needs at most 2


class Ending(NamedTuple):
    """What a command printed, and how it ended: no exit status if a signal or we ended it."""

    exit_status: int | None
    stdout: bytes
    stderr: bytes
    timed_out: bool


def session_input(command: str, shell: str | None, data: bytes | None = None) -> bytes:
    """Make what `session.sh` reads: the command and the shell that runs it.

    Args:
        command: The command.
        shell: The command line of a shell, like "bash --norc". None: the account's shell.
        data: The command's standard input, which must follow; None for `/dev/null`.

    Raises:
        ValueError: If the command contains a NUL or is too long for an argv, or the shell is not a
            command line.
    """
    words = [] if shell is None else [*_words_of_shell(shell), "-c"]
    if "\0" in command:
        raise ValueError("The command contains a NUL, which no shell can read.")
    encoded = b" ".join(_octal(os.fsencode(word)) for word in (*words, command))
    if len(encoded) > COMMAND_LIMIT:
        raise ValueError(
            f"The command makes {len(encoded)} bytes; at most {COMMAND_LIMIT} can be sent. "
            "Copy a script to the host instead, or use a task."
        )
    size, name = ("-", "-") if data is None else (len(data), f"lazycluster-{os.urandom(8).hex()}")
    return f"{SPARE_LINES}lazycluster {size} {name} ".encode() + encoded + b"\n"


def _words_of_shell(shell: str) -> list[str]:
    try:
        words = shlex.split(shell)
    except (AttributeError, ValueError):  # not a string, or a quote is not closed
        words = []
    if not words or "\0" in shell:
        raise ValueError(f"Invalid shell {shell!r}: it must be a command line like 'bash --norc'.")
    return words


def _octal(word: bytes) -> bytes:
    """Encode what means something to `printf %b`, to `read` or to the splitting into words."""
    # `\\c` ends the output of `printf %b`.
    return re.sub(rb"[^!-)+->@-Z^-~]", lambda match: b"\\0%03o" % match[0][0], word) or b"\\c"


def session_line(command: str | None) -> str:
    """Make the line that the account's login shell gets.

    bash and zsh read a start file each time they start. So the login shell runs the command itself
    if it can: its text is then the rest of the line. A nested `eval` would not do, because these
    shells replace themselves only by the last command of their own line, and sshd reports a signal
    only of the process that it has started.

    Args:
        command: The command, if login_shell.sh has found a shell at the login that can run it.
            None: session.sh starts a shell for the command in its input.
    """
    session = read_line("session", INPUT_TAKEN=INPUT_TAKEN, NO_INPUT=NO_INPUT)
    start = f"/bin/sh -c 'eval \"$1\"' lazycluster '{session}'"
    if command is None:
        return f"exec {start}"
    # This login shell may be another one, which reads the first line alone. A line break follows:
    # bash before 5.1 does not replace itself by the last command of a list.
    return (
        f"/bin/sh -c '{read_line('login_shell')}' || exec {start}; "
        f"{start} beside || exit; exec </dev/null\n{command}"
    )


def run(
    transport: Transport, line: str, head: bytes, data: bytes | None, timeout: float | None
) -> Ending:
    """Run a command in a session of its own, and wait for its end.

    Args:
        transport: What it goes over.
        line: The line for the login shell, made by `session_line`.
        head: What session.sh reads, made by `session_input`.
        data: The standard input of the command; None for none.
        timeout: Seconds until it is stopped; None for no limit.

    Raises:
        ConnectionLostError: If the connection ended; `started` says whether the command had
            started.
        SshError: If the host or the master refused the session.
    """
    return in_session(transport, lambda: _run(transport, line, head, data or b"", timeout))


def _run(
    transport: Transport, line: str, head: bytes, data: bytes, timeout: float | None
) -> Ending:
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
        try:
            # Before another thread can close the lifeline, and another file get its number.
            written = _fill(lifeline, head)
            stack.callback(transport.release_client, lifeline)
            transport.register_client(lifeline)
            if not written:
                raise SshError(
                    f"The command makes {len(head)} bytes, which is more than a pipe of this "
                    "computer holds.",
                    host=transport.settings.host,
                )
            with lifelines.inherited(reader):
                client = start_client(argv, stdin=reader)
        finally:
            lifelines.close(reader)
        try:
            if data:
                _feed(transport, lifeline, data)
            stdout, stderr = communicate(client, timeout)
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


def _fill(pipe: int, data: bytes) -> bool:
    """Write to an empty pipe that nothing reads yet; return False if the data does not fit."""
    if len(data) > PIPE_BUF:
        frames.enlarge_pipe_buffer(pipe)
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        return os.write(pipe, data) == len(data)
    return False


def _feed(transport: Transport, lifeline: int, data: bytes) -> None:
    """Write the input to a client in a thread, which ends with the client."""

    def feed() -> None:
        view = memoryview(data)
        with contextlib.suppress(OSError):  # the client has ended
            while view:
                wait_writable(lifeline, FEED_INTERVAL)
                written = transport.write_to_client(lifeline, view[: frames.CHUNK])
                if written is None:
                    return
                view = view[written:]

    threading.Thread(target=feed, name="lazycluster input", daemon=True).start()


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
        if "Control master terminated" not in log:  # which a client prints if there is no status
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
