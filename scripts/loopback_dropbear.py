"""Run a throw-away dropbear on loopback, as loopback_sshd does with OpenSSH's sshd.

dropbear takes the home folder, and the keys that it accepts, from /etc/passwd. It therefore sees an
/etc/passwd of its own, in a mount namespace of its own, which only root can make. No file of the
account is read or written.

dropbear starts in the guard's process session, not in the caller's: a command that signals its
process group would reach dropbear itself, because dropbear makes no group for a command.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from loopback_sshd import LoopbackSshd, LoopbackSshdError

PACKAGE = "dropbear-bin"
IN_NAMESPACE = 'mount --bind "$1" /etc/passwd && shift && exec "$@"'


def missing_for_dropbear() -> str | None:
    """Return what dropbear needs and this machine lacks, with the cure; None if nothing."""
    if _find("dropbear") is None or _find("dropbearkey") is None:
        return f"dropbear was not found: install it (Debian, Ubuntu: {PACKAGE})."
    argv = ["unshare", "--mount", "true"]
    if subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True).returncode != 0:
        return "dropbear needs a mount namespace of its own: run this as root, with CAP_SYS_ADMIN."
    return None


class LoopbackDropbear(LoopbackSshd):
    """A dropbear on a free port of 127.0.0.1, which accepts the current user with a fresh key.

    HOME of the sessions is `home`. dropbear has no SetEnv, so sessions get no other variable and
    the PATH is dropbear's own: name the Python of the host.

    Args:
        alias: The host to give to ssh together with `config_file`.
    """

    def __init__(self, alias: str = "dropbear") -> None:
        super().__init__(alias)

    def _find_server(self) -> str:
        missing = missing_for_dropbear()
        if missing is not None:
            raise LoopbackSshdError(missing)
        server = _find("dropbear")
        assert server is not None
        return server

    def _make_keys(self) -> None:
        super()._make_keys()
        ssh_folder = self.home / ".ssh"
        ssh_folder.mkdir(mode=0o700)
        shutil.copy(self._authorized_keys, ssh_folder / "authorized_keys")
        (ssh_folder / "authorized_keys").chmod(0o600)
        self._dropbear_key = self.folder / "dropbear_key"
        argv = ["dropbearkey", "-t", "ed25519", "-f", str(self._dropbear_key)]
        made = subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        key = next(line for line in made.stdout.splitlines() if line.startswith(b"ssh-ed25519 "))
        Path(f"{self._host_key}.pub").write_bytes(key + b"\n")  # known_hosts is made from it

    def _write_configuration(self, server: str) -> None:
        self._passwd = self.folder / "passwd"
        with open("/etc/passwd") as accounts, open(self._passwd, "w") as changed:
            for line in accounts:
                fields = line.split(":")
                if fields[0] == self.user:
                    fields[5] = str(self.home)
                changed.write(":".join(fields))
        self._passwd.chmod(0o644)
        self._write_client_configuration()

    def _server_argv(self, server: str) -> list[str]:
        address = f"127.0.0.1:{self.port}"
        return [
            *["unshare", "--mount", "--propagation", "private"],
            *["sh", "-c", IN_NAMESPACE, "sh", str(self._passwd)],
            # In the foreground, log on stderr, no passwords, no pid file.
            *[server, "-F", "-E", "-s", "-p", address, "-r", str(self._dropbear_key), "-P", ""],
        ]


def _find(name: str) -> str | None:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which(name, path=path)
