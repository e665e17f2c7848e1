"""Folders on the host, by name: made, removed, never followed through a link."""

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Match

_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")


def temporary_path() -> "str":
    """A path for a new temporary directory, under `$TMPDIR`, `/tmp` or `/var/tmp`; none is made."""
    parents = [parent for parent in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp") if parent]
    usable = [parent for parent in parents if os.access(parent, os.W_OK | os.X_OK)]
    parent = (usable or parents)[0]
    return os.path.join(os.path.abspath(parent), "lazycluster-" + os.urandom(8).hex())


def expand(path: "str") -> "str":
    """The absolute path; `~` is the home directory only as the first character."""
    return os.path.abspath(os.path.expanduser(path))


def expand_variables(text: "str") -> "str":
    """Expand `$NAME` and `${NAME}` from the environment; a variable that is not set is empty.

    `PWD` is the current folder, as a shell sets it. Everything else is literal: `$(…)`, `$1`,
    backticks and backslashes too.
    """

    def value(match: "Match[str]") -> "str":
        name = match.group(1) or match.group(2)
        return _current_folder() if name == "PWD" else os.environ.get(name, "")

    return _VARIABLE.sub(value, text)


def _current_folder() -> "str":
    """Return what a shell sets as PWD: the inherited path if it still leads here."""
    path = os.environ.get("PWD", "")
    try:
        if os.path.isabs(path) and os.path.samefile(path, "."):
            return path
    except OSError:  # it is gone
        pass
    return os.getcwd()


def make_directory(path: "str") -> "str":
    """Make the directory and those above it where they are missing; its absolute path."""
    path = expand(path)
    os.makedirs(path, exist_ok=True)
    return path


def make_private_directory(path: "str") -> "str":
    """Make one new directory that only this account can enter."""
    os.mkdir(path, 0o700)
    return path


def remove_tree(path: "str") -> "bool":
    """Remove what is temporary, a folder or a file, links as links; False if something stayed.

    By shutil, and not by trees, which not every connection has been sent when it ends.
    """
    import shutil  # costs 5 ms; most connections need it only at their end

    def insist(_function: "object", entry: "str", _error: "object") -> "None":
        """Once more, since an account may have folders of its own that are read-only."""
        try:
            if entry != path:  # the folder that it is all in is not ours
                os.chmod(os.path.dirname(entry), 0o700)
            if os.path.isdir(entry) and not os.path.islink(entry):
                os.chmod(entry, 0o700)
                shutil.rmtree(entry, ignore_errors=True)
            else:
                os.unlink(entry)
        except OSError:
            return  # what stayed is told below

    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, onerror=insist)
    elif os.path.lexists(path):
        insist(None, path, None)
    return not os.path.lexists(path)
