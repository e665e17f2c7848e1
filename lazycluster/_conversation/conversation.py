"""The manager's half of the talk with the host: requests, their streams, the heartbeat.

The reader thread of the transport stores what comes from the host and notifies the waiting
threads. It never prints and never runs a user's code. The thread that makes a request also sends
it and waits for it.
"""

from __future__ import annotations

import copy
import errno
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lazycluster._conversation.bootstrap import (
    Handshake,
    HandshakeReply,
    bootstrap_command,
    bootstrap_input,
    make_token,
    python_error,
)
from lazycluster._conversation.host_sources import module_archive
from lazycluster._conversation.outcome import OsFailure, Outcome
from lazycluster._conversation.request import Request, Sink, ignore_start
from lazycluster._conversation.writer import Writer
from lazycluster._interpreter_exit import ENDING, Wait, stopped_with_main_thread
from lazycluster._shared import frames
from lazycluster._shared.operations import BOOTSTRAP_MODULES, OPERATIONS, STEP_MODULES
from lazycluster._ssh.resolved import ResolvedConfig
from lazycluster._ssh.settings import Settings
from lazycluster._ssh.transport import STOPPED, Transport, is_exiting
from lazycluster._text import signal_name
from lazycluster.exceptions import (
    ConnectionLostError,
    LazyclusterError,
    ProtocolError,
    PythonNotFoundError,
    PythonVersionError,
)

WORDS_TIMEOUT = 2.0  # seconds to wait for standard error; it comes within milliseconds
SMALL_REQUEST = 1 << 12  # bytes of a description that is kept for the next request
DESCRIPTION_LIMIT = 1 << 26  # bytes of a request's commands and environment, encoded

# What malformed frames raise: JSON may be nested too deep, a number may be infinite.
_MALFORMED = (
    frames.FrameError,
    ValueError,
    KeyError,
    TypeError,
    OverflowError,
    RecursionError,
)


_to_json = json.JSONEncoder().encode


def _ignore(_index: int, _data: memoryview) -> None:
    """Drop what the caller did not ask for."""


def _do_nothing() -> None:
    """Do nothing when a login is over that nothing waits for."""


def _ignore_end(_request: Request) -> None:
    """Do nothing at the end of a request that a thread waits for."""


class Conversation:
    """Requests over one transport.

    Requests are sent without waiting for the login. If the login fails, every pending request
    fails with the same error.

    On a host without a usable Python every request fails, and the transport serves mux clients and
    forwards alone: its session waits for the end of its input. Nothing there sends anything, so
    there is no heartbeat, and a silent link is found by TCP, by the user's ServerAliveInterval, or
    not at all.

    Args:
        settings: What the user asked of ssh.
        config: What ssh makes of the user's ssh_config.
        lost: The tokens of lost connections, whose steps the host ends before it starts new ones.
        spent: Seconds of `connect_timeout` that have passed before this login. Defaults to 0.
        on_login_over: See `Transport`.

    Attributes:
        token: A random word that names it on the host.
        transport: The login that it goes over.
    """

    def __init__(
        self,
        settings: Settings,
        config: ResolvedConfig,
        lost: Sequence[str] = (),
        spent: float = 0.0,
        on_login_over: Callable[[], object] = _do_nothing,
    ) -> None:
        self._settings = settings
        self._request_lock = threading.Lock()  # requests are written in the order of their numbers
        self._lock = threading.Lock()
        self._requests: dict[int, Request] = {}
        self._last_number = 0
        self._modules_sent: set[str] = set(BOOTSTRAP_MODULES)
        self._contents_sent: set[str] = set()
        self._last_encoded: tuple[object, bytes] = None, b""
        self._refusal: PythonNotFoundError | PythonVersionError | None = None
        self._received = time.monotonic()
        self.token: str = make_token()
        self._handshake = Handshake(self.token)
        self._reply: HandshakeReply | None = None
        self.transport: Transport = Transport(
            settings, config, bootstrap_command(), spent, on_login_over
        )
        self._writer = Writer(self.transport.master.lifeline, f"lazycluster writer {settings.host}")
        self.transport.start(self)
        self._writer.send(bootstrap_input(self.token, settings, lost))

    @property
    def has_python(self) -> bool:
        """Return True if requests can be made; valid when the transport is open."""
        return self._refusal is None

    @property
    def has_bash_or_zsh(self) -> bool:
        """Return True if the login shell is bash or zsh; valid when the transport is open."""
        return self._handshake.bash_or_zsh

    @property
    def control_folder(self) -> str:
        """Return the folder that the guard removes at the end."""
        return self.transport.master.folder

    def request(
        self,
        steps: Sequence[Mapping[str, Any]],
        *,
        working_dir: str | None,
        environment: Mapping[str, str],
        cwd: str | None = None,
        task: int | None = None,
        chunks: Iterator[bytes] | None = None,
        contents: Mapping[str, bytes] = MappingProxyType({}),
        on_output: Sink = _ignore,
        on_errors: Sink = _ignore,
        on_value: Sink = _ignore,
        on_logged: Sink = _ignore,
        on_start: Callable[[int], bool] = ignore_start,
        on_end: Callable[[Request], object] = _ignore_end,
        live: bool = False,
    ) -> Request:
        """Send steps to the host, which runs one after the other until one fails.

        Args:
            steps: The steps, as the supervisor takes them.
            working_dir: The directory to start in, None for the home directory.
            environment: Variables to set.
            cwd: A path below the directory to start in instead, or an absolute one, or one that
                begins with `~`.
            task: The number of the first request of the same task; a kill concerns all of them.
            chunks: The input of the steps, at most `frames.CHUNK` bytes each.
            contents: What the steps refer to, by key; the host gets each once.
            on_output: Called in the reader thread with a step's index and what it printed.
            on_errors: Called in the reader thread with a step's index and its standard error, if
                that is separate.
            on_value: Called in the reader thread with a step's index and a chunk of its value.
            on_logged: Called in the reader thread with a step's index and what its function logged.
            on_start: Called in the reader thread with the index of a step that has started;
                `Request.wait` returns for that if it returns True.
            on_end: Called once with the request, when it is finished or has an error; most often
                in the reader thread.
            live: If True, `Request.wait` returns for output and for the end of each step, too.

        Raises:
            ValueError: If the description is longer than 64 MiB.
            ConnectionLostError: If the connection has ended; the steps have not started.
            OSError: If the first chunk cannot be read; nothing was sent.
        """
        description = self._encode(
            {
                "steps": steps,
                "working_dir": working_dir,
                "cwd": cwd,
                "environment": dict(environment),
                "task": task,
            }
        )
        if len(description) > DESCRIPTION_LIMIT:
            raise ValueError(
                f"The commands and variables make {len(description)} bytes; "
                f"at most {DESCRIPTION_LIMIT} can be sent. Send a file instead."
            )
        sinks = {
            frames.OUTPUT: on_output,
            frames.ERRORS: on_errors,
            frames.VALUE: on_value,
            frames.LOGGED: on_logged,
        }
        # Reads the first chunk, which may fail or take a while: not under the lock.
        request = Request(
            0,
            len(steps),
            self._writer,
            chunks or iter(()),
            sinks,
            on_end,
            live=live,
            on_start=on_start,
        )
        with self._request_lock:
            request.number = self._last_number = self._last_number + 1
            # Not comprehensions, which are function calls before Python 3.12.
            missing = set(map(_module_for, steps)) - self._modules_sent
            data = list(map(_modules_frame, missing))
            fresh = contents.keys() - self._contents_sent
            for key in fresh:
                data += _content_frames(key, contents[key])
            data += _description_frames(request.number, description)
            first_input = request.next_frame()  # most often all of it
            if first_input is not None:
                data.append(first_input)
            self._register(request)
            try:
                self._writer.send(b"".join(data))
            except BaseException:  # a KeyboardInterrupt: the caller will not wait for it
                request.kill(0)
                raise
            self._modules_sent |= missing
            self._contents_sent |= fresh
        if request.has_input:
            self._writer.feed(request)
        return request

    def _encode(self, description: dict[str, Any]) -> bytes:
        """Return a description as JSON; the same bytes as the last time if a call is repeated."""
        last, data = self._last_encoded
        if description == last:
            return data
        data = _to_json(description).encode("ascii")
        # A function is described anew for each request, so nothing changes that.
        if len(data) <= SMALL_REQUEST and description["steps"][0]["kind"] == "function":
            self._last_encoded = description, data
        return data

    def pass_contents(self, request: Request, contents: Mapping[str, bytes]) -> None:
        """Let the actor of a request have contents for its next call.

        Args:
            request: The request; all its input so far has been sent.
            contents: The contents by key; the host gets each once.
        """
        with self._request_lock:
            fresh = contents.keys() - self._contents_sent
            data = [frame for key in fresh for frame in _content_frames(key, contents[key])]
            keys = json.dumps(list(contents)).encode("ascii")
            data.append(frames.encode(frames.CONTENTS, request.number, keys))
            self._writer.send(b"".join(data))
            self._contents_sent |= fresh

    def operate(
        self,
        operation: str,
        arguments: Mapping[str, Any],
        *,
        working_dir: str | None = None,
        environment: Mapping[str, str] | None = None,
        deadline: float | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> Any:
        """Run an operation of ours on the host (see `_shared.operations`), and wait for its result.

        Args:
            operation: Its name.
            arguments: Its arguments by name.
            working_dir: The directory to run it in, None for the home directory.
            environment: Variables to set.
            deadline: By time.monotonic(); None for no deadline.
            meanwhile: Called while the host works. Defaults to None.

        Raises:
            OSError: If it failed, for the host's reason.
            LazyclusterError: If the process that runs it did not come to an end, or the directory
                to run it in does not exist.
        """
        step = {"kind": "operation", "operation": operation, "arguments": arguments}
        request = self.request([step], working_dir=working_dir, environment=environment or {})
        wait = Wait(lambda: request.fail(LazyclusterError(ENDING)))
        try:
            if meanwhile is not None:
                meanwhile()
            with stopped_with_main_thread(wait):
                while not request.finished and (deadline is None or time.monotonic() < deadline):
                    request.wait(deadline)
        except BaseException:  # of a signal handler, for example
            request.kill(0)
            raise
        outcome = request.outcomes[0] if request.outcomes else Outcome()
        failure, host = outcome.failure, self._settings.host
        if isinstance(failure, OsFailure):
            if failure.errno == errno.ENOENT and failure.path == working_dir is not None:
                raise LazyclusterError(
                    f"The working directory {working_dir} on {host} does not exist any more. "
                    "Assign the Runtime's working_dir once more, which makes it."
                )
            raise OSError(failure.errno, failure.message, failure.path)
        if not outcome.completed:
            status, number = outcome.exit_status, outcome.signal
            how = f"signal {signal_name(number)}" if number is not None else f"exit status {status}"
            raise LazyclusterError(f"{operation} on {host} did not come to its end ({how}).")
        return outcome.result

    def find_free(self) -> Callable[[str], None]:
        """Return what lets the host free a shared value, after the requests made before.

        It does not keep the connection open, and does nothing after its end.
        """
        writer = self._writer

        def free(key: str) -> None:
            writer.send(frames.encode(frames.FREE, 0, key.encode("ascii")))

        return free

    def _register(self, request: Request) -> None:
        with self._lock:
            if self.transport.ended:
                raise self.transport.end_error(started=False)
            if self._refusal is not None:
                raise copy.copy(self._refusal)
            self._requests[request.number] = request

    # For the transport, in its reader thread

    def find_reply(self, data: bytes) -> bytes | None:
        """Look for the host's reply to the bootstrap; see `transport.Session`."""
        self._reply = self._handshake.feed(data)
        if self._reply is None:
            return None
        if self._reply.kind != "python":
            if self._reply.kind == "none":
                self._wait_for_words()
            log = self.transport.master.log()
            self._refuse_requests(python_error(self._reply, self._settings, log))
        return self._reply.rest

    def _wait_for_words(self) -> None:
        """Wait for what interpreters have printed, which comes another way than the reply."""
        line = f"{self.token} end\n".encode()
        end = time.monotonic() + WORDS_TIMEOUT
        while not self.transport.master.has_printed(line) and time.monotonic() < end:
            time.sleep(0.005)

    @property
    def noise(self) -> str:
        """Return the end of what came in place of a reply."""
        return self._handshake.noise

    @property
    def progress(self) -> int:
        """Return how often the host has reported that it is receiving the program."""
        return self._handshake.progress

    @property
    def python_started(self) -> bool:
        """Return True if the host has started a Python for the program."""
        return self._handshake.python_started

    def _refuse_requests(self, error: PythonNotFoundError | PythonVersionError) -> None:
        with self._lock:
            self._refusal = error
            requests = list(self._requests.values())
            self._requests.clear()
        for request in requests:
            request.fail(copy.copy(error))

    def serve(self, data: bytes) -> LazyclusterError:
        """Handle frames until the end; return the reason of the end."""
        if self._refusal is not None:
            while self.transport.read(math.inf):
                pass  # nothing there sends frames
            return self.transport.lost_error(started=None)
        reader = frames.FrameReader(frames.TO_MANAGER)
        keepalive = self._settings.keepalive
        host = self._settings.host
        self._received = time.monotonic()
        more: bytes | memoryview = data
        stopped = 0.0  # seconds of the last time that this program could not run
        while True:
            try:
                self._handle(reader.feed(more))
            except _MALFORMED as error:
                return ProtocolError(
                    f"{host} sent bytes that violate the protocol: {error}. "
                    "The connection has been closed.",
                    host=host,
                )
            silent_at = self._received + frames.SILENT_PERIODS * keepalive
            deadline = min(self._writer.last + keepalive, silent_at)
            received = self.transport.read(deadline)
            now = time.monotonic()
            if now - deadline > STOPPED:
                # Silence counts only while this program can run: it may have been stopped by
                # Ctrl-Z or a debugger, or blocked by C code that holds the GIL.
                stopped = now - deadline
                self._received = now
            more = b""
            if received:
                more = received
                self._received = now
            elif received is not None:
                note = f" This program did not run for {stopped:.0f} s." if stopped else ""
                return self.transport.lost_error(started=None, note=note)
            elif now >= self._received + frames.SILENT_PERIODS * keepalive:
                return self._silence_error(frames.SILENT_PERIODS * keepalive)
            else:
                self._writer.heartbeat(frames.encode(frames.HEARTBEAT, 0))

    def _silence_error(self, seconds: float) -> ConnectionLostError:
        host = self._settings.host
        return ConnectionLostError(
            f"{host} gave no sign of life for {seconds:g} s. The connection has been closed.",
            host=host,
            stderr=self.transport.master.log(),
            started=None,
        )

    def _handle(self, found: list[tuple[int, int, Any]]) -> None:
        """Hand out frames that came together, and then notify the threads that wait for them."""
        changed: dict[int, Request] = {}
        try:
            for kind, number, payload in found:
                if kind in (frames.HELLO, frames.HEARTBEAT):
                    continue
                request = self._requests[number]
                if kind == frames.FINISHED:
                    with self._lock:
                        del self._requests[number]
                if request.handle_frame(kind, payload):
                    changed[number] = request
        finally:  # for the frames before a malformed one, too
            for request in changed.values():
                request.notify()

    def stop_writing(self) -> bool:
        """Write nothing more; return True if the supervisor must be left the time to end."""
        return self._writer.close() and self._refusal is None

    def end(self, error: LazyclusterError) -> None:
        """Fail what is pending."""
        with self._lock:
            requests = list(self._requests.values())
            self._requests.clear()
        for request in requests:
            request.closed = self.transport.closing
            runs = request.step is not None and request.step == len(request.outcomes)
            failure = self.transport.end_error(started=True if runs else None)
            # At the exit only daemon threads are left; a traceback of theirs would mean nothing.
            request.fail(SystemExit(str(error)) if is_exiting() else failure)


def _description_frames(number: int, description: bytes) -> list[bytes]:
    data = []
    start = 0
    while len(description) - start > frames.CHUNK:
        part = description[start : start + frames.CHUNK]
        data.append(frames.encode(frames.REQUEST_PART, number, part))
        start += frames.CHUNK
    data.append(frames.encode(frames.REQUEST, number, description[start:]))
    return data


def _modules_frame(name: str) -> bytes:
    return frames.encode(frames.MODULES, 0, module_archive(name))


def _content_frames(key: str, content: bytes) -> list[bytes]:
    prefix = bytes.fromhex(key)
    starts = range(0, len(content), frames.CHUNK)
    parts = (prefix + content[start : start + frames.CHUNK] for start in starts)
    return [frames.encode(frames.CONTENT, 0, part) for part in parts]


def _module_for(step: Mapping[str, Any]) -> str:
    """Return the module that the step needs beside those that the bootstrap always has."""
    kind = step["kind"]
    return OPERATIONS[step["operation"]] if kind == "operation" else STEP_MODULES[kind]
