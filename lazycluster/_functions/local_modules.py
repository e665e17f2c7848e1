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
from collections.abc import Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from typing import NamedTuple

from lazycluster._functions.installed import is_installed

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
        known = _known[name, file or folders] = _is_local_path(name, file, folders)
    return known


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
                _compiled_members[key] = _find_compiled(unit, spec)
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
        return None if folders is None else PathFinder.find_spec(name, list(folders))
    except Exception as error:
        if not is_built_in(error):
            raise
        return None  # a user's finder may raise anything; the import on the host reports it


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
        spec = None if name in sources else find_local(name)
        if spec is None or compiled_member(name) is not None:
            continue  # the import fails on the host, which the function may expect
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


_installed: set[str] = set()  # names of modules that are not local and have no local submodule


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
