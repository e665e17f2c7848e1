"""Let processes that a function starts by spawn or forkserver have what the manager has sent.

Such a process is a new Python. multiprocessing would give it the path of a `__main__` that is not
on this host. Instead, what it unpickles first installs the modules and loads the call once more,
without calling the function: then the names of `__main__` are there, as after a fork.
"""

import io
import marshal
import os
import sys

from .._shared import archive
from . import import_hooks, local_modules, rebuild, unpickler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    Data = dict[str, Any]

KEPT_PAYLOAD = 1 << 24  # bytes of a call that are kept for new processes

# Modules whose `get_preparation_data` says what a new process gets.
_STARTERS = ("multiprocessing.spawn", "loky.backend.spawn", "joblib.externals.loky.backend.spawn")
_MAIN_MODULE = ("init_main_from_name", "init_main_from_path")

_PROGRAM = """
import os, sys, marshal
library = os.path.dirname(os.__file__)
sys.path[:] = [library, os.path.join(library, "lib-dynload"), *path]
sources, contents, payload = marshal.loads(data)
own = type(sys)("_lazycluster._shared.archive")
exec(compile(sources[0], "<lazycluster>/archive", "exec"), own.__dict__)
own.install(own, *sources[:2])
sys.modules["_lazycluster._remote.imports"].load_functions(sources[2:])
del sys.path[:2]
os.chdir(folder)
sys.modules["_lazycluster._remote.spawning"].install(contents, payload)
"""

# The contents of the call, and its payload: empty if it has nothing of a module that travels by
# value, None if it is too big.
_call = None  # type: tuple[list[bytes], bytes | None] | None


class Installation:
    """Installs what this process has got, in the process that unpickles it."""

    def __reduce__(self) -> "tuple[Any, ...]":
        contents, payload = _call or ([], b"")
        if payload is None:
            raise RuntimeError(
                "A new Python would have to load this call of more than {} MiB once more, to get "
                "what `__main__` has. Start processes by get_context('fork'), define their "
                "functions in a module, or send big arguments as files.".format(KEPT_PAYLOAD >> 20)
            )
        data = marshal.dumps((archive.sources, contents, payload))
        return exec, (_PROGRAM, {"data": data, "path": sys.path[:], "folder": os.getcwd()})


def load(contents: "list[bytes]", source: "BinaryIO", size: "int") -> "Any":
    """Load a call, and keep it for the processes that it will start.

    Args:
        contents: What it refers to.
        source: Its payload.
        size: Bytes of the payload.
    """
    global _call
    payload = source.read(size) if size <= KEPT_PAYLOAD else None
    call = unpickler.load_call(contents, source if payload is None else io.BytesIO(payload))
    _call = contents, payload if rebuild.has_modules() else b""
    return call


def install(contents: "list[bytes]", payload: "bytes") -> "None":
    """Give this process, which a function has started, what the call of that function has got."""
    global _call
    # As multiprocessing does it; the old one is kept, since its code still runs.
    spawn = sys.modules["multiprocessing.spawn"]  # type: Any
    spawn.old_main_modules.append(sys.modules["__main__"])
    sys.modules["__main__"] = sys.modules["__mp_main__"] = type(sys)("__main__")
    if payload:
        load(contents, io.BytesIO(payload), len(payload))
    else:
        _call = contents, payload
        local_modules.install(contents)


def _change(module: "Any") -> "None":
    original = module.get_preparation_data

    def get_preparation_data(*args: "Any", **kwargs: "Any") -> "Data":
        data = dict(original(*args, **kwargs), lazycluster=Installation())  # type: Data
        for key in _MAIN_MODULE:
            data.pop(key, None)
        return data

    module.get_preparation_data = get_preparation_data


for _name in _STARTERS:
    import_hooks.change(_name, _change)
