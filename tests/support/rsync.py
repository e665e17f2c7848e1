"""Run the real rsync, whose rules the copies of lazycluster follow, and compare with it."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide.md"
OLD = 1_000_000_000_123_456_789
"""Nanoseconds; the time of all that is there before a copy, or older."""


def rsync(*arguments: str | Path, status: int = 0) -> str:
    """Run `rsync -rlt`, expect its exit status, and return its messages."""
    done = subprocess.run([_program(), "-rlt", *arguments], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stderr


def _program() -> str:
    """Return the path of rsync 3.2.3, which knows `--mkpath`, or newer.

    Without one the test is skipped, or fails if LAZYCLUSTER_REQUIRE_RSYNC is 1.
    """
    program = shutil.which("rsync")
    if program is not None:
        text = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        found = re.search(r"version (\d+)\.(\d+)\.(\d+)", text)
        if found and tuple(map(int, found.groups())) >= (3, 2, 3):
            return program
    reason = "there is no rsync 3.2.3 or newer"
    if os.environ.get("LAZYCLUSTER_REQUIRE_RSYNC") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def rsync_from(source, target, arguments, status=0):
    """Run rsync with arguments as the guide has them: the last one is a path of the target."""
    *options, what, where = arguments.split(" ")
    return rsync(*options, f"{source}/{what}", f"{target}/{where}", status=status)


def table(header):
    """Return the rows of the guide's table that begins with a header, as lists of cells."""
    _, found, rest = GUIDE.read_text().partition(f"| {header} |")
    assert found, f"the guide has no table with {header!r}"
    rows = re.findall(r"^\| (.*) \|$", rest, re.MULTILINE)
    return [re.split(r"(?<!\\) \| ", row) for row in rows[1 : rest.split("\n\n")[0].count("\n")]]


def set_times(root: Path, ns: int = OLD) -> None:
    """Set a time on everything, a different one on each, with nanoseconds."""
    for parent, below, files in os.walk(root, topdown=False):
        for name in (*below, *files):
            ns -= 1_234_567_891
            os.utime(os.path.join(parent, name), ns=(ns, ns), follow_symlinks=False)
    os.utime(root, ns=(ns, ns))


def picture(root):
    """Names, contents, links and times; the time of a folder only if the copy has set it."""
    root = os.fsencode(root)
    seen = {}
    begun = time.time_ns() - 3600 * 10**9
    for parent, below, files in os.walk(root):
        for path in (parent, *(os.path.join(parent, name) for name in (*below, *files))):
            status = os.lstat(path)
            kind, set_time, content = stat.S_IFMT(status.st_mode), status.st_mtime_ns, None
            if kind == stat.S_IFLNK:
                content = os.readlink(path)
            if kind == stat.S_IFREG:
                content = Path(os.fsdecode(path)).read_bytes()
            elif begun < set_time < begun + 7200 * 10**9:
                set_time = None  # rsync leaves that of a link where the second is right
            seen[path[len(root) :]] = (kind, content, set_time)
    return seen


def differences(ours, theirs):
    """Return what differs in two folders, by path: ours and theirs."""
    one, other = picture(ours), picture(theirs)
    return {
        path: (one.get(path), other.get(path))
        for path in sorted({*one, *other})
        if one.get(path) != other.get(path)
    }
