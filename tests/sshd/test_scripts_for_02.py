"""Scripts of the README of lazycluster 0.2, and in the style of its documentation, run unchanged.

The README's own lines are in `readme_*.py`, but for what never ran: undefined names, and hosts that
were given to RuntimeGroup one by one. The example that reads a file with pandas is in
`tests/libraries`.
"""

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
    """Return the environment of a script whose ssh knows host-1 and host-2, each by two names.

    For a RuntimeManager there is a third one, which does not exist.
    """
    path = [Path(sys.base_prefix) / "bin"]
    sshds: list[LoopbackSshd] = [make_sshd(alias=f"host-{n} gaia-{n}", path=path) for n in (1, 2)]
    config = tmp_path / "config"
    config.write_text("".join(sshd.config_file.read_text() for sshd in sshds))
    names = tmp_path / ".ssh" / "config"
    names.parent.mkdir()
    names.write_text("Host host-1\nHost host-2\nHost no-such-host.invalid\n")
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{config}" "$@"\n')
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
