"""Read the local modules that a host imports, and the texts that tracebacks show there.

A local module travels as bytecode and text, its whole package in one piece, with the local
modules that it imports. Each piece is content that a connection gets once, by a key.
"""

from __future__ import annotations

import hashlib
import importlib.util
import linecache
import logging
import marshal
import os
import sys
import time
import types
import zlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from opcode import EXTENDED_ARG, opmap
from typing import Any, ClassVar, NamedTuple

from lazycluster._functions.data_files import Listing, list_files, read_files
from lazycluster._functions.installed import find_metadata
from lazycluster._functions.local_modules import (
    compiled_member,
    find_local,
    find_spec,
    is_built_in,
    is_local,
)
from lazycluster._functions.reading import read_apart
from lazycluster._functions.selection import Modules

_logger = logging.getLogger("lazycluster")
_STARTED = time.time()  # of this process, or nearly
_IMPORT_NAME = opmap["IMPORT_NAME"]
_LOAD_CONST = opmap["LOAD_CONST"]
_LOAD_SMALL_INT = opmap.get("LOAD_SMALL_INT", -1)  # new in Python 3.14


class _Module(NamedTuple):
    """A module of a package, as it travels; `spec` and `version` say whether it is current."""

    spec: object  # of the loaded module; None if it is not loaded
    version: tuple[int, int] | None  # of the file of a module that is not loaded
    code: bytes | None
    text: str
    path: str | None
    is_package: bool
    imports: frozenset[str]
    is_changed: bool  # the text is no longer what was imported


class _Package(NamedTuple):
    """A package or a single module."""

    modules: Mapping[str, _Module]
    required: frozenset[str]  # names that were looked for; some may not exist
    key: str
    data: bytes
    imports: frozenset[str]


_failed: set[tuple[str, str]] = set()  # (name, text) of modules that a host could not import
_warned: set[tuple[str, str]] = set()  # of modules that are no longer what was imported


class Sources:
    """The local modules, as they travel.

    Args:
        modules: What the user said about modules.
    """

    _all: ClassVar[dict[Modules, Sources]] = {}

    def __init__(self, modules: Modules) -> None:
        self._modules = modules
        self._packages: dict[str, _Package] = {}
        self._elsewhere: set[str] = set()  # names of top-level modules that are not local
        self._path_state: tuple[object, ...] = ()

    @classmethod
    def of(cls, modules: Modules) -> Sources:
        """Return the one of a selection; it reads each module once."""
        return cls._all.setdefault(modules, cls(modules))

    def note_failure(self, name: str) -> None:
        """Note that a host could not import a module: with this text it travels by value."""
        module = self._find(name)
        if module is not None:
            _failed.add((name, module.text))

    def has(self, name: str) -> bool:
        """Return True if a loaded module can be imported on the host as it was imported here."""
        module = self._find(name)
        if module is None or module.spec is None:
            return False
        if module.is_changed:
            if (name, module.text) not in _warned:
                _warned.add((name, module.text))
                _logger.warning(
                    "%s has changed since %s was imported. What was imported travels by value.",
                    module.path,
                    name,
                )
            return False
        return (name, module.text) not in _failed

    def contents(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the content of local modules and of those that they import, by its key.

        What the user wants to be sent is there in any case, with its data files.
        """
        waiting, seen = {*names, *self._modules.sent}, set[str]()
        sent = self._modules.sent
        found = dict(read_apart(lambda: list(map(_read_files, sent)))) if sent else {}
        if self._elsewhere:
            self._forget_elsewhere()
        while waiting:
            name = waiting.pop()
            seen.add(name)
            top = name.partition(".")[0]
            if top in self._elsewhere and top not in sys.modules:
                continue
            package = self._package_with(name)
            if package is None:
                if top in sys.modules:
                    continue
                if not self._elsewhere:
                    self._forget_elsewhere()  # notes what the next look depends on
                if self._spec(top) is None:
                    self._elsewhere.add(top)
            elif package.key not in found:
                found[package.key] = package.data
                waiting |= package.imports - seen
        return found

    def _forget_elsewhere(self) -> None:
        """Forget which modules are not local, if some may be by now; looking for one is slow."""
        folders = [entry for entry in list(sys.path) if isinstance(entry, str)]
        state = len(sys.meta_path), *((folder, _version(folder or ".")) for folder in folders)
        if state != self._path_state:
            self._path_state = state
            self._elsewhere = set()

    def _find(self, name: str) -> _Module | None:
        package = self._package_with(name)
        return None if package is None else package.modules.get(name)

    def _package_with(self, name: str) -> _Package | None:
        """Return the package that a name belongs to; None if it is not local."""
        top, spec = self._find_top(name)
        if spec is None:
            return None
        package = self._packages.get(top)
        if package is None or name not in package.required or not _is_current(package, top, spec):
            required = {name} | (package.required if package else set())
            package = read_apart(lambda: self._read_package(top, required))
            if package is None:
                self._packages.pop(top, None)
                return None
            self._packages[top] = package
        return package

    def _find_top(self, name: str) -> tuple[str, ModuleSpec | None]:
        """Return the outermost local package that a name is in, and its spec; None if none is.

        It is `google.mine` if `google` is installed and has a local folder, too.
        """
        top, *parts = name.split(".")
        spec = self._spec(top)
        if spec is None and len(getattr(sys.modules.get(top), "__path__", ())) > 1:
            for part in parts:
                top = f"{top}.{part}"
                spec = self._spec(top)
                if spec is not None:
                    break
        return top, spec

    def _spec(self, name: str) -> ModuleSpec | None:
        """Return the spec of a local module; None if it is not local or does not exist."""
        loaded = sys.modules.get(name)
        if loaded is not None:
            return getattr(loaded, "__spec__", None) if self._modules.is_local(name) else None
        top = name.partition(".")[0]
        if top in self._modules.sent:
            return find_spec(name)
        return None if top in self._modules.left else find_local(name)

    def _read_package(self, top: str, required: set[str]) -> _Package | None:
        """Read what is required and what is loaded; of the rest of a package only the texts."""
        waiting = {top} | required
        waiting |= {name for name in list(sys.modules) if name.startswith(f"{top}.")}
        modules: dict[str, _Module] = {}
        seen: set[str] = set()
        members: set[str] = set()
        while waiting or members - seen:
            is_reached = bool(waiting)
            name = waiting.pop() if waiting else (members - seen).pop()
            seen.add(name)
            if is_reached:
                required.add(name)
            parent = name.rpartition(".")[0]
            if parent and parent not in seen:
                waiting.add(parent)
            module = self._read_module(name, is_reached=is_reached)
            if module is None:
                continue
            modules[name] = module
            if module.is_package and (module.path is not None or top in self._modules.sent):
                members |= set(_members(name))
            prefix = f"{top}."
            waiting |= {other for other in module.imports if other.startswith(prefix)} - seen
        if not modules:
            return None
        described = {
            name: (module.code, module.text, module.path, module.is_package)
            for name, module in sorted(modules.items())
        }
        metadata = find_metadata(top, by_contents=top in self._modules.sent)
        data = _pack(("modules", described, metadata))
        imports = frozenset().union(*(module.imports for module in modules.values()))
        outside = frozenset(name for name in imports if not f"{name}.".startswith(f"{top}."))
        return _Package(modules, frozenset(required), _key(data), data, outside)

    def _read_module(self, name: str, *, is_reached: bool) -> _Module | None:
        """Return a local module; None if it is not local, has no source, or does not exist.

        None also for one of a package with a compiled module: the import fails on the host, which a
        function may expect. Of a module that nothing names only the text is read: to compile all
        that a big package has would take seconds.
        """
        loaded = sys.modules.get(name)
        spec = self._spec(name)
        if spec is None or name == "__main__" or compiled_member(name) is not None:
            return None
        known_spec = None if loaded is None else spec
        is_package = spec.submodule_search_locations is not None
        if _path(spec) is None:  # a folder without __init__.py
            return (
                _Module(known_spec, None, None, "", None, True, frozenset(), False)
                if is_package
                else None
            )
        version = _version(spec.origin) if loaded is None else None
        parent = name if is_package else name.rpartition(".")[0]
        try:
            text = _read_text(name, spec)
            if not is_reached:
                return _Module(
                    known_spec, None, None, text, spec.origin, is_package, frozenset(), False
                )
            code = _read_code(name, spec, text, is_loaded=loaded is not None)
            imports = imported(code, parent)
        except (ImportError, OSError, SyntaxError, ValueError):
            return None  # gone, or not Python: the import fails on the host as it would here
        except Exception as error:
            if not is_built_in(error):
                raise
            return None
        changed = loaded is not None and _is_changed(loaded, code, spec)
        packed = marshal.dumps(code)
        return _Module(known_spec, version, packed, text, spec.origin, is_package, imports, changed)


def text_content(path: str, namespace: dict[str, Any]) -> tuple[str, bytes] | None:
    """Return the text of a file or notebook cell as content; None if there is none to show."""
    is_no_file = path.startswith("<") and path.endswith(">")  # linecache's own rule
    if is_no_file or len(linecache.cache.get(path, ())) > 1:
        lines = linecache.getlines(path, namespace)
    else:
        lines = read_apart(lambda: linecache.getlines(path, namespace))
    if not lines and path.startswith("<"):
        return None
    known = _texts.get(path)
    if known is None or known[0] is not lines:
        data = _pack(("text", path, "".join(lines)))
        known = _texts[path] = lines, _key(data), data
    return known[1:]


_texts: dict[str, tuple[list[str], str, bytes]] = {}


class ShownText:
    """Remember what tracebacks show of a file or notebook cell.

    Args:
        path: The path, or the name of the cell.
        namespace: The globals of its functions.
    """

    def __init__(self, path: str, namespace: dict[str, Any]) -> None:
        self._path = path
        entry: tuple[Any, ...] | None = linecache.cache.get(path)
        self._key = self._find_key(namespace)
        # An entry of one element has not been read, and another thread may have replaced it.
        is_known = entry is not None and len(entry) > 1 and linecache.cache.get(path) is entry
        self._entry = entry if is_known else None

    def is_current(self, namespace: dict[str, Any]) -> bool:
        """Return True if they would show the same now."""
        if self._entry is not None and linecache.cache.get(self._path) is self._entry:
            return True
        return self._find_key(namespace) == self._key

    def _find_key(self, namespace: dict[str, Any]) -> str | None:
        text = text_content(self._path, namespace)
        return None if text is None else text[0]


def _pack(content: Any) -> bytes:
    return zlib.compress(marshal.dumps(content), 1)


def _key(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _is_current(package: _Package, top: str, spec: ModuleSpec) -> bool:
    """Return True if a package has not changed; `spec` is its own."""
    first = package.modules.get(top)
    if first is None or first.path != _path(spec):
        return False
    for name, module in package.modules.items():
        loaded = sys.modules.get(name)
        if (None if loaded is None else getattr(loaded, "__spec__", None)) is not module.spec:
            return False
        if module.version is not None and _version(module.path) != module.version:
            return False
    return True


def _path(spec: ModuleSpec) -> str | None:
    return spec.origin if spec.has_location else None


def _version(path: str | None) -> tuple[int, int] | None:
    try:
        status = os.stat(path or "")
    except (OSError, ValueError) as error:  # it is in a zip, or has gone
        if not is_built_in(error):
            raise
        return None
    return status.st_mtime_ns, status.st_size


def _members(package: str) -> Iterator[str]:
    """Yield the modules in the folders of a package, and the packages with an __init__.py."""
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if not os.path.isdir(folder):  # it is in a zip
            import pkgutil

            yield from (found.name for found in pkgutil.iter_modules([folder], f"{package}."))
            continue
        for entry in os.scandir(folder):
            stem, extension = os.path.splitext(entry.name)
            is_module = extension in (".py", ".pyc") and stem != "__init__"
            is_package = os.path.isfile(os.path.join(entry.path, "__init__.py"))
            if stem.isidentifier() and (is_module or (is_package and not extension)):
                yield f"{package}.{stem}"


_files: dict[str, tuple[Listing, tuple[str, bytes]]] = {}


def _read_files(package: str) -> tuple[str, bytes]:
    """Return the files of a package as content with its key, as they are now."""
    spec = find_spec(package)
    listing = () if spec is None else list_files(spec)
    known = _files.get(package)
    if known is None or known[0] != listing:
        data = _pack(("files", {} if spec is None else read_files(spec, listing)))
        known = _files[package] = listing, (_key(data), data)
    return known[1]


def _read_text(name: str, spec: Any) -> str:
    get_source = getattr(spec.loader, "get_source", None)  # a zip has it, too
    text = get_source(name) if get_source is not None else None
    if text is None and spec.origin.endswith(".pyc"):
        return ""  # there is bytecode only
    if text is None:
        with open(spec.origin, "rb") as file:
            text = importlib.util.decode_source(file.read())
    return str(text)


def _read_code(name: str, spec: Any, text: str, *, is_loaded: bool) -> types.CodeType:
    get_code = getattr(spec.loader, "get_code", None)  # reads a .pyc, ten times as fast
    is_read = is_loaded or not text
    code = get_code(name) if get_code is not None and is_read else None
    return code or compile(text, spec.origin, "exec", dont_inherit=True)


def _is_changed(module: types.ModuleType, code: types.CodeType, spec: Any) -> bool:
    """Return True if a loaded module was not made from this code."""
    if not hasattr(spec.loader, "get_code"):
        return False  # a loader that rewrites the text, as pytest's: nothing can be compared
    codes = set(with_inner(code))
    contents = vars(module).copy()
    for function in _own_functions(module.__name__, contents):
        own = function.__code__
        if own.co_filename == code.co_filename and own not in codes:
            return True
    version = _version(spec.origin)
    if version is None or version[0] / 1e9 < _STARTED - 1:
        return False
    # The file is newer than this process. Constants tell whether the module is.
    return any(
        name in contents and contents[name] != value for name, value in _constants(code).items()
    )


def _own_functions(name: str, contents: Mapping[str, object]) -> Iterator[types.FunctionType]:
    for value in contents.values():
        if isinstance(value, types.FunctionType) and value.__module__ == name:
            yield value
        elif isinstance(value, type) and value.__module__ == name:
            for member in vars(value).values():
                inner = getattr(member, "__func__", member)
                if isinstance(inner, types.FunctionType):
                    yield inner


def _constants(code: types.CodeType) -> dict[str, object]:
    """Return the names that code assigns once, on its top level, to a constant."""
    found: dict[str, object] = {}
    repeated = set()
    data = code.co_code
    for at in range(0, len(data), 2):
        if data[at] not in _STORES:
            continue
        name = code.co_names[_argument(data, at)]
        if name in found:
            repeated.add(name)
        before = at - 2
        while before >= 2 and data[before] == EXTENDED_ARG:
            before -= 2
        if before >= 0 and data[before] == _LOAD_CONST:
            value = code.co_consts[_argument(data, before)]
            if isinstance(value, (int, float, str, bytes, tuple, type(None))):
                found[name] = value
        elif before >= 0 and data[before] == _LOAD_SMALL_INT:
            found[name] = _argument(data, before)
        else:
            repeated.add(name)
    return {name: value for name, value in found.items() if name not in repeated}


_STORES = (opmap["STORE_NAME"], opmap["STORE_GLOBAL"])


def _argument(data: bytes, at: int) -> int:
    """Return the argument of the instruction at an offset."""
    value, shift = data[at + 1], 8
    at -= 2
    while at >= 0 and data[at] == EXTENDED_ARG:
        value |= data[at + 1] << shift
        shift += 8
        at -= 2
    return value


def imported(code: types.CodeType, package: str) -> frozenset[str]:
    """Return the modules that code may import: `from a import b` gives a and a.b.

    The name of a loaded local module that stands in a string is one, too: for `import_module`.
    """
    found = set()
    for part in with_inner(code):
        data = part.co_code
        at = data.find(_IMPORT_NAME)
        while at >= 0:
            if at % 2 == 0:
                found |= _names_at(part, data, at, package)
            at = data.find(_IMPORT_NAME, at + 1)
        for constant in part.co_consts:
            if isinstance(constant, str) and constant in sys.modules and is_local(constant):
                found.add(constant)
    return frozenset(found)


def _names_at(code: types.CodeType, data: bytes, at: int, package: str) -> set[str]:
    constants: list[object] = []  # the names, and how many dots stand before the module
    before = at - 2
    while before >= 0 and len(constants) < 2:
        if data[before] == _LOAD_CONST:
            constants.append(code.co_consts[_argument(data, before)])
        elif data[before] == _LOAD_SMALL_INT:
            constants.append(_argument(data, before))
        before -= 2
    names, level = constants
    name = _absolute(code.co_names[_argument(data, at)], level, package)
    if not name:
        return set()
    inner = names if isinstance(names, tuple) else ()
    return {name} | {f"{name}.{each}" for each in inner if each != "*"}


def with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code, and the code of the functions and classes in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from with_inner(constant)


def _absolute(name: str, level: object, package: str) -> str | None:
    if not isinstance(level, int) or level == 0:
        return name
    try:
        return importlib.util.resolve_name("." * level + name, package)
    except ImportError:  # more dots than parent packages
        return None
