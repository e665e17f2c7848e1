"""Run a program where some files are others, in a mount namespace; only root can."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest


def with_files(files: Mapping[str, str | Path]) -> list[str]:
    """Return the words to put before an argv, so that the program sees other files.

    Args:
        files: What the program sees at a path, by that path. A link is followed.
    """
    mounts = [word for path, content in files.items() for word in (str(content), path)]
    count = str(len(mounts))
    script = (
        "count=$1; shift; while [ $count -gt 0 ]; do "
        'mount --bind "$1" "$2" || exit; shift 2; count=$((count - 2)); done; exec "$@"'
    )
    return ["unshare", "--mount", "sh", "-c", script, "with-files", count, *mounts]


def need_files(files: Mapping[str, str | Path]) -> None:
    """Skip the test unless a program can see other files here."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare (util-linux)")
    done = subprocess.run([*with_files(files), "true"], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no mount namespace can be made: {done.stderr.strip()}")


def sh_is(shell: str) -> dict[str, str]:
    """Return the files with which /bin/sh is another shell; skip the test if it is not there."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"there is no {shell}")
    files = {"/bin/sh": path}
    need_files(files)
    return files
