"""Where control folders are made: never where another user could have prepared the place."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from lazycluster._ssh import control_folder

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
    """Of a session, as the system has it."""
    assert made() == parents[0]


@root_only
def test_f40_runtime_directory_of_somebody_else_is_not_used(parents, made):
    """They could put a socket of theirs in place of ours; so another place is tried."""
    os.chown(parents[0], 12345, 12345)
    assert made() == Path("/tmp")


@root_only
def test_f40_link_of_somebody_else_is_not_followed(parents, made, monkeypatch, tmp_path):
    """They could have it lead elsewhere."""
    link = parents[0] / "link"
    link.symlink_to(parents[1])
    os.chown(link, 12345, 12345, follow_symlinks=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(link))
    assert made() == Path("/tmp")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_f40_runtime_directory_that_others_can_write_to_is_not_used(parents, made, mode, caplog):
    """Another place is tried, without a word."""
    parents[0].chmod(mode)
    assert made() == Path("/tmp")
    assert caplog.text == ""


def test_f40_sticky_runtime_directory_is_used(parents, made):
    """As /tmp is one: nobody renames what is another's."""
    parents[0].chmod(0o1777)
    assert made() == parents[0]


@pytest.mark.parametrize("value", ["", "relative/path", "/no/such/folder", "/dev/null"])
def test_f40_runtime_directory_that_is_none_is_passed_over(parents, made, monkeypatch, value):
    """As if it was not set."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    assert made() == Path("/tmp")


def test_f40_runtime_directory_too_long_for_a_socket_is_passed_over(parents, made, monkeypatch):
    """90 bytes are all that ssh can have; nothing is left in it."""
    long = parents[0] / ("l" * 80)
    long.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert made() == Path("/tmp")
    assert os.listdir(long) == []
