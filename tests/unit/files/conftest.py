"""Fixtures of files: a folder, and accounts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lazycluster._shared import folders
from support.trees import as_nobody


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that a user other than root may use, too."""
    path = tempfile.mkdtemp(prefix="lctest-", dir="/tmp")  # TMPDIR may be in a folder of root's
    os.chmod(path, 0o777)
    yield Path(os.path.realpath(path))
    assert folders.remove_tree(path)


@pytest.fixture
def nobody(place: Path) -> Iterator[None]:
    """Run the test as an account that is not root."""
    with as_nobody():
        yield


@pytest.fixture(params=["as it is", "as nobody"])
def anybody(request: pytest.FixtureRequest, place: Path) -> Iterator[None]:
    """Run the test twice: with the account of the tests, and with one that is not root."""
    if request.param == "as it is":
        yield
    elif os.getuid() != 0:
        pytest.skip("the tests are not run by root anyway")
    else:
        with as_nobody():
            yield
