"""Know the versions of OpenSSH, and the options that lazycluster sets itself."""

from __future__ import annotations

import functools
import os
import re
import shutil
from typing import NamedTuple

from lazycluster._text import one_line
from lazycluster.exceptions import LazyclusterError


class Version(NamedTuple):
    """The version of OpenSSH, without its patch level."""

    major: int
    minor: int


# Older versions lack -J and the value "none" of some keywords, and are not tested.
OLDEST_VERSION = Version(7, 0)
# From this version on, `%` in the path of a forwarded socket is expanded.
EXPANDS_SOCKET_PATHS = Version(8, 3)
# The first version that knows SSH_ASKPASS_REQUIRE.
ASKPASS_REQUIRE = Version(8, 4)
# From this version on, a question that the host worded begins with "(user@host)", so it cannot be
# mistaken for a question of ssh itself.
PROMPTS_NAME_HOSTS = Version(8, 5)
# The first scp with -s, which speaks SFTP: no shell on the host reads the file names.
SCP_WITH_SFTP = Version(8, 7)

# What lazycluster sets on the control master, and the version since which ssh knows the keyword.
# An unknown keyword is fatal, and IgnoreUnknown on the command line would replace the user's own.
MASTER_OPTIONS: tuple[tuple[Version, str, str], ...] = (
    # `ask` opens SSH_ASKPASS for a key from a file, BatchMode or not (seen with 8.4, 9.2, 10.0).
    (Version(7, 2), "AddKeysToAgent", "no"),
    # The master lives as long as its own session, in the foreground.
    (Version(7, 0), "ControlPersist", "no"),
    (Version(8, 7), "ForkAfterAuthentication", "no"),
    # With a RemoteCommand, ssh refuses: "Cannot execute command-line and remote command."
    (Version(7, 6), "RemoteCommand", "none"),
    # `none` starts no command at all, `subsystem` takes the command for the name of a subsystem.
    (Version(8, 7), "SessionType", "default"),
    # stdin and stdout carry binary frames: no tty, no /dev/null, no escape character, no output of
    # a local command.
    (Version(7, 0), "RequestTTY", "no"),
    (Version(8, 7), "StdinNull", "no"),
    (Version(7, 0), "EscapeChar", "none"),
    (Version(7, 0), "PermitLocalCommand", "no"),
    # `*=5m` and `global=5m` end a session that is silent for that long (seen with 10.0).
    (Version(9, 6), "ChannelTimeout", "none"),
    # A forward from ssh_config may fail, and with ExitOnForwardFailure it ends the login. While it
    # has a connection, it keeps ssh alive after its session. `ssh -O forward` still works later.
    (Version(7, 0), "ClearAllForwardings", "yes"),
    (Version(7, 0), "Tunnel", "no"),
    # ClearAllForwardings does not clear X11, which runs xauth on both sides and sets DISPLAY there.
    (Version(7, 0), "ForwardX11", "no"),
    # QUIET hides the reason of a failure; only from INFO on does ssh print why a connection ended.
    (Version(7, 0), "LogLevel", "INFO"),
    (Version(7, 0), "VisualHostKey", "no"),
)

# Settings refuses these in `options`: BatchMode follows from password, passphrase and interactive.
RESERVED_OPTIONS = frozenset(
    {name.lower() for _, name, _ in MASTER_OPTIONS} | {"batchmode", "controlmaster", "controlpath"}
)


def ssh_version() -> Version:
    """Return the version of the `ssh` in PATH; each executable is asked once.

    Raises:
        LazyclusterError: If there is no ssh, or if lazycluster cannot use it.
    """
    path = shutil.which("ssh")
    if path is None:
        raise LazyclusterError(
            "There is no `ssh` in PATH; install the OpenSSH client (package openssh-client, on "
            "Fedora openssh-clients)."
        )
    return _version_of(os.path.realpath(path))


@functools.cache
def _version_of(path: str) -> Version:
    import subprocess  # takes milliseconds; the import of Connection needs only the options above

    try:
        done = subprocess.run(
            [path, "-V"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LazyclusterError(
            f"`{path} -V` does not work: {error}; put the OpenSSH client first in PATH."
        ) from error
    return parse_version(done.stdout.decode("utf-8", "backslashreplace"))


def parse_version(text: str) -> Version:
    """Parse the output of `ssh -V`, like "OpenSSH_9.2p1 Debian-2, OpenSSL 3.0.19 27 Jan 2026".

    Raises:
        LazyclusterError: If the program is not OpenSSH, is older than 7.0, or is the build for
            Windows, which cannot multiplex.
    """
    found = one_line(" ".join(text.split()), 100) or "nothing"
    match = re.search(r"\bOpenSSH_(for_Windows_)?(\d+)\.(\d+)", text)
    if "No user exists for uid" in text:
        raise LazyclusterError(f"ssh refuses to run: {found}. Add that user to /etc/passwd.")
    if match is None:
        problem = "which is not OpenSSH; put the OpenSSH client first in PATH"
    elif match[1]:
        problem = "which has no control master; run lazycluster on Linux, macOS or WSL"
    elif (version := Version(int(match[2]), int(match[3]))) < OLDEST_VERSION:
        problem = "but lazycluster needs OpenSSH {}.{} or later; update it".format(*OLDEST_VERSION)
    else:
        return version
    raise LazyclusterError(f"`ssh -V` prints {found!r}, {problem}.")
