"""SSH servers on loopback that are not OpenSSH: dropbear, and one made with asyncssh.

Neither makes a process group for a command, so a signal to the group of a command would end the
server itself.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pytest

from support.namespaces import need_files, with_files
from support.programs import asyncssh_server
from support.waiting import wait_until


class OtherServer:
    """A server that accepts the current account with a fresh key; a context manager.

    Args:
        folder: An empty folder for its files.

    Attributes:
        alias: The host to give to ssh together with `config_file`.
        config_file: The ssh_config.
        port: Its port on 127.0.0.1.
        home: The home folder of sessions.
        process: The server.
    """

    alias = "other"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        (self.home / ".ssh").mkdir(parents=True, mode=0o700)
        self.config_file = folder / "ssh_config"
        self._user_key = folder / "user_key"
        self._host_key = folder / "host_key"
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", self._user_key]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        self.authorized_keys = self.home / ".ssh" / "authorized_keys"
        shutil.copy(f"{self._user_key}.pub", self.authorized_keys)
        self.authorized_keys.chmod(0o600)
        self._on_exit = contextlib.ExitStack()
        self.port = 0

    def argv(self) -> list[str]:
        """Return the command that runs the server; make its host key."""
        raise NotImplementedError

    def __enter__(self) -> OtherServer:
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._on_exit = stack.pop_all()
        return self

    def _start(self, stack: contextlib.ExitStack) -> None:
        # It keeps the port for the server, which can bind it beside this one; else an sshd of
        # another test may be faster, and would answer in its place.
        reserved = stack.enter_context(socket.socket())
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        self.port = reserved.getsockname()[1]
        self.log = self.folder / "log"
        self.config_file.write_text(
            f"Host {self.alias}\n  HostName 127.0.0.1\n  Port {self.port}\n"
            f"  User {pwd.getpwuid(os.getuid()).pw_name}\n  IdentityFile {self._user_key}\n"
            "  IdentitiesOnly yes\n  IdentityAgent none\n  GlobalKnownHostsFile /dev/null\n"
            f"  UserKnownHostsFile {self.folder}/known_hosts\n  StrictHostKeyChecking no\n"
        )
        argv = self.argv()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        stack.callback(self.process.wait)
        stack.callback(self.process.terminate)
        wait_until(self._answers, lambda: f"no server: {self.log.read_text()}")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._on_exit.close()


class Dropbear(OtherServer):
    """Debian's dropbear; the account has another home folder in its mount namespace."""

    def argv(self) -> list[str]:
        dropbear, dropbearkey = shutil.which("dropbear"), shutil.which("dropbearkey")
        if dropbear is None or dropbearkey is None:
            pytest.skip("there is no dropbear (Debian: dropbear-bin)")
        account = pwd.getpwuid(os.getuid())
        lines = Path("/etc/passwd").read_text().splitlines()
        fields = [line.split(":") for line in lines]
        for line in fields:
            if line[0] == account.pw_name:
                line[5] = str(self.home)
        passwd = self.folder / "passwd"
        passwd.write_text("".join(":".join(line) + "\n" for line in fields))
        files = {"/etc/passwd": passwd}
        need_files(files)
        make_key = [dropbearkey, "-t", "ed25519", "-f", str(self._host_key)]
        subprocess.run(make_key, check=True, capture_output=True)
        address = f"127.0.0.1:{self.port}"
        return [
            *with_files(files),
            *(dropbear, "-F", "-E", "-s", "-p", address, "-r", str(self._host_key)),
            *("-P", str(self.folder / "pid")),
        ]


class AsyncsshServer(OtherServer):
    """A server in Python; see `programs/asyncssh_server.py`.

    Args:
        folder: An empty folder for its files.
        challenges: What the host asks at the login, each followed by the right answer.
    """

    def __init__(self, folder: Path, challenges: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self.challenges = challenges

    def argv(self) -> list[str]:
        pytest.importorskip("asyncssh")
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", self._host_key]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        return [
            *(sys.executable, asyncssh_server.__file__, str(self.port)),
            *(str(self._host_key), str(self.authorized_keys), str(self.home)),
            *self.challenges,
        ]
