"""Ask ssh what it makes of the user's ssh_config for one host."""

from __future__ import annotations

import functools
import math
import os
import subprocess

from lazycluster._ssh.argv import resolve_argv
from lazycluster._ssh.settings import Settings

TIMEOUT = 2.0  # seconds for `ssh -G`, which takes milliseconds unless a `Match exec` is slow
_LONGEST_CONNECT_TIMEOUT = 2_147_483  # seconds; ssh keeps `seconds * 1000` in an int


class ResolvedConfig:
    """The options that ssh uses for a host, from `ssh -G`, which runs once and does not log in.

    Args:
        settings: What the user asked of ssh.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @functools.cached_property
    def _lines(self) -> list[str]:
        try:
            done = subprocess.run(
                resolve_argv(self._settings),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=TIMEOUT,
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired):
            return []
        return os.fsdecode(done.stdout).splitlines()

    def values(self, option: str) -> list[str]:
        """Return the values of an option, given in lower case; none if `ssh -G` failed."""
        prefix = option + " "
        return [line[len(prefix) :] for line in self._lines if line.startswith(prefix)]

    def connect_timeout(self) -> int | None:
        """Return the seconds for ssh's ConnectTimeout; None to leave it to the user's ssh_config.

        ssh applies it to each address of a host. A third of the time for the whole login leaves
        enough for a good second address after a dead first one.
        """
        if "connecttimeout" in map(str.lower, self._settings.options):
            return None
        if self.values("connecttimeout") not in (["none"], ["0"]):
            return None
        return min(math.ceil(self._settings.connect_timeout / 3), _LONGEST_CONNECT_TIMEOUT)
