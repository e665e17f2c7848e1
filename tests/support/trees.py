"""Trees of files as values: make them, look at them, copy them."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from lazycluster._shared import folders, tree_stream
from lazycluster._shared.unpacker import Unpacker
from support.machine import longest_name

NOBODY = 65534
TIME = 1_600_000_000_123_456_789  # ns
LINK_TIMES = os.utime in os.supports_follow_symlinks

# ("file", mode, mtime, data), ("link", mtime, target) or ("folder", mode, mtime, {name: entry})


def file(data: bytes = b"", mode: int = 0o644, time: int = TIME) -> tuple[Any, ...]:
    return ("file", mode, time, data)


def link(target: bytes, time: int = TIME) -> tuple[Any, ...]:
    return ("link", time, target)


def folder(
    entries: dict[bytes, Any] | None = None, mode: int = 0o755, time: int = TIME
) -> tuple[Any, ...]:
    return ("folder", mode, time, entries or {})


def make(path: bytes | str | Path, entry: tuple[Any, ...]) -> None:
    """Make what the value describes."""
    path = os.fsencode(path)
    if entry[0] == "link":
        os.symlink(entry[2], path)
        if LINK_TIMES:
            os.utime(path, ns=(entry[1], entry[1]), follow_symlinks=False)
        return
    if entry[0] == "file":
        Path(os.fsdecode(path)).write_bytes(entry[3])
    else:
        os.mkdir(path)
        for name, below in entry[3].items():
            make(os.path.join(path, name), below)
    os.chmod(path, entry[1])
    os.utime(path, ns=(entry[2], entry[2]))


def look(path: bytes | str | Path) -> tuple[Any, ...] | None:
    """The value that describes what is there."""
    path = os.fsencode(path)
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    mode, time = stat.S_IMODE(status.st_mode), status.st_mtime_ns
    if stat.S_ISLNK(status.st_mode):
        return link(os.readlink(path), time if LINK_TIMES else TIME)
    if stat.S_ISREG(status.st_mode):
        return file(Path(os.fsdecode(path)).read_bytes(), mode, time)
    entries = {name: look(os.path.join(path, name)) for name in os.listdir(path)}
    return folder(entries, mode, time)


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path))


def unpack(
    pieces: Iterable[bytes], target: str | Path, name: str | None = "name"
) -> list[tuple[str, str]]:
    unpacker = Unpacker(str(target), name)
    for piece in pieces:
        unpacker.feed(piece)
    return unpacker.finish()


def copy(source: Path, target: str | Path, name: str | None = "name") -> list[tuple[str, str]]:
    return unpack(tree_stream.pack(str(source)), target, name)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, which no mode holds up."""
    if os.getuid() != 0:
        yield
        return
    if not hasattr(os, "setresuid"):
        pytest.skip("root cannot be another for a while here")
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


NASTY_NAMES = [
    b" ",
    b"a b",
    b"'\"",
    b"$(id)",
    b"`id`",
    b"line\nbreak",
    b"tab\t",
    b"*?[]{}",
    b"back\\slash",
    b"-rf",
    b"~",
    b"~root",
    b"host:path",
    b"...",
    b"..a",
    b"\xff\xfe",
    "é".encode(),
    "e\u0301".encode(),
    b"\xf0\x9f\x98\x80",
    b"x" * longest_name(),
    b"\x01\x7f",
]


@contextmanager
def hypothesis_place() -> Iterator[Path]:
    path = tempfile.mkdtemp(prefix="lctest-")
    try:
        yield Path(path)
    finally:
        assert folders.remove_tree(path)


needs_any_name = pytest.mark.skipif(
    sys.platform == "darwin", reason="its file system takes no name that is not UTF-8"
)


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can do this")


drawn = settings(deadline=None, suppress_health_check=list(HealthCheck))


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


def record(
    kind: int, text: bytes = b"", mode: int = 0o755, seconds: int = 0, nanoseconds: int = 0
) -> bytes:
    return tree_stream.HEAD.pack(kind, mode, len(text), seconds, nanoseconds) + text
