"""The process that is forked for a step: it waits for its job, does it and reports the outcome.

It has three pipes: the payload (to read: the job, then what the step reads), the channel (to write,
see `channel`), and the output, which is its fd 1 and 2. It may be forked before there is a job for
it, since forking is most of the time that a call takes. It sends the outcome when it has closed
everything else and has only to exit, and nothing waits for that, unless the outcome says so.
"""

import _signal as signal  # the module `signal` makes enums of all numbers: 3 ms of a login
import _thread
import faulthandler
import importlib
import marshal
import os
import struct
import sys
import time

from . import files, fork_hooks, interpreter, python_end, streams
from .channel import Channel
from .imports import is_own_python, load_functions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    Outcome = dict[str, Any]  # see `frames`

JOB_LENGTH = struct.Struct(">Q")
_WORDS = 624  # of the state of numpy's legacy generator
EXIT_DELAY = 0.001  # seconds; to free the memory at once would hold the outcome up by 0.5 ms
JOB_FORMAT = 2  # of marshal; later ones would note each object to find it again
_DEFAULT_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGURG)
END_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)  # they end the supervisor

# Bound before a function can replace them. A forked process that did not exit would go on as a
# second supervisor.
_exit, _sleep = os._exit, time.sleep


def fork(run: "Callable[[], object]") -> "int":
    """Fork a process that calls `run` and exits; return its pid."""
    # Blocked in the child too: the supervisor's handlers would swallow a signal that comes before
    # the child has its own.
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            try:
                run()
            finally:
                _exit(1)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)


def prepare_fork() -> "None":
    """Do here what the process that is forked next need not do, in which each page is a copy."""
    streams.use_standard_streams()
    # Otherwise all forked processes would draw equal random numbers.
    for name, seed in (("random", _seed), ("numpy.random", _seed_numpy)):
        if name in sys.modules:
            try:
                seed(sys.modules[name])
            except Exception:  # noqa: S110 - a module of the user has this name
                pass


def _seed(random: "Any") -> "None":
    random.seed()


def _seed_numpy(random: "Any") -> "None":
    words = sys.modules["numpy"].frombuffer(os.urandom(4 * _WORDS), "uint32")
    try:
        random.set_state(("MT19937", words, _WORDS))  # seed() would copy twice as many pages
    except ValueError:  # a preloaded module has chosen another generator
        random.seed()


def main(
    output: "int | None", payload: "int", channel: "int", warm: "bool", contents: "dict[str, bytes]"
) -> "None":
    """Do the job of a step, report its outcome and exit; warm up first if the job is to come.

    Without an `output` this is the new Python of a step: fd 1 and 2 are the output already.
    """
    if output is not None:
        _prepare(output)
    standard = streams.identity(1)
    sent = Channel(channel)
    outcome = _work(output is not None, payload, sent, warm, contents)
    is_foreign = streams.flush_streams()
    status = outcome.setdefault("exit_status", 1 if "failure" in outcome else 0)
    outcome["over"] = streams.exits_quickly(is_foreign)
    # The supervisor need not notice the end of the output before the outcome comes.
    kept = {channel}
    for fd in (1, 2):
        if streams.identity(fd) == standard:
            kept.add(fd)
    if sent.is_open:
        streams.close_all_but(kept)
    if not sent.send_outcome(outcome):
        streams.write_all(2, b"The function has closed the pipes that its value goes through.\n")
        status = status or 1
    elif outcome["over"] and not _thread._count():  # no thread of the function goes on meanwhile
        _sleep(EXIT_DELAY)
    _exit(status)


_keeps_main_module = False  # since shared values refer to it


def keep_main_module() -> "None":
    """Give this process, a branch, the `__main__` of all functions that are forked from it."""
    global _keeps_main_module
    _keeps_main_module = True
    sys.modules["__main__"] = type(sys)("__main__")


def go_on(modules: "list[bytes]", payload: "int", channel: "int") -> "None":
    """Do the job of a step in the Python that was started for it."""
    for fd in (payload, channel):
        os.set_inheritable(fd, False)
    faulthandler.enable(2)
    load_functions(modules)
    Channel(channel).report({})  # it has started
    main(None, payload, channel, warm=False, contents={})


def _work(
    is_forked: "bool",
    payload: "int",
    channel: "Channel",
    warm: "bool",
    contents: "dict[str, bytes]",
) -> "Outcome":
    sys.argv = [""]
    if not _keeps_main_module:
        sys.modules["__main__"] = type(sys)("__main__")
    if is_forked:
        python_end.forget_exit_functions()
        python_end.freeze()  # what is the supervisor's
    warming = sys.modules.get(__package__ + ".warming")  # sent with the first function
    if warm and warming is not None:
        warming.warm_up()
        python_end.freeze()
    job = read_job(payload)
    for key, length in job["contents"]:
        contents[key] = streams.read_exactly(payload, length)
    step = job["step"]
    kind = step["kind"]
    variables = job["variables"]
    try:
        path = variables.get(b"PYTHONPATH")
        if path and os.environ.get("PYTHONPATH"):
            path = None  # this Python has read it
        settle(job["working_dir"], variables)
        if "snapshot" in job:
            # In case that it cannot.
            channel.report({"failure": "python_start", "variables": job["read_at_start"]})
            interpreter.replace(job["snapshot"], payload, channel.fd)
        if kind == "function":
            if not is_own_python(step["python"]):
                return {"failure": "python_version", "python": "%d.%d.%d" % sys.version_info[:3]}
            if job["missing"] is not None:
                return {"failure": "python_modules", "message": job["missing"]}
            if not is_forked:
                _settle_streams(variables)
            elif path:
                interpreter.insert_path(os.fsdecode(path))
            add_working_dir()
            # Both are sent with the first function.
            if "actor" in step:
                actor = importlib.import_module(__package__ + ".actor")  # type: Any
                return actor.run(step, contents, payload, channel)  # type: ignore[no-any-return]
            call = sys.modules[__package__ + ".call"]  # type: Any
            return call.run(step, contents, payload, channel)  # type: ignore[no-any-return]
        if kind == "unpack":
            return files.receive(payload, channel, step["target"], step["name"], step["options"])
        if kind == "pack":
            return files.send(step["path"], step["measured"], step["options"], payload, channel)
        if kind == "list":
            return files.list_destination(step["target"], step["name"], channel)
        operation = getattr(importlib.import_module(job["module"]), step["operation"])
        arguments = job["arguments"].items()
        native = {k: files.to_native(v) if isinstance(v, str) else v for k, v in arguments}
        result = operation(**native)
        return {"result": files.to_text(result) if isinstance(result, str) else result}
    except OSError as error:
        return files.os_failure(error)
    except ValueError as error:  # no path can look like this
        return {"failure": "os", "message": str(error)}


def add_working_dir() -> "None":
    """Let a function import from its working directory what is nowhere else.

    The path is absolute, so a change of directory makes no difference.
    """
    try:
        folder = os.getcwd()
    except OSError:  # it was deleted
        return
    if folder not in sys.path:
        sys.path.append(folder)


def encode_job(job: "dict[str, Any]", contents: "list[tuple[str, bytes]]") -> "bytes":
    """Return the bytes of a job, as the forked process reads it.

    `contents` are those that it was forked too early to have.
    """
    job["contents"] = [(key, len(content)) for key, content in contents]
    data = marshal.dumps(job, JOB_FORMAT)
    return b"".join([JOB_LENGTH.pack(len(data)), data, *(content for _, content in contents)])


def read_job(payload: "int") -> "dict[str, Any]":
    """Wait for the job and read exactly its bytes; exit at the end of the file."""
    header = streams.read_exactly(payload, JOB_LENGTH.size)
    if not header:
        _exit(0)  # the process is not needed
    (length,) = JOB_LENGTH.unpack(header)
    return marshal.loads(streams.read_exactly(payload, length))  # type: ignore[no-any-return]


def _prepare(output: "int") -> "None":
    """Make the forked process look like a Python that was started for a step.

    SIGPIPE stays ignored as in every Python; the default action would kill a function that writes
    to a closed socket, where its author expects BrokenPipeError.
    """
    os.setsid()
    fork_hooks.start()
    signal.set_wakeup_fd(-1)
    for number in _DEFAULT_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    streams.replace_output(output)


def settle(working_dir: "bytes | None", variables: "dict[bytes, bytes]") -> "None":
    """Set the step's variables and enter its working directory, see `files.to_settings`."""
    for name, value in variables.items():
        os.environb[name] = value
    if b"TZ" in variables:
        time.tzset()  # Python reads TZ only when it starts
    if working_dir is not None:
        os.chdir(working_dir)


def _settle_streams(variables: "dict[bytes, bytes]") -> "None":
    """Make the streams of a new Python those of a step, but in an encoding that the step names."""
    if b"PYTHONCOERCECLOCALE" not in variables:
        del os.environ["PYTHONCOERCECLOCALE"]  # see `interpreter.replace`
    if variables.get(b"PYTHONIOENCODING"):
        streams.open_standard_streams(sys.stdout.encoding, sys.stdout.errors)
    else:
        streams.open_standard_streams()
