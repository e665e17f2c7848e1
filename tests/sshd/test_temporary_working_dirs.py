"""Temporary working directories that were changed, at the end of their Runtime."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from support.hosts import run


@pytest.fixture
def outside(tmp_path):
    """A folder of another user, which must stay as it is."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "keep").touch()
    folder.chmod(0o755)
    yield folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert os.listdir(folder) == ["keep"]


def test_f45_cleanup_follows_no_link(own_runtime, outside):
    """What is in the directory goes, where it points to stays."""
    folder = Path(own_runtime.working_dir)
    run(own_runtime, f"ln -s / root; mkdir a; ln -s {outside} a/link; ln -s {outside}/keep a/file")
    own_runtime.cleanup()
    assert not folder.exists()
    assert Path("/").is_dir()


def test_f45_a_temporary_directory_that_somebody_removed(own_runtime, outside, caplog):
    """It is gone already, which is no failure; what is not ours is not made up for."""
    folder = Path(own_runtime.working_dir)
    folder.rmdir()
    own_runtime.cleanup()
    assert not folder.exists()
    assert not caplog.records


def test_f45_a_temporary_directory_that_a_link_took_the_place_of(own_runtime, outside):
    """The link goes, and not what it points to; nor is the folder changed that it is in."""
    folder = Path(own_runtime.working_dir)
    mode = folder.parent.stat().st_mode
    folder.rmdir()
    folder.symlink_to(outside)
    own_runtime.cleanup()
    assert not folder.is_symlink()
    assert folder.parent.stat().st_mode == mode
