"""Find local modules: neither installed nor in the standard library, so not on the host.

Globals of a function travel by value. An `import` in its body asks the host's import system, which
does not have local modules. Therefore the call carries the source of each local module that a body
imports, and of the local modules that these import. Nothing is imported here, because a function
may import in its body what the manager cannot import.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import types
from collections.abc import Collection, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from typing import NamedTuple

# Never sent as source: lazycluster stays on the manager, the connection sends cloudpickle.
_OWN_PACKAGES = frozenset({"lazycluster", "cloudpickle"})


def is_built_in(error: Exception) -> bool:
    """Return False for what signal handlers raise: errors of other classes, and TimeoutError."""
    return type(error).__module__ == "builtins" and not isinstance(error, TimeoutError)


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    """Return the folders whose modules are assumed to be on the host, with a trailing slash."""
    import sysconfig

    paths = sysconfig.get_paths()
    folders = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    version = f"python{sys.version_info[0]}{sys.version_info[1]}"
    folders.add(os.path.join(sys.base_prefix, "lib", f"{version}.zip"))  # a zipped standard library
    folders |= {os.path.realpath(folder) for folder in folders}
    return tuple(os.path.join(os.path.abspath(folder), "") for folder in sorted(folders))


def is_installed(path: str) -> bool:
    """Return True if a path is in the standard library or in a site-packages folder."""
    # Check both spellings: uv may link site-packages/x.py to its cache, /lib64 may be a link.
    for spelling in (os.path.abspath(path), os.path.realpath(path)):
        if spelling.startswith(_installed_folders()):
            return True
        parts = spelling.split(os.sep)
        if "site-packages" in parts or "dist-packages" in parts:
            return True
    return False


_known: dict[str, bool] = {}


def is_local(name: object) -> bool:
    """Return True if the contents of the module with this name travel by value.

    The path decides, not the name: a user's `queue.py` is not the standard library's.
    """
    if not isinstance(name, str):
        return False
    known = _known.get(name)
    if known is None:
        module = sys.modules.get(name)
        if module is None:
            return False  # made at run time: cloudpickle pickles its contents by value
        file = getattr(module, "__file__", None)
        folders = [folder for folder in getattr(module, "__path__", ()) if isinstance(folder, str)]
        known = _known[name] = name == "__main__" or _is_local_path(name, file, folders)
    return known


def _is_local_path(name: str, file: object, folders: Collection[str]) -> bool:
    """Return True if only the manager has the module; `folders` is a package's `__path__`."""
    if name.partition(".")[0] in _OWN_PACKAGES:
        return False
    if file is None:  # a folder without __init__.py, or a built-in module
        return bool(folders) and not any(is_installed(folder) for folder in folders)
    return isinstance(file, str) and file.endswith(".py") and not is_installed(file)


class Source(NamedTuple):
    """A local module, which travels as a plain tuple in this order."""

    text: str
    path: str | None  # None for a folder without __init__.py
    is_package: bool


def add_imports(function: types.FunctionType, sources: dict[str, Source]) -> None:
    """Add the local modules that a function's body imports, and those that they import."""
    package = function.__globals__.get("__package__")
    if not isinstance(package, str):
        package = str(function.__globals__.get("__name__")).rpartition(".")[0]
    waiting = [*_imported(function.__code__, package)]
    while waiting:
        name = waiting.pop()
        spec = None if name in sources else _find_local(name)
        if spec is None:
            continue
        parent = name.rpartition(".")[0]
        if parent:
            waiting.append(parent)
        is_package = spec.submodule_search_locations is not None
        if not spec.has_location or spec.origin is None:
            sources[name] = Source("", None, is_package)
            continue
        try:
            status = os.stat(spec.origin)
            version = status.st_mtime_ns, status.st_size
            text, imported = _read(spec.origin, version, name if is_package else parent)
        except (OSError, SyntaxError, ValueError):
            continue  # it is gone or not Python; the import fails on the host as it would here
        sources[name] = Source(text, spec.origin, is_package)
        waiting += imported


@functools.lru_cache(maxsize=4096)
def _read(path: str, _version: object, package: str) -> tuple[str, frozenset[str]]:
    """Return the text of a source file and its imports; read again if its version changes."""
    with open(path, "rb") as file:
        text = importlib.util.decode_source(file.read())
    return text, _imported(compile(text, path, "exec", dont_inherit=True), package)


@functools.lru_cache(maxsize=4096)
def _imported(code: types.CodeType, package: str) -> frozenset[str]:
    """Return the modules that code may import: `from a import b` gives a and a.b."""
    import dis

    found = set()
    for part in _with_inner(code):
        if dis.opmap["IMPORT_NAME"] not in part.co_code:
            continue
        before: list[object] = [0, None]
        for instruction in dis.get_instructions(part):
            if instruction.opname == "IMPORT_NAME":
                level, names = before
                name = _absolute(str(instruction.argval), level, package)
                if name:
                    found.add(name)
                    if isinstance(names, tuple):
                        found.update(f"{name}.{inner}" for inner in names if inner != "*")
            elif instruction.opname != "EXTENDED_ARG":  # a prefix of the next instruction
                before = [before[1], instruction.argval]
    return frozenset(found)


def _with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code, and the code of the functions and classes in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _with_inner(constant)


def _absolute(name: str, level: object, package: str) -> str | None:
    if not isinstance(level, int) or level == 0:
        return name
    try:
        return importlib.util.resolve_name("." * level + name, package)
    except ImportError:  # more dots than parent packages
        return None


_installed: set[str] = set()  # top-level names found not to be local


def _find_local(name: str) -> ModuleSpec | None:
    """Return the spec of a local module; None if it is not local or does not exist."""
    parent = name.rpartition(".")[0]
    if name == "__main__" or name in _installed:
        return None
    try:
        if parent:
            above = _find_local(parent)
            folders = None if above is None else above.submodule_search_locations
            spec = None if folders is None else PathFinder.find_spec(name, list(folders))
        else:
            spec = importlib.util.find_spec(name)  # imports nothing, since there is no parent
    except Exception as error:
        if not is_built_in(error):
            raise
        return None  # a user's finder may raise anything; the import on the host reports it
    if spec is None:
        return None
    file = spec.origin if spec.has_location else None
    if _is_local_path(name, file, spec.submodule_search_locations or []):
        return spec
    if not parent:
        _installed.add(name)
    return None
