"""The wire format between manager and supervisor; both sides use this module.

A frame is a header of nine bytes (kind, request number, length of the payload, big-endian) and the
payload. Everything big travels as many frames of at most CHUNK bytes, so that a small message never
waits long.

A request is JSON. Its texts are UTF-8 with surrogates for bytes that are not:

    steps        a list of steps; each starts when the one before has succeeded
    working_dir  the directory that they start in; null for the home directory
    cwd          a path below it to start in instead, or an absolute one, or `~/…`; null for none
    environment  variables to set, {name: value}
    task         the number of the task's first request; null if it is this one

A step has a `kind` and what the kind needs:

    command      command; shell (optional; the account's own by default); input (optional): bytes
                 of INPUT that are its standard input; separate (optional): whether its standard
                 error comes as ERRORS and not as OUTPUT
    function     python: [major, minor] of the manager; input: bytes of INPUT that it reads, the
                 pickle of (function, args, kwargs); contents: keys of what that refers to;
                 levels: those of loggers, by name; actor (optional): true if the process stays,
                 see `messages`; preload (optional): what a branch has imported
                 that serves the request: modules, their names; contents, keys of the local ones;
                 environment, the variables to import them with; shared (optional): keys of the
                 values that the branch must hold
    share        key: that of the value; pickle: bytes of its pickle; buffers: bytes of each buffer
                 that is not part of the pickle; input: the sum; python, contents, preload: see
                 `function`. It is the only step of its request
    pack         path; measured: whether the stream begins with its size; the stream is its VALUE
    unpack       target, name: see `paths.destination`; it reads a stream as INPUT
    operation    operation, arguments: see `operations`

An outcome (ENDED) has the index of its `step`, the `exit_status` or `signal` of its process, and:

    killer       of a function that a signal has ended: "manager" if a KILL frame was the reason,
                 "memory" if the kernel has ended a process for lack of memory, "other" if it has
                 not; absent if that is unknown
    ending       true: a function has returned, but its threads and exit functions did not end
    result       what an operation returned, or where `unpack` has put the copy; true of `share`
    skipped      what `unpack` skipped, [[path, what it is], ...]
    returned     true: a function has returned, and its VALUE is complete
    failure      "os": message, and errno, path, there (the sender's error) if they are known
                 "python_version": python, the host's version
                 "python_start": variables, the names of those with which Python did not start
                 "python_modules": message, why cloudpickle cannot be imported
                 "preload": module, which cannot be preloaded, and message, the reason
                 "shared": keys, of values that the branch does not hold, or none if message is
                 another reason
                 "raised": stage ("load", "call" or "dump"), type, message, traceback; pickled: true
                 if the exception is the VALUE; module: the local one that could not be
                 imported while the call was loaded; explanation: see `unpicklable`; versions,
                 [[package, version or null], ...]: see `versions`
"""

import fcntl
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Union

HEADER = struct.Struct(">BII")
CHUNK = 1 << 18  # bytes
MAX_PAYLOAD = 1 << 20  # bytes that are accepted; at most CHUNK are sent

# From the manager to the supervisor.
REQUEST_PART = 1  # a part of a request's description
REQUEST = 2  # its last part
INPUT = 3  # bytes for the steps of a request, one step's after the other's
KILL = 4  # JSON: {"grace": seconds between SIGTERM and SIGKILL}; to a branch, "task" of another one
MODULES = 5  # an `archive` of modules, sent before their first use
CONTENT = (
    6  # a key of KEY_SIZE bytes, and bytes to append to its content; sent before its first use
)
CONTENTS = 7  # JSON: keys of contents that an actor gets here, between two messages of its input
FREE = 8  # the key of a shared value, which is not needed any more

# From the supervisor to the manager.
HELLO = 16  # JSON: {"python": version, "pid": of the supervisor}
STARTED = 17  # JSON: {"step": index, "pid": number}
OUTPUT = 18  # what the running step printed
VALUE = 19  # a part of the running step's value
ENDED = 20  # JSON: an outcome
FINISHED = 21  # the request is over; no frame follows for it
CREDIT = 22  # JSON: {"bytes": how many more bytes of INPUT may be sent}
ERRORS = 23  # the standard error of the running step, if it is separate
LOGGED = 24  # lines of JSON: what the running function has logged, a record each

# Both ways.
HEARTBEAT = 32

TO_SUPERVISOR = frozenset(
    [REQUEST_PART, REQUEST, INPUT, KILL, MODULES, CONTENT, CONTENTS, FREE, HEARTBEAT]
)
TO_MANAGER = frozenset(
    [HELLO, STARTED, OUTPUT, ERRORS, LOGGED, VALUE, ENDED, FINISHED, CREDIT, HEARTBEAT]
)

KEY_SIZE = 16  # bytes of a key, which is hexadecimal in a description

SILENT_PERIODS = 4  # of keepalive seconds without a frame, until the other side counts as gone
# Their payload is a user's bytes, not a message.
BULK = frozenset([INPUT, OUTPUT, ERRORS, LOGGED, VALUE])
SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ of Linux, which Python knows from 3.10 on

# Bytes of INPUT that may be under way for a request: at first, and once a step wants a lot.
FIRST_WINDOW = 1 << 19
WINDOW = 1 << 22

EXCEPTION_LIMIT = 1 << 24  # bytes of a pickled exception


class FrameError(ValueError):
    """Bytes that are not a frame."""


def encode(kind: "int", request: "int", payload: "bytes" = b"") -> "bytes":
    """Return a complete frame."""
    return HEADER.pack(kind, request, len(payload)) + payload


class FrameReader:
    """Cut a stream of bytes into frames; other kinds than `kinds` are not allowed."""

    def __init__(self, kinds: "frozenset[int]") -> "None":
        self._kinds = kinds
        self._header = bytearray()
        self._kind = self._request = 0  # of the current frame
        self._left = 0  # bytes of its payload still to come
        self._payload = bytearray()  # the bytes that have come, unless the frame is BULK

    def feed(self, data: "Union[bytes, memoryview]") -> "list[tuple[int, int, Any]]":
        """Return the frames that `data` completes, as (kind, request, payload).

        A message comes once it is complete, as bytes. The payload of BULK, which is part of a
        stream anyway, comes in as many chunks as it was read in, as views of `data`: copying it
        would cost as much as reading it.

        Raises:
            FrameError: If the kind is not allowed or the payload is too long.
        """
        found = []  # type: list[tuple[int, int, Any]]
        view = memoryview(data)
        at, end = 0, len(view)
        while at < end:
            if not self._header and end - at >= HEADER.size:
                kind, request, size = HEADER.unpack_from(view, at)
                start = at + HEADER.size
                # Most frames come as a whole. An invalid one is found below.
                if start + size <= end and size <= MAX_PAYLOAD and kind in self._kinds:
                    at = start + size
                    if kind not in BULK:
                        found.append((kind, request, bytes(view[start:at])))
                    elif size:
                        found.append((kind, request, view[start:at]))
                    continue
            if len(self._header) < HEADER.size:
                more = view[at : at + HEADER.size - len(self._header)]
                self._header += more
                at += len(more)
                if len(self._header) < HEADER.size:
                    break
                self._begin()
            chunk = view[at : at + self._left]
            at += len(chunk)
            self._left -= len(chunk)
            if self._kind in BULK:
                if chunk:
                    found.append((self._kind, self._request, chunk))
            elif self._left:
                self._payload += chunk
            else:
                payload = bytes(self._payload) + chunk if self._payload else bytes(chunk)
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
