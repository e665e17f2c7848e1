"""gevent replaces parts of the standard library: `os.close`, `os.fork`, Popen, poll, threads."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from support.programs import gevent_manager
from support.waiting import TIMEOUT

pytestmark = pytest.mark.every_python


def test_everything_works_under_gevent(sshd, tmp_path, nothing_left):
    """And a connection ends by itself, not by a timeout."""
    if importlib.util.find_spec("gevent") is None:  # to import it would change this process
        pytest.skip("gevent is not installed")
    argv = [sys.executable, "-m", "gevent.monkey", gevent_manager.__file__]
    argv += [str(sshd.config_file), sshd.alias, str(tmp_path)]
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert (done.stderr, done.stdout, done.returncode) == ("", "good\n", 0)
    nothing_left()
