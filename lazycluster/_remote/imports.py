"""Import modules that the manager has sent: cloudpickle, and the library's own."""

import contextlib
import importlib
import importlib.machinery
import os
import sys

from .._shared import archive
from .._shared.operations import STEP_MODULES
from . import python_end, streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from typing import Any, Iterator  # noqa: F401 - Any stands in a comment


_PREFIX = __package__.rpartition(".")[0] + "."
_CALLS = _PREFIX + STEP_MODULES["function"]


@contextlib.contextmanager
def library_first() -> "Iterator[None]":
    """Import from the standard library first meanwhile; PYTHONPATH is for functions."""
    library = os.path.dirname(os.__file__)
    sys.path[:0] = [library, os.path.join(library, "lib-dynload")]
    try:
        yield
    finally:
        del sys.path[:2]


class SentModules:
    """Import cloudpickle and modules of this library from the archives that the manager has sent.

    It is a finder and a loader, see importlib.abc.
    """

    def __init__(self) -> "None":
        self._contents = {}  # type: dict[str, Any]  # for archive.execute
        self._missing = {}  # type: dict[str, str | None]
        self.count = 0  # of imports; a process forked before one does not have that module
        self.decode = None  # type: Any  # see `local_modules`, which comes with the first call
        sys.meta_path.insert(0, self)

    def add(self, data: "bytes") -> "None":
        """Take an archive of modules; nothing is imported yet."""
        self._contents.update(archive.unpack(data))
        archive.sources.append(data)

    def load(self, name: "str") -> "str | None":
        """Import a module once for all forked processes; return why it cannot be, or None."""
        if name not in self._contents:
            return "the manager has not sent it"
        if name not in self._missing:
            for known in self._contents:
                if known.partition(".")[0] == name:
                    sys.modules.pop(known, None)  # the host's own, if a start hook imported it
            self.count += 1
            try:
                with library_first():
                    importlib.import_module(name)
                self._missing[name] = None
            except Exception as error:  # an incomplete Python lacks modules, or parts of them
                self._missing[name] = "{}: {}".format(type(error).__name__, error)
            finally:
                python_end.empty_free_lists()
        return self._missing[name]

    def load_for_functions(self) -> "str | None":
        """Import what calls need, once for all forked processes; return why it fails, or None."""
        missing = self.load("cloudpickle")
        if missing is None and _CALLS not in sys.modules:
            self.load_own(STEP_MODULES["function"])
            self.decode = sys.modules[_PREFIX + "_remote.local_modules"].decode
            streams.note_modules()
        return missing

    def load_own(self, name: "str") -> "str":
        """Import one of the library's modules; return its full name on the host."""
        full_name = _PREFIX + name
        self.load(full_name)  # does nothing for a module of the bootstrap
        importlib.import_module(full_name)
        return full_name

    def find_spec(
        self, name: "str", path: "object" = None, target: "object" = None
    ) -> "importlib.machinery.ModuleSpec | None":
        if name not in self._contents:
            return None
        package = any(other.startswith(name + ".") for other in self._contents)
        return importlib.machinery.ModuleSpec(name, self, is_package=package)  # type: ignore[arg-type]

    def create_module(self, spec: "importlib.machinery.ModuleSpec") -> "None":
        """See importlib.abc.Loader."""

    def exec_module(self, module: "types.ModuleType") -> "None":
        archive.execute(self._contents[module.__name__], module)


def load_functions(archives: "list[bytes]") -> "None":
    """Take the archives that the manager has sent in a new Python, and import what a call needs."""
    modules = SentModules()
    for data in archives:
        modules.add(data)
    modules.load_for_functions()


def is_own_python(python: "list[int]") -> "bool":
    """Return True if this Python reads the bytecode and pickles of that major and minor version."""
    return list(sys.version_info[:2]) == python
