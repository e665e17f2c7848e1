"""Run mux clients, and make the errors of those that fail.

A mux client cannot log in by itself (see `argv`). What it prints is never looked up among the
errors of logins, because a dead control socket looks like an sshd that drops logins. Whether the
master is alive decides: an alive master has refused, otherwise the connection is lost.
"""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

from lazycluster._interpreter_exit import Wait, joined_at_exit, stopped_with_main_thread
from lazycluster._ssh.argv import check_argv
from lazycluster._ssh.processes import kill_group
from lazycluster._ssh.transport import Transport
from lazycluster._text import last_lines
from lazycluster._waits import one_wait
from lazycluster.exceptions import LazyclusterError, SshError

CONTROL_TIMEOUT = 30.0  # seconds for the master, or sshd, to answer a request
SESSION_TIMEOUT = 2.0  # seconds for sshd to forget a session that has ended
SESSION_INTERVAL = 0.05  # seconds between two attempts to open a session
NOTICE_TIMEOUT = 5.0  # seconds until the reader thread notices a master's death
EXIT_INTERVAL = 1.0  # seconds between two looks at whether the program ends
LONGEST_WAIT = 86400.0  # seconds of one `communicate`: poll takes at most 2**31 ms
REFUSED = "Session open refused by peer"  # what a mux client prints at MaxSessions

# With SIGCHLD ignored, or where another part of the program reaps all children, subprocess takes
# the exit status for 0. So a shell prints it. (dash adds 0.1 ms, bash 1 ms.)
_WITH_STATUS = 'unset -f "$1"; s=0; "$@" || s=$?; echo "exit status $s" >&2'
_DEBUG = re.compile(r"^debug|^\s*$")
_Result = TypeVar("_Result")


def start_client(argv: list[str], stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start a mux client in a process session of its own, so that Ctrl-C does not reach it."""
    return subprocess.Popen(
        argv,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def communicate(client: subprocess.Popen[bytes], timeout: float | None) -> tuple[bytes, bytes]:
    """Read what a client prints, and wait for its end; see `Popen.communicate`.

    A thread that Python joins looks now and then whether the program ends. `communicate` cannot be
    woken, and a signal from another thread could reach a process that has the number by then.

    Raises:
        subprocess.TimeoutExpired: If the time passes first.
        LazyclusterError: If the program ends.
    """
    interval = EXIT_INTERVAL if joined_at_exit() else LONGEST_WAIT
    wait = Wait()
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    with stopped_with_main_thread(wait):
        while True:
            try:
                left = max(0.0, deadline - time.monotonic())
                return client.communicate(timeout=one_wait(min(left, interval)))
            except subprocess.TimeoutExpired:
                wait.check()
                if time.monotonic() >= deadline:
                    raise


def control(
    argv: list[str], timeout: float | None = CONTROL_TIMEOUT
) -> tuple[int | None, str, str]:
    """Run a mux client, and wait for its end.

    Args:
        argv: The mux client's words.
        timeout: Seconds until it is ended; None for no limit.

    Returns:
        The client's exit status (None if it was ended), its stdout and its stderr.
    """
    client = start_client(["/bin/sh", "-c", _WITH_STATUS, "lazycluster", *argv])
    try:
        stdout, stderr = communicate(client, timeout)
    except BaseException as error:
        kill_group(client)
        stdout, stderr = client.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
    printed = stderr.decode("utf-8", "backslashreplace")
    ended = re.search(r"exit status (\d+)\n\Z", printed)
    output = stdout.decode("utf-8", "replace")
    return (int(ended[1]), output, printed[: ended.start()]) if ended else (None, output, printed)


def in_session(transport: Transport, use: Callable[[], _Result]) -> _Result:
    """Use a session; again if it was refused right after an earlier one of ours had ended.

    sshd counts a session until all of it has gone, which is some moments after the client has.
    """
    while True:
        refused = False
        try:
            return use()
        except SshError as error:
            refused = REFUSED in error.stderr
            if not refused or time.monotonic() - transport.session_ended > SESSION_TIMEOUT:
                raise
        finally:
            if not refused:
                transport.session_ended = time.monotonic()
        time.sleep(SESSION_INTERVAL)


def master_answers(transport: Transport) -> bool:
    """Return True if the master is there; its link may be dead all the same (measured)."""
    if transport.ended or transport.closing:
        return False
    return control(check_argv(transport.master.control_path))[0] == 0


def client_error(
    transport: Transport, what: str, status: int | None, printed: str, *, started: bool | None
) -> LazyclusterError:
    """Make the error for a mux client that failed.

    Args:
        transport: What it went over.
        what: What it should have done, for the message.
        status: Its exit status, None if it had to be ended.
        printed: What it printed.
        started: Whether its work had started on the host, None if that is not known.
    """
    host = transport.settings.host
    if not master_answers(transport):
        if transport.wait_until_ended(NOTICE_TIMEOUT):
            return transport.end_error(started)
        message = (
            f"Cannot {what} on {host}: ssh runs, but nothing answers at its control socket "
            f"{transport.master.control_path}. Close the connection and open it again."
        )
    elif REFUSED in printed:
        message = (
            f"{host} refused to {what}: its sshd allows no further session on one connection "
            "(MaxSessions). Raise MaxSessions there, or use a task: tasks and their files share "
            "the one session that is open."
        )
    else:
        message = f"Cannot {what} on {host}: {reason(printed) or f'ssh exit status {status}'}."
    return SshError(message, host=host, exit_status=status, stderr=printed)


def reason(printed: str) -> str:
    """Return the last lines that a client printed, in one, without ssh's debug lines."""
    return last_lines(printed, _DEBUG)
