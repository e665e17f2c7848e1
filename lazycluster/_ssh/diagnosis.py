"""What a failed login's error should say and ssh does not: the jump host, a key with a passphrase.

Asked of ssh and ssh-keygen when a login has failed, and not before; neither logs in anywhere.
"""

from __future__ import annotations

import os
import pwd
import subprocess

from lazycluster._ssh import argv as _openssh
from lazycluster._ssh.settings import Settings

PATIENCE = 5.0  # seconds for each program to answer; it takes milliseconds


def jump_host(settings: Settings) -> str:
    """The jump hosts that ssh goes through to the host, as `-J` takes them; empty if none."""
    return "".join(_resolved(settings, "proxyjump")[:1])


def locked_key(settings: Settings) -> str:
    """A key that ssh would offer to the host but for its passphrase; empty if there is none.

    In batch mode ssh passes over it in silence.
    """
    for name in _resolved(settings, "identityfile"):
        path = name
        if name.startswith("~/"):  # the account's home directory, whatever HOME says
            try:
                path = os.path.join(pwd.getpwuid(os.getuid()).pw_dir, name[2:])
            except KeyError:  # no such account: ssh has said so
                return ""
        if os.path.isfile(path) and "passphrase" in _said_by("ssh-keygen", "-yP", "", "-f", path):
            return path
    return ""


def _resolved(settings: Settings, option: str) -> list[str]:
    """What ssh makes of an option for the host; nothing if it cannot say."""
    lines = _said_by(*_openssh.resolve_argv(settings)).splitlines()
    return [line[len(option) + 1 :] for line in lines if line.startswith(option + " ")]


def _said_by(*argv: str) -> str:
    """What a program printed; nothing if it does not run, or not to its end."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return os.fsdecode(done.stdout)
