"""Find out what this computer has, for tests that need it and else are skipped with the reason."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

LOW_PORT = 995
"""A port that an account needs a privilege for, unless the system has none (Docker's default)."""


def may_bind(address: str, port: int = 0) -> bool:
    """Return True if this account may bind a TCP port of a local address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address, port))
    except OSError:  # no such family, no such address, or not allowed
        return False
    return True


@functools.cache
def longest_name() -> int:
    """Return the most bytes that a name may have in the temporary folder.

    Linux promises 255; on fuse-overlayfs 251 fit, as it puts ".wh." before names.
    """
    with tempfile.TemporaryDirectory() as folder:
        for length in range(255, 0, -1):
            try:
                Path(folder, "x" * length).touch()
            except OSError:
                continue
            return length
    raise AssertionError("no name fits")


@functools.cache
def counts_links() -> bool:
    """Return True if the temporary folder's file system counts the names of a file."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = f"{folder}/first", f"{folder}/second"
        with open(first, "w") as file:
            os.link(first, second)
            counts = [os.fstat(file.fileno()).st_nlink]
            for name in (first, second):
                os.unlink(name)
                counts.append(os.fstat(file.fileno()).st_nlink)
    return counts == [2, 1, 0]


@functools.cache
def takes_deep_folders() -> bool:
    """Return True if the temporary folder can contain folders whose path is longer than PATH_MAX.

    fuse-overlayfs cannot, because it uses whole paths.
    """
    name = "d" * 200
    with tempfile.TemporaryDirectory() as folder:
        current = os.open(folder, os.O_RDONLY)
        try:
            for _ in range(25):  # 5000 bytes
                os.mkdir(name, dir_fd=current)
                below = os.open(name, os.O_RDONLY, dir_fd=current)
                os.close(current)
                current = below
        except OSError:
            return False
        finally:
            os.close(current)
    return True


@functools.cache
def folders_inherit_setgid() -> bool:
    """Return True if a new folder gets the setgid bit, and so the group, of the one that it is in.

    On Docker's fuse-overlayfs only files get the group.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o2700)
        os.mkdir(f"{folder}/new")
        return bool(os.stat(f"{folder}/new").st_mode & stat.S_ISGID)


@functools.cache
def can_mount() -> bool:
    """Return True if this account can mount a file system for one process alone."""
    argv = ["unshare", "-m", "/bin/sh", "-c", "mount -t tmpfs none /mnt"]
    return (
        os.geteuid() == 0
        and shutil.which("unshare") is not None
        and subprocess.run(argv, capture_output=True, check=False).returncode == 0
    )


needs_ipv6 = pytest.mark.skipif(not may_bind("::1"), reason="needs ::1")
needs_privileged_ports = pytest.mark.skipif(
    may_bind("127.0.0.1", LOW_PORT), reason=f"this account may listen on port {LOW_PORT}"
)
needs_link_counts = pytest.mark.skipif(
    not counts_links(), reason="the file system does not count links"
)
needs_inherited_setgid = pytest.mark.skipif(
    not folders_inherit_setgid(), reason="folders here do not inherit the setgid bit"
)
needs_mounts = pytest.mark.skipif(
    not can_mount(), reason="needs root, and a mount namespace by unshare"
)
needs_deep_folders = pytest.mark.skipif(
    not takes_deep_folders(), reason="the file system takes no path longer than PATH_MAX"
)


def addresses(*texts: str) -> list[Any]:
    """Return parameters of a test; those that this computer does not have are skipped."""
    return [
        pytest.param(text, marks=pytest.mark.skipif(not may_bind(text), reason=f"needs {text}"))
        for text in texts
    ]


def file_names(texts: Iterable[bytes]) -> list[Any]:
    """Return parameters of a test; names that the file system does not take are skipped."""
    longest = longest_name()
    reason = f"the file system takes names of at most {longest} bytes"
    return [
        pytest.param(name, marks=pytest.mark.skipif(len(name) > longest, reason=reason))
        for name in texts
    ]
