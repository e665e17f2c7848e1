"""Hand what functions log on a host to the manager's loggers of the same names."""

from __future__ import annotations

import contextlib
import json
import logging
import threading

from lazycluster._tasks.completion import completion
from lazycluster._tasks.lines import Lines
from lazycluster._waits import wait_repeatedly

STUCK_TIMEOUT = 5.0  # seconds

_logger = logging.getLogger("lazycluster")


def levels() -> dict[str, int]:
    """Return the levels of loggers by name that differ from what the host has without them."""
    root = logging.root
    found = {"": root.level} if root.level != logging.WARNING else {}
    for name, logger in root.manager.loggerDict.copy().items():  # other threads make loggers
        if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET:
            parent = logger.parent
            if parent is None or parent.getEffectiveLevel() != logger.level:
                found[name] = logger.level
    return found


class LogRecords:
    """Take the records of a call, and let loggers handle them in the completion thread.

    What waits for a slow handler is in memory while it is little, and in a file when it is much.

    Args:
        host: The host, for messages.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._lines: Lines | None = None
        self._handled = 0

    def append(self, data: memoryview) -> None:
        """Take bytes of lines, in the reader thread. Nothing of them is worth an error."""
        with contextlib.suppress(OSError, RuntimeError):  # a full disk, or no thread is left
            if self._lines is None:
                completion.start()
                self._lines = Lines(self._handle, self._host)
            self._lines.append(0, data)

    @property
    def is_empty(self) -> bool:
        """Return True if nothing has come."""
        return self._lines is None

    def wait(self) -> None:
        """Wait until all records are handled.

        Do not wait longer if none was handled for a while: a callback may wait in the completion
        thread for what this thread does next.
        """
        if self._lines is None:
            return
        done = threading.Event()
        if completion.is_current:
            self._lines.finish_and_wait()
            return
        self._lines.finish(done.set)
        handled = -1
        while handled != self._handled and not done.is_set():
            handled = self._handled
            wait_repeatedly(done.wait, STUCK_TIMEOUT)

    def _handle(self, line: str) -> None:
        """Let a logger handle a record that a host has sent, which may be anything."""
        self._handled += 1
        try:
            fields = json.loads(line)
            name, level = str(fields["name"]), int(fields["levelno"])
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
            return
        try:
            logger = logging.getLogger(name)
            if logger.isEnabledFor(level):
                fields.update(args=(), exc_info=None)
                logger.handle(logging.makeLogRecord(fields))
        except Exception:  # of a filter, for example
            _logger.exception("What a function has logged on %s cannot be handled.", self._host)
