"""`os.path.abspath` and the like take `link/../x` for `x`, where the system goes elsewhere.

Files were read, and folders deleted, that the user had not named. `_shared.paths.absolute` joins.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lazycluster

FOLDS = {"abspath", "normpath", "relpath", "resolve"}
"""Functions that fold `..` as text. `realpath` does so with what does not exist."""

REASONS = {
    "_functions/data_files.py": "names within a zip file or a package, which has no links",
    "_remote/resources.py": "names within a package that is held in memory",
    "_functions/installed.py": "Python itself makes `sys.path` and `__file__` with abspath",
    "_remote/interpreter.py": "Python itself makes the folders of PYTHONPATH with abspath",
}
"""Module → why it may fold paths: they are none of the user's."""


def folding(source: str) -> list[str]:
    """Return the names of FOLDS that a text calls or refers to."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in FOLDS:
            found.append(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found += [alias.name for alias in node.names if alias.name in FOLDS]
    return found


def test_no_module_folds_a_path_of_a_user():
    """A module that may has a reason in the table, and uses it."""
    root = Path(lazycluster.__file__).parent
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if folding(path.read_text(encoding="utf-8"))
    }
    assert found == set(REASONS)


@pytest.mark.parametrize(
    "source", ["os.path.abspath(p)", "from os.path import normpath", "Path(p).resolve()"]
)
def test_what_folds_is_found(source):
    """Each way of writing it."""
    assert folding(source)
