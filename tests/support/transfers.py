"""Copy files and folders, and compare what came."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lazycluster.exceptions import FileTransferError

PARTIAL = ".lazycluster-"
HUGE = 8 << 30
"""Bytes of a file without data that is copied until something stops it; seconds away from all."""


def picture(path):
    """All that is to be the same in a copy: names, kinds, modes, times, data and where links go."""
    root = os.fsencode(path)
    paths = [root]
    for folder, folders, files in os.walk(root):
        paths += [os.path.join(folder, name) for name in (*folders, *files)]
    return {entry[len(root) :]: look_at(entry) for entry in paths}


def look_at(path):
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    content = None
    if kind == stat.S_IFLNK:
        content = os.readlink(path)
    elif kind == stat.S_IFREG:
        with open(path, "rb") as file:
            content = file.read()
    return kind, stat.S_IMODE(status.st_mode), status.st_mtime_ns, content


def unfinished(*folders):
    """Paths of what was not yet, or will never be, put where it belongs."""
    found = []
    for folder in folders:
        for parent, names, files in os.walk(folder):  # unlike rglob, it bears what goes meanwhile
            found += [Path(parent, name) for name in names + files if name.startswith(PARTIAL)]
    return found


def under_way(*folders):
    """Whether much of the data has come to a copy in one of the folders."""
    try:
        found = [below for path in unfinished(*folders) for below in (path, *path.rglob("huge"))]
        return any(path.is_file() and path.stat().st_size for path in found)
    except FileNotFoundError:  # it was put where it belongs meanwhile
        return False


def make_tree(root):
    """A folder with one of each that can travel."""
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "empty folder").mkdir()
    (root / "empty file").touch()
    (root / "text").write_text("hello\n")
    (root / "sub" / "data").write_bytes(os.urandom(200_000))
    (root / "sub" / "deep" / "program").write_text("#!/bin/sh\n")
    (root / "sub" / "deep" / "program").chmod(0o755)
    (root / "text").chmod(0o640)
    (root / "link").symlink_to("text")
    (root / "link to folder").symlink_to("sub")
    (root / "dangling").symlink_to("/no/such/file")
    (root / "sub" / "loop").symlink_to("..")
    os.utime(root / "text", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root / "link", ns=(1, 1_000_000_000_000_000_001), follow_symlinks=False)
    os.utime(root / "empty folder", ns=(1, 1_000_000_000_000_000_003))
    (root / "sub" / "deep").chmod(0o555)
    os.utime(root, ns=(1, 1_100_000_000_000_000_007))
    return root


def copy_of(source, runtime, way, target, **options):
    """Sends or gets it; the task."""
    method = runtime.send_file if way == "send" else runtime.get_file
    return method(str(source), target, **options)


both_ways = pytest.mark.parametrize("way", ["send", "get"])


def failure_of(runtime, task):
    """How a task fails."""
    with pytest.raises(FileTransferError) as caught:
        runtime.execute_task(task, execute_async=False)
    return caught.value


def text(value):
    return value
