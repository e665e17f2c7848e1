"""In the process forked for a step: a function called, an operation done, and what came of it told.

The process has four descriptors of ours: the payload (to read: the job, then what it reads), the
value (to write, raw pickle), what to tell (a JSON object a line, the last one before the end), and
the output, which is its fd 1 and 2.

It may be forked before there is a job for it, as that is most of the time that a call takes.
"""

import importlib
import importlib.machinery
import json
import os
import signal
import struct
import sys
import time

from .._shared import archive

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from typing import Any, Callable

    Outcome = dict[str, Any]  # what is told of a step, as JSON has it

READ = 1 << 18  # bytes of a file or folder, at most, at once
JOB_LENGTH = struct.Struct(">Q")
TEXT_LIMIT = 1 << 15  # characters of a message or a traceback that are told

# A function may replace what is in os, json or builtins. What comes after it is bound before it.
_exit, _fstat, _getpid, _write = os._exit, os.fstat, os.getpid, os.write
_dumps, _open = json.dumps, open
_COMPILED = tuple(importlib.machinery.EXTENSION_SUFFIXES)
_LIBRARY = os.path.join(os.path.dirname(os.__file__), "lib-dynload", "")


class Modules:
    """What is imported of what the manager has sent: cloudpickle, and rooms of ours."""

    def __init__(self) -> "None":
        self._contents = {}  # type: dict[str, Any]  # for archive.execute
        self._missing = {}  # type: dict[str, str | None]
        self.count = 0  # of those imported; a process forked before one was does not have it
        sys.meta_path.insert(0, self)

    def add(self, data: "bytes") -> "None":
        """Take an archive of modules; nothing is imported yet."""
        self._contents.update(archive.unpack(data))

    def load(self, name: "str") -> "str | None":
        """Import a module here, once, so that each fork has it; what it lacks, None if nothing."""
        if name not in self._contents:
            return "the manager has not sent it"
        if name not in self._missing:
            for known in self._contents:
                if known.partition(".")[0] == name:
                    sys.modules.pop(known, None)  # the host's own, if a start hook imported it
            # As in the loader: what it imports is not what PYTHONPATH has of the same name.
            library = os.path.dirname(os.__file__)
            sys.path[:0] = [library, os.path.join(library, "lib-dynload")]
            self.count += 1
            try:
                importlib.import_module(name)
                self._missing[name] = None
            except Exception as error:  # a Python that is not complete lacks modules, or parts
                self._missing[name] = "{}: {}".format(type(error).__name__, error)
            finally:
                del sys.path[:2]
            _note_silent_modules()
        return self._missing[name]

    def find_spec(
        self, name: "str", path: "object" = None, target: "object" = None
    ) -> "importlib.machinery.ModuleSpec | None":
        """See importlib.abc.MetaPathFinder."""
        if name not in self._contents:
            return None
        package = any(other.startswith(name + ".") for other in self._contents)
        return importlib.machinery.ModuleSpec(name, self, is_package=package)  # type: ignore[arg-type]

    def create_module(self, spec: "importlib.machinery.ModuleSpec") -> "None":
        """See importlib.abc.Loader."""

    def exec_module(self, module: "types.ModuleType") -> "None":
        """See importlib.abc.Loader."""
        archive.execute(self._contents[module.__name__], module)


class LocalModules:
    """Imports from source the manager's local modules, which a function imports in its body.

    Args:
        sources: By name the text, the path on the manager, None for a folder without __init__.py,
            and whether it is a package.
    """

    def __init__(self, sources: "dict[str, tuple[str, str | None, bool]]") -> "None":
        self._sources = sources
        for name in sources:
            sys.modules.pop(name, None)  # ours may have the name of another
        sys.meta_path.insert(0, self)

    def find_spec(
        self, name: "str", path: "object" = None, target: "object" = None
    ) -> "importlib.machinery.ModuleSpec | None":
        """See importlib.abc.MetaPathFinder."""
        if name not in self._sources:
            return None
        _, file, is_package = self._sources[name]
        spec = importlib.machinery.ModuleSpec(name, self, origin=file, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = file is not None  # then the module has a __file__
        return spec

    def create_module(self, spec: "importlib.machinery.ModuleSpec") -> "None":
        """See importlib.abc.Loader."""

    def exec_module(self, module: "types.ModuleType") -> "None":
        """See importlib.abc.Loader."""
        text, file, _ = self._sources[module.__name__]
        exec(compile(text, file or module.__name__, "exec", dont_inherit=True), module.__dict__)

    def get_source(self, name: "str") -> "str":
        """See importlib.abc.InspectLoader; a traceback shows the lines."""
        return self._sources[name][0]


def work(payload: "int", value: "int", tell: "int", output: "int", warm: "bool") -> "Outcome":
    """All that the forked process does; the outcome to tell.

    Args:
        payload: Where the job comes from, and behind it what it reads.
        value: Where its value goes.
        tell: Where more can be told than the outcome.
        output: What is to be its standard output and error.
        warm: Whether there is time, as the job is still to come.
    """
    prepare(output)
    if warm:
        _warm_up()
    job = read_job(payload)
    step = job["step"]
    kind = step["kind"]
    try:
        settle(job["working_dir"], job["environment"])
    except OSError as error:
        return os_failure(error)
    if kind == "function":
        return call(step["python"], job["missing"], payload, value)
    if kind == "unpack":
        return receive(payload, tell, step["target"], step["name"])
    if kind == "pack":
        return send_back(step["path"], step["measured"], value)
    room = importlib.import_module(job["module"])
    return operate(getattr(room, step["operation"]), job["arguments"])


def encode_job(job: "dict[str, Any]") -> "bytes":
    """A job, for `read_job`."""
    data = _dumps(job).encode("ascii")
    return JOB_LENGTH.pack(len(data)) + data


def read_job(payload: "int") -> "dict[str, Any]":
    """Wait for the job, and read no more than it; without one there is nothing to do here."""
    (length,) = JOB_LENGTH.unpack(_read_exactly(payload, JOB_LENGTH.size))
    return json.loads(_read_exactly(payload, length).decode("ascii"))  # type: ignore[no-any-return]


def _read_exactly(fd: "int", count: "int") -> "bytes":
    pieces = []
    while count:
        piece = os.read(fd, min(count, READ))
        if not piece:
            _exit(0)  # it is not needed
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _warm_up() -> "None":
    """Make a call: a forked process copies what it touches, better now than when one waits."""
    try:
        import pickle

        import cloudpickle

        python = list(sys.version_info[:2])
        description = {"python": python, "working_dir": None, "environment": {}}  # type: dict[str, Any]
        payload, source = os.pipe()
        target, value = os.pipe()
        write_all(source, encode_job(description) + pickle.dumps({}))
        write_all(source, cloudpickle.dumps((lambda x: x, (1,), {})))
        job = read_job(payload)
        settle(job["working_dir"], job["environment"])
        outcome = call(job["python"], None, payload, os.dup(value))
        _flush_streams()
        tell_more(value, outcome)
        for fd in (source, target, value):
            os.close(fd)
    except Exception:  # noqa: S110 - a Python that is not complete: the call says what it lacks
        pass


def prepare(output: "int") -> "None":
    """Make the forked process what a Python started for a step would be, as far as all need it.

    SIGPIPE stays ignored as in every Python; a default action would kill a function that writes to
    a closed socket, where its author expects BrokenPipeError.
    """
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(output)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _line_buffered(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _line_buffered(2)  # type: ignore[misc]
    sys.argv = [""]
    sys.modules["__main__"] = type(sys)("__main__")
    _reseed()


def settle(working_dir: "str | None", environment: "dict[str, str]") -> "None":
    """The same for one step; an OSError says that the directory cannot be entered."""
    for name, value in environment.items():
        os.environb[to_bytes(name)] = to_bytes(value)
    if "TZ" in environment:
        time.tzset()  # otherwise it is looked at when Python starts
    if working_dir is not None:
        os.chdir(to_bytes(working_dir))


def is_this_python(python: "list[int]") -> "bool":
    """Whether bytecode and pickles of that minor version of Python are of use here."""
    return list(sys.version_info[:2]) == python


def call(python: "list[int]", missing: "str | None", payload: "int", value: "int") -> "Outcome":
    """Unpickle the function, call it, pickle what it returns; the outcome to tell.

    Args:
        python: The manager's major and minor version.
        missing: What the import of cloudpickle lacked here.
        payload: Where the pickle of (function, args, kwargs) comes from.
        value: Where the pickle of the value goes.
    """
    if not is_this_python(python):
        return {"failure": "python_version", "python": "%d.%d.%d" % sys.version_info[:3]}
    if missing is not None:
        return {"failure": "python_modules", "message": missing}
    import pickle

    import cloudpickle

    pid, channel = _getpid(), identity(value)
    try:
        with open(payload, "rb") as source:
            sources = pickle.load(source)
            if sources:
                LocalModules(sources)
            function, args, kwargs = pickle.load(source)
    except BaseException as error:
        return _describe("load", error)
    result = failure = None
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        failure = _describe("call", error)
    if _getpid() != pid:
        _leave_fork(failure)
    if failure is not None:
        return failure
    try:
        if identity(value) != channel:
            raise OSError("the function has closed the pipe that its value goes through")
        with _open(value, "wb") as target:
            cloudpickle.dump(result, target, protocol=pickle.HIGHEST_PROTOCOL)
    except BaseException as error:
        return _describe("dump", error)
    return {"returned": True}


def operate(operation: "Callable[..., object]", arguments: "dict[str, Any]") -> "Outcome":
    """Do something of the library's own with folders or the like; the outcome to tell."""
    try:
        arguments = {
            name: to_native(value) if isinstance(value, str) else value
            for name, value in arguments.items()
        }
        result = operation(**arguments)
        return {"result": to_text(result) if isinstance(result, str) else result}
    except OSError as error:
        return os_failure(error)
    except ValueError as error:  # a path that cannot be one
        return {"failure": "os", "message": str(error)}


def send_back(path: "str", measured: "bool", value: "int") -> "Outcome":
    """Write a file or folder to the value's pipe, as a stream; the outcome to tell."""
    from .._shared import paths, tree_stream

    try:
        for piece in tree_stream.pack(paths.expand(to_native(path)), measured=measured):
            write_all(value, piece)
    except OSError as error:
        return os_failure(error)
    return {"result": None}


def receive(payload: "int", tell: "int", target: "str", name: "str | None") -> "Outcome":
    """Write what comes as a stream to where it belongs; the outcome to tell.

    Where it is until it is whole is told first: should this process be killed, others remove it.
    """
    from .._shared.unpacker import Unpacker

    unpacker = None
    try:
        unpacker = Unpacker(to_native(target), None if name is None else to_native(name))
        tell_more(tell, {"temporary": to_text(unpacker.temporary)})
        buffer = memoryview(bytearray(READ))
        while not unpacker.is_complete:
            count = os.readv(payload, [buffer])
            if not count:
                break
            unpacker.feed(buffer[:count])
        skipped = unpacker.finish()
    except OSError as error:
        return dict(os_failure(error), there=unpacker is not None and unpacker.failed_there)
    except ValueError as error:
        return {"failure": "os", "message": str(error)}
    return {
        "result": to_text(unpacker.path),
        "skipped": [[to_text(path), what] for path, what in skipped],
    }


def os_failure(error: "OSError") -> "Outcome":
    """An OSError as plain values."""
    path = error.filename if error.filename is None else to_text(error.filename)
    return {
        "failure": "os",
        "errno": error.errno,
        "message": os.strerror(error.errno) if error.errno else str(error),
        "path": path,
    }


def identity(fd: "int") -> "tuple[int, int] | None":
    """Which file a descriptor is of; None if it is closed.

    A function may close descriptors that are not its own, and open files that get their numbers.
    """
    try:
        status = _fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def leave(tell: "int", channel: "tuple[int, int] | None", outcome: "Outcome") -> "None":
    """Tell the outcome and end the process; nothing after the fork's own code ever runs.

    Args:
        tell: Where to tell it.
        channel: What the identity of that was.
        outcome: What is told.
    """
    _flush_streams()
    if identity(tell) == channel:
        tell_more(tell, outcome)
    else:
        write_all(2, b"The function has closed the pipes that its value goes through.\n")
    _exit(outcome.get("exit_status", 1 if "failure" in outcome else 0))


def _leave_fork(failure: "Outcome | None") -> "None":
    """End a child that the function has forked and that has come back from it as well.

    It ends as a Python does. What the step has to tell, its process tells.
    """
    try:
        if failure is not None and failure["type"] != "SystemExit":
            print(failure["traceback"], end="", file=sys.stderr)
        _flush_streams()
    finally:
        _exit(0 if failure is None else failure.get("exit_status", 1))


def tell_more(tell: "int", content: "Outcome") -> "None":
    """Tell something, a line of JSON; the last one is the outcome."""
    write_all(tell, _dumps(content).encode("ascii") + b"\n")


def write_all(fd: "int", data: "bytes") -> "None":
    """Write all of it."""
    view = memoryview(data)
    while view:
        view = view[_write(fd, view) :]


_silent_modules = 0  # how many of the first in sys.modules print nothing from C


def _note_silent_modules() -> "None":
    """Look at what is imported by now; in the supervisor, as it touches each module."""
    global _silent_modules
    if not _may_print_from_c(list(sys.modules)):
        _silent_modules = len(sys.modules)


def _may_print_from_c(names: "list[str]") -> "bool":
    """Whether any of these modules is compiled, and not of the standard library, or ctypes."""
    for name in names:
        # Not getattr: some modules import others when they are asked for anything.
        path = str(getattr(sys.modules.get(name), "__dict__", {}).get("__file__"))
        if name == "ctypes" or (path.endswith(_COMPILED) and not path.startswith(_LIBRARY)):
            return True
    return False


def _flush_streams() -> "None":
    """Write what is still in buffers: _exit() does not."""
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        try:
            getattr(sys, name).flush()
        except Exception:  # noqa: S110 - what it did to its streams must not cost its value
            pass
    try:
        if _may_print_from_c(list(sys.modules)[_silent_modules:]):
            import ctypes  # takes milliseconds

            library = ctypes.CDLL(None)
            library.fflush(ctypes.c_void_p.in_dll(library, "stdout"))
    except Exception:  # noqa: S110 - not every Python has it, not every C library calls it so
        pass


def _describe(stage: "str", error: "BaseException") -> "Outcome":
    """What was raised, as text: the manager never unpickles an exception."""
    kind = type(error)
    module = kind.__module__  # may be anything, or not be there, in a class made by exec
    prefix = "" if module in ("builtins", "__main__", None) else "{}.".format(module)
    outcome = {
        "failure": "raised",
        "stage": stage,
        "type": prefix + kind.__qualname__,
        "message": _message(error),
        "traceback": _traceback(error),
    }  # type: Outcome
    if isinstance(error, SystemExit):
        code = error.code
        outcome["exit_status"] = 0 if code is None else code & 255 if isinstance(code, int) else 1
    return outcome


def _message(error: "BaseException") -> "str":
    try:
        return _bounded(str(error))
    except BaseException as failure:  # a user's __str__ may raise anything
        return "<its text cannot be had: {}>".format(type(failure).__name__)


def _traceback(error: "BaseException") -> "str":
    """That of the user's code: its first entry, which is the line in this file, is left out."""
    below = error.__traceback__.tb_next if error.__traceback__ is not None else None
    try:
        import traceback

        if isinstance(error, MemoryError):
            traceback.clear_frames(below)  # they hold what fills the memory
        return _bounded("".join(traceback.format_exception(type(error), error, below)))
    except BaseException as failure:
        return "<its traceback cannot be had: {}>".format(type(failure).__name__)


def _bounded(text: "str") -> "str":
    if len(text) <= TEXT_LIMIT:
        return text
    half = TEXT_LIMIT // 2
    return text[:half] + "\n[…]\n" + text[-half:]


def to_bytes(text: "str") -> "bytes":
    """What the manager meant: names and values are bytes that need not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def to_native(text: "str") -> "str":
    """The same as this Python, under this locale, has the name of a file."""
    return os.fsdecode(to_bytes(text))


def to_text(path: "str | bytes") -> "str":
    """A path of this host as the manager has it, the opposite of to_bytes."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def _line_buffered(fd: "int") -> "Any":
    return open(fd, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _reseed() -> "None":
    """Forked processes would all draw the same random numbers."""
    if "random" in sys.modules:
        sys.modules["random"].seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
