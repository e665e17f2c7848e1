"""How far a copy has come: counted where its bytes go by, told in the thread that waits for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Union

from lazycluster._text import escaped

Progress = Union[Callable[[int, int], object], bool]

PERIOD = 0.1  # seconds between two looks at how far it is


def checked_progress(progress: Progress | None) -> Progress | None:
    """What users may give as `progress`.

    Raises:
        ValueError: It is neither callable nor True, False or None.
    """
    if progress is None or isinstance(progress, bool) or callable(progress):
        return progress
    raise ValueError(
        f"progress must be a callable with two parameters, True or None, not {progress!r}."
    )


class Meter:
    """The bytes of one copy.

    Args:
        progress: Who is told: a callable, or True for a line on the terminal.
        name: What the line calls the copy.

    Attributes:
        total: How many bytes there are, None until that is known.
    """

    def __init__(self, progress: Progress, name: str) -> None:
        self.total: int | None = None
        self._done = 0
        self._told: tuple[int, int] | None = None
        self._line = _make_line(name) if progress is True else None
        self._tell = self._line.show if self._line is not None else progress

    def add(self, count: int) -> None:
        """So many bytes more; called in the one thread that moves them."""
        self._done += count

    def report(self, *, last: bool = False) -> None:
        """Tell how far it is, if that has changed; `last` says that nothing more comes.

        Raises whatever the callable raises.
        """
        if self.total is None:
            return
        done = self._done
        # A file may have grown, or be one of those that have no size. Or have shrunk.
        state = (done, done if last else max(done, self.total))
        if state != self._told and callable(self._tell):
            self._told = state
            self._tell(*state)

    def close(self) -> None:
        """The copy is over, well or not; a second time is fine."""
        if self._line is not None:
            self._line.close()


class _Line:
    """One line on standard error that is written again and again."""

    WIDTH = 72  # columns at most, the carriage return not counted

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
        sys.stderr.write(text)
        sys.stderr.flush()


class _TqdmLine:
    """The same by tqdm."""

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
    """None where nobody looks: a log file is no place for it."""
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
