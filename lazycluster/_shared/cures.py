"""Say what to do about an object that cannot be pickled."""

import re
import sys
import types

from .referents import is_of_library, is_of_standard_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Step = tuple[str, Any]  # the name of an object, and the object

# Kind → where a function refers to it, where it is an argument, where it is a value.
_CURES = {
    "ours": (
        "Use it on the manager: a function on a host cannot use a connection of the manager.",
        "Use it on the manager: a function on a host cannot use a connection of the manager.",
        "Return plain data.",
    ),
    "future": ("Use its result() instead.",) * 3,
    "generator": (
        "Make a list of it, or create it in the function.",
        "Pass a list.",
        "Return a list instead.",
    ),
    "iterator": (
        "Make a list of it, or create it in the function.",
        "Pass a list.",
        "Return a list instead.",
    ),
    "coroutine": (
        "Await it in the function.",
        "Await it, and pass the result.",
        "Await it in the function, and return the result.",
    ),
    "file": (
        "Open it in the function.",
        "Pass its path, and open it in the function; send_file sends the file.",
        "Return its contents, or its path for get_file.",
    ),
    "view": ("Make bytes of it.", "Pass bytes.", "Return bytes."),
    "module": (
        "Import it in the function.",
        "Import it in the function.",
        "Return its name.",
    ),
    "traceback": ("Keep its text, such as traceback.format_exc().",) * 3,
    "pointer": (
        "Create it in the function.",
        "Pass what it points to, such as bytes or numbers.",
        "Return what it points to, such as bytes or numbers.",
    ),
    "reference": (
        "Refer to the object itself, or create it in the function.",
        "Pass the object itself.",
        "Return the object itself.",
    ),
    "resource": (
        "Create it in the function.",
        "Create it in the function.",
        "Return plain data.",
    ),
    "runner": (
        "Start it in the function.",
        "Start it in the function.",
        "Return plain data, after it has ended.",
    ),
}

# The names of classes, with those of their modules, → kind. Subclasses count.
_KINDS = {
    "builtins.generator": "generator",
    "builtins.async_generator": "generator",
    "builtins.coroutine": "coroutine",
    "types.CoroutineType": "coroutine",
    "_io._IOBase": "file",
    "tempfile._TemporaryFileWrapper": "file",
    "codecs.StreamReaderWriter": "file",
    "zipfile.ZipFile": "file",
    "tarfile.TarFile": "file",
    "builtins.memoryview": "view",
    "mmap.mmap": "view",
    "builtins.module": "module",
    "builtins.frame": "traceback",
    "builtins.traceback": "traceback",
    "_ctypes._Pointer": "pointer",
    "_ctypes.CFuncPtr": "pointer",
    "_ctypes.PyCFuncPtr": "pointer",  # before Python 3.11
    "ctypes.c_void_p": "pointer",
    "ctypes.c_char_p": "pointer",
    "ctypes.c_wchar_p": "pointer",
    "ctypes.CDLL": "pointer",
    "builtins.PyCapsule": "pointer",
    "weakref.ReferenceType": "reference",
    "builtins.weakref": "reference",
    "weakref.ref": "reference",
    "builtins.weakproxy": "reference",
    "builtins.weakcallableproxy": "reference",
    "weakref.ProxyType": "reference",
    "weakref.CallableProxyType": "reference",
    "weakref.finalize": "reference",
    "_thread.lock": "resource",
    "_struct.Struct": "resource",
    "_thread.RLock": "resource",
    "_thread._local": "resource",
    "_thread._localdummy": "resource",
    "threading._RLock": "resource",
    "threading.Condition": "resource",
    "threading.Event": "resource",
    "threading.Semaphore": "resource",
    "threading.Barrier": "resource",
    "_contextvars.ContextVar": "resource",
    "builtins.ContextVar": "resource",
    "builtins.Context": "resource",
    "builtins.Token": "resource",
    "_queue.SimpleQueue": "resource",
    "queue.Queue": "resource",
    "multiprocessing.synchronize.SemLock": "resource",
    "multiprocessing.synchronize.Condition": "resource",
    "multiprocessing.synchronize.Event": "resource",
    "multiprocessing.queues.Queue": "resource",
    "multiprocessing.queues.SimpleQueue": "resource",
    "multiprocessing.connection._ConnectionBase": "resource",
    "_socket.socket": "resource",
    "_ssl._SSLContext": "resource",
    "_ssl._SSLSocket": "resource",
    "sqlite3.Connection": "resource",
    "sqlite3.Cursor": "resource",
    "logging.Handler": "resource",
    "http.client.HTTPConnection": "resource",
    "threading.Thread": "runner",
    "concurrent.futures._base.Executor": "runner",
    "concurrent.futures._base.Future": "runner",
    "multiprocessing.process.BaseProcess": "runner",
    "multiprocessing.pool.Pool": "runner",
    "multiprocessing.managers.BaseManager": "runner",
    "subprocess.Popen": "runner",
    "asyncio.events.AbstractEventLoop": "runner",
    "_asyncio.Future": "runner",
    "_asyncio.Task": "runner",
    "asyncio.futures.Future": "runner",
}

# What libraries call such classes: psycopg, SQLAlchemy, redis, requests, boto3 and others.
_ENDINGS = ("connection", "cursor", "engine", "client", "connectionpool")


_ITERATOR = re.compile(
    r"itertools\.|_csv\.reader$|builtins\.(\w*iterator|map|filter|zip|enumerate)$"
)


def _name(kind: "type") -> "str":
    """Return the name of a class with its module."""
    return "{}.{}".format(kind.__module__, kind.__qualname__)


def known_kind(obj: "Any") -> "str | None":
    """Return which kind of object that cannot travel an object is; None for any other."""
    for base in type(obj).__mro__:
        module = base.__module__ if isinstance(base.__module__, str) else ""
        if module.partition(".")[0] in ("lazycluster", "_lazycluster"):
            return "future" if base.__name__ == "RemoteFuture" else "ours"
        kind = _KINDS.get(_name(base))
        if kind is not None:
            return kind
    if _ITERATOR.match(_name(type(obj))):
        return "iterator"
    if type(obj).__name__.lower().endswith(_ENDINGS) and not _is_of_user(type(obj)):
        return "resource"
    return None


def cure(steps: "list[Step]") -> "str":
    """Return the sentence that says what to do, for the way to an object."""
    root, (name, obj) = steps[0], steps[-1]
    by_function = any(isinstance(owner, types.FunctionType) for _, owner in steps[:-1])
    place = 2 if root[0].startswith("value") else 0 if by_function else 1
    kind = known_kind(obj)
    if kind is not None:
        text = _CURES[kind][place]
    elif isinstance(obj, (types.FunctionType, type)):
        text = "Define it at the top of a module, under its own name."
    elif _is_compiled(type(obj)):
        data = ("", "pass the data that it is made of, and ", "return the data that it is made of")
        text = "It is an object of a compiled extension: {}{}".format(
            data[place], "." if place == 2 else "create it in the function."
        )
    else:
        text = "Return plain data." if place == 2 else "Create it in the function."
    owner = type(steps[-2][1]) if len(steps) > 1 else None
    if name.startswith("attribute") and owner is not None and _is_of_user(owner):
        text += " Or leave it out in `{}.__getstate__`.".format(owner.__name__)
    return text


def _is_of_user(kind: "type") -> "bool":
    """Return True if a class is neither of the standard library nor of an installed package."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return kind.__module__ == "__main__" or module is None
    return not is_of_library(file)


def _is_compiled(kind: "type") -> "bool":
    """Return True if a class is made in C, by a module that is not of the standard library."""
    if kind.__flags__ & 1 << 9 and "__module__" in vars(kind) and "__dict__" in vars(kind):
        return False  # made by a class statement
    file = getattr(sys.modules.get(kind.__module__), "__file__", None) or ""
    return file.endswith((".so", ".pyd", ".dylib")) and not is_of_standard_library(file)
