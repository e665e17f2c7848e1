"""Control folders: where no other user could have prepared the place, with a short path."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from lazycluster._ssh import control_folder
from lazycluster._ssh.control_folder import check_control_path, control_path_limit
from lazycluster.exceptions import LazyclusterError

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")


@pytest.fixture
def parents(monkeypatch):
    """Two short folders: the one of XDG_RUNTIME_DIR and the one of TMPDIR."""
    folder = Path(tempfile.mkdtemp(prefix="lctest-", dir="/tmp"))
    for name in ("XDG_RUNTIME_DIR", "TMPDIR"):
        (folder / name[0]).mkdir(mode=0o700)
        monkeypatch.setenv(name, str(folder / name[0]))
    yield folder / "X", folder / "T"
    shutil.rmtree(folder)


@pytest.fixture
def made():
    """Makes a control folder as a connection does, and gives the folder that it is in."""
    folders = []

    def make():
        folders.append(control_folder.make_control_folder())
        assert stat.S_IMODE(os.lstat(folders[-1]).st_mode) == 0o700
        assert os.listdir(folders[-1]) == ["log"]
        return Path(folders[-1]).parent

    yield make
    for folder in folders:
        shutil.rmtree(folder)


def test_f40_control_folder_is_in_the_runtime_directory(parents, made):
    """The system makes it for a login session."""
    assert made() == parents[0]


@root_only
def test_f40_runtime_directory_of_another_user_is_not_used(parents, made):
    """That user could replace the socket; so another place is tried."""
    os.chown(parents[0], 12345, 12345)
    assert made() == Path("/tmp")


@root_only
def test_f40_link_of_another_user_is_not_followed(parents, made, monkeypatch, tmp_path):
    """That user could make it lead elsewhere."""
    link = parents[0] / "link"
    link.symlink_to(parents[1])
    os.chown(link, 12345, 12345, follow_symlinks=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(link))
    assert made() == Path("/tmp")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_f40_runtime_directory_that_others_can_write_to_is_not_used(parents, made, mode, caplog):
    """Another place is tried, without a warning."""
    parents[0].chmod(mode)
    assert made() == Path("/tmp")
    assert caplog.text == ""


def test_f40_sticky_runtime_directory_is_used(parents, made):
    """Like /tmp: only its owner can rename a folder in it."""
    parents[0].chmod(0o1777)
    assert made() == parents[0]


@pytest.mark.parametrize("value", ["", "relative/path", "/no/such/folder", "/dev/null"])
def test_f40_invalid_runtime_directory_is_passed_over(parents, made, monkeypatch, value):
    """As if it was not set."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    assert made() == Path("/tmp")


def test_f40_runtime_directory_too_long_for_a_socket_is_passed_over(parents, made, monkeypatch):
    """ssh can have 90 bytes; no folder is left in it."""
    long = parents[0] / ("l" * 80)
    long.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert made() == Path("/tmp")
    assert os.listdir(long) == []


def test_the_limit_leaves_room_for_what_ssh_appends(monkeypatch):
    """17 bytes and a NUL, of 108 on Linux and 104 elsewhere."""
    monkeypatch.setattr(sys, "platform", "linux")
    assert control_path_limit() == 90
    monkeypatch.setattr(sys, "platform", "darwin")
    assert control_path_limit() == 86


def test_the_system_takes_a_socket_as_long_as_ssh_would_bind(tmp_path, monkeypatch):
    """The limit and the 17 bytes that ssh adds fit, one more does not."""
    monkeypatch.chdir("/")
    folder = "/tmp"
    longest = f"{folder}/" + "x" * (control_path_limit() - len(folder) - 1) + "." + "y" * 16
    with socket.socket(socket.AF_UNIX) as unix:
        with pytest.raises(OSError, match="too long"):
            unix.bind(longest + "zz")
        # To connect checks the length as well, and makes nothing.
        with pytest.raises(FileNotFoundError):
            unix.connect(longest)


def test_a_control_path_at_the_limit_is_fine_and_a_longer_one_is_refused():
    """In bytes, not letters; the error names the folder and the limit."""
    limit = control_path_limit()
    check_control_path("/" + "x" * (limit - 1))
    with pytest.raises(LazyclusterError, match=rf"'/tmp/ü'.*{limit}.*XDG_RUNTIME_DIR"):
        check_control_path("/tmp/ü/" + "x" * (limit - 7))


def test_a_control_path_that_ssh_would_expand_is_refused():
    """`${` has no escape: "env var ${FOO} has no value"."""
    with pytest.raises(LazyclusterError, match="environment variable"):
        check_control_path("/tmp/${FOO}/s")
