"""Paths as users write them, and new directories."""

import os

# No `re`: its import takes 3 ms, and every connection imports this module.
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
_IN_NAMES = _LETTERS + "0123456789"


def temporary_path() -> "str":
    """Return an unused path in the first writable one of `$TMPDIR`, `/tmp` and `/var/tmp`."""
    parents = list(filter(None, (os.environ.get("TMPDIR"), "/tmp", "/var/tmp")))
    usable = (parent for parent in parents if os.access(parent, os.W_OK | os.X_OK))
    parent = next(usable, parents[0])
    return os.path.join(absolute(parent), "lazycluster-" + os.urandom(8).hex())


def absolute(path: "str") -> "str":
    """Return the absolute path; a relative one begins at the current folder.

    Only what means nothing goes: `//` and `/./`. `os.path.abspath` takes `link/../x` for `x`, but
    the system goes to the parent of the link's target: another file would be read, or another
    folder deleted. And `link/`, or `link/.`, is what the link leads to.
    """
    if not os.path.isabs(path):
        path = os.path.join(os.getcwd(), path)
    names = [name for name in path.split("/") if name not in ("", ".")]
    end = "/" if names and path.endswith(("/", "/.")) else ""
    return "/" + "/".join(names) + end


def expand(path: "str", folder: "str | None" = None) -> "str":
    """Return the absolute path; a relative one begins at `folder`, by default the current folder.

    A leading `~`, `$HOME` or `${HOME}` is the home directory. Everything else is literal, and stays
    in the path as `absolute` says.
    """
    first, slash, rest = path.partition("/")
    path = os.path.expanduser("~" + slash + rest if first in ("$HOME", "${HOME}") else path)
    if not os.path.isabs(path):
        path = os.path.join(folder or _current_folder(), path)
    return absolute(path)


def expand_directory(path: "str", folder: "str | None" = None) -> "str":
    """Return the absolute path of a directory, as `expand` does, without a slash at its end.

    `..` in it is resolved as the system does, since a shell takes no PWD with `..`. If it leads
    nowhere, it stays, so that the system reports it.
    """
    names = expand(path, folder).rstrip("/").split("/")
    end = len(names) - names[::-1].index("..") if ".." in names else 0
    above = "/".join(names[:end])
    if os.path.isdir(above):
        return os.path.join(os.path.realpath(above), *names[end:])
    return "/".join(names) or "/"


def expand_variables(text: "str") -> "str":
    """Expand `$NAME` and `${NAME}`; a variable that is not set is empty.

    `PWD` is the current folder, as a shell sets it. Everything else is literal, `$(…)` too.
    """
    done, *parts = text.split("$")
    for part in parts:
        if part.startswith("{"):
            name, end, rest = part[1:].partition("}")
        else:
            rest = part.lstrip(_IN_NAMES)
            name = end = part[: len(part) - len(rest)]
        if end and name and name[0] in _LETTERS and not name.strip(_IN_NAMES):
            done += (_current_folder() if name == "PWD" else os.environ.get(name, "")) + rest
        else:
            done += "$" + part
    return done


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
    """Create the directory and its missing parents; return its absolute path."""
    os.makedirs(expand(path), exist_ok=True)
    return expand_directory(path)


def make_private_directory(path: "str") -> "str":
    """Create one new directory that only this account can enter; return its path."""
    os.mkdir(path, 0o700)
    return path


def copy_path(target: "str", name: "str | None") -> "str":
    """Return the absolute path that a copy gets, without a slash at its end; see `destination`."""
    path = expand(destination(target, name, os.path.isdir(expand(target))))
    return path.rstrip("/") or "/"


def destination(target: "str", name: "str | None", is_folder: "bool") -> "str":
    """Return where a file or folder goes; the rule is equal in both directions.

    The target is the path that the user gave, and `name` the source's own; None if the contents of
    a folder are to go into the target. `is_folder` says whether the target is a folder or a link
    to one.

    | `target`                                    | goes to                               |
    | ------------------------------------------- | ------------------------------------- |
    | an existing folder, or a link to one        | `target`/`name`; contents: `target`   |
    | ends with `/`, or is or ends with `.`, `..` | `target`/`name`; contents: `target`   |
    | anything else, existing or not              | `target`                              |

    If the destination exists: a file replaces a file, and a link (not its target); a folder is
    written into a folder, file by file, but not into a link to a folder unless the contents go to
    the target; anything else is an error. An existing read-only folder is an error, unless the
    folder to be written into it is read-only, too.

    Raises:
        ValueError: If the target is empty, or the name is needed and is not one safe name.
    """
    if not target:
        raise ValueError("the target is an empty path")
    if name is None or (not is_folder and os.path.basename(target) not in ("", ".", "..")):
        return target
    if not is_entry_name(os.fsencode(name)):
        message = "{!r} cannot be the name of an entry in the folder {!r}".format(name, target)
        if not name:
            message = (
                "the source has no name for its copy in the folder {!r}; with a slash at the end "
                "of the source its contents are copied".format(target)
            )
        raise ValueError(message)
    return os.path.join(target, name)


def is_entry_name(name: "bytes") -> "bool":
    """Return True for a name that an entry of a folder can have."""
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name
