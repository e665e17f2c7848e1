"""Serve as a branch: import modules, and then run the functions that find them imported."""

import importlib
import math
import os
import signal
import threading

from . import child, files, interpreter, local_modules, python_end, streams
from .shared_values import SharedValues

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .contents import Contents
    from .imports import SentModules

    Description = dict[str, Any]  # see `frames`


def serve(
    supervisor: "Any",
    source: "int",
    sink: "int",
    stopped: "Any",
    keepalive: "float",
    modules: "SentModules",
    contents: "Contents",
    preload: "Description",
    working_dir: "str | None",
) -> "None":
    """Import the modules, and serve until the end of `source`.

    Args:
        supervisor: The class `Supervisor`, which imports this module later.
        source: Where frames come from.
        sink: Where frames go.
        stopped: See `Branch`.
        keepalive: Seconds between two heartbeats.
        modules: What the manager has sent.
        contents: What calls refer to.
        preload: What is imported, see `frames`.
        working_dir: Where modules of the user are, too.
    """
    os.setsid()
    signal.set_wakeup_fd(-1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for number in (signal.SIGCHLD, *child.END_SIGNALS):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    python_end.keep_exit_functions()
    child.keep_main_module()
    failure = _preload(preload, contents, working_dir)
    streams.flush_streams()  # else each function would print what is in the buffers
    streams.note_modules()
    branch = supervisor(source, sink, null, keepalive, math.inf, modules, contents)
    branch.is_branch, branch.preload_failure = True, failure
    branch.branches = SharedValues(branch, stopped)
    try:
        branch.run()
    finally:
        branch.end()


def _preload(
    preload: "Description", contents: "Contents", working_dir: "str | None"
) -> "Description | None":
    """Import the modules; return the outcome of all functions here if one cannot be, else None."""
    had_path = os.environ.get("PYTHONPATH")
    try:
        folder, variables = files.to_settings(working_dir, preload["environment"])
        child.settle(folder, variables)
        if not had_path:
            interpreter.insert_path(os.fsdecode(variables.get(b"PYTHONPATH", b"")))
        child.add_working_dir()
    except (OSError, ValueError):
        pass  # each step reports it
    contents.expect(preload["contents"])
    local_modules.install_for_all([contents.complete[key] for key in preload["contents"]])
    for name in preload["modules"]:
        try:
            importlib.import_module(name)
        except BaseException as error:
            return _failure(name, "{}: {}".format(type(error).__name__, error))
        others = [
            each.name for each in threading.enumerate() if each is not threading.main_thread()
        ]
        if others:
            # A lock that a thread holds at a fork is never released in the new process.
            return _failure(name, "it has started a thread ({})".format(", ".join(others)))
    python_end.empty_free_lists()
    return None


def _failure(name: "str", reason: "str") -> "Description":
    return {"failure": "preload", "module": name, "message": reason}
