"""Look at the processes of this computer, and end those that a test has started."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path

from support.waiting import wait_until


def stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on; empty if the process has gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()  # 42 (a name, with ) and blanks) S 41 ...


def state(pid: int) -> str | None:
    """Return the letter that ps shows, or None if the process has gone."""
    return next(iter(stat_fields(pid)), None)


def is_alive(pid: int | None) -> bool:
    """Return True if the process runs.

    A zombie does not: the process that reaps orphans may take a second or two.
    """
    assert pid
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another account
        pass
    return state(pid) not in ("Z", None) or not os.path.isdir("/proc/self")


def parent(pid: int) -> int:
    """Return the pid of the parent of a process that runs."""
    return int(stat_fields(pid)[1])


def parents() -> dict[int, int]:
    """Return the pid of the parent of each process."""
    return {pid: int(fields[1]) for pid in all_pids() if (fields := stat_fields(pid))}


def words(pid: int, name: str = "cmdline") -> list[bytes]:
    """Return the argv ("cmdline") or the variables ("environ") of a process.

    The list is empty if the process has gone or belongs to another user.
    """
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return []


def command_line(pid: int) -> str:
    """Return the argv of a process as a line to read."""
    return b" ".join(words(pid)).decode(errors="replace")


def all_pids() -> list[int]:
    """Return the pid of each process; an empty list without a /proc."""
    if not os.path.isdir("/proc/self"):
        return []
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def group_exists(group: int) -> bool:
    """Return True if a process group has a member, even if that is a zombie."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def processor_time(pid: int) -> float:
    """Return the processor time that a process has used, in seconds."""
    fields = stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_peak(pid: int) -> int:
    """Return the most memory that a process has had so far, in bytes."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) << 10


def end(pid: int) -> None:
    """Kill a process that a test has started."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def await_gone(pids: Iterable[int], what: str = "processes") -> None:
    """Wait until none of these processes runs."""

    def left() -> dict[int, str]:
        return {pid: command_line(pid) for pid in pids if is_alive(pid)}

    pids = list(pids)
    wait_until(lambda: not left(), lambda: f"{what} live on: {left()}")


def read_pid(path: Path) -> int:
    """Wait until a process has written its pid into a file, and return it."""
    return wait_until(lambda: int(path.read_text() or 0) if path.exists() else 0)


# Processes that record their pids as the names of empty files in a folder.


def recorded(folder: Path) -> set[int]:
    """Return the pids that processes have recorded."""
    return {int(name) for name in os.listdir(folder)}


def await_recorded(folder: Path, count: int) -> set[int]:
    """Wait until `count` processes have recorded themselves, and return their pids."""

    def found() -> set[int] | None:
        pids = recorded(folder)
        return pids if len(pids) >= count else None

    pids = wait_until(found, lambda: f"only {recorded(folder)} of {count} processes have started")
    assert pids is not None
    return pids
