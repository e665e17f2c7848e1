"""The host on which functions are tested has neither the manager's files nor its packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from support.hosts import call, run
from support.separate_host import why_not_separate

pytestmark = [pytest.mark.every_python, pytest.mark.separate_host]


@pytest.fixture(autouse=True)
def _is_separate():
    reason = why_not_separate()
    if reason is not None:
        if os.environ.get("LAZYCLUSTER_REQUIRE_SEPARATE_HOST") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(f"functions are tested on a host that shares the manager's files: {reason}")


def test_the_host_has_no_file_of_the_manager(runtime, tmp_path):
    (tmp_path / "here").touch()
    files = [tmp_path / "here", __file__, pytest.__file__]
    assert [file for file in files if call(runtime, os.path.exists, path=str(file))] == []


def test_the_host_has_no_package(runtime):
    """Its Python is of the manager's version, and nothing is installed for it."""

    def look():
        import site

        return sys.version_info[:2], [os.listdir(path) for path in site.getsitepackages()]

    version, installed = call(runtime, look)
    assert version == sys.version_info[:2]
    assert set(map(tuple, installed)) <= {()}


def test_the_host_has_folders_of_its_own(runtime):
    """What is written there is not written here."""
    run(runtime, "echo there > /tmp/only-there && test -s /tmp/only-there && test -w $TMPDIR")
    assert not Path("/tmp/only-there").exists()


def test_both_sides_see_a_folder(runtime, both_sides):
    """For the tests that need one."""
    run(runtime, f"echo there > {both_sides}/file")
    assert (both_sides / "file").read_text() == "there\n"
