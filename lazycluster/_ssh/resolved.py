"""Ask ssh what it makes of the user's ssh_config for one host; nothing here logs in anywhere."""

from __future__ import annotations

import functools
import math
import os
import pwd
import subprocess

from lazycluster._ssh.argv import resolve_argv
from lazycluster._ssh.processes import kill_group
from lazycluster._ssh.settings import Settings

TIMEOUT = 2.0  # seconds for `ssh -G`, which takes milliseconds unless a `Match exec` is slow
_KEYGEN_TIMEOUT = 5.0  # seconds for `ssh-keygen`, which takes milliseconds
_LONGEST_CONNECT_TIMEOUT = 2_147_483  # seconds; ssh keeps `seconds * 1000` in an int


class ResolvedConfig:
    """The options that ssh uses for a host, from `ssh -G`, which runs once and does not log in."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @functools.cached_property
    def _lines(self) -> list[str]:
        argv = resolve_argv(self._settings)
        return _output_of(argv, subprocess.DEVNULL, TIMEOUT).splitlines()

    def values(self, option: str) -> list[str]:
        """Return the values of an option, given in lower case; none if `ssh -G` failed."""
        prefix = option + " "
        return [line[len(prefix) :] for line in self._lines if line.startswith(prefix)]

    def connect_timeout(self) -> int | None:
        """Return the seconds for ssh's ConnectTimeout; None to leave it to the user's ssh_config.

        ssh applies it to each address of a host. A third of the time for the whole login leaves
        enough for a good second address after a dead first one. Behind a jump host or a
        ProxyCommand ssh sees no address, and the login to the jump host counts, too.
        """
        if "connecttimeout" in map(str.lower, self._settings.options):
            return None
        if self.values("connecttimeout") not in (["none"], ["0"]):
            return None
        seconds = self._settings.connect_timeout
        if not self._has_proxy():
            seconds /= 3
        return min(math.ceil(seconds), _LONGEST_CONNECT_TIMEOUT)

    def _has_proxy(self) -> bool:
        ways = (*self.values("proxyjump"), *self.values("proxycommand"))
        return any(way != "none" for way in ways)

    def jump_host(self) -> str:
        """Return the jump hosts on the way to the host, as `-J` takes them; "" without any."""
        return "".join(self.values("proxyjump")[:1])

    def first_hop(self) -> str:
        """Return what names the sshd that all logins on this way meet first.

        It is the first jump host or the ProxyCommand as they are written, else name and port.
        """
        for hop in (self.jump_host().partition(",")[0], *self.values("proxycommand")):
            if hop and hop != "none":
                return hop
        name, port = (self.values(option)[:1] for option in ("hostname", "port"))
        return ":".join([*(name or [self._settings.destination]), *port])

    def account(self) -> tuple[str, ...]:
        """Return what names the account and machine that ssh leads to; empty if `ssh -G` failed.

        The way there counts, too: one address behind two jump hosts is two machines.
        """
        names = ["127.0.0.1" if name == "localhost" else name for name in self.values("hostname")]
        if not names:
            return ()
        commands = [
            command.replace("%n", self._settings.destination)
            for command in self.values("proxycommand")
        ]
        way = [hop for hop in (*self.values("proxyjump"), *commands) if hop != "none"]
        return (*names, *self.values("port"), *self.values("user"), *way)

    def locked_key(self) -> str:
        """Return a key that ssh did not offer because it has a passphrase; "" if there is none.

        In batch mode ssh skips such a key and prints nothing.
        """
        for path in self.values("identityfile"):
            if path.startswith("~/"):  # ssh takes the account's home directory, whatever HOME is
                try:
                    path = os.path.join(pwd.getpwuid(os.getuid()).pw_dir, path[2:])
                except KeyError:  # no such account; ssh has printed that
                    return ""
            argv = ["ssh-keygen", "-yP", "", "-f", path]
            if os.path.isfile(path) and "passphrase" in _output_of(
                argv, subprocess.STDOUT, _KEYGEN_TIMEOUT
            ):
                return path
        return ""


def _output_of(argv: list[str], stderr: int, timeout: float) -> str:
    """Return what a program prints; "" if it cannot be run or takes too long."""
    try:
        program = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    except OSError:
        return ""
    try:
        printed, _ = program.communicate(timeout=timeout)
    except BaseException as error:
        kill_group(program)  # the program of a `Match exec`, too
        program.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return ""
    return os.fsdecode(printed)
