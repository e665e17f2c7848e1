"""Import modules that the manager has sent: cloudpickle, and the library's own."""

import contextlib
import importlib
import importlib.machinery
import os
import sys

from .._shared import archive
from .._shared.operations import STEP_MODULES
from . import fork_hooks, python_end, streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from typing import Any, Iterator


_PREFIX = __package__.rpartition(".")[0] + "."
_CALLS = _PREFIX + STEP_MODULES["function"]
_CLOUDPICKLE = "cloudpickle.cloudpickle"

_sent = None  # type: SentModules | None  # those of this process


class MissingModulesError(Exception):
    """This Python cannot import cloudpickle; the text says why."""


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
        self._missing = {}  # type: dict[str, str | None]  # why an import failed
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
            self.count += 1
            try:
                with library_first(), fork_hooks.kept():
                    importlib.import_module(name)
                self._missing[name] = None
            except Exception as error:  # an incomplete Python lacks modules, or parts of them
                self._missing[name] = "{}: {}".format(type(error).__name__, error)
            finally:
                python_end.empty_free_lists()
        return self._missing[name]

    def load_for_functions(self) -> "str | None":
        """Import what most calls need, once for all forked processes; return why it fails, or None.

        cloudpickle takes three times as long, so the first call does not wait for it.
        """
        global _sent
        _sent = self  # a branch has made another, and goes on with that of the supervisor
        if self.decode is None:
            for known in self._contents:
                if known.partition(".")[0] == "cloudpickle":
                    sys.modules.pop(known, None)  # the host's own, if a start hook imported it
        missing = self.load(_CALLS)
        if missing is None and self.decode is None:
            self.decode = sys.modules[_PREFIX + "_remote.local_modules"].decode
            _load_libgcc()
            streams.make_standard_streams()
            streams.note_modules()
        return missing

    def load_rest(self) -> "str | None":
        """Import what other calls need, too, and what many functions import, once.

        Return why cloudpickle cannot be imported, or None.
        """
        if _CLOUDPICKLE in self._missing:
            return self._missing[_CLOUDPICKLE]
        missing = self.load_for_functions() or self.load(_CLOUDPICKLE)
        if missing is None:
            self.load(_PREFIX + "_remote.value_pickler")
            self.load_own("_remote.warming")
            self.load_own("_remote.rehearsal")
        for name in ("__future__", "logging", "traceback", "socket", "subprocess"):
            # An incomplete Python lacks some.
            with contextlib.suppress(Exception), library_first(), fork_hooks.kept():
                importlib.import_module(name)
        python_end.empty_free_lists()
        streams.note_modules()
        return missing

    def prepare_contents(self) -> "None":
        """Prepare what calls refer to, as far as it has come; see `local_modules.prepare`."""
        module = sys.modules.get(_PREFIX + "_remote.local_modules")  # type: Any
        if module is not None:
            with contextlib.suppress(Exception):  # the call that imports it has the error
                module.prepare()

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


def has_cloudpickle() -> "bool":
    """Return True if cloudpickle has been imported."""
    return _CLOUDPICKLE in sys.modules


def import_cloudpickle() -> "Any":
    """Return the module `cloudpickle.cloudpickle`, whose import takes 15 ms.

    Raises:
        MissingModulesError: If it cannot be imported.
    """
    missing = "nothing has been sent" if _sent is None else _sent.load(_CLOUDPICKLE)
    if missing is not None:
        raise MissingModulesError(missing)
    return sys.modules[_CLOUDPICKLE]


def _load_libgcc() -> "None":
    """Load what a thread may load when it ends, once for all forked processes.

    Python before 3.9.6 ends each thread by pthread_exit. In glibc before 2.34 the first of them
    loads libgcc_s, and aborts the process if it cannot open the file. At the end of a call all
    descriptors are closed, and threads that Python has joined may not have ended: on Debian 11 one
    of some 200 calls was aborted.
    """
    if sys.version_info < (3, 9, 6) and sys.platform == "linux":
        with contextlib.suppress(Exception), library_first():  # musl has no such file
            import _ctypes  # `ctypes` would take milliseconds, and is foreign code for `streams`

            _ctypes.dlopen("libgcc_s.so.1", os.RTLD_NOW)  # type: ignore[attr-defined, unused-ignore]


def load_functions(archives: "list[bytes]") -> "None":
    """Take the archives that the manager has sent in a new Python, and import what a call needs."""
    modules = SentModules()
    for data in archives:
        modules.add(data)
    modules.load_rest()


def is_own_python(python: "list[int]") -> "bool":
    """Return True if this Python reads the bytecode and pickles of that major and minor version."""
    return list(sys.version_info[:2]) == python
