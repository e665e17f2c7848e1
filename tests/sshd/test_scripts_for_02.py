"""Scripts in the style of the documentation of lazycluster 0.2 run unchanged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loopback_sshd import LoopbackSshd

SCRIPTS = sorted((Path(__file__).parents[1] / "support" / "programs" / "for_02").glob("*.py"))
PRINTED = re.compile(r"# => ?(.*)$", re.MULTILINE)
TIMEOUT = 300  # seconds


@pytest.fixture
def two_hosts(make_sshd, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a script whose ssh knows host-1 and host-2, two names of a host."""
    sshd: LoopbackSshd = make_sshd(alias="host-1 host-2", path=[Path(sys.base_prefix) / "bin"])
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{sshd.config_file}" "$@"\n')
    ssh.chmod(0o755)
    return {**os.environ, "PATH": f"{ssh.parent}:/usr/bin:/bin", "HOME": str(tmp_path)}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_for_02_runs_unchanged(script: Path, two_hosts: dict[str, str], tmp_path: Path):
    """It prints what its comments say, in that order, and ends with 0."""
    folder = tmp_path / "folder"
    folder.mkdir()
    ran = subprocess.run(
        [sys.executable, str(script)],
        env=two_hosts,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (ran.stdout.splitlines(), ran.returncode) == (PRINTED.findall(script.read_text()), 0), (
        ran.stderr
    )
