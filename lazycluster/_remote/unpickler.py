"""Load a call, and dump its value.

Most functions and most values need little of cloudpickle, so it is imported by those that do.
"""

import importlib
import io
import sys

try:  # `pickle` has the same, and imports `re` for its other ones
    from _pickle import Pickler, Unpickler, dumps
except ImportError:
    from pickle import Pickler, Unpickler, dumps

from .._shared import by_value
from . import chunks, makers, rebuild, stand_ins
from .imports import has_cloudpickle, import_cloudpickle
from .local_modules import LocalImportError, install, load_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

_NUMBERS = frozenset([type(None), bool, int, float])
PLAIN_LIMIT = 1 << 16  # bytes of a pickled value that does without cloudpickle
_CLOUDPICKLE = "cloudpickle.cloudpickle"
_VALUE_PICKLER = __package__ + ".value_pickler"

# What most calls name, by module and name as the manager has them.
_OURS = {("builtins", "bool"): bool, ("marshal", "loads"): load_code}  # type: dict[tuple[str, str], Any]
for _module, _contents in (
    ("lazycluster._functions.rebuild", vars(rebuild)),
    ("lazycluster._functions.chunks", vars(chunks)),
    ("lazycluster._shared.by_value", vars(by_value)),
    (_CLOUDPICKLE, {name: made for name, made in vars(makers).items() if callable(made)}),
):
    for _name in _contents:
        _OURS[_module, _name] = _contents[_name]


def load_call(contents: "list[bytes]", source: "BinaryIO") -> "Any":
    """Return the function, args and kwargs of a call; `contents` are what it refers to."""
    return unpickle(source, install(contents))


def load_shared(contents: "list[bytes]", source: "Any", buffers: "list[Any]") -> "Any":
    """Return a value whose pickle has its buffers beside it."""
    options = {"buffers": buffers} if buffers else {}  # from Python 3.8 on
    return unpickle(source, install(contents), **options)


def unpickle(source: "Any", local: "frozenset[str]", **options: "Any") -> "Any":
    """Return the object of a pickle.

    Args:
        source: The file of the pickle.
        local: The names of the modules that were sent.
        **options: Those of pickle.Unpickler.
    """
    unpickler = CallUnpickler(source, **options)
    unpickler.local = local
    return stand_ins.load(unpickler.load)


class CallUnpickler(Unpickler):
    """Unpickle a call; what is missing here gets a stand-in.

    Attributes:
        local: The names of the modules that were sent.
    """

    local = frozenset()  # type: frozenset[str]

    def find_class(self, module_name: "str", global_name: "str") -> "Any":
        """See pickle.Unpickler."""
        found = _OURS.get((module_name, global_name))
        if found is rebuild.namespace_of_import:
            return self._namespace_of_import
        if found is makers.subimport:
            return self._import
        if found is None and module_name == _CLOUDPICKLE:
            found = vars(import_cloudpickle()).get(global_name)
        if found is not None:
            return found
        try:
            self._load(module_name)
            return super().find_class(module_name, global_name)
        except (ImportError, AttributeError) as error:
            if module_name in self.local:
                raise LocalImportError(module_name, error) from error
            return stand_ins.make(global_name.rpartition(".")[2], error)

    def _load(self, name: "str") -> "None":
        """Import a module; a local one that raises is reported by its name."""
        if name in sys.modules or name not in self.local:
            return
        try:
            importlib.import_module(name)
        except BaseException as error:
            raise LocalImportError(name, error) from error

    def _import(self, name: "str") -> "Any":
        try:
            self._load(name)
            return importlib.import_module(name)
        except ImportError as error:
            return stand_ins.make_module(name, error)

    def _namespace_of_import(self, name: "str") -> "dict[str, object]":
        self._load(name)
        return vars(importlib.import_module(name))


def dump_value(value: "object", target: "Any") -> "None":
    """Pickle the value of a function.

    Raises:
        MissingModulesError: If the value needs cloudpickle, and this Python cannot import it.
    """
    if type(value) in _NUMBERS:  # our own pickler would make the same in ten times as long
        plain = dumps(value, -1)  # type: bytes | None
    else:
        plain = None if has_cloudpickle() else _dump_plain(value)
    if plain is not None:
        target.write(plain)
    else:
        make_pickler(target).dump(value)


def make_pickler(target: "Any") -> "Pickler":
    """Return a pickler for values, which writes to `target`."""
    module = sys.modules.get(_VALUE_PICKLER)  # type: Any
    if module is None:  # in each call the import statement would take longer
        import_cloudpickle()
        module = importlib.import_module(_VALUE_PICKLER)
    return module.ValuePickler(target)  # type: ignore[no-any-return]


class _NotPlainError(Exception):
    """A value is large, or has more than numbers, texts and containers."""


class _PlainFile(io.BytesIO):
    def write(self, data: "Any") -> "int":
        count = super().write(data)
        if self.tell() > PLAIN_LIMIT:
            raise _NotPlainError
        return count


class _PlainPickler(Pickler):
    def reducer_override(self, obj: "Any") -> "Any":
        """See pickle.Pickler; called for each object that is not of a basic type."""
        raise _NotPlainError


def _dump_plain(value: "object") -> "bytes | None":
    """Return the pickle of a small value of basic types; None for others."""
    if sys.version_info < (3, 8):  # has no reducer_override
        return None
    target = _PlainFile()
    try:
        _PlainPickler(target, -1).dump(value)
    except Exception:  # nested too deep, for example
        return None
    return target.getvalue()
