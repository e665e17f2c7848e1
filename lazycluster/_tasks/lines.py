"""Hand what a step prints to a callback of the user, in whole lines."""

from __future__ import annotations

import codecs
import logging
import re
import threading
from collections.abc import Callable

from lazycluster._spool import Spool
from lazycluster._tasks.completion import completion
from lazycluster._waits import wait_repeatedly

LINE_LIMIT = 2**20
"""A line with more characters comes in parts of about this size."""

READ = 2**16  # bytes that are decoded at once

LINE_FEED = re.compile("\n")

_logger = logging.getLogger("lazycluster")


class Lines:
    """Call a function with each line, in the completion thread.

    What waits for a slow callback is in memory while it is little, and in a file when it is much.

    Args:
        on_line: Called with each line and its line break. The last one may have none.
        host: The host, for messages.
    """

    def __init__(self, on_line: Callable[[str], object], host: str) -> None:
        self._on_line = on_line
        self._host = host
        self._lock = threading.Lock()  # for the three below
        self._waiting = Spool()
        self._parts: list[tuple[int, int]] = []  # (stream, bytes) in `_waiting`
        self._is_posted = False
        self._streams: dict[int, LineCutter] = {}  # used by the completion thread alone
        self._has_failed = False

    def append(self, stream: int, data: memoryview) -> None:
        """Take bytes of a stream, in any thread.

        Raises:
            OSError: If they do not fit into memory, and not into the file either.
        """
        with self._lock:
            self._waiting.write(data)
            if self._parts and self._parts[-1][0] == stream:
                self._parts[-1] = (stream, self._parts[-1][1] + len(data))
            else:
                self._parts.append((stream, len(data)))
            if self._is_posted:
                return
            self._is_posted = True
        completion.post(self._deliver)

    def finish(self, then: Callable[[], object]) -> None:
        """Hand over the last line of each stream, and call `then` in the completion thread."""

        def finish() -> None:
            try:
                self._deliver_rest()
            finally:
                then()

        completion.post(finish)

    def finish_and_wait(self) -> None:
        """Hand over the last line of each stream, and wait until the callback has taken it."""
        if completion.is_current:  # a callback that runs a command itself
            self._deliver_rest()
            return
        done = threading.Event()
        self.finish(done.set)
        wait_repeatedly(done.wait)

    def _deliver_rest(self) -> None:
        self._deliver()
        for stream in self._streams.values():
            self._call(stream.cut(b"", final=True))

    def _deliver(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, Spool()
            parts, self._parts = self._parts, []
            self._is_posted = False
        start = 0
        for number, size in parts:
            stream = self._streams.setdefault(number, LineCutter())
            for offset in range(start, start + size, READ):
                data = waiting.read_at(offset, min(READ, start + size - offset))
                self._call(stream.cut(data))
            start += size

    def _call(self, lines: list[str]) -> None:
        for line in lines:
            try:
                self._on_line(line)
            except BaseException:  # a SystemExit would end the thread
                if not self._has_failed:
                    self._has_failed = True
                    _logger.exception(
                        "on_output= has raised an exception for a line from %s. It gets the next "
                        "lines too; further exceptions are not logged.",
                        self._host,
                    )


class LineCutter:
    """Cut a stream into lines."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._rest = ""

    def cut(
        self, data: bytes, ends: re.Pattern[str] = LINE_FEED, *, final: bool = False
    ) -> list[str]:
        """Return the lines that are complete with this data; if it is final, also what is left.

        Args:
            data: The next bytes of the stream.
            ends: What ends a line; it is part of the line.
            final: True if nothing follows.
        """
        text = self._rest + self._decoder.decode(data, final)
        if "\r" not in text:
            ends = LINE_FEED
        if ends is LINE_FEED:  # ten times as fast as the other way
            *parts, self._rest = text.split("\n")
            lines = [f"{part}\n" for part in parts]
        else:
            lines, start = [], 0
            for found in ends.finditer(text):
                lines.append(text[start : found.end()])
                start = found.end()
            self._rest = text[start:]
        if self._rest and (final or len(self._rest) >= LINE_LIMIT):
            lines.append(self._rest)
            self._rest = ""
        return lines
