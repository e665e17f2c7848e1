"""The pipe through which the process of a step sends its value, its log records and its outcome.

A message is a header of five bytes (kind, length of the content, big-endian) and the content.
Values and streams of files may be long, and are passed on to the manager in parts.
"""

import struct
import threading

from .._shared.frames import CHUNK, MAX_PAYLOAD, enlarge_pipe_buffer
from . import plain_json, streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator

    Outcome = dict[str, Any]  # see `frames`

HEADER = struct.Struct(">BI")

VALUE = 1  # a part of the value of a function, or of a stream of files
LOGGED = 2  # lines of JSON: what a function has logged, a record each
REPORT = 3  # JSON: an outcome that counts if the process ends without another, or its temporary
OUTCOME = 4  # JSON: the outcome; the process has closed all other descriptors, and only exits

_USUAL = {"returned": True, "exit_status": 0, "over": True}
USUAL_OUTCOME = plain_json.dumps(_USUAL).encode("ascii")

_len = len  # a function may replace what is in `builtins`

READ = 1 << 16  # bytes; the supervisor's maximum of one read
SMALL = 1 << 14  # bytes of a value that wait for the outcome, and go with it in one write
_LONGEST = 1 << 30  # bytes of a part of a value


class Channel:
    """The end of the pipe in the process of a step.

    A function may close descriptors that are not its own, and open files that get their numbers;
    nothing is written into those.

    Args:
        fd: The descriptor.
    """

    # Made once for all forked processes, in which what does not change takes no time.
    _lock = threading.RLock()  # for whole messages: threads of a function may log
    _is_over = False
    _kept = b""  # of the value
    _is_large = False

    def __init__(self, fd: "int") -> "None":
        self.fd = fd
        self._identity = streams.identity(fd)

    @property
    def is_open(self) -> "bool":
        """Return True if the descriptor is still that of the pipe."""
        return streams.identity(self.fd) == self._identity

    def report(self, content: "Outcome") -> "None":
        """Send an outcome that counts if the process ends without another, or a temporary."""
        self.send(REPORT, plain_json.dumps(content).encode("ascii"))

    def log(self, lines: "bytes") -> "None":
        """Send log records."""
        self.send(LOGGED, lines)

    def keep_value(self, value: "bytes") -> "None":
        """Take a whole value, which goes with the outcome."""
        self._kept = value

    def write(self, data: "Any") -> "int":
        """Send a part of a value, as a file does; what is small waits for the outcome.

        Raises:
            OSError: If the function has closed the pipe.
        """
        size = memoryview(data).nbytes
        if size + _len(self._kept) <= SMALL:
            self._kept += data
            return size
        kept, self._kept = self._kept, b""
        if kept:
            self.send_value(kept)
        self.send_value(data)
        return size

    def send_value(self, data: "Any") -> "None":
        """Send a part of a value at once.

        Raises:
            OSError: If the function has closed the pipe.
        """
        view = memoryview(data).cast("B")
        if not self._is_large and _len(view) > CHUNK:
            self._is_large = True
            enlarge_pipe_buffer(self.fd)
        for start in range(0, _len(view), _LONGEST):
            if not self.send(VALUE, view[start : start + _LONGEST]):
                raise OSError("the function has closed the pipe that its value goes through")

    def send_outcome(self, outcome: "Outcome") -> "bool":
        """Send what is left of the value, and the outcome; return False if the pipe is closed."""
        is_usual = outcome == _USUAL  # to make JSON takes 0.02 ms
        text = USUAL_OUTCOME if is_usual else plain_json.dumps(outcome).encode("ascii")
        kept = self._kept
        value = HEADER.pack(VALUE, _len(kept)) + kept if kept else b""
        with self._lock:
            is_sent = self._write(value + HEADER.pack(OUTCOME, _len(text)) + text)
            self._is_over = True  # a daemon thread may log after this
        return is_sent

    def send(self, kind: "int", content: "Any") -> "bool":
        """Send a message; return False if the pipe is closed."""
        header = HEADER.pack(kind, _len(content))
        if _len(content) <= SMALL:
            return self._write(header + bytes(content))
        return self._write(header, content)

    def _write(self, *parts: "Any") -> "bool":
        with self._lock:
            if self._is_over or not self.is_open:
                return False
            try:
                for part in parts:
                    streams.write_all(self.fd, part)
            except OSError:  # the supervisor has closed it
                return False
        return True


class Messages:
    """Cut what the supervisor reads from a channel into messages.

    Attributes:
        value_left: How many bytes of the current part of a value are still to come.
    """

    value_left = 0
    _rest = b""

    def split(self, data: "bytes") -> "Iterator[tuple[int, bytes]]":
        """Yield messages as (kind, content); of a value what has come, for other kinds all of it.

        Raises:
            ValueError: If these are not messages: a function has written to the pipe.
        """
        data = self._rest + data if self._rest else data
        self._rest = b""
        at, end = 0, _len(data)
        while at < end:
            if end - at < HEADER.size:
                break
            kind, length = HEADER.unpack_from(data, at)
            start = at + HEADER.size
            if kind == VALUE:
                at = min(start + length, end)
                self.value_left = start + length - at
                yield kind, data[start:at]
                continue
            if not LOGGED <= kind <= OUTCOME or length > MAX_PAYLOAD:
                raise ValueError("not a message")
            if start + length > end:
                break
            at = start + length
            yield kind, data[start:at]
        self._rest = data[at:]
