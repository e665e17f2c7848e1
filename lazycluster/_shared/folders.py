"""Folders on the host, by name: made, removed, never followed through a link."""

import os


def temporary_path() -> "str":
    """A path for a new temporary directory, under `$TMPDIR`, `/tmp` or `/var/tmp`; none is made."""
    parents = [parent for parent in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp") if parent]
    usable = [parent for parent in parents if os.access(parent, os.W_OK | os.X_OK)]
    parent = (usable or parents)[0]
    return os.path.join(os.path.abspath(parent), "lazycluster-" + os.urandom(8).hex())


def expand(path: "str") -> "str":
    """The absolute path; `~` is the home directory only as the first character."""
    return os.path.abspath(os.path.expanduser(path))


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
