"""Print what steps have printed: from the log, or live."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from lazycluster._tasks.lines import LINE_FEED, LineCutter
from lazycluster._tasks.log import ExecutionLog
from lazycluster._text import one_line, output_line, show, stdout_is_terminal, write

if TYPE_CHECKING:
    from typing_extensions import Self  # of the standard library only from Python 3.11 on

INDENT = "   "  # as wide as "0: "

# A progress bar has states, each of which ends with a carriage return.
_LINE_OR_STATE = re.compile("\r*\n|\r+(?=[^\r\n])")
_ERASE_LINE = "\x1b[K"  # to its end

_logger = logging.getLogger("lazycluster")


def print_log(log: ExecutionLog, headings: Sequence[str]) -> None:
    """Print each step's index and heading, and below it what the step has printed, indented.

    Raises:
        OSError: If the log cannot be read, or standard output not be written.
    """
    for index, text in enumerate(headings):
        show(f"{index}: {text}\n")
        output = _StepOutput()
        for data in log.read_step(index):
            write(output.format(data, INDENT))
        write(output.format(b"", INDENT, final=True))


class _StepOutput:
    """The output of one step on its way to standard output.

    Attributes:
        end: The last character that was formatted, or "".
    """

    def __init__(self) -> None:
        self._cutter = LineCutter()
        self.end = ""

    @property
    def is_inside_line(self) -> bool:
        """Return True behind a part of a line that is too long to be kept."""
        return self.end not in ("", "\n", "\r")

    def format(self, data: bytes, margin: str, *, final: bool = False) -> str:
        """Return the lines that are complete with this data, each behind a margin.

        The states of a progress bar are lines where a margin can come before each of them, or where
        there is none: in a file they stay together, as they came.
        """
        is_terminal = stdout_is_terminal()
        ends = LINE_FEED if margin and not is_terminal else _LINE_OR_STATE
        texts = lines = self._cutter.cut(data, ends, final=final)
        if lines and (margin or is_terminal):
            first = "" if self.is_inside_line else margin
            margins = itertools.chain([first], itertools.repeat(margin))
            with_margin = output_line if is_terminal else _with_margin
            texts = list(map(with_margin, lines, margins))
        if lines:
            self.end = lines[-1][-1]
        if final and self.end not in ("", "\n"):
            texts.append("\n")
        if final:
            self.end = ""
        return "".join(texts)


def _with_margin(line: str, margin: str) -> str:
    return (margin if line.rstrip("\r\n") else margin.rstrip()) + line


class _Screen:
    """Standard output, which several live printers share."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # reentrant for a signal handler that executes a task
        self.printers: set[LivePrinter] = set()
        self._last: _StepOutput | None = None

    def add(self, printer: LivePrinter) -> None:
        """Add a printer; if there are several hosts now, each line names its host from now on."""
        with self.lock:
            self.printers.add(printer)
            if len({one.host for one in self.printers}) > 1:
                for one in self.printers:
                    one.names_host = True

    def remove(self, printer: LivePrinter) -> None:
        """Remove a printer; what the others print keeps its form."""
        with self.lock:
            self.printers.discard(printer)

    def write(self, output: _StepOutput, data: bytes, margin: str, *, final: bool) -> None:
        """Write the lines of a step that are complete, on a line of their own. Hold the lock."""
        text = output.format(data, margin, final=final)
        if not text:
            return
        last, self._last = self._last, output
        if last is not None and last is not output:
            if last.is_inside_line:
                text, last.end = f"\n{text}", "\n"
            elif last.end == "\r":  # A progress bar is written over, but not in a file.
                text = (_ERASE_LINE if stdout_is_terminal() else "\n") + text
        write(text)
        if sys.stdout is not None:
            sys.stdout.flush()


_screen = _Screen()
os.register_at_fork(after_in_child=_screen.__init__)  # type: ignore[misc]


class LivePrinter:
    """Print a log while it grows, in the thread that waits for the execution.

    Lines are printed when they are complete, so lines of several executions do not run together.

    Attributes:
        names_host: True if each line has its host before it. It stays True to the end, so that each
            line shows which execution printed it.
    """

    def __init__(self, log: ExecutionLog, names_host: bool = False) -> None:
        self.host: str = log.host
        self.names_host: bool = names_host
        self._log = log
        self._position = 0
        self._broken = False
        self._outputs: dict[int, _StepOutput] = {}  # of the steps that have not ended

    def __enter__(self) -> Self:
        _screen.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.print_new()
            elif isinstance(error, Exception):
                with contextlib.suppress(OSError):  # The first error is the one to raise.
                    self.print_new()
            else:  # Ctrl-C does not wait for more.
                self._end_steps(sys.maxsize)
        finally:
            _screen.remove(self)

    def print_new(self, ended: int = sys.maxsize) -> None:
        """Print what has come since the last call.

        Args:
            ended: The number of steps that have ended: also their last lines are complete. Defaults
                to all.
        """
        while True:
            data, self._position, index = self._log.read_new(self._position)
            if not data:
                break
            self._end_steps(index)  # Steps run one after the other.
            output = self._outputs.get(index)
            if output is None:
                output = self._outputs[index] = _StepOutput()
            self._print(output, data)
        self._end_steps(ended)

    def _end_steps(self, ended: int) -> None:
        for index in [index for index in self._outputs if index < ended]:
            self._print(self._outputs.pop(index), b"", final=True)

    def _print(self, output: _StepOutput, data: bytes, *, final: bool = False) -> None:
        if self._broken:
            return
        try:
            with _screen.lock:
                margin = f"{one_line(self.host)}: " if self.names_host else ""
                _screen.write(output, data, margin, final=final)
        except (OSError, ValueError) as error:
            if isinstance(error, TimeoutError) and error.errno is None:
                raise  # A signal handler raised it.
            # Its reader has gone, or it is closed. The step goes on as it does without a reader.
            self._broken = True
            _logger.warning("Live output ends, because it cannot be written: %s.", error)
