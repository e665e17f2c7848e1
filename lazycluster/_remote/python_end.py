"""Do what Python does at its end, in a process that ends by `os._exit`."""

import _thread
import atexit
import contextlib
import gc
import io
import sys
import threading
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    Actions = tuple[Callable[[], Any], ...]

FLUSH_TIMEOUT = 5.0  # seconds

_FILE = io.IOBase.__mro__[1]  # without the slow `isinstance` of an abstract base class


_keeps_exit_functions = False  # those of preloaded modules, for each function


def keep_exit_functions() -> "None":
    """Forget the exit functions of the supervisor, and keep those that come from now on."""
    global _keeps_exit_functions
    forget_exit_functions()
    _keeps_exit_functions = True


def forget_exit_functions() -> "None":
    """Leave to the supervisor what is its own, in a process that it has forked for a function.

    Its exit functions are those of the start hooks of its Python.
    """
    # Of a supervisor that has none there is nothing to copy.
    if not _keeps_exit_functions and atexit._ncallbacks():  # type: ignore[attr-defined, unused-ignore]
        atexit._clear()
        weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]


def freeze() -> "None":
    """Leave out of collections what there is now.

    A collection would copy the pages of the supervisor's objects: 5.9 ms, and 0.01 ms now.
    """
    if hasattr(gc, "freeze"):  # from Python 3.7 on
        gc.freeze()


def empty_free_lists() -> "None":
    """Empty the free lists of this Python: in each forked process that would take 0.15 ms."""
    if hasattr(gc, "freeze"):
        gc.freeze()
        gc.collect()


def is_due() -> "bool":
    """Return True if threads or exit functions must end first, which may take any time."""
    return bool(atexit._ncallbacks()) or _has_threads()  # type: ignore[attr-defined, unused-ignore]


def warm_up() -> "None":
    """Do what `run` does, but without the exit functions of preloaded modules."""
    is_due()
    if not _keeps_exit_functions:
        run()


def run() -> "None":
    """Wait for threads, call the functions of `atexit`, write out files, and free cycles.

    The exit function of multiprocessing is one of them: it ends daemonic processes and waits for
    the others.
    """
    if _has_threads():
        with contextlib.suppress(BaseException):  # a KeyboardInterrupt
            threading._shutdown()  # type: ignore[attr-defined]
    actions = (atexit._run_exitfuncs, _end_logging, _flush_files, _collect)  # type: Actions
    for action in actions:
        try:  # contextlib.suppress would be three more calls, whose pages would be copied
            action()
        except BaseException:  # noqa: S110 - `atexit` has printed what its functions raised
            pass


def _has_threads() -> "bool":
    # Most often there is none; the next lines are five calls. Threads of gevent are not counted.
    if not _thread._count() and "greenlet" not in sys.modules:
        return False
    main = threading.main_thread()
    return any(thread is not main and not thread.daemon for thread in threading.enumerate())


def _end_logging() -> "None":
    """Flush the handlers of `logging`, if there are others than that of the last resort."""
    logging = sys.modules.get("logging")
    if logging is not None and len(logging._handlerList) > 1:
        logging.shutdown()


def _flush_files() -> "None":
    """Write out what is in the buffers of open files.

    The end of the process does not, as the variables of modules still exist then. Nor does a
    collection: of a file in a reference cycle it closes the descriptor first, and then its buffer
    has nowhere to go (seen with every Python up to 3.13).
    """
    files = [it for it in gc.get_objects() if issubclass(type(it), _FILE)]
    if files:
        # A daemon thread that cannot go on may hold the lock of a file. Not a threading.Thread: its
        # start waits without a bound if the function has replaced a builtin that it needs.
        flushed = _thread.allocate_lock()
        flushed.acquire()
        _thread.start_new_thread(_flush, (files, flushed))
        flushed.acquire(timeout=FLUSH_TIMEOUT)


def _collect() -> "None":
    """Free cycles. A full collection empties the free lists too, which takes 0.05 ms."""
    # Python 3.14 has other generations.
    has_generations = (3, 8) <= sys.version_info < (3, 14)
    is_young = has_generations and not gc.get_objects(1) and not gc.get_objects(2)
    gc.collect(0 if is_young else 2)


def _flush(files: "list[Any]", flushed: "Any") -> "None":
    for file in files:
        with contextlib.suppress(Exception):  # closed, or a full disk
            file.flush()
    for file in files:
        if type(file).__module__ != _FILE.__module__:  # gzip writes more when it is closed
            with contextlib.suppress(Exception):
                file.close()
    flushed.release()
