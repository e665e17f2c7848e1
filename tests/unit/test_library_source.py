"""What the library's own source must not contain."""

from __future__ import annotations

import re
from pathlib import Path

import lazycluster


def test_no_shell_true_in_the_library():
    """Only argv is ever run on the manager."""
    import lazycluster

    folder = Path(lazycluster.__file__).parent
    for path in folder.rglob("*.py"):
        text = path.read_text()
        assert "shell=True" not in text, path
        assert "os.system" not in text, path
        assert "os.popen" not in text, path


def test_f43_no_module_asks_the_wall_clock():
    """Only the names of log files have the wall clock's time."""
    folder = Path(lazycluster.__file__).parent
    for path in folder.rglob("*.py"):
        assert not re.search(r"\btime\.time(_ns)?\(|\bdatetime\b", path.read_text()), path
