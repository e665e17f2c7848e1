"""The output of one execution of a task, and the files that keep it.

One thread writes a log, any number read it meanwhile, without a lock: bytes are only ever added,
and are in their place before a length says that they are there.
"""

from __future__ import annotations

import atexit
import errno
import os
import re
import stat
import threading
import time
from typing import TYPE_CHECKING

from lazycluster._ssh import lifelines as _lifelines

if TYPE_CHECKING:
    import subprocess

MEMORY_LIMIT = 64 * 1024
"""The first bytes of a log are in memory as well as in its file, and no more than these."""

READ_LIMIT = 2**20
"""`ExecutionLog.read_new` gives at most this many bytes at once."""

FILES_PER_HOST = 1000
"""So many logs of a host are kept, the newest."""

PRUNE_INTERVAL = 64
"""Old logs are looked for at the first and then at every so many-th file of a host."""

_NAME_LIMIT = 100  # characters; names of files may have 255 bytes, and more than a name is in them


class ExecutionLog:
    """The output of each step of one execution, in the order it came.

    Up to `MEMORY_LIMIT` bytes are in memory; the rest is in the file only, so that a gigabyte of
    output is not a gigabyte of memory. A copy, and what comes out of a pickle, is a log that
    nothing is added to any more.

    Args:
        host: The host, for the name of the folder.
        task_name: The task, for the name of the file.
    """

    def __init__(self, host: str, task_name: str) -> None:
        self.host = host
        self.task_name = task_name
        self._lock = threading.Lock()  # for writers
        self._path: str | None = None
        self._memory = bytearray()
        self._length = 0
        # For each step the pieces [start, end) of the whole that are its output: one, unless
        # something that an earlier step left behind prints in between.
        self._steps: list[list[tuple[int, int]]] = []
        self._fd: int | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.task_name!r} on {self.host}: {self._length} bytes>"

    def __getstate__(self) -> dict[str, object]:
        with self._lock:
            state = self.__dict__.copy()
            state["_memory"] = bytes(self._memory)
            state["_steps"] = [list(pieces) for pieces in self._steps]
        del state["_lock"]
        state.update(_fd=None, _closed=True)
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._memory = bytearray(self._memory)
        self._lock = threading.Lock()

    @property
    def path(self) -> str | None:
        """The log file, or None until the first byte."""
        return self._path

    def __len__(self) -> int:
        """How many bytes there are."""
        return self._length

    def __bool__(self) -> bool:
        """True, also when it is empty: a log is there or it is not."""
        return True

    # --- Writing ---

    def begin_step(self, index: int) -> None:
        """Have an entry for a step, and for each before it.

        Args:
            index: The step, from 0.
        """
        with self._lock:
            self._begin_step(index)

    def append(self, index: int, data: bytes | memoryview) -> None:
        """Add output of a step, to memory and file. The first byte makes the file.

        Args:
            index: The step that printed it.
            data: What it printed.

        Raises:
            OSError: If the file cannot be made or written; it names the path. What was written
                until then is in the log.
            ValueError: If the log is closed.
        """
        with self._lock:
            if self._closed:
                raise ValueError(f"the log of {self.task_name!r} on {self.host} is closed")
            self._begin_step(index)
            if not data:
                return
            if self._fd is None:
                self._path, self._fd = _create_log_file(self.host, self.task_name)
            view = memoryview(data)
            while view:
                try:
                    written = os.write(self._fd, view)
                except OSError as error:
                    raise OSError(error.errno, error.strerror, self._path) from error
                self._publish(index, view[:written])
                view = view[written:]

    def close(self) -> None:
        """Add nothing any more and close the file; twice is fine. Reading goes on."""
        with self._lock:
            self._closed = True
            fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _begin_step(self, index: int) -> None:
        while len(self._steps) <= index:
            self._steps.append([])

    def _publish(self, index: int, data: memoryview) -> None:
        """Let readers see what has just come to the end of the file. The lock is held."""
        start, end = self._length, self._length + len(data)
        room = MEMORY_LIMIT - start
        if room > 0:
            self._memory += data[:room]
        self._length = end
        pieces = self._steps[index]
        if pieces and pieces[-1][1] == start:
            pieces[-1] = (pieces[-1][0], end)
        else:
            pieces.append((start, end))

    # --- Reading ---

    def entry(self, index: int) -> str:
        r"""Give the output of a step so far, the whole of it.

        Args:
            index: The step, from 0.

        Returns:
            The text, UTF-8 with anything else as `\xNN`; "" for a step that printed nothing or
            has not begun.

        Raises:
            OSError: If it is more than memory keeps and the file cannot be read.
        """
        return _decode(b"".join(self._read(start, end) for start, end in self._pieces(index)))

    def entries(self) -> list[str]:
        """Give the output of each step that has begun.

        Returns:
            One text per step.

        Raises:
            OSError: If it is more than memory keeps and the file cannot be read.
        """
        return [self.entry(index) for index in range(len(self._steps))]

    def tail(self, index: int, limit_bytes: int) -> str:
        """Give the end of a step's output, for a message.

        Args:
            index: The step, from 0.
            limit_bytes: How much of it at most; no more than that is read.

        Returns:
            The text, beginning with a whole character.

        Raises:
            OSError: If it is more than memory keeps and the file cannot be read.
        """
        found: list[bytes] = []
        pieces = self._pieces(index)
        while pieces and limit_bytes > 0:
            start, end = pieces.pop()
            first = max(start, end - limit_bytes)
            found.append(self._read(first, end))
            limit_bytes -= end - first
            if first > start:
                pieces.append((start, first))
        data = b"".join(reversed(found))
        if pieces:  # something was cut off, perhaps within a character of up to four bytes
            cut = 0
            while cut < min(3, len(data)) and data[cut] & 0xC0 == 0x80:
                cut += 1
            data = data[cut:]
        return _decode(data)

    def read_new(self, position: int) -> tuple[bytes, int]:
        """Give what has come since the last time, whichever step it is of; for printing live.

        Args:
            position: What the last call returned, at first 0.

        Returns:
            At most `READ_LIMIT` bytes, none when there is nothing new, and the next position.

        Raises:
            OSError: If it is more than memory keeps and the file cannot be read.
        """
        end = min(self._length, position + READ_LIMIT)
        if end <= position:
            return b"", position
        return self._read(position, end), end

    def _pieces(self, index: int) -> list[tuple[int, int]]:
        return list(self._steps[index]) if index < len(self._steps) else []

    def _read(self, start: int, end: int) -> bytes:
        """Bytes that are there, from memory as far as they are in it."""
        known = bytes(self._memory[start:end])
        start += len(known)
        return known + self._read_file(start, end) if start < end else known

    def _read_file(self, start: int, end: int) -> bytes:
        path = self._path
        if path is None:
            raise AssertionError("bytes beyond memory are in a file")
        # Opened for the one reading: a descriptor of the writer's might be closed under us.
        try:
            with open(path, "rb") as file:
                file.seek(start)
                data = file.read(end - start)
        except OSError as error:
            message = f"the execution log cannot be read any more: {error.strerror}"
            raise OSError(error.errno, message, path) from error
        if len(data) < end - start:
            raise OSError(f"the execution log has been cut short: {path!r}")
        return data


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


# --- The files -------------------------------------------------------------------------------

_files_made: dict[str, int] = {}  # by folder; only to know when to prune


def _create_log_file(host: str, task_name: str) -> tuple[str, int]:
    """Make a new log file, and give its path with a descriptor to append to it."""
    folder = os.path.join(_main_directory(), "execution_log", _safe_name(host))
    _make_private_folders(folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
    started = time.strftime("%Y%m%d-%H%M%S")
    while True:
        name = f"{_safe_name(task_name)}_{started}_{os.urandom(4).hex()}.log"
        path = os.path.join(folder, name)
        try:
            fd = os.open(path, flags, 0o600)
        except FileExistsError:
            continue  # another one drew this number
        break
    made = _files_made.get(folder, 0)
    _files_made[folder] = made + 1
    if made % PRUNE_INTERVAL == 0:
        _prune(folder)
    return path, fd


def _prune(folder: str) -> None:
    """Remove the oldest logs of a host. Another process may be doing the same."""
    logs = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.name.endswith(".log") and entry.is_file(follow_symlinks=False):
                    logs.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.path))
            except FileNotFoundError:
                continue
    logs.sort(reverse=True)
    for _, path in logs[FILES_PER_HOST:]:
        try:
            os.unlink(path)
        except OSError:
            # Gone already, or not ours to remove. A task does not fail because of an old log.
            continue


def _safe_name(name: str) -> str:
    """A name as a part of a path: never empty, never a way to another folder."""
    safe = re.sub(r"[^A-Za-z0-9._@-]", "_", name)[:_NAME_LIMIT]
    return "_" if safe in ("", ".", "..") else safe


def _make_private_folders(path: str) -> None:
    """Make a folder and what is missing above it, for this user only (0700)."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            if not os.path.isdir(folder):  # else another thread was faster
                raise


# --- The main directory ----------------------------------------------------------------------


def _main_directory() -> str:
    """The folder that holds `execution_log`; a temporary one is made if need be."""
    lasting = _lasting_main_directory()
    if lasting is not None:
        return lasting
    temporary = _temporary_of_this_process()
    temporary.make()
    return temporary.path


def _lasting_main_directory() -> str | None:
    home = os.environ.get("LAZYCLUSTER_HOME")
    if home:
        return os.path.abspath(home)
    state_home = os.environ.get("XDG_STATE_HOME")
    # "If an implementation encounters a relative path […] it should consider the path invalid and
    # ignore it." (XDG Base Directory Specification)
    if state_home and os.path.isabs(state_home):
        return os.path.join(state_home, "lazycluster")
    return None


# Removes the folder when its standard input ends, which the manager alone holds.
_SWEEPER = 'read -r end; PATH=/bin:/usr/bin:$PATH; rm -rf "$1"'


class _TemporaryMainDirectory:
    """A folder for one process, made when needed and gone when that process is."""

    def __init__(self) -> None:
        import tempfile  # brings random, which few need

        self.path = os.path.join(
            os.path.abspath(tempfile.gettempdir()), f"lazycluster-log-{os.urandom(8).hex()}"
        )
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._sweeper: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._removed = False

    def make(self) -> None:
        """Make it, once; again if something has removed it, as /tmp is swept now and then.

        Raises:
            FileExistsError: If it is there and not ours.
            FileNotFoundError: If the interpreter is exiting and has removed it.
        """
        with self._lock:
            if self._removed:
                raise FileNotFoundError(errno.ENOENT, "removed at exit", self.path)
            try:
                os.mkdir(self.path, 0o700)
            except FileExistsError:
                found = os.lstat(self.path)
                ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
                if self._sweeper is None or not ours:
                    raise
            if self._sweeper is None:
                import subprocess

                their_end, self._lifeline = _lifelines.pipe()
                self._sweeper = subprocess.Popen(
                    ["/bin/sh", "-c", _SWEEPER, "lazycluster-sweeper", self.path],
                    stdin=their_end,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                _lifelines.close(their_end)
                atexit.register(self._remove)

    def _remove(self) -> None:
        if os.getpid() == self._pid and self._sweeper is not None:  # and no forked child's exit
            import subprocess

            self._removed = True
            self._lifeline = _lifelines.close(self._lifeline)
            try:
                self._sweeper.wait(_SWEEPER_PATIENCE)
            except subprocess.TimeoutExpired:
                self._sweeper.kill()
                self._sweeper.wait()


_SWEEPER_PATIENCE = 10.0  # seconds


# By process id, so that a forked child finds nothing of its parent's: no path and no lock.
_temporary: dict[int, _TemporaryMainDirectory] = {}


def _temporary_of_this_process() -> _TemporaryMainDirectory:
    pid = os.getpid()
    known = _temporary.get(pid)
    # setdefault is atomic: of two threads that come at once, one path wins.
    return known if known is not None else _temporary.setdefault(pid, _TemporaryMainDirectory())
