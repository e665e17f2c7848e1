"""The standard streams and pipes of the process that was forked for a step."""

import contextlib
import importlib.machinery
import json
import os
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LOGGED = b"log "  # begins a line of the report pipe with a log record
report_lock = threading.RLock()  # for whole lines

_COMPILED = tuple(importlib.machinery.EXTENSION_SUFFIXES)
_LIBRARY = os.path.join(os.path.dirname(os.__file__), "lib-dynload", "")


def replace_standard_streams(output: "int") -> "None":
    """Make `/dev/null` the standard input, and a pipe the standard output and error."""
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(output)
    open_standard_streams()


def open_standard_streams(
    encoding: "str" = "utf-8", errors: "str | None" = "backslashreplace"
) -> "None":
    """Make Python's standard streams, line-buffered, from the descriptors 0, 1 and 2."""
    out = open(1, "w", 1, encoding=encoding, errors=errors, closefd=False)
    err = open(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = out  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = err  # type: ignore[misc]


def flush_streams() -> "None":
    """Write what is still in the buffers of Python and of C, since os._exit() does not."""
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        with contextlib.suppress(Exception):  # a function that breaks its streams still has a value
            getattr(sys, name).flush()
    # Not every Python has ctypes, and not every C library this name.
    with contextlib.suppress(Exception):
        if _may_print_from_c():
            import ctypes  # takes milliseconds

            library = ctypes.CDLL(None)
            library.fflush(ctypes.c_void_p.in_dll(library, "stdout"))


def _may_print_from_c() -> "bool":
    """Return True if ctypes or a compiled module from outside the standard library is imported."""
    for name, module in list(sys.modules.items()):
        # Not getattr: some modules import others when they are asked for any attribute.
        path = str(getattr(module, "__dict__", {}).get("__file__"))
        if name == "ctypes" or (path.endswith(_COMPILED) and not path.startswith(_LIBRARY)):
            return True
    return False


def identity(fd: "int") -> "tuple[int, int] | None":
    """Return which file a descriptor refers to; None if it is closed.

    A function may close descriptors that are not its own, and open files that get their numbers.
    """
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def send_report(report: "int", content: "dict[str, Any]") -> "None":
    """Write a line of JSON to the report pipe; the last line is the outcome."""
    data = json.dumps(content).encode("ascii") + b"\n"
    with report_lock:  # threads of a function may log
        write_all(report, data)


def write_all(fd: "int", data: "bytes") -> "None":
    """Write all of the data, waiting for the reader."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_some(fd: "int", size: "int") -> "bytes | None":
    """Return what is there now: empty at the end of the file, None if nothing is there yet."""
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return None
