"""Connection: one control master to one host."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Callable, NoReturn, TypeVar

from lazycluster._checks import (
    check_seconds,
    checked_input,
    checked_path,
    command_line,
)
from lazycluster._conversation.login import Login
from lazycluster._ssh.settings import Settings
from lazycluster._text import command_message, decoded, decoded_end
from lazycluster._tracebacks import short_tracebacks
from lazycluster.exceptions import (
    OUTPUT_IN_ERRORS,
    CommandError,
    ConnectionLostError,
    StepTimeoutError,
)

# What it takes to log in is imported at the first login: it is half of the time of our import.
if TYPE_CHECKING:
    from lazycluster._conversation.conversation import Conversation
    from lazycluster._ssh.endpoints import PortOrPath, Route
    from lazycluster._ssh.run import Ending
    from lazycluster._ssh.transport import Transport
    from lazycluster.forwards import Forward


_Result = TypeVar("_Result")


@dataclass(frozen=True)
class CommandResult:
    """How a command ended, and what it printed.

    Attributes:
        command: The command.
        stdout_bytes: Its standard output, whole.
        stderr_bytes: Its standard error, whole.
        exit_status: Its exit status; None if a signal ended it.
        signal: The number of the signal that ended it, positive; None if it exited. ssh does not
            report the signal, so it is None after `Connection.run`.
    """

    command: str
    stdout_bytes: bytes
    stderr_bytes: bytes
    exit_status: int | None
    signal: int | None = None

    @property
    def stdout(self) -> str:
        """Return the standard output as UTF-8; other bytes are shown as backslash escapes."""
        return decoded(self.stdout_bytes)

    @property
    def stderr(self) -> str:
        """Return the standard error as UTF-8; other bytes are shown as backslash escapes."""
        return decoded(self.stderr_bytes)

    @property
    def returncode(self) -> int:
        """Return the exit status as `subprocess` has it: a signal as a negative number.

        It is 255, as ssh's own, if a signal ended the command and ssh does not report which.
        """
        if self.exit_status is not None:
            return self.exit_status
        return 255 if self.signal is None else -self.signal


@short_tracebacks
class Connection(Login):
    """One authenticated connection to a host, with one session for everything that runs there.

    Tasks, functions and a Runtime need Python on the host. `run`, `send`, `get` and the forwards do
    not, but without Python a silent link is found by TCP alone, or by ServerAliveInterval in
    ssh_config.

    It opens at its first use. After a loss, the next use logs in again; what may have started on
    the host is never repeated. It can be used from many threads. A child forked by `os.fork`
    cannot use it and cannot harm it.

    The user's ssh_config decides what is not given here.

    Args:
        host: What `ssh` takes: an alias, `user@host`, `user@host:port`, `ssh://…`, an IPv6 literal.
        user: The user on the host (`-l`).
        port: The port of its sshd (`-p`).
        config_file: An ssh_config in place of the user's (`-F`).
        identity_file: The private key to offer (`-i`), or several keys in their order.
        jump_host: One or more hosts to go through, comma-separated (`-J`).
        connect_timeout: Seconds for the whole login, through all jump hosts and up to the reply of
            our own program there, but without the time in which it waits for other logins to the
            same first hop: this process makes at most eight at once, because sshd drops logins at
            random from the tenth on (MaxStartups). Defaults to 30.
        keepalive: Seconds between two heartbeats, each way; after four silent periods the
            connection is lost. Defaults to 15.
        orphan_timeout: Seconds without a sign of this program after which the host ends what it has
            started. It is longer than `keepalive`, because a program can be stopped or blocked for
            a while. Defaults to 600.
        password: The answer if the host asks for a password; a jump host never gets it. ssh gets it
            by SSH_ASKPASS, over a pipe. If it is asked for twice, the login ends.
        passphrase: The answer if ssh asks for the passphrase of a key.
        password_prompt: A regular expression that is found in the question for the password, and in
            no other. Defaults to None: any question of the host, in any language, unless it names
            something else (a code, a token, a new password).
        interactive: If True, ssh's other questions are asked at the terminal: a password, a code,
            whether to trust a host key; `connect_timeout` stands still meanwhile. After a loss,
            only `open` logs in again. Defaults to False: then a question is an AuthenticationError
            or HostKeyError.
        python: The command line of the host's Python: a path, or `uv run --with … python`. Defaults
            to `pythonX.Y` of the manager's version, else `python3`.
        options: ssh_config names and values (`-o`).

    Raises:
        ValueError: If an argument is invalid; checked before any process starts.
        TypeError: If a path is neither a string nor an `os.PathLike`.
    """

    def __init__(
        self,
        host: str,
        *,
        user: str | None = None,
        port: int | None = None,
        config_file: str | os.PathLike[str] | None = None,
        identity_file: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        jump_host: str | None = None,
        connect_timeout: float = 30.0,
        keepalive: float = 15.0,
        orphan_timeout: float = 600.0,
        password: str | None = None,
        passphrase: str | None = None,
        password_prompt: str | None = None,
        interactive: bool = False,
        python: str | os.PathLike[str] | None = None,
        options: Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> None:
        settings = Settings(
            host=host,
            user=user,
            port=port,
            config_file=config_file,
            identity_file=identity_file,
            jump_host=jump_host,
            connect_timeout=connect_timeout,
            keepalive=keepalive,
            orphan_timeout=orphan_timeout,
            password=password,
            passphrase=passphrase,
            password_prompt=password_prompt,
            interactive=interactive,
            python=None if python is None else command_line(python, "python"),
            options=options or {},
        )
        super().__init__(settings)

    def __repr__(self) -> str:
        return f"<Connection to {self.host!r}>"

    _stays_here = True  # see `_functions.pickler`

    def __reduce__(self) -> NoReturn:
        raise TypeError("A Connection cannot be pickled or copied; make one where it is needed.")

    def __enter__(self) -> Connection:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def host(self) -> str:
        """Return the host, as it was given."""
        return self._settings.host

    def open(self) -> None:
        """Log in, and wait for the host's reply, `connect_timeout` at most.

        Do nothing if the connection is open. A host without Python can be opened: `run`, `send`,
        `get` and the forwards work there. Where sshd drops the login, as it does when too many come
        at once (MaxStartups), the login is tried again a few times, later each time; never after a
        question was asked or a key refused.

        Raises:
            ConnectError: If no connection came up, for ssh's reason.
        """
        self._open(by_person=True)

    def close(self) -> None:
        """End all that runs over it on the host, and ssh; a second call does nothing."""
        self._close()

    def wait_until_back(self, timeout: float = 600.0) -> None:
        """Wait for the end of the connection, as after `sudo reboot`, and log in again.

        If there is no connection, or it has ended already, log in at once. Logins are repeated
        every two seconds, but not after a wrong host key or a refused password.

        Args:
            timeout: Seconds for all of it. Defaults to 600.

        Raises:
            ConnectError: If the host did not come back in time, for the last login's reason.
            LazyclusterError: If the connection did not end in time.
            ValueError: If the timeout is not a positive number.
        """
        check_seconds(timeout, "timeout")
        self._log_in_again(time.monotonic() + timeout, timeout)

    # What needs no Python on the host

    def run(
        self,
        command: str,
        *,
        input: str | bytes | None = None,
        check: bool = True,
        timeout: float | None = None,
        shell: str | os.PathLike[str] | None = None,
    ) -> CommandResult:
        """Run a command in the account's shell, as `ssh host command` does, and wait for its end.

        It needs a session of its own, which a host with `MaxSessions 1` refuses, and some 10 ms:
        where there is Python, `Runtime.run` is quicker and reports more. It starts in the home
        directory. Its output is kept in memory.

        The command ends with the shell that runs it: what that leaves running in its process
        group gets SIGTERM then. `setsid` is the way out. Where neither the server nor `setsid`
        makes a process group (dropbear on a router whose busybox has no setsid), only the shell
        itself is stopped, and what it has started goes on.

        An account whose shell runs no commands (nologin, false) gets `/bin/sh`, where its sshd
        starts the session at all.

        Args:
            command: The command; encoded, at most 100 kB.
            input: Its standard input, a string as UTF-8. The host stores it before the command
                starts, in a file without a name in `$TMPDIR` or `/tmp`. Defaults to None,
                `/dev/null`.
            check: If True, a command that fails raises. Defaults to True.
            timeout: Seconds until the command is stopped: SIGTERM to its process group, SIGKILL two
                seconds later. What has left the group (`setsid`, `timeout`, a shell with job
                control) goes on, and so may all of it if the host no longer answers: a task ends
                all of it. Defaults to None, no bound.
            shell: The command line of another shell, which gets `-c` and the command: `/bin/sh`,
                `bash --norc`. Defaults to None, the account's shell.

        Returns:
            How it ended, and what it printed.

        Raises:
            CommandError: If it failed: an exit status other than 0, or a signal, when both
                `exit_status` and `signal` are None. Not with `check=False`.
            StepTimeoutError: If it took longer than `timeout`; with `check=False` too.
            ConnectionLostError: If the connection ended meanwhile; the command was not repeated.
            SshError: If the host refused the session.
            ConnectError: If no connection came up.
            ValueError: If the command holds a NUL or is too long, or the shell is not a command
                line.
            TypeError: If the input is neither a string nor bytes.
        """
        from lazycluster._ssh.run import run, session_input, session_line

        data = checked_input(input)
        shell = None if shell is None else command_line(shell, "The shell")
        head = session_input(command, shell, data)  # raises before any process is started
        if timeout is not None:
            check_seconds(timeout, "timeout")

        def use(conversation: Conversation) -> Ending:
            # The login shell cannot open the file without a name that the input is in.
            itself = conversation.has_bash_or_zsh and shell is None and data is None
            line = session_line(command if itself else None)
            return run(conversation.transport, line, head, data, timeout)

        ending = self._retried(use)
        if ending.timed_out or (check and ending.exit_status != 0):
            raise _command_error(self.host, command, ending, timeout)
        return CommandResult(command, ending.stdout, ending.stderr, ending.exit_status)

    def send(self, local_path: str | os.PathLike[str], remote_path: str | os.PathLike[str]) -> None:
        """Send a file or a folder, with all that is in it, to the host by scp.

        For hosts without Python: elsewhere `RuntimeTask.send_file` is better. This is not atomic,
        so that an error leaves half a file. It needs a session of its own, which a host with
        `MaxSessions 1` refuses. Modes and times are kept (`scp -p`).

        Names are literal, except that `~/` at the beginning of a path on the host is the home
        directory. A relative path there is relative to the home directory. If the target is an
        existing folder, the copy is made in it, under its own name.

        Args:
            local_path: The path of the file or folder.
            remote_path: The path of the copy on the host.

        Raises:
            FileNotFoundError: If there is no such file or folder here.
            SshError: If scp failed, for the reason that it gave.
            ConnectionLostError: If the connection ended meanwhile.
            ConnectError: If no connection came up.
            ValueError: If a path is empty, holds a NUL, or leads to something else here, such as a
                FIFO, on which scp would wait without end.
            TypeError: If a path is neither a string nor an `os.PathLike`.
        """
        local = checked_path(local_path, "The local path")
        remote = checked_path(remote_path, "The remote path")
        if not os.path.exists(local):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), local)
        if not os.path.isfile(local) and not os.path.isdir(local):
            raise ValueError(f"{local!r} is neither a file nor a folder.")
        from lazycluster._ssh import scp

        self._use(lambda transport: scp.send(transport, local, remote))

    def get(self, remote_path: str | os.PathLike[str], local_path: str | os.PathLike[str]) -> None:
        """Get a file or a folder from the host by scp; rules and errors are those of `send`.

        Args:
            remote_path: The path of the file or folder on the host.
            local_path: The path of the copy.
        """
        remote = checked_path(remote_path, "The remote path")
        local = checked_path(local_path, "The local path")
        for path in (local, os.path.join(local, os.path.basename(remote.rstrip("/")))):
            if os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
                raise ValueError(f"{path!r} is a FIFO; name a file or a folder.")
        from lazycluster._ssh import scp

        self._use(lambda transport: scp.get(transport, remote, local))

    def forward_local(
        self,
        port: PortOrPath,
        to_port: PortOrPath,
        *,
        to_host: str | None = None,
        bind_address: str | None = None,
    ) -> Forward:
        """Forward a port of the manager to a port of the host, or of a third host (`-L`).

        A connection to `port` of 127.0.0.1 or ::1 here leads to `to_port` of the host's localhost.
        No server has to listen there yet. When this returns, the port is listened on: that is
        verified without connecting to `to_port`, except on a host that forbids others (PermitOpen),
        and for a socket that is served there: these get one connection.

        In place of a port, the path of a unix socket can be given on either side. It contains a
        slash, and is absolute on the host. A socket that is listened on is made by ssh, for its
        account alone, and removed at the end. What is at its path already is an error.

        Args:
            port: The port to listen on, 0 for any free port; or the path of a socket.
            to_port: The port to lead to; or the path of a socket.
            to_host: A host or address that the host reaches, to lead to. Defaults to None, the
                host's localhost by any of its names: localhost, 127.0.0.1 and ::1.
            bind_address: The address to listen on: an IP address, `localhost`, or `*` for all.
                Defaults to None, 127.0.0.1 and ::1.

        Returns:
            The forward, which lives until it is cancelled or the connection ends.

        Raises:
            PortInUseError: If the port or path is in use on the side that should listen.
            ForwardError: If the forward cannot be made, for ssh's reason.
            ConnectionLostError: If the connection ended meanwhile.
            ConnectError: If no connection came up.
            ValueError: If a port is out of range, a path too long, or a host or address is none.
        """
        from lazycluster._ssh.endpoints import checked_route

        ends = {"to_host": to_host, "bind_address": bind_address}
        return self._forward(checked_route(port, to_port, on_host=False, **ends))

    def forward_remote(
        self,
        port: PortOrPath,
        to_port: PortOrPath,
        *,
        to_host: str | None = None,
        bind_address: str | None = None,
    ) -> Forward:
        """Forward a port of the host to a port of the manager (`-R`); see `forward_local`.

        On a host without Python it cannot be verified that the port is listened on, and a socket
        there is not removed.

        Args:
            port: The port of the host to listen on, 0 for any free port; or the path of a socket.
            to_port: The port of the manager to lead to; or the path of a socket.
            to_host: A host or address that the manager reaches, to lead to. Defaults to None, the
                manager's localhost.
            bind_address: The address of the host to listen on, see `forward_local`; its sshd must
                have `GatewayPorts clientspecified`. Defaults to None, its loopback addresses.
        """
        from lazycluster._ssh.endpoints import checked_route

        ends = {"to_host": to_host, "bind_address": bind_address}
        return self._forward(checked_route(port, to_port, on_host=True, **ends))

    def _forward(self, route: Route) -> Forward:
        from lazycluster.forwards import _make_forward

        return self._retried(lambda conversation: _make_forward(self, conversation, route))

    def _use(self, use: Callable[[Transport], _Result]) -> _Result:
        return self._retried(lambda conversation: use(conversation.transport))

    def _retried(self, use: Callable[[Conversation], _Result]) -> _Result:
        """Use the connection; once more if it turns out to have ended before."""
        try:
            return use(self._open())
        except ConnectionLostError as error:
            if error.started is not False:
                raise
        return use(self._open())


def _command_error(host: str, command: str, ending: Ending, timeout: float | None) -> CommandError:
    streams = (ending.stdout, ending.stderr)
    output = "".join(decoded_end(stream, OUTPUT_IN_ERRORS) for stream in streams)
    status = ending.exit_status
    if ending.timed_out:
        assert timeout is not None
        message = command_message(host=host, command=command, timeout=timeout, output=output)
        return StepTimeoutError(message, host=host, command=command, output=output, timeout=timeout)
    message = command_message(host=host, command=command, exit_status=status, output=output)
    if status is None:
        message += "\n  A signal ended it; ssh does not report which."
    return CommandError(message, host=host, command=command, exit_status=status, output=output)
