"""The wire format between manager and supervisor, stated once; both halves use it.

A frame is a header of nine bytes (kind, request number, length of the payload, big-endian) and the
payload. Everything big travels as many frames of at most CHUNK bytes, so that it never holds up
anything small for long.
"""

import fcntl
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Union

HEADER = struct.Struct(">BII")
CHUNK = 1 << 18  # bytes
MAX_PAYLOAD = 1 << 20  # the bound of what is believed; CHUNK is what is sent

# From the manager to the supervisor.
REQUEST_PART = 1  # a piece of a request's description
REQUEST = 2  # its last piece; together JSON: {"steps", "working_dir", "environment"}
INPUT = 3  # bytes for the steps of a request, one step's after the other's
KILL = 4  # JSON: {"grace": seconds between SIGTERM and SIGKILL}
MODULES = 5  # see archive: what functions are pickled with, and rooms; before their first use

# From the supervisor to the manager.
HELLO = 16  # JSON: who answers
STARTED = 17  # JSON: {"step": index, "pid": number or None}
OUTPUT = 18  # what the running step printed
VALUE = 19  # a piece of the running step's value
ENDED = 20  # JSON: {"step": index, "exit_status" | "signal" | "failure", what the step told}
FINISHED = 21  # the request is over; nothing more comes for it
CREDIT = 22  # JSON: {"bytes": how many more bytes of INPUT may be sent}

# Both ways.
HEARTBEAT = 32

TO_SUPERVISOR = frozenset([REQUEST_PART, REQUEST, INPUT, KILL, MODULES, HEARTBEAT])
TO_MANAGER = frozenset([HELLO, STARTED, OUTPUT, VALUE, ENDED, FINISHED, CREDIT, HEARTBEAT])

SILENT_PERIODS = 4  # of keepalive seconds without a frame, until the other side counts as gone

BULK = frozenset([INPUT, OUTPUT, VALUE])  # their payload is a user's bytes, not a message

SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ of Linux, which Python knows from 3.10 on

# INPUT that may be under way for a request before any of it is wanted, and once it is.
FIRST_WINDOW = 1 << 19
WINDOW = 1 << 22


class FrameError(Exception):
    """Bytes that are no frame."""


def encode(kind: "int", request: "int", payload: "bytes" = b"") -> "bytes":
    """A whole frame."""
    return HEADER.pack(kind, request, len(payload)) + payload


class FrameReader:
    """Cuts a stream of bytes into frames.

    Args:
        kinds: The kinds of frame that may come.
    """

    def __init__(self, kinds: "frozenset[int]") -> "None":
        self._kinds = kinds
        self._header = bytearray()
        self._kind = self._request = 0  # of the frame that it is in
        self._left = 0  # bytes of its payload still to come
        self._payload = bytearray()  # what has come of it, unless it is BULK

    def feed(self, data: "Union[bytes, memoryview]") -> "list[tuple[int, int, Any]]":
        """What `data` holds, as (kind, request, payload).

        A message comes when it is whole, as bytes. The payload of BULK, which is part of a stream
        anyway, comes in as many pieces as it was read in, as views of `data`: to copy all that goes
        by costs as much as to read it.

        Raises:
            FrameError: An unknown kind or an absurd length.
        """
        found = []  # type: list[tuple[int, int, Any]]
        view = memoryview(data)
        at, end = 0, len(view)
        while at < end:
            if len(self._header) < HEADER.size:
                more = view[at : at + HEADER.size - len(self._header)]
                self._header += more
                at += len(more)
                if len(self._header) < HEADER.size:
                    break
                self._begin()
            piece = view[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            if self._kind in BULK:
                if piece:
                    found.append((self._kind, self._request, piece))
            elif self._left:
                self._payload += piece
            else:
                payload = bytes(self._payload) + piece if self._payload else bytes(piece)
                found.append((self._kind, self._request, payload))
                self._payload.clear()
            if not self._left:
                self._header.clear()
        return found

    def _begin(self) -> "None":
        self._kind, self._request, self._left = HEADER.unpack(self._header)
        if self._kind not in self._kinds:
            raise FrameError("a frame of unknown kind {}".format(self._kind))
        if self._left > MAX_PAYLOAD:
            raise FrameError("a frame of {} bytes".format(self._left))


def enlarge_pipe_buffer(pipe: "int") -> "None":
    """Let a pipe hold 1 MiB instead of 64 KiB where the system allows it: fewer turns for all."""
    try:
        fcntl.fcntl(pipe, SET_PIPE_SIZE, 1 << 20)
    except OSError:  # it is not a pipe, or pipe-user-pages-soft is used up: see pipe(7)
        pass
