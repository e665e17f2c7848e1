"""The standard streams and pipes of the process that was forked for a step."""

import contextlib
import functools
import importlib.machinery
import os
import stat
import sys
import time

try:
    import resource
except ImportError:  # an incomplete Python
    resource = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable

READ = 1 << 18  # bytes; the maximum of one read
MUCH_MEMORY = 1 << 18  # kibibytes, whose release may take longer than a call

_HAS_PROC = os.path.isdir("/proc/self/fd")
_MOST_DESCRIPTORS = (1 << 31) - 1


def _closes_ranges() -> "bool":
    """Return True if this Python closes many descriptors by one system call.

    From 3.10 on it does, if it was built for a C library that knows the call. Others try each.
    """
    began = time.monotonic()
    if sys.version_info >= (3, 10):
        os.closerange(_MOST_DESCRIPTORS - (1 << 16), _MOST_DESCRIPTORS)
    return sys.version_info >= (3, 10) and time.monotonic() - began < 0.001


_CLOSES_RANGES = _closes_ranges()
_HARMLESS_DEVICES = (1, 5, 136)  # major numbers of Linux: /dev/null and the like, terminals

_COMPILED = tuple(importlib.machinery.EXTENSION_SUFFIXES)
_LIBRARY = os.path.join(os.path.dirname(os.__file__), "lib-dynload", "")


_made = None  # type: Any  # standard streams for forked processes
_kept = None  # type: Any  # those before, since to free them would take time in each process


def make_standard_streams() -> "None":
    """Make Python's standard streams once for all forked processes, in which that takes 0.3 ms."""
    global _made, _kept
    if _made is None:
        _kept = sys.stdin, sys.stdout, sys.stderr
        saved = os.dup(1), os.dup(2)
        ends = os.pipe()  # a stream knows from its start on whether it is a file
        for fd in (1, 2):
            os.dup2(ends[1], fd)
        _made = _open_all("utf-8", "backslashreplace")
        for fd, own in enumerate(saved, 1):
            os.dup2(own, fd)
        for fd in (*saved, *ends):
            os.close(fd)


def use_standard_streams() -> "None":
    """Use what `make_standard_streams` has made, for the process that is forked next."""
    if _made is not None:
        _set(_made)


def replace_output(output: "int") -> "None":
    """Make a pipe the standard output and error; standard input is `/dev/null` already."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    if _made is None:
        open_standard_streams()


def open_standard_streams(
    encoding: "str" = "utf-8", errors: "str | None" = "backslashreplace"
) -> "None":
    """Make Python's standard streams, line-buffered, from the descriptors 0, 1 and 2."""
    _set(_open_all(encoding, errors))


def _open_all(encoding: "str", errors: "str | None") -> "tuple[Any, Any, Any]":
    return (
        open(0, closefd=False),
        open(1, "w", 1, encoding=encoding, errors=errors, closefd=False),
        open(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False),
    )


def _set(made: "tuple[Any, Any, Any]") -> "None":
    sys.stdin, sys.stdout, sys.stderr = made
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = made  # type: ignore[misc]


def flush_streams() -> "bool":
    """Write what is still in the buffers of Python and of C, since os._exit() does not.

    Return what `runs_foreign_code` says; without such code nothing is in the buffers of C.
    """
    flushed = set()  # type: set[int]
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        stream = getattr(sys, name, None)
        if id(stream) in flushed:
            continue
        flushed.add(id(stream))
        try:  # contextlib.suppress would be three more calls, whose pages would be copied
            stream.flush()  # type: ignore[union-attr]
        except Exception:  # noqa: S110 - a function that breaks its streams still has a value
            pass
    is_foreign = runs_foreign_code()
    if is_foreign:
        flush_c()
    return is_foreign


def flush_c() -> "None":
    """Write what is still in the buffers of C."""
    # Not every Python has ctypes, and not every C library this name.
    with contextlib.suppress(Exception):
        _c_flush()()


_made_flush = None  # type: Callable[[], object] | None


def _c_flush() -> "Callable[[], object]":
    """Return what flushes the standard output of C; a branch makes it for all its processes."""
    global _made_flush
    if _made_flush is None:
        import ctypes  # takes milliseconds

        library = ctypes.CDLL(None)
        stdout = ctypes.c_void_p.in_dll(library, "stdout")
        _made_flush = functools.partial(library.fflush, stdout)
    return _made_flush


_len, _reversed = len, reversed  # a function may replace what is in `builtins`
_known = frozenset()  # type: frozenset[str]  # names of modules
_last_known = ""
_is_foreign = False


def note_modules() -> "None":
    """Note which modules are imported: looking at all of them takes 0.1 ms."""
    global _known, _last_known, _is_foreign
    if runs_foreign_code():  # a branch has imported it, for all its processes
        _is_foreign = True
        with contextlib.suppress(Exception):
            _c_flush()
    else:
        _known = frozenset(sys.modules)
        _last_known = list(sys.modules)[-1]


def runs_foreign_code() -> "bool":
    """Return True if ctypes or a compiled module from outside the standard library is imported.

    Also if that cannot be found out.
    """
    if _is_foreign:
        return True
    try:
        for name in _new_names():
            # Not getattr: some modules import others when they are asked for any attribute.
            path = str(getattr(sys.modules.get(name), "__dict__", {}).get("__file__"))
            if name == "ctypes" or (path.endswith(_COMPILED) and not path.startswith(_LIBRARY)):
                return True
    except Exception:  # what a function has put into `sys.modules` may raise anything
        return True
    return False


def _new_names() -> "Iterable[str]":
    """Return the names of modules that have been imported since `note_modules`.

    To look at all names would copy some 60 pages in a forked process, to count references. So those
    that were added last are looked at first, which Python before 3.8 cannot do.
    """
    if sys.version_info >= (3, 8):
        names = []  # type: list[str]
        for name in _reversed(sys.modules):
            if name == _last_known:
                break
            names.append(name)
        if _len(sys.modules) == _len(_known) + _len(names):
            return names
    return sys.modules.keys() - _known


def exits_quickly(is_foreign: "bool") -> "bool":
    """Return True if the exit of this process will be quick.

    It is not if the process has much memory or a device, which the next step may need.

    Args:
        is_foreign: What `runs_foreign_code` says.
    """
    if resource is None or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >= MUCH_MEMORY:
        return False
    if not is_foreign:
        return True  # what Python itself has opened is free once it is closed
    return not any(_is_device(fd) for fd in _descriptors())


def close_all_but(kept: "set[int]") -> "None":
    """Close all other descriptors, so that ports and locks are free."""
    if _CLOSES_RANGES:
        first = 0
        for fd in sorted(kept):
            if first < fd:
                os.closerange(first, fd)
            first = fd + 1
        os.closerange(first, _MOST_DESCRIPTORS)
        return
    for fd in _descriptors():
        if fd not in kept:
            with contextlib.suppress(OSError):  # that of the list
                os.close(fd)


def _descriptors() -> "list[int]":
    return [int(name) for name in os.listdir("/proc/self/fd" if _HAS_PROC else "/dev/fd")]


def _is_device(fd: "int") -> "bool":
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    is_harmless = os.major(status.st_rdev) in _HARMLESS_DEVICES
    return stat.S_ISCHR(status.st_mode) and not is_harmless


def identity(fd: "int") -> "tuple[int, int] | None":
    """Return which file a descriptor refers to; None if it is closed.

    A function may close descriptors that are not its own, and open files that get their numbers.
    """
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def write_all(fd: "int", data: "bytes") -> "None":
    """Write all of the data, waiting for the reader."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_exactly(fd: "int", count: "int") -> "bytes":
    """Wait for bytes and return them; fewer at the end of the file."""
    data = os.read(fd, min(count, READ))
    if len(data) == count or not data:
        return data
    chunks = [data]
    count -= len(data)
    while count:
        data = os.read(fd, min(count, READ))
        if not data:
            break
        chunks.append(data)
        count -= len(data)
    return b"".join(chunks)


def read_some(fd: "int", size: "int") -> "bytes | None":
    """Return what is there now: empty at the end of the file, None if nothing is there yet."""
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return None
