"""Import `threading` and `logging` without what they do in each forked process.

They make new locks there and look at all threads, and 160 pages are copied for that: half a
millisecond of processor time. The supervisor has one thread, and none of these locks is held when
it forks, so only the forks of a function need it.
"""

import contextlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator  # noqa: F401 - Any stands in a comment

_hooks = []  # type: list[dict[str, Any]]  # the arguments of os.register_at_fork


@contextlib.contextmanager
def kept() -> "Iterator[None]":
    """Keep the hooks that modules register meanwhile; Python 3.6 has none."""
    original = getattr(os, "register_at_fork", None)
    if original is None:
        yield
        return
    os.register_at_fork = lambda **hooks: _hooks.append(hooks)
    try:
        yield
    finally:
        os.register_at_fork = original


def register() -> "None":
    """Let the forks of this process, which is one itself, run the hooks."""
    for hooks in _hooks:
        os.register_at_fork(**hooks)
    main_thread = threading.main_thread()
    if hasattr(main_thread, "_set_native_id"):  # from Python 3.8 on; the main thread's is the pid
        main_thread._set_native_id()


with kept():
    import threading
