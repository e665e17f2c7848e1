"""Start the ssh that is the control master, under its guard."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import posix
import re
import shutil
import subprocess
import threading

from lazycluster._shared import frames
from lazycluster._ssh import lifelines
from lazycluster._ssh.argv import master_argv
from lazycluster._ssh.askpass import Askpass, login_environment
from lazycluster._ssh.control_folder import make_control_folder
from lazycluster._ssh.options import ssh_version
from lazycluster._ssh.processes import kill_group
from lazycluster._ssh.scripts import read_script
from lazycluster._ssh.settings import Settings

GUARD_TIMEOUT = 8.0  # seconds until a guard that should end is killed; it needs at most 3
LOG_READ = 1 << 16  # bytes of ssh's log, at most

# The last line of the log, by the guard. What subprocess reports for the guard is not reliable:
# with SIGCHLD ignored, or where another part of the program reaps all children, it is 0.
_STATUS = re.compile(rb"lazycluster: the exit status of ssh is (\d+)\n\Z")
# The guard's, and the bootstrap's.
_OWN_LINES = re.compile(_STATUS.pattern + rb"|^lazycluster-[0-9a-f]{32} end\n", re.MULTILINE)


class Master:
    """An ssh with its guard, just started.

    Args:
        settings: What the user asked of ssh.
        remote_command: The line for the account's login shell.
        connect_timeout: Seconds for each address (`-o ConnectTimeout`); None for ssh_config's.

    Attributes:
        folder: The control folder.
        control_path: The path of the control socket.
        lifeline: The pipe into ssh, non-blocking.
        output: The pipe out of ssh.
        askpass: Answers the questions of the login; None if no question can be answered.

    Raises:
        LazyclusterError: If there is no usable ssh, or no folder for its socket.
    """

    lifeline: int
    output: int

    def __init__(
        self, settings: Settings, remote_command: str, connect_timeout: int | None = None
    ) -> None:
        version = ssh_version()
        self._lock = threading.Lock()
        self._last_log = b""
        self._exit_status: int | None = None
        self.askpass: Askpass | None = None
        with contextlib.ExitStack() as on_error:
            self.folder: str = make_control_folder()
            on_error.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.control_path: str = os.path.join(self.folder, "s")
            self._log = os.open(os.path.join(self.folder, "log"), os.O_RDONLY | os.O_CLOEXEC)
            on_error.callback(posix.close, self._log)
            if settings.may_be_asked:
                self.askpass = Askpass(self.folder, settings)
                on_error.callback(self.askpass.close)
            plain = _with_plain_config_file(settings, self.folder)
            argv = master_argv(plain, self.control_path, version, remote_command, connect_timeout)
            environment = login_environment(version, self.askpass.path if self.askpass else None)
            with contextlib.ExitStack() as theirs:
                ssh_input, self.lifeline = lifelines.pipe()
                theirs.callback(lifelines.close, ssh_input)
                on_error.callback(lifelines.close, self.lifeline)
                self.output, ssh_output = lifelines.pipe()
                theirs.callback(lifelines.close, ssh_output)
                on_error.callback(lifelines.close, self.output)
                # A KeyboardInterrupt may come when the guard runs already: it ends with its pipe.
                guard_input, self._guard_pipe = lifelines.pipe()
                theirs.callback(lifelines.close, guard_input)
                on_error.callback(lifelines.close, self._guard_pipe)
                for fd in (self.lifeline, self.output):
                    frames.enlarge_pipe_buffer(fd)
                os.set_blocking(self.lifeline, False)
                guard = ["/bin/sh", "-c", read_script("guard"), "lazycluster-guard", self.folder]
                with lifelines.inherited(ssh_input, ssh_output, guard_input):
                    self._guard = subprocess.Popen(
                        [*guard, *argv],
                        stdin=ssh_input,
                        stdout=ssh_output,
                        stderr=guard_input,
                        env=environment,
                        start_new_session=True,
                    )
            on_error.pop_all()

    def log(self) -> str:
        """Return what ssh, a jump host's ssh and the host's standard error have printed so far."""
        return self.log_since(0)

    def log_size(self) -> int:
        """Return the size of the log in bytes, for `log_since`."""
        with self._lock:
            return os.fstat(self._log).st_size if self._log >= 0 else len(self._last_log)

    def log_since(self, size: int) -> str:
        """Return what was printed since the log had `size` bytes."""
        with self._lock:
            if self._log >= 0:
                data = os.pread(self._log, LOG_READ, size)
            else:
                data = self._last_log[size:]
        return _OWN_LINES.sub(b"", data).decode("utf-8", "backslashreplace")

    def has_printed(self, line: bytes) -> bool:
        """Return True if a line is in the end of the log, or nothing more comes."""
        with self._lock:
            if self._log < 0:
                return True
            start = max(0, os.fstat(self._log).st_size - LOG_READ)
            return line in os.pread(self._log, LOG_READ, start)

    def log_bytes(self, position: int) -> bytes:
        """Return at most 64 KiB of the log from a position on; empty at its end."""
        with self._lock:
            return os.pread(self._log, LOG_READ, position) if self._log >= 0 else b""

    def close_lifeline(self) -> None:
        """End the standard input of the host's program, which ends then, and ssh with it."""
        with self._lock:
            self.lifeline = lifelines.close(self.lifeline)

    def release(self, *, ending: bool = False) -> None:
        """Make the guard end ssh and itself; a second call does nothing.

        Args:
            ending: ssh is about to end by itself, with an exit status that the caller needs.
        """
        with self._lock:
            if ending and self._guard_pipe >= 0:
                with contextlib.suppress(OSError):  # the guard was killed
                    os.write(self._guard_pipe, b"ending\n")
            self._guard_pipe = lifelines.close(self._guard_pipe)

    def wait(self) -> int | None:
        """Wait until ssh, its guard and their folder have gone; a second call is harmless.

        Call it only after `release`.

        Returns:
            ssh's exit status; None if it is not known.
        """
        try:
            self._guard.wait(GUARD_TIMEOUT)
        except subprocess.TimeoutExpired:
            kill_group(self._guard)
            self._guard.wait()
        shutil.rmtree(self.folder, ignore_errors=True)  # it is still there if the guard was killed
        with self._lock:
            self.output = lifelines.close(self.output)
            if self._log >= 0:
                self._last_log = os.pread(self._log, LOG_READ, 0)
                end = os.pread(self._log, 99, max(0, os.fstat(self._log).st_size - 99))
                if status := _STATUS.search(end):
                    self._exit_status = int(status[1])
                posix.close(self._log)
                self._log = -1
        return self._exit_status


def _with_plain_config_file(settings: Settings, folder: str) -> Settings:
    """Replace a config file's path that a shell would not take as it is by a link in `folder`.

    For ProxyJump, ssh writes the path unquoted into a line for the shell, which splits it at a
    blank and runs what stands behind a `;` (seen with 9.2). ssh expands `%` there.
    """
    path = settings.config_file
    if path is None or re.fullmatch(r"[\w@+=:,./-]+", os.fspath(path), re.ASCII):
        return settings
    link = os.path.join(folder, "config")
    os.symlink(path, link)
    return dataclasses.replace(settings, config_file=link)
