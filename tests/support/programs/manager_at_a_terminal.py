"""A RuntimeManager at a terminal, at which lines have been typed already.

Usage: python manager_at_a_terminal.py CONFIG_FILE RESULT
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import termios
from pathlib import Path

from lazycluster import RuntimeManager
from lazycluster._group.results import reason


def typed() -> str:
    """Return what is left of the typed lines."""
    os.set_blocking(0, False)
    text = ""
    with contextlib.suppress(BlockingIOError):
        while line := os.read(0, 1000):
            text += line.decode()
    return text


def main(config_file: str, result: str) -> None:
    """Write the hosts, why the others are inactive, and what was not read of the lines."""
    before = termios.tcgetattr(0)
    with RuntimeManager(config_file, connect_timeout=150) as manager:
        found = {
            "hosts": manager.hosts,
            "reasons": {host: reason(error) for host, error in manager.errors.items()},
            "group": manager.create_group(filter_commands="[ ! -t 0 ] && echo true").hosts,
        }
    found["settings_are_kept"] = termios.tcgetattr(0) == before
    found["typed"] = typed()
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
