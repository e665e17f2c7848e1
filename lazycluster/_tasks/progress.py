"""Report the progress of a copy: one thread counts the bytes, the waiting thread reports them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any, Union

from lazycluster._text import escaped

Progress = Union[Callable[[int, int], object], bool]

REPORT_INTERVAL = 0.1  # seconds


def checked_progress(progress: Progress | None) -> Progress | None:
    """Return a user's `progress` argument.

    Raises:
        ValueError: If it is neither callable nor True, False or None.
    """
    if progress is None or isinstance(progress, bool) or callable(progress):
        return progress
    raise ValueError(
        f"progress must be a callable with two parameters, True or None, not {progress!r}."
    )


class ProgressError(Exception):
    """A user's callback has raised an exception.

    Args:
        error: The exception.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Meter:
    """Count the bytes of one copy and report them.

    Args:
        progress: The user's callable, or True for a line on the terminal.
        name: The name of the copy in that line.

    Attributes:
        total: The number of bytes in total; None until it is known.
    """

    def __init__(self, progress: Progress, name: str) -> None:
        self.total: int | None = None
        self._done = 0
        self._reported: tuple[int, int] | None = None
        self._line = _make_line(name) if progress is True else None
        self._callback = self._line.show if self._line is not None else progress

    def add(self, count: int) -> None:
        """Count bytes; only the thread that moves them calls this."""
        self._done += count

    def report(self, *, last: bool = False) -> None:
        """Report the progress if it has changed.

        Raises:
            ProgressError: If the user's callable raises an exception.
        """
        if self.total is None:
            return
        done = self._done
        # A file may grow or shrink while it is read, and files in /proc have no size.
        state = (done, done if last else max(done, self.total))
        if state != self._reported and callable(self._callback):
            self._reported = state
            try:
                self._callback(*state)
            except Exception as error:
                raise ProgressError(error) from error

    def close(self) -> None:
        """End the line on the terminal. A second call does nothing."""
        if self._line is not None:
            self._line.close()


class _Line:
    """Rewrite one line on standard error."""

    WIDTH = 72  # columns at most, without the carriage return

    def __init__(self, name: str) -> None:
        self._name = name
        self._began = time.monotonic()
        self._shown = ""

    def show(self, done: int, total: int) -> None:
        percent = 100 * done // total if total else 100
        seconds = max(time.monotonic() - self._began, 0.001)
        text = f" {percent:3} % of {_size(total)}, {_size(done / seconds)}/s"
        name = self._name[-(self.WIDTH - len(text)) :]
        self._write("\r" + f"{name}{text}".ljust(len(self._shown)))
        self._shown = name + text

    def close(self) -> None:
        if self._shown:
            self._write("\n")
            self._shown = ""

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal has gone; the copy goes on
            sys.stderr.write(text)
            sys.stderr.flush()


class _TqdmLine:
    """Show the progress with tqdm."""

    def __init__(self, name: str, tqdm: Any) -> None:
        self._name = name
        self._make = tqdm
        self._bar: Any = None

    def show(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = self._make(desc=self._name, unit="B", unit_scale=True, total=total)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _make_line(name: str) -> _Line | _TqdmLine | None:
    """Return a line, or None if standard error is not a terminal: a log file needs no progress."""
    isatty = getattr(sys.stderr, "isatty", None)
    if isatty is None or not isatty():
        return None
    name = escaped(name).replace("\n", "\\n").replace("\t", "\\t")
    try:
        from tqdm import tqdm
    except ImportError:
        return _Line(name.encode("ascii", "backslashreplace").decode("ascii"))
    return _TqdmLine(name, tqdm)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
