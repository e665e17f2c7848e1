"""What scripts/soak.py counts on both sides, and what it makes of the counts."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
ORPHANED_FOR = 30.0
"""Seconds after which a process without its parent counts as an orphan.

The host ends what it ran within some seconds of the end of a connection.
"""
SLACK = {"MB": 4.0, "processes": 12.0, "": 4.0}
"""What a count may grow from the third to the fourth quarter of a run, by unit; or a tenth."""
LOG_FILES_KEPT = 1100
"""The library keeps 1000 log files for a host and removes old ones with each 64th new one."""

LOADER = b"\0-c\0import os,sys;exec(bytes().join(os.read(0,1)"
"""A part of the supervisor's command line and not of its shell's; see _ssh/bootstrap.sh."""

COLUMNS = (
    "manager MB",
    "manager fds",
    "manager threads",
    "manager processes",
    "manager files",
    "log files",
    "supervisor MB",
    "supervisor fds",
    "host processes",
    "host files",
    "orphans here",
    "orphans there",
)


class Process:
    """A process of this computer, as /proc shows it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        folder = Path(f"/proc/{pid}")
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        self.parent, self.session = int(fields[1]), int(fields[3])
        self.started = int(fields[19])
        self.threads = int(fields[17])
        self.megabytes = int(fields[21]) * PAGE / 2**20
        self.command = (folder / "cmdline").read_bytes()

    @property
    def key(self) -> tuple[int, int]:
        """Return what no other process of this boot has."""
        return self.pid, self.started

    def count_descriptors(self) -> int:
        """Return the number of open descriptors; 0 if the process has gone."""
        try:
            return len(os.listdir(f"/proc/{self.pid}/fd"))
        except OSError:
            return 0


def processes_with(variable: str) -> dict[int, Process]:
    """Return the processes that have `NAME=value` in their environment, by pid.

    A zombie has no environment any more.
    """
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if variable.encode() in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                found[int(entry)] = Process(int(entry))
        except OSError:  # it has ended, or belongs to another account
            continue
    return found


def supervisors(there: Mapping[int, Process]) -> list[Process]:
    """Return the supervisors among the processes of the host.

    What they fork has their command line, and so has its parent.
    """
    loaded = {pid: process for pid, process in there.items() if LOADER in process.command}
    return [p for p in loaded.values() if p.parent not in loaded]


def steps(there: Mapping[int, Process], supervisor: Process) -> list[Process]:
    """Return the steps of a supervisor: they lead process sessions.

    The first child is the cleanup process. One of the others may be the pre-forked process.
    """
    children = [p for p in there.values() if p.parent == supervisor.pid and p.session == p.pid]
    return sorted(children, key=lambda child: child.started)[1:]


class Orphans:
    """Count the processes whose parent is gone for long."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], float] = {}

    def count(self, processes: Mapping[int, Process], parents: Iterable[int]) -> int:
        """Look at the processes; `parents` may have children besides themselves."""
        known = {*processes, *parents}
        now = time.monotonic()
        lonely = [p.key for p in processes.values() if p.parent not in known]
        self._seen = {key: self._seen.get(key, now) for key in lonely}
        return sum(now - since > ORPHANED_FOR for since in self._seen.values())


def grown(rows: list[dict[str, float]]) -> list[str]:
    """Return which counts grew without bound; every orphan is one too many.

    The median of the last quarter is compared with that of the quarter before: what is in use for
    the moment differs, and a supervisor that has just started has almost nothing. A count that
    could not be taken, because no supervisor ran between two logins, is left out.
    """
    found = [
        f"{name}: {most:.0f}, for more than {ORPHANED_FOR:.0f} s"
        for name in COLUMNS
        if name.startswith("orphans") and (most := max((row[name] for row in rows), default=0))
    ]
    quarter = len(rows) // 4
    if quarter < 2:
        return found
    for name in COLUMNS:
        if name.startswith("orphans"):
            continue
        before = _median(name, rows[-2 * quarter : -quarter])
        after = _median(name, rows[-quarter:])
        if name == "log files":
            if after > LOG_FILES_KEPT:
                found.append(f"{name}: {after:.0f}, and at most {LOG_FILES_KEPT} are kept")
        elif after - before > max(SLACK.get(name.rpartition(" ")[2], SLACK[""]), before / 10):
            found.append(f"{name}: {before:.0f} in the third quarter, {after:.0f} in the fourth")
    return found


def _median(name: str, rows: list[dict[str, float]]) -> float:
    """Return the median; NaN, with which nothing compares, if no count was taken."""
    counted = [row[name] for row in rows if not math.isnan(row[name])]
    return statistics.median(counted) if counted else math.nan


def table(rows: list[dict[str, float]]) -> str:
    """Return the rows as a table of Markdown."""
    names = ["minute", *COLUMNS]
    lines = ["| " + " | ".join(names) + " |", "| " + " | ".join("---:" for _ in names) + " |"]
    lines += ["| " + " | ".join(_cell(name, row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _cell(name: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if name == "minute" or name.endswith("MB") else f"{value:.0f}"
