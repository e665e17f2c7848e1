"""Load a call, and dump its value.

cloudpickle has been imported before this module, see `SentModules`.
"""

import importlib
import pickle
import sys

import cloudpickle.cloudpickle

from .._shared import by_value
from . import rebuild, stand_ins
from .local_modules import LocalImportError, install, load_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

# What most calls name, by module and name as the manager has them.
_OURS = {("builtins", "bool"): bool, ("marshal", "loads"): load_code}  # type: dict[tuple[str, str], Any]
for _module, _contents in (
    ("lazycluster._functions.rebuild", vars(rebuild)),
    ("lazycluster._shared.by_value", vars(by_value)),
    ("cloudpickle.cloudpickle", vars(cloudpickle.cloudpickle)),
):
    for _name in _contents:
        _OURS[_module, _name] = _contents[_name]


def load_call(contents: "list[bytes]", source: "BinaryIO") -> "Any":
    """Return the function, args and kwargs of a call; `contents` are what it refers to."""
    local = install(contents)
    with stand_ins.loading():
        return CallUnpickler(source, local).load()


def load_shared(contents: "list[bytes]", source: "Any", buffers: "list[Any]") -> "Any":
    """Return a value whose pickle has its buffers beside it."""
    local = install(contents)
    with stand_ins.loading():
        return CallUnpickler(source, local, buffers=buffers).load()


class CallUnpickler(pickle.Unpickler):
    """Unpickle a call; what is missing here gets a stand-in.

    Args:
        file: The pickle.
        local: The names of the modules that were sent.
        **options: Those of pickle.Unpickler.
    """

    def __init__(self, file: "Any", local: "frozenset[str]", **options: "Any") -> "None":
        super().__init__(file, **options)
        self._local = local

    def find_class(self, module_name: "str", global_name: "str") -> "Any":
        """See pickle.Unpickler."""
        found = _OURS.get((module_name, global_name))
        if found is rebuild.namespace_of_import:
            return self._namespace_of_import
        if found is cloudpickle.cloudpickle.subimport:
            return self._import
        if found is not None:
            return found
        try:
            self._load(module_name)
            return super().find_class(module_name, global_name)
        except (ImportError, AttributeError) as error:
            if module_name in self._local:
                raise LocalImportError(module_name, error) from error
            return stand_ins.make(global_name.rpartition(".")[2], error)

    def _load(self, name: "str") -> "None":
        """Import a module; a local one that raises is reported by its name."""
        if name in sys.modules or name not in self._local:
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


class ValuePickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickle a value; what the manager has sent is named by its key."""

    def __init__(self, target: "Any") -> "None":
        super().__init__(target, pickle.HIGHEST_PROTOCOL)

    def reducer_override(self, obj: "Any") -> "Any":
        """See pickle.Pickler."""
        key = rebuild.key_of(obj)
        if key is not None:
            return rebuild.arrived, (key,)
        return super().reducer_override(obj)
