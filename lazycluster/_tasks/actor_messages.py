"""Write calls for the process of an actor, and read its values and outcomes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lazycluster._conversation.outcome import Outcome, parse_outcome
from lazycluster._shared import frames, messages
from lazycluster._tasks.steps import RunFunction

if TYPE_CHECKING:
    from lazycluster._spool import Spool

RETURNED = Outcome(returned=True)

_REPORT_LIMIT = 1 << 22  # bytes of an outcome that is believed


@dataclass(frozen=True)
class StartActor(RunFunction):
    """Make the object of an actor, and keep its process."""

    def describe(self) -> dict[str, Any]:
        """Return the description that the supervisor takes."""
        return {**super().describe(), "input": sys.maxsize, "actor": True}

    def chunks(self, transfer: object) -> Iterator[bytes]:
        """Yield the message with the call of the class."""
        return call_message(self.call.payload)


def call_message(payload: Spool) -> Iterator[bytes]:
    """Yield a call as it is sent."""
    first = frames.CHUNK - messages.HEADER.size
    size = len(payload)
    yield messages.HEADER.pack(messages.CALL, size) + payload.read_at(0, first)
    for start in range(first, size, frames.CHUNK):
        yield payload.read_at(start, frames.CHUNK)


class MessageReader:
    """Cut what an actor sends into messages.

    Args:
        on_whole: Called with a value that is all of a chunk, and the end of a call.
        on_part: Called with each part of another value.
        on_end: Called with the outcome of each call.
    """

    def __init__(
        self,
        on_whole: Callable[[memoryview], object],
        on_part: Callable[[memoryview], object],
        on_end: Callable[[Outcome], object],
    ) -> None:
        self._on_whole = on_whole
        self._on_part = on_part
        self._on_end = on_end
        self._header = b""
        self._kind = 0
        self._left = 0
        self._report = b""

    def feed(self, data: memoryview) -> None:
        """Take the next bytes.

        Raises:
            ValueError, KeyError, TypeError: If they are malformed.
        """
        size = len(data) - messages.HEADER.size
        is_first = size > 0 and not self._header
        if is_first and messages.HEADER.unpack_from(data) == (messages.RETURNED, size):
            self._on_whole(data[messages.HEADER.size :])
            return
        while data:
            missing = messages.HEADER.size - len(self._header)
            if missing:
                self._header += data[:missing]
                data = data[missing:]
                if len(self._header) < messages.HEADER.size:
                    return
                self._begin()
            part = data[: self._left]
            data = data[len(part) :]
            self._left -= len(part)
            if self._kind == messages.RAISED:
                self._report += part
            elif part:
                self._on_part(part)
            if not self._left:
                self._header = b""
                if self._kind != messages.VALUE_PART:
                    self._finish()

    def _begin(self) -> None:
        self._kind, self._left = messages.HEADER.unpack(self._header)
        if self._kind not in (messages.VALUE_PART, messages.RETURNED, messages.RAISED):
            raise ValueError(f"a message of unknown kind {self._kind}")
        if self._kind == messages.RAISED and not 0 < self._left <= _REPORT_LIMIT:
            raise ValueError(f"an outcome of {self._left} bytes")

    def _finish(self) -> None:
        if self._kind == messages.RETURNED:
            self._on_end(RETURNED)
        else:
            report, self._report = self._report, b""
            self._on_end(parse_outcome(json.loads(report)))
