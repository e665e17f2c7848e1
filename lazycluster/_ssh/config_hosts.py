"""The hosts that ssh_config names: the names in `Host` lines that are no patterns.

What else the file says about a host is ssh's to read.
"""

from __future__ import annotations

import errno
import glob
import logging
import os
import pwd
import re
import stat
from collections.abc import Iterator

from lazycluster._ssh.settings import Settings

SYSTEM_CONFIG = "/etc/ssh/ssh_config"

# systemd 256 adds `Host .host machine/.host` to the system's file; see systemd-ssh-proxy(1).
_THIS_MACHINE = ".host"

MOST_DEPTH = 16  # of files that include one another, as in ssh

_logger = logging.getLogger("lazycluster")

# A word with parts in quotes, in which a backslash escapes a quote or a backslash; or a comment.
_WORD = re.compile(r"""#.*|(?:[^\s"'\\]|\\.|\\$|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')+|.""")
_PART = re.compile(r"""\\(["'\\ ])|"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'""")
_ESCAPED = re.compile(r"""\\(["'\\])""")
_LINE = re.compile(r"""\s*"?([A-Za-z0-9]+)"?(?:\s*=\s*|\s+|(?="))(.*)""", re.DOTALL)


def configured_hosts(config_file: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the names of `configured_names` that `ssh` takes as hosts."""
    return [name for name in configured_names(config_file) if _is_usable(name)]


def configured_names(config_file: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the literal names in the `Host` lines of ssh_config, each once, in their order.

    Names with `*` or `?`, and those behind a `!`, are patterns. Files that are included are read
    where they are included, whatever the `Host` or `Match` around that says. What cannot be read is
    left out, and so are systemd's names for this machine. `ssh` may refuse a name.

    Args:
        config_file: A file to read alone, as `ssh -F`; "none" for no file. Defaults to None: the
            user's file, which is `.ssh/config` in `$HOME`, else in the home directory of the
            account; then the system's.
    """
    user_folder = os.path.join(_home(), ".ssh")
    reader = _Reader()
    if config_file is None:
        reader.read(os.path.join(user_folder, "config"), user_folder)
        reader.read(SYSTEM_CONFIG, os.path.dirname(SYSTEM_CONFIG))
    elif str(config_file).lower() != "none":
        reader.read(_expanded(os.fspath(config_file)), user_folder, is_given=True)
    return list(reader.names)


class _Reader:
    """Read files with what they include, each file once."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        self._seen: set[tuple[int, int]] = set()  # device and inode of the files that were read

    def read(self, path: str, folder: str, depth: int = 0, *, is_given: bool = False) -> None:
        """Add the names of a file.

        Args:
            path: The file.
            folder: Where the relative paths of `Include` begin.
            depth: The number of files around it.
            is_given: True if it is an error if the file cannot be read; else that is logged.

        Raises:
            OSError: If a file that is given cannot be read.
        """
        try:
            text = self._text(path)
        except FileNotFoundError:
            if is_given:
                raise
            return
        except OSError as error:
            if is_given:
                raise
            _logger.warning("%s is left out: %s.", path, error.strerror or error)
            return
        for line in text.split("\n"):
            keyword, words = _split(line)
            if keyword == "host":
                self._add(words)
            elif keyword == "include" and depth < MOST_DEPTH:
                for pattern in words:
                    for included in _matching(pattern, folder):
                        self.read(included, folder, depth + 1)

    def _text(self, path: str) -> str:
        """Return the text of a regular file; "" if it was read before."""
        with open(path, "rb", opener=_open_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is not a file", path)
            if (found.st_dev, found.st_ino) in self._seen:
                return ""
            self._seen.add((found.st_dev, found.st_ino))
            return os.fsdecode(file.read())

    def _add(self, names: list[str]) -> None:
        for name in names:
            is_pattern = name.startswith("!") or set("*?") & set(name)
            if name and not is_pattern and name.rpartition("/")[2] != _THIS_MACHINE:
                self.names[name] = None


def _open_without_waiting(path: str, flags: int) -> int:
    """Return a descriptor of a file; a FIFO that has no writer must not block."""
    return os.open(path, flags | os.O_NONBLOCK)


def _home() -> str:
    """Return `$HOME`, else the home directory of the account."""
    home = os.environ.get("HOME", "")
    if home:
        return home
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # no such account
        return "/"


def _expanded(path: str) -> str:
    if path == "~" or path.startswith("~/"):
        return _home() + path[1:]
    return os.path.expanduser(path)


def _matching(pattern: str, folder: str) -> Iterator[str]:
    """Yield the files that an `Include` names, sorted as ssh does."""
    if "\0" in pattern:
        return
    path = os.path.join(folder, _expanded(pattern))
    yield from sorted(glob.glob(path)) if glob.has_magic(path) else [path]


def _split(line: str) -> tuple[str, list[str]]:
    """Return the keyword of a line in lower case, and its words; "" and none for a comment."""
    found = _LINE.match(line)
    if found is None:
        return "", []
    return found[1].lower(), _words(found[2])


def _words(text: str) -> list[str]:
    """Return the words of a line; a quote that is not closed ends them."""
    words = []
    for found in _WORD.finditer(text):
        word = found[0]
        if word in ('"', "'") or word.startswith("#"):
            break
        if not word.isspace():
            words.append(_PART.sub(_unquoted, word))
    return words


def _unquoted(found: re.Match[str]) -> str:
    if found[1] is not None:
        return found[1]
    return _ESCAPED.sub(r"\1", found[2] if found[2] is not None else found[3])


def _is_usable(name: str) -> bool:
    """Return True if ssh takes it as a host."""
    try:
        Settings(host=name)
    except ValueError:
        return False
    return True
