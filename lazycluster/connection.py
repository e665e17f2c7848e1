"""Connection: one control master to one host."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Callable, NoReturn, TypeVar

from lazycluster._ssh.settings import Settings
from lazycluster.exceptions import (
    OUTPUT_IN_ERRORS,
    CommandError,
    ConnectError,
    ConnectionLostError,
    LazyclusterError,
    StepTimeoutError,
    command_message,
)

# What it takes to log in is imported at the first login: it is half of the time of our import.
if TYPE_CHECKING:
    from lazycluster._conversation.conversation import Conversation
    from lazycluster._ssh import mux as _clients
    from lazycluster.forwards import Forward

# Seconds before another login when sshd has dropped one; each at random up to half more or less,
# since those who came at once would come at once again.
BACK_OFF = (0.5, 1.0, 2.0, 4.0, 8.0)

logger = logging.getLogger("lazycluster")

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class CommandResult:
    """How a command of `Connection.run` ended, and what it printed.

    Args:
        command: The command.
        stdout: What it wrote to standard output, whole.
        stderr: What it wrote to standard error, whole.
        exit_status: Its exit status, 255 too; None if a signal ended it. ssh does not pass on
            which one: a task does.
    """

    command: str
    stdout: bytes
    stderr: bytes
    exit_status: int | None

    @property
    def stdout_text(self) -> str:
        """`stdout` as UTF-8; what is none is shown with backslashes."""
        return self.stdout.decode("utf-8", "backslashreplace")

    @property
    def stderr_text(self) -> str:
        """`stderr` as UTF-8; what is none is shown with backslashes."""
        return self.stderr.decode("utf-8", "backslashreplace")


class Connection:
    """One authenticated connection to a host, and the one session on it, whatever runs there.

    Tasks, functions and a Runtime need Python on the host; `run`, `copy` and `forward` do not.
    Where there is none, a link that goes silent without an end is noticed by TCP alone, or by
    ServerAliveInterval in ssh_config; else it is within four times `keepalive`.

    It opens on first use. After a loss the next use logs in again, by itself; what may have
    started on the host is never repeated. Safe to use from many threads. A child forked by
    `os.fork` cannot use it and cannot harm it.

    What is not given here is as the user's ssh config has it.

    Args:
        host: What `ssh` takes: an alias, `user@host`, `user@host:port`, `ssh://…`, an IPv6 literal.
        user: The user on the host (`-l`).
        port: The port of its sshd (`-p`).
        config_file: An ssh config to use in place of the user's (`-F`).
        identity_file: The private key to offer (`-i`).
        jump_host: One or more hosts to go through, comma-separated (`-J`).
        connect_timeout: Seconds for the whole login, through all jump hosts and up to the answer
            of our own program there. Defaults to 30.
        keepalive: Seconds between two heartbeats, each way; after four silent periods either side
            ends. Defaults to 15.
        password: What to answer if the host asks for a password; it is never given to a jump host.
            To ssh it goes by SSH_ASKPASS, over a pipe, and nowhere else. Asked a second time, the
            login ends. Defaults to None.
        passphrase: Likewise, if ssh asks for the passphrase of a key. Defaults to None.
        interactive: If True, whatever else is asked at the login is asked at the terminal, of a
            person: a password, a code, whether to trust a host key. `connect_timeout` stands still
            meanwhile. After a loss it does not log in again by itself, but at the next `open`.
            Defaults to False: then a question is an AuthenticationError or HostKeyError.
        python: The command line of the host's Python: a path, or `uv run --with … python`. Defaults
            to `pythonX.Y` of the manager's version, else `python3`.
        options: ssh_config names and values (`-o`).

    Raises:
        ValueError: One of these cannot be; before any process is started.
    """

    def __init__(
        self,
        host: str,
        *,
        user: str | None = None,
        port: int | None = None,
        config_file: str | os.PathLike[str] | None = None,
        identity_file: str | os.PathLike[str] | None = None,
        jump_host: str | None = None,
        connect_timeout: float = 30.0,
        keepalive: float = 15.0,
        password: str | None = None,
        passphrase: str | None = None,
        interactive: bool = False,
        python: str | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = Settings(
            host=host,
            user=user,
            port=port,
            config_file=config_file,
            identity_file=identity_file,
            jump_host=jump_host,
            connect_timeout=connect_timeout,
            keepalive=keepalive,
            password=password,
            passphrase=passphrase,
            interactive=interactive,
            python=python,
            options=options or {},
        )
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = threading.Event()
        self._conversation: Conversation | None = None
        self._finalizer: weakref.finalize[[], Connection] | None = None

    def __repr__(self) -> str:
        return f"<Connection to {self.host!r}>"

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
        """The host, as it was given."""
        return self._settings.host

    def open(self) -> None:
        """Log in and wait for the host's answer, `connect_timeout` at most; nothing if it is open.

        A host without Python can be opened: `run`, `copy` and `forward` work there. Where sshd
        drops the login, as it does when too many come at once (MaxStartups), it is tried again a
        few times, later each time; never when somebody was asked, or a key refused.

        Raises:
            ConnectError: ssh's reason why no connection came up.
        """
        self.log_in(lambda conversation: conversation.wait_until_open(), by_person=True)

    def close(self) -> None:
        """End all that runs over it on the host, and ssh; a second time is fine."""
        if not self.is_owner:
            return
        with self._lock:
            conversation, self._conversation = self._conversation, None
            self._closed.set()
            self._closed = threading.Event()
        if conversation is not None:
            conversation.close()

    # What needs no Python on the host

    def run(
        self, command: str, *, check: bool = True, timeout: float | None = None
    ) -> CommandResult:
        """Run a command in the account's shell, as `ssh host command` does, and wait for its end.

        It needs a session of its own, which a host with `MaxSessions 1` refuses, and some 10 ms:
        where there is Python, a task is quicker and tells more. It starts in the home directory,
        with `/dev/null` as standard input. Its output is kept in memory.

        The command ends with the shell that runs it: what that leaves running in its process
        group gets SIGTERM then. `setsid` is the way out.

        Args:
            command: The command. With what it takes to write it for any shell it may make 100 kB.
            check: If True, a command that fails raises. Defaults to True.
            timeout: Seconds until the command is stopped: SIGTERM to its process group, SIGKILL two
                seconds later. What has left the group (`setsid`, `timeout`, a shell with job
                control) goes on, and nobody can be sure if the host no longer answers: a task ends
                all of it. Defaults to None, no bound.

        Returns:
            How it ended, and what it printed.

        Raises:
            CommandError: It failed: an exit status other than 0, or a signal, when both
                `exit_status` and `signal` are None. Not with `check=False`.
            StepTimeoutError: It took longer than `timeout`; with `check=False` too.
            ConnectionLostError: The connection ended meanwhile; it was not repeated.
            SshError: The host refused the session.
            ConnectError: No connection came up.
            ValueError: The command holds a NUL or is too long.
        """
        from lazycluster._ssh import mux as _clients

        _clients.session_command(command)  # before any process is started
        ending = self._riding(lambda conversation: _clients.run(conversation, command, timeout))
        if ending.timed_out or (check and ending.exit_status != 0):
            raise _command_error(self.host, command, ending, timeout)
        return CommandResult(command, ending.stdout, ending.stderr, ending.exit_status)

    def copy(
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        to_host: bool,
    ) -> None:
        """Copy a file or a folder, with all that is in it, to the host or from it, by scp.

        For hosts without Python: elsewhere `RuntimeTask.send_file` and `get_file` are better. This
        is not atomic, so that an error leaves half a file; it needs a session of its own, which a
        host with `MaxSessions 1` refuses. Modes and times are kept.

        Names are taken literally, save that `~/` at the beginning of a path on the host is the home
        directory. A relative path there is relative to that. If the target is a folder that is
        there, the copy is made in it, under its own name.

        Args:
            source: The path of what is copied.
            target: The path of the copy.
            to_host: Whether the target is on the host; else the source is.

        Raises:
            FileNotFoundError: There is no such file or folder here.
            SshError: scp failed, for the reason that it gave.
            ConnectionLostError: The connection ended meanwhile.
            ConnectError: No connection came up.
            ValueError: A path is empty or holds a NUL.
        """
        paths = [os.fspath(path) for path in (source, target)]
        for path in paths:
            if not isinstance(path, str) or not path or "\0" in path:
                raise ValueError(f"A path must be a string that is not empty, not {path!r}.")
        if to_host and not os.path.exists(paths[0]):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), paths[0])
        from lazycluster._ssh import mux as _clients

        self._riding(lambda conversation: _clients.copy(conversation, *paths, to_host=to_host))

    def forward(self, port: int, to_port: int, *, on_host: bool = False) -> Forward:
        """Have a port on one side lead to a port on the other.

        Whoever connects to 127.0.0.1 and `port` on the side that listens is connected to localhost
        and `to_port`, IPv4 or IPv6, on the other; nobody has to serve that yet. Somebody listens
        when this returns, which is looked at there, without connecting to `to_port`; save that a
        host without Python cannot be looked at, and that a host that forbids other ports
        (PermitOpen) gets one connection to it.

        Args:
            port: The port to listen on; 0 for any that is free.
            to_port: The port to lead to.
            on_host: If True, the host listens and leads to the manager (`-R`), else the manager
                listens and leads to the host (`-L`). Defaults to False.

        Returns:
            The forward, which lives until it is cancelled or the connection ends.

        Raises:
            PortInUseError: The port is taken on the side that should listen.
            ForwardError: It cannot be made, for ssh's reason.
            ConnectionLostError: The connection ended meanwhile.
            ConnectError: No connection came up.
            ValueError: A port is out of range.
        """
        _check_port("port", port, lowest=0)
        _check_port("to_port", to_port, lowest=1)
        from lazycluster.forwards import open_forward

        return self._riding(
            lambda conversation: open_forward(self, conversation, port, to_port, on_host=on_host)
        )

    def _riding(self, use: Callable[[Conversation], _Result]) -> _Result:
        """Use the master; once more if it turns out to have ended before anything was asked."""
        try:
            return use(self.opened())
        except ConnectionLostError as error:
            if error.started is not False:
                raise
        return use(self.opened())

    def opened(self) -> Conversation:
        """The live conversation with the host, which has answered; for our own rooms."""

        def open_it(conversation: Conversation) -> Conversation:
            conversation.wait_until_open()
            return conversation

        return self.log_in(open_it)

    # Whose it is

    @property
    def is_owner(self) -> bool:
        """Whether this is the process that made it, and not a child forked from that."""
        return os.getpid() == self._pid

    def check_owner(self) -> None:
        """Raise a LazyclusterError in a child forked from the process that made it."""
        if not self.is_owner:
            raise LazyclusterError(
                f"The connection to {self.host} belongs to process {self._pid}; this is a child "
                "forked from it. Make a new Runtime or Connection in the child."
            )

    def log_in(
        self, first: Callable[[Conversation], _Result], *, by_person: bool = False
    ) -> _Result:
        """Do something first with the conversation; again, with the next, if sshd drops the login.

        For our own rooms. What comes first has not started when a login fails.

        Args:
            first: What to do; it raises the login's error.
            by_person: As `conversation` has it.
        """
        began = time.monotonic()
        closed = self._closed
        for pause in BACK_OFF:
            conversation = self.conversation(by_person=by_person, began=began)
            try:
                return first(conversation)
            except ConnectError:
                import random

                pause *= random.uniform(0.5, 1.5)
                left = began + self._settings.connect_timeout - time.monotonic()
                if not conversation.dropped or pause > left:
                    raise
                logger.info("%s dropped a login; the next follows in %.1f s.", self.host, pause)
                if closed.wait(pause):
                    raise
        return first(self.conversation(by_person=by_person, began=began))

    def conversation(self, *, by_person: bool = False, began: float | None = None) -> Conversation:
        """The live conversation with the host, begun now if there is none; for our own rooms.

        Args:
            by_person: Whether the user asked for a login, so that a person can be asked again.
            began: Since when it has been tried, by time.monotonic(); None for now.
        """
        self.check_owner()
        with self._lock:
            if self._conversation is None or self._conversation.ended:
                if self._conversation is not None and self._settings.interactive and not by_person:
                    raise ConnectionLostError(
                        f"The connection to {self.host} was lost, and a person logged in to it "
                        "(interactive=True), so it is not opened again by itself. Call open(), or "
                        "make a new Runtime.",
                        host=self.host,
                        started=False,
                    )
                from lazycluster._conversation.conversation import Conversation

                self._conversation = Conversation(self._settings, began)
                # Whoever forgets to close: the host's half ends when this object has gone.
                if self._finalizer is not None:
                    self._finalizer.detach()
                self._finalizer = weakref.finalize(self, self._conversation.begin_close)
            return self._conversation


def _command_error(
    host: str, command: str, ending: _clients.Ending, timeout: float | None
) -> CommandError:
    parts = (ending.stdout[-OUTPUT_IN_ERRORS:], ending.stderr[-OUTPUT_IN_ERRORS:])
    output = b"".join(parts).decode("utf-8", "backslashreplace")
    status = ending.exit_status
    if ending.timed_out:
        assert timeout is not None
        message = command_message(host=host, command=command, timeout=timeout, output=output)
        return StepTimeoutError(message, host=host, command=command, output=output, timeout=timeout)
    message = command_message(host=host, command=command, exit_status=status, output=output)
    if status is None:
        message += "\n  It was ended by a signal; ssh does not pass on which."
    return CommandError(message, host=host, command=command, exit_status=status, output=output)


def _check_port(name: str, port: int, *, lowest: int) -> None:
    number = isinstance(port, int) and not isinstance(port, bool)
    if not number or not lowest <= port <= 65535:
        raise ValueError(f"{name} must be a whole number from {lowest} to 65535, not {port!r}.")
