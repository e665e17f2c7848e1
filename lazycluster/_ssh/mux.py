"""What rides on the control master: a command in a session of its own, scp, requests for forwards.

None of these can log in by itself (see `_openssh`), and what they print is never looked up among
the errors of logins: a dead control socket looks like an sshd that drops logins. Whether the
master is alive decides: if it is, it has refused, else the connection is lost.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from lazycluster._conversation.conversation import Conversation
from lazycluster._ssh import argv as _openssh
from lazycluster._ssh import lifelines as _lifelines
from lazycluster._ssh.options import ssh_version
from lazycluster.exceptions import LazyclusterError, SshError

COMMAND_LIMIT = 100_000  # bytes, encoded; Linux takes at most 128 KiB as one word of an argv
STOP_PATIENCE = 4.0  # seconds for a stopped command to go; the host takes at most 2
CONTROL_PATIENCE = 30.0  # seconds for the master, or sshd, to answer a request
SESSION_PATIENCE = 2.0  # seconds for sshd to forget a session that has ended
SESSION_POLL = 0.05  # seconds
REFUSED = "Session open refused by peer"  # what a mux client says at MaxSessions
NOTICE_PATIENCE = 5.0  # seconds until a master's death is noticed by who reads from it

# The account's shell runs the command, as for `ssh host command`, in the process that sshd waits
# for, so that sshd tells how it ended. A second process waits for the end of standard input, which
# comes when the command has ended, when the client stops it, and when the connection or the manager
# has gone; it ends the process group then. It is nobody's child, so that no `wait` finds it. sshd
# gives one socket for standard input and output, so it lets go of it. Any login shell reads this
# line as we do, and the command is in it as octal numbers, where it is not plain.
_SESSION = (
    "exec /bin/sh -c '"
    'c=$(printf "%b." "$1"); exec 3<&0 </dev/null; '
    '( ( trap "" HUP INT TERM; exec >/dev/null 2>&1; read -r q <&3; exec 3<&-; '
    "kill -s TERM 0; kill -s 0 $$ || exit 0; sleep 2; kill -s KILL 0 ) & ); "
    'exec 3<&-; exec "${SHELL:-/bin/sh}" -c "${c%.}"'
    "' lazycluster "
)


_Result = TypeVar("_Result")


class Ending(NamedTuple):
    """How a command ended: by itself, by a signal if it has no exit status, or stopped."""

    exit_status: int | None
    stdout: bytes
    stderr: bytes
    timed_out: bool


# --- a command ---


def session_command(command: str) -> str:
    """Make the line for the login shell that has the account's shell run a command.

    Raises:
        ValueError: It holds a NUL, or is too long for an argv.
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
    return f"{_SESSION}'{encoded}'"


def _octal(match: re.Match[bytes]) -> bytes:
    return b"\\0%03o" % match[0][0]


def run(conversation: Conversation, command: str, timeout: float | None) -> Ending:
    """Run a command in a session of its own, and wait for its end.

    Raises:
        ConnectionLostError: The connection has ended; `started` says whether the command had.
        SshError: The host or the master refused the session.
    """
    line = session_command(command)
    return _in_session(conversation, lambda: _run(conversation, line, timeout))


def _in_session(conversation: Conversation, use: Callable[[], _Result]) -> _Result:
    """Use a session; again if it was refused, and ours before it has only just ended.

    sshd counts a session until all of it has gone, which is some moments after the client has.
    """
    while True:
        try:
            result = use()
        except SshError as error:
            if REFUSED not in error.stderr:
                conversation.session_ended = time.monotonic()
                raise
            if time.monotonic() - conversation.session_ended > SESSION_PATIENCE:
                raise
            time.sleep(SESSION_POLL)
        except BaseException:
            conversation.session_ended = time.monotonic()
            raise
        else:
            conversation.session_ended = time.monotonic()
            return result


def _run(conversation: Conversation, line: str, timeout: float | None) -> Ending:
    master = conversation.master
    log_file = os.path.join(master.folder, f"run-{os.urandom(8).hex()}")
    argv = _openssh.run_argv(master.control_path, log_file, line)
    try:
        # Open before and after: the guard removes it at the master's end, with all that it tells.
        log = open(log_file, "x+b")
    except OSError as error:
        raise refusal(conversation, "run a command", None, str(error), started=False) from None
    reader, lifeline = _lifelines.pipe()
    conversation.hold(lifeline)
    try:
        try:
            client = _start(argv, stdin=reader)
        finally:
            _lifelines.close(reader)
        timed_out = False
        try:
            stdout, stderr = client.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
            conversation.let_go(lifeline)
            stdout, stderr = _await_stop(client)
        except BaseException:
            conversation.let_go(lifeline)
            _await_stop(client)
            raise
        said = log.read().decode("utf-8", "backslashreplace")
    finally:
        log.close()
        conversation.let_go(lifeline)
        with contextlib.suppress(OSError):  # the guard has removed it
            os.unlink(log_file)
    if timed_out:
        return Ending(None, stdout, stderr, True)
    return Ending(_exit_status(conversation, client, said, stderr), stdout, stderr, False)


def _exit_status(
    conversation: Conversation, client: subprocess.Popen[bytes], log: str, stderr: bytes
) -> int | None:
    """The command's exit status; None if there is none, since a signal ended it.

    The client's own is 255 for that, for a command's 255, and for all that can go wrong.
    """
    told = re.search(r"Received exit status from master (\d+)", log)
    if told:
        return int(told[1])
    opened = "master session id:" in log
    if opened and master_answers(conversation):
        if client.returncode < 0:
            raise SshError(
                f"The ssh that ran a command on {conversation.settings.host} was killed.",
                host=conversation.settings.host,
                exit_status=None,
                stderr=log,
            )
        return None
    # The connection may have ended before the answer to the request, which follows the hello.
    hello = re.search(r"mux_client_hello_exchange: (read packet failed|write packet)?", log)
    asked = hello is not None and not hello[1]
    said = log + stderr.decode("utf-8", "backslashreplace")
    raise refusal(
        conversation,
        "run a command",
        client.returncode,
        said,
        started=True if opened else None if asked else False,
    )


def _await_stop(client: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Wait until the host has ended the command, within bounds; what has been printed."""
    try:
        return client.communicate(timeout=STOP_PATIENCE)
    except subprocess.TimeoutExpired:
        client.kill()
    try:
        return client.communicate(timeout=1)
    except subprocess.TimeoutExpired as error:  # the master itself holds the pipes, and hangs
        for file in (client.stdout, client.stderr):
            assert file is not None
            file.close()
        client.wait()
        return error.stdout or b"", error.stderr or b""


# --- scp ---


def copy(conversation: Conversation, source: str, target: str, *, to_host: bool) -> None:
    """Copy a file or folder by scp.

    Raises:
        ConnectionLostError: The connection has ended.
        SshError: scp failed, for the reason that it printed.
    """
    _in_session(conversation, lambda: _copy(conversation, source, target, to_host=to_host))


def _copy(conversation: Conversation, source: str, target: str, *, to_host: bool) -> None:
    status, said = _scp(conversation, source, target, to_host=to_host, sftp=True)
    if status and "Connection closed" in said and _lacks_sftp(conversation):
        # Nothing was copied. The host's own scp may be there, for the old protocol.
        status, said = _scp(conversation, source, target, to_host=to_host, sftp=False)
    if status:
        raise refusal(conversation, f"copy {source!r} to {target!r}", status, said, started=None)


def _lacks_sftp(conversation: Conversation) -> bool:
    """Whether the host refuses SFTP; scp does not say so, over a master."""
    argv = _openssh.sftp_argv(conversation.master.control_path)
    return control(argv)[0] != 0 and master_answers(conversation)


def _scp(
    conversation: Conversation, source: str, target: str, *, to_host: bool, sftp: bool
) -> tuple[int, str]:
    argv = _openssh.scp_argv(
        conversation.master.control_path,
        ssh_version(),
        source,
        target,
        to_host=to_host,
        sftp=sftp,
    )
    client = _start(argv)
    try:
        _, stderr = client.communicate()
    except BaseException:
        os.killpg(client.pid, signal.SIGKILL)  # scp and its ssh
        client.communicate()
        raise
    return client.returncode, stderr.decode("utf-8", "backslashreplace")


# --- requests of the master ---


def control(argv: list[str], patience: float = CONTROL_PATIENCE) -> tuple[int | None, str, str]:
    """Ask something of the master; exit status (None: no answer came), stdout and stderr."""
    client = _start(argv)
    status: int | None
    try:
        stdout, stderr = client.communicate(timeout=patience)
        status = client.returncode
    except subprocess.TimeoutExpired:
        client.kill()
        stdout, stderr = client.communicate()
        status = None
    except BaseException:
        client.kill()
        client.communicate()
        raise
    return status, stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "backslashreplace")


def master_answers(conversation: Conversation) -> bool:
    """Whether the master is there; the link may be dead all the same."""
    if conversation.ended or conversation.closing:
        return False
    argv = _openssh.check_argv(conversation.master.control_path)
    return control(argv)[0] == 0


def refusal(
    conversation: Conversation, what: str, status: int | None, said: str, *, started: bool | None
) -> LazyclusterError:
    """Why a client failed: the connection is lost, or else somebody refused."""
    host = conversation.settings.host
    if not master_answers(conversation):
        if conversation.await_end(NOTICE_PATIENCE):
            return conversation.end_error(started)
        return SshError(
            f"Cannot {what} on {host}: ssh runs, but nothing answers at its control socket "
            f"{conversation.master.control_path}. Close the connection and open it again.",
            host=host,
            exit_status=status,
            stderr=said,
        )
    if REFUSED in said:
        return SshError(
            f"{host} refused to {what}: its sshd allows no further session on one connection "
            "(MaxSessions). Tasks and their files share the one session that there is; or have "
            "MaxSessions raised.",
            host=host,
            exit_status=status,
            stderr=said,
        )
    return SshError(
        f"Cannot {what} on {host}: {reason(said) or f'ssh exit status {status}'}.",
        host=host,
        exit_status=status,
        stderr=said,
    )


def reason(said: str) -> str:
    """The last lines that a client printed, in one, without its notes to developers."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("debug")]
    text = " / ".join(" ".join(line.split()) for line in lines[-3:])[:500].rstrip(".")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _start(argv: list[str], stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us to handle
    )
