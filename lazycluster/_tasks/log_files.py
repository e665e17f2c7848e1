"""Create the files that keep the output of executions, and remove old ones."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import re
import stat
import time

from lazycluster._checks import checked_path
from lazycluster._shared.paths import absolute

FILES_PER_HOST = 1000
"""The number of log files kept for a host, the newest ones."""

PRUNE_INTERVAL = 64
"""Old files are removed with the first and every so many-th new file of a host."""

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_NAME_LIMIT = 100  # characters of a host or task in a name; a file name may have 255 bytes


class RemovedAtExitError(FileNotFoundError):
    """The temporary main directory was removed, since the interpreter exits."""


_chosen: str | None = None  # by `set_main_directory`
_files_made: dict[str, int] = {}  # by folder; it decides only when to prune

# The temporary main directories of each process, by its id, so that a forked child has its own;
# None after they were removed at exit. The last one is in use, the others have been swept away.
_temporary: dict[int, list[str] | None] = {}


def set_main_directory(path: str | os.PathLike[str]) -> None:
    """Set the main directory of later log files.

    Raises:
        ValueError: If the path is empty or invalid.
    """
    global _chosen
    _chosen = absolute(os.path.expanduser(checked_path(path, "The main directory")))


def main_directory() -> str:
    """Return the absolute path of the main directory, which need not exist."""
    return absolute(
        configured_main_directory() or _home_main_directory() or _temporary_main_directory()
    )


def configured_main_directory() -> str | None:
    """Return the main directory that was set, else `$LAZYCLUSTER_HOME`, else XDG's, else None.

    A variable may be a relative path; the folder that it starts at may have been removed.
    """
    if _chosen is not None:
        return _chosen
    home = os.environ.get("LAZYCLUSTER_HOME")
    if home:
        return home
    state_home = os.environ.get("XDG_STATE_HOME")
    # The XDG Base Directory Specification says to ignore a relative path.
    if state_home and os.path.isabs(state_home):
        return os.path.join(state_home, "lazycluster")
    return None


def create_log_file(host: str, task_name: str, configured: str | None) -> tuple[str, int]:
    """Create a log file, readable by this user only.

    The main directory is the configured one, else `~/.local/state/lazycluster`. Where `$HOME`
    cannot be written it is a temporary folder that is removed at exit; after `kill -9` of the
    process it stays.

    Args:
        host: The host, for the name of the folder.
        task_name: The task, for the name of the file.
        configured: The `configured_main_directory` of the execution.

    Returns:
        The path, and a descriptor to append to the file.

    Raises:
        OSError: If the file cannot be created.
    """
    if configured is not None:
        return _create_below(configured, host, task_name)
    at_home = _home_main_directory()
    if at_home is not None:
        # It may be read-only, full or another user's. The log is still wanted.
        with contextlib.suppress(OSError):
            return _create_below(at_home, host, task_name)
    return _create_below(_temporary_main_directory(), host, task_name)


def open_log_file(path: str) -> int:
    """Open a file that `create_log_file` has made, again if it was removed as an old one.

    Returns:
        A descriptor to append to the file.

    Raises:
        OSError: If the file cannot be opened.
    """
    return os.open(path, _FLAGS, 0o600)


def _home_main_directory() -> str | None:
    home = os.environ.get("HOME")
    if home and os.path.isdir(home):
        return os.path.join(absolute(home), ".local/state/lazycluster")
    return None


def _temporary_main_directory() -> str:
    pid = os.getpid()
    folders = _temporary.setdefault(pid, [])
    if folders is None:
        raise RemovedAtExitError(errno.ENOENT, "The log folder was removed at exit")
    # A process may run for longer than /tmp keeps things, and then another user may have made a
    # folder of this name.
    if folders and _is_own_folder(folders[-1]):
        return folders[-1]
    import tempfile  # It imports random, which most programs do without.

    if not folders:
        atexit.register(_remove_temporary, pid)
    folders.append(tempfile.mkdtemp(prefix="lazycluster-log-"))
    return folders[-1]


def _is_own_folder(path: str) -> bool:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _remove_temporary(pid: int) -> None:
    if os.getpid() != pid:  # A forked child has inherited the exit handler.
        return
    import shutil

    folders, _temporary[pid] = _temporary[pid], None
    for folder in folders or ():
        shutil.rmtree(folder, ignore_errors=True)


def _create_below(main_directory: str, host: str, task_name: str) -> tuple[str, int]:
    folder = os.path.join(absolute(main_directory), "execution_log", safe_name(host))
    _make_private_folders(folder)
    name = f"{safe_name(task_name)}_{time.strftime('%Y%m%d-%H%M%S')}_{os.urandom(8).hex()}.log"
    path = os.path.join(folder, name)
    fd = os.open(path, _FLAGS | os.O_EXCL, 0o600)
    made = _files_made.get(folder, 0)
    _files_made[folder] = made + 1
    if made % PRUNE_INTERVAL == 0:
        with contextlib.suppress(OSError):  # Old files are not worth an error.
            _prune(folder)
    return path, fd


def _prune(folder: str) -> None:
    """Remove the oldest log files of a host. Another process may do so at the same time."""
    logs = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.name.endswith(".log") and entry.is_file(follow_symlinks=False):
                    logs.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.path))
    logs.sort(reverse=True)
    for _, path in logs[FILES_PER_HOST:]:
        with contextlib.suppress(OSError):  # It has gone already, or is another user's.
            os.unlink(path)


def safe_name(name: str) -> str:
    """Return a name as one part of a path: never empty, never a way to another folder."""
    safe = re.sub(r"[^A-Za-z0-9._@-]", "_", name)[:_NAME_LIMIT]
    return "_" if safe in ("", ".", "..") else safe


def _make_private_folders(path: str) -> None:
    """Make a folder and its missing parents for this user only (0700)."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            if not os.path.isdir(folder):  # Otherwise another thread was faster.
                raise
