"""The Python interpreters of this computer."""

from __future__ import annotations

import functools
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support.waiting import TIMEOUT

OWN_VERSION = "{}.{}".format(*sys.version_info)
"""The minor version of the Python that runs the tests, such as "3.11"."""

OWN_PYTHON = os.path.join(sys.base_prefix, "bin", f"python{OWN_VERSION}")
"""The interpreter that runs the tests, but outside of its virtual environment.

A host has neither lazycluster nor cloudpickle installed.
"""


@functools.cache
def find_interpreters() -> dict[str, str]:
    """Return one CPython for each minor version from 3.6 on: {"3.6": path, …}, oldest first."""
    found = {OWN_VERSION: _run_version(OWN_PYTHON, OWN_VERSION) or sys.executable}
    for version, path in _candidates():
        if version not in found and version.startswith("3.") and int(version[2:]) >= 6:
            executable = _run_version(path, version)
            if executable is not None:
                found[version] = executable
    return dict(sorted(found.items(), key=lambda item: int(item[0][2:])))


def other_python() -> str | None:
    """Return an interpreter of another minor version, the newest if there are several."""
    others = [path for version, path in find_interpreters().items() if version != OWN_VERSION]
    return others[-1] if others else None


def find_python_2() -> str | None:
    """Return the path of a Python 2.7, if there is one."""
    for version, path in _candidates():
        if version == "2.7" and _run_version(path, version) is not None:
            return path
    return None


def _candidates() -> Iterator[tuple[str, str]]:
    """Yield versions by their names, and paths; pyenv's own first, as its shims seldom run."""
    home = pwd.getpwuid(os.getuid()).pw_dir  # in the tests HOME is a temporary folder
    pyenv = Path(os.environ.get("PYENV_ROOT") or os.path.join(home, ".pyenv"))
    folders = [*sorted(map(str, pyenv.glob("versions/*/bin")))]
    # Where uv has the others.
    folders += sorted(map(str, Path(sys.base_prefix).parent.glob("*/bin")))
    folders += os.environ.get("PATH", "").split(os.pathsep)
    for folder in folders:
        try:
            names = sorted(os.listdir(folder or "."))
        except OSError:
            continue
        for name in names:
            match = re.fullmatch(r"python([23]\.\d+)", name)
            if match:
                yield match[1], os.path.join(folder, name)


def _run_version(path: str, version: str) -> str | None:
    """Return the real path of an interpreter, if it runs and is a CPython of that version."""
    code = (
        "import platform, sys; "
        "print(platform.python_implementation() + ' %d.%d ' % sys.version_info[:2]"
        " + sys.executable)"
    )
    try:
        done = subprocess.run(
            [path, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = done.stdout.decode(errors="replace").rstrip("\n").split(" ", 2)
    return found[2] if found[:2] == ["CPython", version] else None
