"""Start the ssh that is the control master, under its guard."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import threading

from lazycluster._shared import frames
from lazycluster._ssh import argv as _openssh
from lazycluster._ssh import lifelines as _lifelines
from lazycluster._ssh.askpass import Askpass, login_environment
from lazycluster._ssh.control_folder import make_control_folder
from lazycluster._ssh.options import ssh_version
from lazycluster._ssh.scripts import read_script
from lazycluster._ssh.settings import Settings

GUARD_PATIENCE = 8.0  # seconds until a guard that was told to end is killed; it needs at most 3

LOG_READ = 1 << 16  # bytes of what ssh has printed, at most


class Master:
    """An ssh with its guard, started; the bootstrap is not written yet.

    Args:
        settings: What the user asked of ssh.
        remote_command: The line for the account's login shell.

    Attributes:
        lifeline: The pipe into ssh, non-blocking.
        output: The pipe out of ssh.
        askpass: Who answers what is asked at the login; None if nobody can.

    Raises:
        LazyclusterError: There is no usable ssh, or no place for its socket.
    """

    def __init__(self, settings: Settings, remote_command: str) -> None:
        version = ssh_version()
        self.folder = make_control_folder()
        self.control_path = os.path.join(self.folder, "s")
        self._lock = threading.Lock()
        self.lifeline = self.output = self._guard_pipe = -1
        self._log = -1
        self._last_log = b""
        self.askpass: Askpass | None = None
        try:
            self._log = os.open(os.path.join(self.folder, "log"), os.O_RDONLY | os.O_CLOEXEC)
            if settings.may_be_asked:
                self.askpass = Askpass(self.folder, settings)
            plain = _with_plain_config_file(settings, self.folder)
            argv = _openssh.master_argv(plain, self.control_path, version, remote_command)
            ssh_input, self.lifeline = _lifelines.pipe()
            self.output, ssh_output = _lifelines.pipe()
            for fd in (self.lifeline, self.output):
                frames.enlarge_pipe_buffer(fd)
            guard_input, self._guard_pipe = _lifelines.pipe()
            try:
                os.set_blocking(self.lifeline, False)
                self._guard = subprocess.Popen(
                    [
                        "/bin/sh",
                        "-c",
                        read_script("guard"),
                        "lazycluster-guard",
                        self.folder,
                        *argv,
                    ],
                    stdin=ssh_input,
                    stdout=ssh_output,
                    stderr=guard_input,
                    env=login_environment(version, self.askpass.path if self.askpass else None),
                    start_new_session=True,
                )
            finally:
                for fd in (ssh_input, ssh_output, guard_input):
                    _lifelines.close(fd)
        except BaseException:
            # A KeyboardInterrupt may come when the guard runs already: it ends with its pipe.
            for fd in (self.lifeline, self.output, self._guard_pipe):
                _lifelines.close(fd)
            if self._log >= 0:
                os.close(self._log)
            if self.askpass is not None:
                self.askpass.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def log(self) -> str:
        """What ssh, a jump host's ssh and the host's own standard error have printed so far."""
        return self.log_since(0)

    def log_size(self) -> int:
        """How many bytes of that there are, for `log_since`."""
        with self._lock:
            return os.fstat(self._log).st_size if self._log >= 0 else len(self._last_log)

    def log_since(self, size: int) -> str:
        """What they have printed since there were `size` bytes."""
        with self._lock:
            if self._log >= 0:
                data = os.pread(self._log, LOG_READ, size)
            else:
                data = self._last_log[size:]
        return data.decode("utf-8", "backslashreplace")

    def close_lifeline(self) -> None:
        """The host's half ends then, and ssh with it if nothing else keeps it."""
        with self._lock:
            self.lifeline = _lifelines.close(self.lifeline)

    def release(self, *, ending: bool = False) -> None:
        """Tell the guard to end ssh and itself; a second time is fine.

        Args:
            ending: ssh is about to end by itself, with an exit status that somebody wants.
        """
        with self._lock:
            if ending and self._guard_pipe >= 0:
                try:
                    os.write(self._guard_pipe, b"ending\n")
                except OSError:  # somebody killed the guard
                    pass
            self._guard_pipe = _lifelines.close(self._guard_pipe)

    def wait(self) -> int:
        """Wait until ssh, its guard and their folder have gone; ssh's exit status.

        Only after `release`. A second time is fine.
        """
        try:
            status = self._guard.wait(GUARD_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._guard.pid, signal.SIGKILL)
            status = self._guard.wait()
        shutil.rmtree(self.folder, ignore_errors=True)  # if somebody killed the guard
        with self._lock:
            self.output = _lifelines.close(self.output)
            if self._log >= 0:
                self._last_log = os.pread(self._log, LOG_READ, 0)
                os.close(self._log)
                self._log = -1
        return status


def _with_plain_config_file(settings: Settings, folder: str) -> Settings:
    """With a link in the control folder for a config file whose path a shell would not take as is.

    For ProxyJump ssh writes it unquoted into a line for the shell, which splits it at a blank and
    runs what is behind a `;` (seen with 9.2); in there `%` is for ssh.
    """
    path = settings.config_file
    if path is None or re.fullmatch(r"[\w@+=:,./-]+", os.fspath(path), re.ASCII):
        return settings
    link = os.path.join(folder, "config")
    os.symlink(path, link)
    return dataclasses.replace(settings, config_file=link)
