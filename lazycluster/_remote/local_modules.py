"""Import the manager's local modules from what it has sent, and show their lines."""

import builtins
import functools
import importlib.machinery
import io
import marshal
import os
import sys
import threading
import time
import zlib

from . import import_hooks, resources, stand_ins

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from typing import Any, Iterable, Iterator, Optional, Tuple, Union

    # Code, marshalled until `prepare`; text, path, whether it is a package.
    Sent = Tuple[Union[bytes, types.CodeType, None], str, Optional[str], bool]

_REWRITTEN = b"@pytest_ar"  # a name in code of pytest
_PREPARATION = 0.005  # seconds of `prepare`
_MOST_MISSING = 50  # imports of one module that fail and get a stand-in


class LocalImportError(Exception):
    """A local module raised while it was imported for a call."""

    def __init__(self, module: "str", reason: "BaseException") -> "None":
        super().__init__(module)
        self.module = module
        self.reason = reason


_installed = {}  # type: dict[bytes, frozenset[str]]  # for all calls; the names, by content


def install_for_all(contents: "list[bytes]") -> "None":
    """Take modules that are imported once, for all the calls of a branch."""
    for content in contents:
        _installed[content] = install([content])


def install(contents: "Iterable[bytes]") -> "frozenset[str]":
    """Take what a call refers to, modules and texts of files; return the names of the modules."""
    modules = {}  # type: dict[str, Sent]
    files = resources.Files()
    metadata = []  # type: list[dict[str, bytes]]
    known = frozenset()  # type: frozenset[str]
    for content in contents:
        if content in _installed:
            known |= _installed[content]
            continue
        kind, *rest = decode(content)
        if kind == "text":
            _linecache.cache[rest[0]] = rest[1]
        elif kind == "files":
            files.add(*rest)
        else:
            modules.update(rest[0])
            metadata.append(rest[1])
    if modules:
        sys.meta_path.insert(0, LocalModules(modules, files, metadata))
    return known.union(modules)


def names(contents: "Iterable[bytes]") -> "frozenset[str]":
    """Return the names of the modules in some contents."""
    found = frozenset()  # type: frozenset[str]
    for kind, *rest in map(decode, contents):
        if kind not in ("text", "files"):
            found = found.union(rest[0])
    return found


_decoded = {}  # type: dict[bytes, tuple[Any, ...]]  # by content
_unprepared = []  # type: list[tuple[dict[str, Sent], str]]
have_come = False  # modules have, for a call of this connection


def decode(content: "bytes") -> "tuple[Any, ...]":
    """Return the kind of a content and what it has; the supervisor does it for all calls."""
    global have_come
    found = _decoded.get(content)
    if found is None:
        found = marshal.loads(zlib.decompress(content))
        if found[0] == "text":
            found = ("text", found[1], _lines(*found[1:]))
        elif found[0] != "files":
            have_come = True
            _unprepared.extend((found[1], name) for name in found[1])
        _decoded[content] = found
    return found


def prepare() -> "None":
    """Make the code and the lines of modules that have come, once for all forked processes.

    The supervisor does it while no call waits, for some 5 ms at a time; a module of 65 lines takes
    0.15. Each call would do the same for each module that it imports.
    """
    end = time.monotonic() + _PREPARATION
    while _unprepared and time.monotonic() < end:
        modules, name = _unprepared.pop()
        code, text, path, is_package = modules[name]
        if isinstance(code, bytes) and path is not None and not sys.flags.optimize:
            modules[name] = marshal.loads(code), text, path, is_package
            _lines(path, text)


def _print_error_of_thread(hook: "Any") -> "None":
    if not issubclass(hook.exc_type, SystemExit):
        name = hook.thread.name if hook.thread is not None else threading.get_ident()
        print("Exception in thread {}:".format(name), file=sys.stderr)
        _print_exception(hook.exc_type, hook.exc_value, hook.exc_traceback)


def _print_exception(*error: "Any") -> "None":
    import traceback  # takes 3 ms

    traceback.print_exception(*error)


# Uncaught exceptions show what `show` has: Python's own hooks read files of the host.
sys.excepthook = _print_exception
threading.excepthook = _print_error_of_thread


class _Shown:
    """Has a cache until linecache is imported, which takes 1 ms."""

    def __init__(self) -> "None":
        self.cache = {}  # type: dict[str, tuple[Any, ...]]


_linecache = _Shown()  # type: Any


def _show_shown(linecache: "Any") -> "None":
    global _linecache
    linecache.cache.update(_linecache.cache)
    _linecache = linecache


import_hooks.change("linecache", _show_shown)


def show(path: "str", text: "str") -> "None":
    """Let tracebacks and `inspect` show a text, and never the host's file of that name."""
    _linecache.cache[path] = _lines(path, text)


def hide(path: "str") -> "None":
    """Forget what `show` has taken."""
    _linecache.cache.pop(path, None)


@functools.lru_cache(maxsize=None)
def _lines(path: "str", text: "str") -> "tuple[Any, ...]":
    """Return a text as linecache has it."""
    lines = io.StringIO(text).readlines()
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return len(text), None, lines, path  # None: it is not checked on the disk


def load_code(data: "bytes") -> "types.CodeType":
    """Return the code of what travels by value.

    It is compiled anew from the text of its file if this Python leaves out assertions, or if pytest
    has rewritten them, whose module is not here. What cannot be found there stays as it is.
    """
    code = marshal.loads(data)  # type: types.CodeType
    if not sys.flags.optimize and _REWRITTEN not in data:
        return code
    found = [each for each in _compiled(code.co_filename) if _signature(each) == _signature(code)]
    return found[0] if len(found) == 1 else code


@functools.lru_cache(maxsize=None)
def _compiled(path: "str") -> "list[types.CodeType]":
    """Return the code of all functions and classes in a file whose text was sent."""
    entry = _linecache.cache.get(path)
    if entry is None or len(entry) < 4:
        return []
    try:
        return list(_inner(compile("".join(entry[2]), path, "exec", dont_inherit=True)))
    except (SyntaxError, ValueError):  # the magic of a notebook
        return []


def _inner(code: "types.CodeType") -> "Iterable[types.CodeType]":
    for constant in code.co_consts:
        if isinstance(constant, type(code)):
            yield constant
            yield from _inner(constant)


def _signature(code: "types.CodeType") -> "tuple[Any, ...]":
    count = code.co_argcount + code.co_kwonlyargcount
    return code.co_name, code.co_firstlineno, code.co_freevars, code.co_varnames[:count]


class LocalModules:
    """Import modules that were sent. It is a finder and a loader, see importlib.abc."""

    def __init__(
        self,
        modules: "dict[str, Sent]",
        files: "resources.Files",
        metadata: "list[dict[str, bytes]]",
    ) -> "None":
        self._modules = modules
        self._files = files
        self._metadata = [each for each in metadata if each]
        loaders = {name: _sent_loader(name) for name in modules}
        is_changed = any(
            loader is not None and loader._modules[name][1:] != modules[name][1:]
            for name, loader in loaders.items()
        )
        for name, loader in loaders.items():
            # The host may have another module of this name. What a branch has imported stays, so
            # that its shared values are of the classes that the function has.
            if loader is None or is_changed:
                sys.modules.pop(name, None)

    def find_spec(
        self, name: "str", path: "object" = None, target: "object" = None
    ) -> "importlib.machinery.ModuleSpec | None":
        if name not in self._modules:
            return None
        _, _, file, is_package = self._modules[name]
        spec = importlib.machinery.ModuleSpec(name, self, origin=file, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = file is not None  # then the module has a __file__
        if is_package:
            folder = os.path.join(os.sep, "<lazycluster>", name)
            folder = folder if file is None else os.path.dirname(file)
            sys.path_importer_cache[folder] = SentFolder(self, name)
            spec.submodule_search_locations = [folder]
            if file is None:  # the package may have other folders, on this host
                spec.submodule_search_locations += _find_folders(name, path)
        return spec

    def members(self, package: "str") -> "Iterator[str]":
        """Yield the names of the modules with a file that are directly in a package."""
        for name, (_, _, file, _) in sorted(self._modules.items()):
            if name.rpartition(".")[0] == package and file is not None:
                yield name

    def find_distributions(self, context: "Any") -> "list[Any]":
        """See importlib.metadata.DistributionFinder: a package may ask for its own version."""
        if "path" in vars(context):  # what is installed in certain folders is asked for
            return []
        return resources.find_distributions(self._metadata, context.name)

    def create_module(self, spec: "importlib.machinery.ModuleSpec") -> "None":
        """See importlib.abc.Loader."""

    def exec_module(self, module: "types.ModuleType") -> "None":
        """Execute a module; what its own imports do not find gets a stand-in."""
        _, text, path, _ = self._modules[module.__name__]
        if path is None:  # a folder without __init__.py
            return
        show(path, text)
        compiled = self.get_code(module.__name__)
        before = dict(module.__dict__)
        try:
            exec(compiled, module.__dict__)
        except ModuleNotFoundError:
            _execute_with_stand_ins(compiled, module, before)

    def get_source(self, name: "str") -> "str":
        """See importlib.abc.InspectLoader."""
        return self._modules[name][1]

    def get_data(self, path: "str") -> "bytes":
        """See importlib.abc.ResourceLoader."""
        return self._files.read(path)

    def get_resource_reader(self, name: "str") -> "resources.Reader | None":
        """See importlib.abc.Loader; None for a folder without __init__.py."""
        path = self._modules[name][2]
        return None if path is None else resources.Reader(self._files, os.path.dirname(path))

    @property
    def archive(self) -> "Any":
        """Return the data files as zipimport has them, for importlib.resources of Python 3.9."""
        return self._files.archive()

    def get_code(self, name: "str") -> "Any":
        """See importlib.abc.InspectLoader; `runpy` runs it."""
        code, text, path, _ = self._modules[name]
        if code is None or sys.flags.optimize:  # it was compiled on the manager, with assertions
            return compile(text, path or name, "exec", dont_inherit=True)
        return marshal.loads(code) if isinstance(code, bytes) else code

    def is_package(self, name: "str") -> "bool":
        """See importlib.abc.InspectLoader."""
        return self._modules[name][3]


def _sent_loader(name: "str") -> "LocalModules | None":
    """Return what a module was imported by, if that was sent; None without such a module."""
    loader = getattr(getattr(sys.modules.get(name), "__spec__", None), "loader", None)
    return loader if isinstance(loader, LocalModules) else None


class SentFolder:
    """Lists the modules of a package for pkgutil; see importlib.abc.PathEntryFinder.

    It stands for the folder in `__path__`, so that nothing looks for the manager's path here.
    """

    def __init__(self, modules: "LocalModules", package: "str") -> "None":
        self._modules = modules
        self._package = package

    def find_spec(
        self, name: "str", target: "object" = None
    ) -> "importlib.machinery.ModuleSpec | None":
        last = name.rpartition(".")[2]  # pkgutil gives names without the package
        return self._modules.find_spec("{}.{}".format(self._package, last))

    def iter_modules(self, prefix: "str" = "") -> "Iterator[tuple[str, bool]]":
        for name in self._modules.members(self._package):
            yield prefix + name.rpartition(".")[2], self._modules.is_package(name)


def _find_folders(name: "str", path: "Any") -> "list[str]":
    """Return the folders that this host has of a package without __init__.py."""
    if path is not None:
        cache = sys.path_importer_cache
        path = [entry for entry in path if not isinstance(cache.get(entry), SentFolder)]
    found = importlib.machinery.PathFinder.find_spec(name, path)
    if found is None or found.has_location:
        return []
    return list(found.submodule_search_locations or ())


class _Importer:
    """Takes the place of `__import__` in a module whose imports are not all found."""

    def __init__(self) -> "None":
        self.missing = {}  # type: dict[str, ModuleNotFoundError]  # gets a stand-in, by its name
        self._failed = []  # type: list[tuple[str, ModuleNotFoundError]]

    def __call__(self, name: "str", *args: "Any", **kwargs: "Any") -> "Any":
        try:
            return builtins.__import__(name, *args, **kwargs)
        except ModuleNotFoundError as error:
            if name not in self.missing:
                self._failed.append((name, error))
                raise
            names = args[2] if len(args) > 2 else kwargs.get("fromlist")
            return stand_ins.make_module(name if names else name.partition(".")[0], error)

    def accept(self, error: "ModuleNotFoundError") -> "bool":
        """Let the import that has raised an error give a stand-in; False if none has."""
        for name, other in self._failed:
            if other is error and name not in self.missing and len(self.missing) < _MOST_MISSING:
                self.missing[name] = error.with_traceback(None)
                return True
        return False


def _execute_with_stand_ins(
    code: "Any", module: "types.ModuleType", before: "dict[str, Any]"
) -> "None":
    """Execute a module again until each import that it does not catch gives a stand-in."""
    importer = _Importer()
    while True:
        module.__dict__.clear()
        module.__dict__.update(before)
        module.__dict__["__builtins__"] = dict(vars(builtins), __import__=importer)
        try:
            stand_ins.load(lambda: exec(code, module.__dict__))
        except ModuleNotFoundError as error:
            if not importer.accept(error):
                raise
        else:
            importer.missing.clear()  # an import in a body raises where it stands
            return
