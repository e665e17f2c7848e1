"""Modules beside a user's script, which travel with functions."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lazycluster._functions import local_modules


def write_modules(folder: Path, sources: Mapping[str, str]) -> None:
    """Write modules, named by their paths below `folder` without `.py`."""
    for name, source in sources.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
    importlib.invalidate_caches()


@contextmanager
def forgotten(folder: Path) -> Iterator[None]:
    """Forget at the end of a block which modules it imported from `folder`."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    local_modules._known.clear()
