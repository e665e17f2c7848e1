"""Fixtures of copies: the folders on both sides."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from support.transfers import HUGE


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder that the manager is in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def there(runtime, tmp_path):
    """The working directory of `runtime` for one test."""
    runtime.working_dir = str(tmp_path / "there")
    return tmp_path / "there"


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that is neither."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@pytest.fixture
def huge(elsewhere):
    """A file that takes many seconds to copy."""
    path = elsewhere / "huge"
    path.touch()
    os.truncate(path, HUGE)
    return path


@pytest.fixture
def account_file():
    """An unused name of a file in the home directory of the account; removed afterwards."""
    path = Path(pwd.getpwuid(os.getuid()).pw_dir, f"lctest-{os.urandom(4).hex()}")
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def base(way, here, there):
    """The folder that a relative target is relative to."""
    return there if way == "send" else here


@pytest.fixture
def sides(runtime, way, tmp_path, monkeypatch):
    """A folder with the source, one for our copy, one for rsync's; two are the current ones."""
    source, ours, theirs = (tmp_path / name for name in ("source", "ours", "rsync's"))
    source.mkdir()
    ours.mkdir()
    here, there = (source, ours) if way == "send" else (ours, source)
    runtime.working_dir = str(there)
    monkeypatch.chdir(here)
    return source, ours, theirs
