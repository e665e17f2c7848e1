"""Coverage of the host's half, which tests/remote runs over a pipe.

The interpreter of a host has no coverage.py. It gets the modules as bytecode whose file names start
with `<lazycluster>/`, and coverage.py skips such names. `sitecustomize.py` beside this file starts
the measurement and gives the bytecode the paths of its files. The library does not know about it.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

FOLDER = "LAZYCLUSTER_TEST_COVERAGE"
"""The variable with the folder that has coverage.py and the measured package."""


def variables() -> dict[str, str]:
    """Return the environment of a host that is measured, or nothing if coverage.py does not run."""
    if "COVERAGE_PROCESS_CONFIG" not in os.environ:
        return {}
    return {"PYTHONPATH": str(Path(__file__).parent), FOLDER: sysconfig.get_path("purelib")}
