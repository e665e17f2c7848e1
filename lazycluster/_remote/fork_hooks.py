"""Import `threading` and `logging` without what they do in each forked process, or at its exit.

They make new locks there and look at all threads, and 160 pages are copied for that: half a
millisecond of processor time. The supervisor has one thread, and none of these locks is held when
it forks, so only the forks of a function need it.
"""

import atexit
import contextlib
import functools
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator  # noqa: F401 - Any stands in a comment

_hooks = []  # type: list[dict[str, Any]]  # the arguments of os.register_at_fork
_is_started = False


@contextlib.contextmanager
def kept() -> "Iterator[None]":
    """Keep the hooks that modules register meanwhile; Python 3.6 has none.

    The exit function of `logging` is dropped, as `python_end` does what it would.
    """
    at_fork, at_exit = getattr(os, "register_at_fork", None), atexit.register
    if at_fork is not None:
        os.register_at_fork = lambda **hooks: _hooks.append(hooks)
    atexit.register = lambda function, *_, **__: function  # type: ignore[assignment]
    try:
        yield
    finally:
        atexit.register = at_exit
        if at_fork is not None:
            os.register_at_fork = at_fork


def start() -> "None":
    """Let the forks of this process, which is one itself, run the hooks."""
    global _is_started
    _is_started = True
    if _get_native_id is not None:
        _main_thread._native_id = _get_native_id()


def _run(moment: "str") -> "None":
    if _is_started:
        for hooks in reversed(_hooks) if moment == "before" else _hooks:
            if moment in hooks:
                hooks[moment]()


if hasattr(os, "register_at_fork"):
    # Once for all forked processes: to register the hooks in each would copy 40 pages.
    for _moment in ("before", "after_in_child", "after_in_parent"):
        os.register_at_fork(**{_moment: functools.partial(_run, _moment)})

with kept():
    import threading

_main_thread = threading.main_thread()  # type: Any
_get_native_id = getattr(threading, "get_native_id", None)  # from Python 3.8 on
