"""The first exchange on a connection: the line for the login shell, its input, the host's reply."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

from lazycluster._conversation.host_sources import bootstrap_archive, read_source
from lazycluster._ssh.errors import INPUT_TAKEN, NOISE, OTHER_SHELL, PROGRAM_FAILED
from lazycluster._ssh.scripts import SPARE_LINES, read_line
from lazycluster._ssh.settings import Settings
from lazycluster._text import last_lines
from lazycluster.exceptions import PythonNotFoundError, PythonVersionError

TRIES = 2  # interpreters that are looked for, at most
NOISE_KEPT = 2048  # bytes of what came before the reply, for the message of an error
_OWN_VERSION = "{}.{}".format(*sys.version_info)
_SHELL_LINE = "lazycluster-bash-or-zsh"
# Read the loader at once, which takes 2 ms byte by byte. At its end the manager has gone.
_READ_LOADER = """\
import os
text = b""
while len(text) < {0}:
    chunk = os.read(0, {0} - len(text))
    if not chunk:
        os._exit(0)
    text += chunk
exec(text)
"""


def bootstrap_command() -> str:
    """Return the line that the account's login shell gets."""
    script = read_line(
        "bootstrap",
        OTHER_SHELL=OTHER_SHELL,
        INPUT_TAKEN=INPUT_TAKEN,
        PROGRAM_FAILED=PROGRAM_FAILED,
    )
    # `|| :` because a start file may have switched errexit on.
    examine = f"{read_line('login_shell')} && echo {_SHELL_LINE} || :"
    return f"/bin/sh -c '{examine}'; exec /bin/sh -c '{script}'"


class HandshakeReply(NamedTuple):
    """How the host answered: with a supervisor or with the reason why there is none."""

    kind: str  # "python", "old" or "none"
    # The version of an old one. Of none: the exit status of each interpreter that was tried, or a
    # dash if it was not found; then the names of others that are there.
    detail: str
    rest: bytes  # what came behind it: the first frames


class Handshake:
    """Finds the host's answer in what the login shell's start files may have printed before it.

    Attributes:
        progress: How many lines of the loader have said that it is still receiving.
        python_started: True if the shell has come to the point where it starts Python.
        bash_or_zsh: True if the login shell is bash or zsh, in its own session; see login_shell.sh.
    """

    def __init__(self, token: str) -> None:
        answer = rb" (python|old|none)((?: [\w.-]+)*)\n"
        self._pattern = re.compile(re.escape(token.encode()) + answer)
        self._progress_line = f"{token} wait\n".encode()
        self._try_line = f"{token} try\n".encode()
        self._shell_line = f"{_SHELL_LINE}\n".encode()
        self._seen = b""
        self.progress = 0
        self.python_started = False
        self.bash_or_zsh = False

    def feed(self, data: bytes) -> HandshakeReply | None:
        """Take output of the host; return its answer, or None until the answer is complete."""
        self._seen += data
        self.progress += self._seen.count(self._progress_line)
        self.python_started |= self._try_line in self._seen
        self.bash_or_zsh |= self._shell_line in self._seen
        for line in (self._progress_line, self._try_line, self._shell_line):
            self._seen = self._seen.replace(line, b"")
        match = self._pattern.search(self._seen)
        if match is None:
            self._seen = self._seen[-NOISE_KEPT:]
            return None
        kind, detail = (group.decode("ascii", "replace").strip() for group in match.groups())
        return HandshakeReply(kind, detail, self._seen[match.end() :])

    @property
    def noise(self) -> str:
        """Return the end of the output that came instead of an answer."""
        return self._seen.decode("utf-8", "backslashreplace").strip()


def bootstrap_input(token: str, settings: Settings, lost: Sequence[str] = ()) -> bytes:
    """Return the first input of the host: the loader and its modules, with their lengths.

    Args:
        token: The token of this connection.
        settings: What the user asked for.
        lost: The tokens of connections that this one replaces.
    """
    guards = "".join("#" * number + token + "\n" for number in range(1, TRIES + 1))
    loader = read_source("_remote.loader")
    text = guards + _READ_LOADER.format(len(loader))
    unpacker, packed = read_source("_shared.archive"), bootstrap_archive()
    first = (
        f"{SPARE_LINES}exit {OTHER_SHELL}; # "
        f"{token} {len(text)} {_OWN_VERSION} {settings.python or ''}\n"
    )
    lengths = f"{len(unpacker)} {len(packed)}"
    words = [f"{settings.keepalive} {settings.orphan_timeout} {lengths}", *lost]
    head = " ".join(words) + "\n"
    return b"".join([first.encode(), text.encode(), loader, head.encode(), unpacker, packed])


def python_error(
    answer: HandshakeReply, settings: Settings, log: str
) -> PythonVersionError | PythonNotFoundError:
    """Make the exception for requests to a host that has no Python, or one that is too old.

    Args:
        answer: The host's answer, "old" or "none".
        settings: What the user asked of ssh.
        log: What the host has printed on standard error.
    """
    host = settings.host
    own = settings.python and f"python={settings.python!r}"
    if answer.kind == "old":
        return PythonVersionError(
            f"{own or 'Python'} on {host} is {answer.detail}, and at least 3.6 is needed. "
            f"{'Name a newer one.' if own else 'Name a newer interpreter with python=….'}",
            host=host,
            host_version=answer.detail,
            manager_version="{}.{}.{}".format(*sys.version_info),
        )
    names = [settings.python or f"python{_OWN_VERSION}", "python3"][: 1 if own else 2]
    found = answer.detail.split()
    tried = ", ".join(
        name if status == "-" else f"{name} (exit status {status})"
        for name, status in zip(names, found)
    )
    printed = last_lines(log, NOISE) if set(found[: len(names)]) != {"-"} else ""
    others = ", ".join(found[len(names) :])
    if own:
        message = (
            f"{own} is not a Python that can be used on {host}: it ended with exit status "
            f"{found[0] if found else 'unknown'}{f' and printed: {printed}' if printed else ''}. "
            "Name the command line of a Python 3.6 or newer"
        )
    else:
        message = (
            f"There is no Python on {host} that can be used; looked for: {tried}"
            f"{f', which printed: {printed}' if printed else ''}. "
            "Install Python 3.6 or newer there, or name it with python=…"
        )
    return PythonNotFoundError(
        f"{message}{f' (there is: {others})' if others else ''}. "
        "Without it a Connection still runs commands, copies files and forwards ports.",
        host=host,
    )


def make_token() -> str:
    """Return a random word, so that no other output of the host contains it."""
    return "lazycluster-" + os.urandom(16).hex()
