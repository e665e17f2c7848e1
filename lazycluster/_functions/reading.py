"""Read files where no signal handler raises.

A handler's TimeoutError is an OSError. Python's own code for files and modules takes such an error
for a file that is not there, and so does ours.
"""

from __future__ import annotations

import threading
from typing import Callable, TypeVar

from lazycluster._waits import wait_repeatedly

T = TypeVar("T")


def read_apart(work: Callable[[], T]) -> T:
    """Return what `work` returns, which reads files and is done in another thread if need be.

    Handlers run in the main thread only, and end the wait for the other one.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="lazycluster reader", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter exits, or the process may have no thread left
        return work()

    def has_ended(seconds: float | None) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    wait_repeatedly(has_ended)
    for error in errors:
        raise error.with_traceback(None)
    return results[0]
