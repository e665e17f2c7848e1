"""Environment: the main directory on the manager, as 0.2's scripts read and set it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lazycluster
from lazycluster import Environment
from lazycluster._tasks import log_files
from lazycluster._tasks.log import ExecutionLog


@pytest.fixture(autouse=True)
def unset(monkeypatch, tmp_path):
    """No main directory is set, and the home directory is one of the test."""
    monkeypatch.setattr(log_files, "_chosen", None)
    monkeypatch.delenv("LAZYCLUSTER_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def log_path():
    """Write a log, and return the path of its file."""
    log = ExecutionLog("host-1", "task")
    log.append(0, b"x")
    log.close()
    return Path(log.path)


def test_main_directory_by_default(monkeypatch, tmp_path):
    """As the XDG Base Directory Specification says."""
    assert Environment.main_directory == str(tmp_path / ".local/state/lazycluster")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert Environment.main_directory == str(tmp_path / "state" / "lazycluster")
    monkeypatch.setenv("LAZYCLUSTER_HOME", "mine")
    assert Environment.main_directory == str(tmp_path / "mine")
    assert log_path().is_relative_to(Environment.main_directory)


def test_main_directory_without_a_home_directory_is_temporary(monkeypatch):
    """The one that logs are in, which is removed at exit."""
    monkeypatch.delenv("HOME")
    source = (
        "from lazycluster import Environment\n"
        "from lazycluster._tasks.log_files import create_log_file\n"
        "print(Environment.main_directory, create_log_file('h', 't', None)[0])"
    )
    run = subprocess.run([sys.executable, "-c", source], stdout=subprocess.PIPE, check=True)
    directory, path = run.stdout.decode().split()
    assert path.startswith(f"{directory}/execution_log/h/t_")
    assert not os.path.exists(directory)


@pytest.mark.parametrize("make", [str, Path])
def test_main_directory_that_is_set(tmp_path, monkeypatch, make):
    """It comes before the variables, is absolute, and is made when it is needed."""
    monkeypatch.setenv("LAZYCLUSTER_HOME", str(tmp_path / "other"))
    Environment.set_main_directory(make("main/directory"))
    assert Environment.main_directory == str(tmp_path / "main" / "directory")
    assert not os.listdir(tmp_path)
    monkeypatch.chdir("/")
    path = log_path()
    assert path.parent == tmp_path / "main" / "directory" / "execution_log" / "host-1"
    assert path.name.startswith("task_")
    assert path.suffix == ".log"


def test_main_directory_can_be_assigned(tmp_path):
    """And what was read can be assigned again."""
    before = Environment.main_directory
    Environment.main_directory = "~/mine"
    assert Environment.main_directory == str(tmp_path / "mine")
    Environment.main_directory = before
    assert Environment.main_directory == before


def test_main_directory_by_the_name_of_the_parameter(tmp_path):
    """As 0.2 called it."""
    Environment.set_main_directory(dir=str(tmp_path / "a"))
    assert Environment.main_directory == str(tmp_path / "a")


@pytest.mark.parametrize("path", ["", "a\0b", None, 5, b"a"])
def test_bad_main_directory_is_refused(path):
    """A ValueError or TypeError; the directory is as before."""
    before = Environment.main_directory
    with pytest.raises((ValueError, TypeError), match="main directory"):
        Environment.set_main_directory(path)
    with pytest.raises((ValueError, TypeError), match="main directory"):
        Environment.main_directory = path
    assert Environment.main_directory == before


def test_level_of_other_libraries_is_taken_and_changes_nothing():
    """As a script for 0.2 sets it."""
    before = logging.getLogger().level, list(logging.getLogger().handlers)
    lazycluster.Environment.set_third_party_log_level(logging.INFO)
    assert (logging.getLogger().level, list(logging.getLogger().handlers)) == before
