"""Find out what ssh does not print about a failed login: the jump host, a key with a passphrase.

ssh and ssh-keygen are asked only after a login has failed; neither logs in anywhere.
"""

from __future__ import annotations

import os
import pwd
import subprocess

from lazycluster._ssh.resolved import ResolvedConfig

_TIMEOUT = 5.0  # seconds for each program, which takes milliseconds


def jump_host(config: ResolvedConfig) -> str:
    """Return the jump hosts on the way to the host, as `-J` takes them; "" if there are none."""
    return "".join(config.values("proxyjump")[:1])


def locked_key(config: ResolvedConfig) -> str:
    """Return a key that ssh did not offer because it has a passphrase; "" if there is none.

    In batch mode ssh skips such a key and prints nothing.
    """
    for name in config.values("identityfile"):
        path = name
        if name.startswith("~/"):  # ssh takes the account's home directory, whatever HOME is
            try:
                path = os.path.join(pwd.getpwuid(os.getuid()).pw_dir, name[2:])
            except KeyError:  # no such account; ssh has printed that
                return ""
        if os.path.isfile(path) and "passphrase" in _output_of("ssh-keygen", "-yP", "", "-f", path):
            return path
    return ""


def _output_of(*argv: str) -> str:
    """Return what a program prints; "" if it cannot be run or takes too long."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return os.fsdecode(done.stdout)
