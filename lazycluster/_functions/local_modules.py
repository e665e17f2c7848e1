"""Find local modules: neither installed nor in the standard library, so not on the host.

Nothing is imported here, because a function may import in its body what the manager cannot import.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Iterable
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder

from lazycluster._functions.installed import is_installed
from lazycluster._functions.reading import read_apart

# Never sent as source: lazycluster stays on the manager, the connection sends cloudpickle.
OWN_PACKAGES = frozenset({"lazycluster", "cloudpickle"})


def is_built_in(error: Exception) -> bool:
    """Return False for what signal handlers raise: errors of other classes, and TimeoutError."""
    return type(error).__module__ == "builtins" and not isinstance(error, TimeoutError)


_known: dict[tuple[str, object], bool] = {}


def is_local(name: object) -> bool:
    """Return True if the host does not have the module with this name, so that it is sent.

    Its place decides, not its name: a user's `queue.py` is not the standard library's.
    """
    if not isinstance(name, str):
        return False
    if name == "__main__":
        return True
    module = sys.modules.get(name)
    if module is None:
        return False  # made at run time: cloudpickle pickles its contents by value
    file = getattr(module, "__file__", None)
    # A namespace package gets further folders when sys.path changes.
    folders = tuple(getattr(module, "__path__", ())) if file is None else ()
    known = _known.get((name, file or folders))
    if known is None:
        top = name.partition(".")[0]
        if top != name and _is_below(file, sys.modules.get(top)):
            known = is_local(top)  # a package is installed as a whole
        else:
            known = read_apart(lambda: _is_local_path(name, file, folders))
        _known[name, file or folders] = known
    return known


def _is_below(file: object, package: object) -> bool:
    """Return True if a file is in the only folder of a package with an `__init__.py`."""
    folders = list(getattr(package, "__path__", ()))
    if not isinstance(file, str) or getattr(package, "__file__", None) is None:
        return False
    return len(folders) == 1 and file.startswith(os.path.join(folders[0], ""))


def _is_local_path(name: str, file: object, folders: Iterable[object]) -> bool:
    """Return True if only the manager has the module; `folders` is a package's `__path__`."""
    if name.partition(".")[0] in OWN_PACKAGES:
        return False
    if file is None:  # a folder without __init__.py, or a built-in module
        return any(isinstance(each, str) and not is_installed(name, each) for each in folders)
    if not isinstance(file, str):
        return False
    if getattr(sys, "frozen", False) and not file.endswith(".py"):
        return False  # a packed program has its installed modules without their metadata
    return not is_installed(name, file)


def compiled_member(name: str) -> str | None:
    """Return the path of a compiled module, with which a package cannot be sent; None without one.

    Args:
        name: The name of a local module. The package that is sent or not sent as a whole is the
            outermost one with an `__init__.py` that the module is in.
    """
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        unit = ".".join(parts[:count])
        spec = find_spec(unit)
        if spec is None:
            return None
        if spec.has_location and spec.origin is not None:
            key = unit, spec.origin
            if key not in _compiled_members or not _is_still(_compiled_members[key]):
                _compiled_members[key] = read_apart(functools.partial(_find_compiled, unit, spec))
            return _compiled_members[key]
    return None


_compiled_members: dict[tuple[str, str], str | None] = {}  # (name, file) of a package or module


def _is_still(path: str | None) -> bool:
    return path is None or os.path.exists(path)


def _find_compiled(name: str, spec: ModuleSpec) -> str | None:
    if spec.submodule_search_locations is None:
        return spec.origin if _is_compiled(str(spec.origin)) else None
    for inner, module in list(sys.modules.items()):  # Meson builds them in a folder of their own
        if inner.startswith(f"{name}."):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and _is_compiled(file):
                return file
    for folder in spec.submodule_search_locations:
        found = find_compiled_below(folder)
        if found is not None:
            return found
    return None


def find_compiled_below(folder: str) -> str | None:
    """Return the path of a compiled module in a folder, or in a package below it."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # in a zip file, where none can be imported
        return None
    for entry in entries:
        if _is_compiled(entry.name):
            return entry.path
    for entry in entries:
        if entry.name.isidentifier() and os.path.exists(os.path.join(entry.path, "__init__.py")):
            found = find_compiled_below(entry.path)
            if found is not None:
                return found
    return None


def _is_compiled(path: str) -> bool:
    """Return True for what this Python would import as a compiled module."""
    for suffix in EXTENSION_SUFFIXES:
        if path.endswith(suffix):
            return os.path.basename(path)[: -len(suffix)].isidentifier()
    return False


def refusal(name: str) -> str | None:
    """Return why a local module cannot be sent, with the cure; None if it can be."""
    path = compiled_member(name)
    if path is None:
        return None
    top = name.partition(".")[0]
    spec = find_spec(top)
    is_package = spec is not None and spec.submodule_search_locations is not None
    shown = path[path.rfind(f"{os.sep}{top}{os.sep}") + 1 :]
    return (
        f"{top} {'has' if is_package else 'is'} the compiled module {shown}, which cannot travel. "
        f'Install {top} on the host, and say installed=["{top}"].'
    )


def find_spec(name: str) -> ModuleSpec | None:
    """Return the spec of a module, without importing it or its parents; None if there is none."""
    module = sys.modules.get(name)
    if module is not None:
        return getattr(module, "__spec__", None)
    parent = name.rpartition(".")[0]
    try:
        if not parent:
            return importlib.util.find_spec(name)
        above = find_spec(parent)
        folders = getattr(sys.modules.get(parent), "__path__", None)
        if folders is None and above is not None:
            folders = above.submodule_search_locations
        return None if folders is None else _find_in(name, list(folders))
    except Exception as error:
        if not is_built_in(error):
            raise
        return None  # a user's finder may raise anything; the import on the host reports it


_installed: set[str] = set()  # names of modules that are not local and have no local submodule


def _find_in(name: str, folders: list[str]) -> ModuleSpec | None:
    """Return the spec of a submodule in one of the folders of its package; None if none has it."""
    try:
        return PathFinder.find_spec(name, folders)
    except KeyError:  # a folder without __init__.py asks for its parent, which is not loaded
        inner = PathFinder.find_spec(name.rpartition(".")[2], folders)
        spec = ModuleSpec(name, None, is_package=True)
        if inner is not None:
            spec.submodule_search_locations = list(inner.submodule_search_locations or ())
        return spec


def find_local(name: str) -> ModuleSpec | None:
    """Return the spec of a local module; None if it is not local or does not exist."""
    if name == "__main__" or name in _installed or name.rpartition(".")[0] in _installed:
        return None
    spec = find_spec(name)
    if spec is None:
        return None
    folders = getattr(sys.modules.get(name), "__path__", spec.submodule_search_locations) or ()
    if _is_local_path(name, spec.origin if spec.has_location else None, folders):
        return spec
    if not _is_local_path(name, None, folders):
        _installed.add(name)
    return None
