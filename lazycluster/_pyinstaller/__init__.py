"""Tell PyInstaller where its hook for this package is; an entry point names the function."""

from __future__ import annotations

import os


def hook_folders() -> list[str]:
    """Return the folders with hooks."""
    return [os.path.dirname(__file__)]
