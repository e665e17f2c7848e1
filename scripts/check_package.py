"""Run README's first screen with a wheel in an empty environment.

    python scripts/check_package.py FOLDER

Install the only wheel of the folder by pip into a fresh virtual environment, and run the first
Python block of README.md there against a throw-away sshd on loopback.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from loopback_sshd import LoopbackSshd

README = Path(__file__).resolve().parent.parent / "README.md"
TIMEOUT = 120.0
"""Seconds for the first screen. It takes less than one second."""

PRINTED = re.compile(r"^\s*print\(.*\)  # (.+)$", re.MULTILINE)
"""A line that prints, with its output in a comment."""


def main() -> int:
    """Install the wheel and run the first screen; return 0 if it prints what it says."""
    (wheel,) = Path(sys.argv[1]).glob("*.whl")
    # The host needs a Python of this minor version on its PATH.
    host = LoopbackSshd("my-host", path=[Path(sys.base_prefix) / "bin"])
    with tempfile.TemporaryDirectory() as folder, host as sshd:
        environment = Path(folder) / "environment"
        venv.create(environment, with_pip=True)
        python = str(environment / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
        script = Path(folder) / "first_screen.py"
        code = first_screen()
        script.write_text(code, encoding="utf-8")
        # README knows the host by its name alone, so an ssh that reads the sshd's file is on PATH.
        _write_ssh(Path(folder) / "bin", sshd.config_file)
        ran = subprocess.run(
            [python, str(script)],
            env={
                **os.environ,
                "PATH": f"{folder}/bin:{os.environ['PATH']}",
                "LAZYCLUSTER_HOME": folder,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            cwd=folder,
        )
    printed = ran.stdout.splitlines()
    # The host is this computer, whose own name is what `uname -n` prints.
    shown = [line.replace(sshd.alias, os.uname().nodename) for line in PRINTED.findall(code)]
    missing = [line for line in shown if line not in printed]
    if ran.returncode or ran.stderr or missing or not shown:
        print(f"README's first screen, with {wheel.name}: exit {ran.returncode}.")
        print(f"Not printed: {missing}.\n{ran.stdout}{ran.stderr}")
        return 1
    print(f"{wheel.name} runs README's first screen.")
    return 0


def first_screen() -> str:
    """Return the first Python block of the README."""
    found = re.search(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.M | re.S)
    if found is None:
        raise SystemExit(f"{README} has no Python block.")
    return found[1]


def _write_ssh(folder: Path, config_file: Path) -> None:
    folder.mkdir()
    ssh = folder / "ssh"
    text = f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{config_file}" "$@"\n'
    ssh.write_text(text, encoding="utf-8")
    ssh.chmod(0o755)


if __name__ == "__main__":
    sys.exit(main())
