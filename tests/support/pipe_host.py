"""Run the host's half over a pair of pipes, as the login shell of an sshd would start it.

Tests speak the wire format directly. Every wait has a timeout.
"""

from __future__ import annotations

import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lazycluster._conversation import bootstrap
from lazycluster._conversation.host_sources import module_archive
from lazycluster._functions.payload import dump_call, load_value
from lazycluster._shared import frames
from lazycluster._shared.operations import STEP_MODULES
from lazycluster._ssh.settings import Settings
from support import host_coverage
from support.processes import is_alive
from support.waiting import TIMEOUT

KEEPALIVE = 60.0
"""Seconds between heartbeats; no test that uses it is silent for four times as long."""

GIVE_UP = 5.0
"""Seconds until a supervisor that does not end is killed; it needs at most 4."""

Condition = Callable[[], bool]


def command(text: str, by: str | None = "/bin/sh", **more: Any) -> dict[str, Any]:
    """Return a step that runs a command in a shell; None stands for the account's login shell."""
    return {"kind": "command", "command": text, "shell": by and by.split(), **more}


def operation(name: str, **arguments: Any) -> dict[str, Any]:
    """Return a step that runs an operation of the library."""
    return {"kind": "operation", "operation": name, "arguments": arguments}


def function(
    payload: bytes, python: Sequence[int] = sys.version_info[:2], contents: Iterable[str] = ()
) -> dict[str, Any]:
    """Return a step that calls a function; the payload is its input."""
    step = {"kind": "function", "input": len(payload), "python": list(python)}
    return {**step, "contents": list(contents)}


class SentRequest:
    """A request, and what the host has sent for it.

    Attributes:
        pids: The pids of the steps that have started, in order.
        output: The output of each of them.
        errors: The standard error of each of them, if it is separate.
        value: The pickled value of each of them.
        ended: The outcome of each step that has ended.
        finished: True after the last frame.
        on_output: Gets output in place of `output`.
    """

    def __init__(self, number: int, payload: bytes) -> None:
        self.number = number
        self.pids: list[int] = []
        self.output: list[bytearray] = []
        self.errors: list[bytearray] = []
        self.value: list[bytearray] = []
        self.ended: list[dict[str, Any]] = []
        self.finished = False
        self.on_output: Callable[[bytes], None] | None = None
        self.payload = memoryview(payload)
        self.credit = frames.FIRST_WINDOW

    def handle_frame(self, kind: int, payload: bytes) -> None:
        """Store what a frame has, and check that it comes in turn."""
        assert not self.finished, f"frame {kind} after the end of request {self.number}"
        if kind == frames.STARTED:
            report = json.loads(payload)
            assert report["step"] == len(self.pids) == len(self.ended)
            self.pids.append(report["pid"])
            self.output.append(bytearray())
            self.errors.append(bytearray())
            self.value.append(bytearray())
        elif kind == frames.OUTPUT:
            assert len(self.pids) == len(self.ended) + 1, "output between two steps"
            if self.on_output is not None:
                self.on_output(payload)
            else:
                self.output[-1] += payload
        elif kind == frames.ERRORS:
            assert len(self.pids) == len(self.ended) + 1, "errors between two steps"
            self.errors[-1] += payload
        elif kind == frames.VALUE:
            assert len(self.pids) == len(self.ended) + 1, "a value between two steps"
            self.value[-1] += payload
        elif kind == frames.ENDED:
            report = json.loads(payload)
            assert report["step"] == len(self.ended)
            self.ended.append(report)
        elif kind == frames.CREDIT:
            self.credit += json.loads(payload)["bytes"]
        else:
            assert kind == frames.FINISHED
            self.finished = True

    @property
    def text(self) -> str:
        """The output of its last step."""
        return self.output[-1].decode()

    @property
    def returned(self) -> Any:
        """The value of its last step."""
        assert self.ended[-1].get("returned"), (self.ended, bytes(self.output[-1]))
        return load_value(io.BytesIO(bytes(self.value[-1])))


class PipeHost:
    """A supervisor on this computer, started as on a host.

    Args:
        python: The `python=` of the user, None to let the host look for one.
        keepalive: Seconds between heartbeats.
        orphan_timeout: Seconds of silence after which the supervisor ends.
        environment: Variables, in addition to a few; None removes one.
        folder: Where it starts, and its home directory.
        temporary: Its `$TMPDIR`.
        login_shell: Its name or path.
        under: Words before those of the login shell.
        one_socket: True if standard input and output are one socket, as sshd makes them.
    """

    def __init__(
        self,
        python: str | None,
        *,
        folder: Path,
        temporary: Path,
        keepalive: float = KEEPALIVE,
        orphan_timeout: float = 600.0,
        environment: Mapping[str, str | None] | None = None,
        login_shell: str = "/bin/sh",
        under: Sequence[str] = (),
        one_socket: bool = False,
    ) -> None:
        self.token = bootstrap.make_token()
        self.asked: dict[int, SentRequest] = {}
        self.reply: bootstrap.HandshakeReply | None = None
        self.hello: dict[str, Any] | None = None
        self.heartbeats = 0
        self.ended = False  # its standard output is at its end
        self._handshake = bootstrap.Handshake(self.token)
        self._reader = frames.FrameReader(frames.TO_MANAGER)
        self._modules_sent: set[str] = set()  # kinds of steps
        self._to_write: deque[memoryview] = deque()
        self._errors = tempfile.TemporaryFile()
        theirs, self.stdin, self.stdout = _socket() if one_socket else _pipes()
        try:
            self.process = subprocess.Popen(
                [*under, login_shell, "-c", bootstrap.bootstrap_command()],
                stdin=theirs[0],
                stdout=theirs[-1],
                stderr=self._errors,
                cwd=folder,
                env=_environment(folder, temporary, environment or {}),
                start_new_session=True,
            )
        finally:
            for fd in theirs:
                os.close(fd)
        os.set_blocking(self.stdin, False)
        settings = Settings(
            "localhost", python=python, keepalive=keepalive, orphan_timeout=orphan_timeout
        )
        self.write(bootstrap.bootstrap_input(self.token, settings))

    def write(self, data: bytes) -> None:
        """Write bytes as soon as the pipe takes them."""
        self._to_write.append(memoryview(data))

    def send(self, kind: int, number: int = 0, payload: bytes | Mapping[str, Any] = b"") -> None:
        """Write a frame, without waiting."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode("ascii")
        self.write(frames.encode(kind, number, data))

    def ask(
        self,
        *steps: Mapping[str, Any],
        working_dir: str | None = None,
        cwd: str | None = None,
        environment: Mapping[str, str] | None = None,
        payload: bytes = b"",
    ) -> SentRequest:
        """Write a request, without waiting."""
        if any(step["kind"] == "command" for step in steps):
            self.send_modules("command")
        number = len(self.asked) + 1
        places = {"working_dir": working_dir, "cwd": cwd}
        description = json.dumps(
            {"steps": steps, "environment": environment or {}, **places}
        ).encode("ascii")
        *parts, last = _chunks(description)
        for part in parts:
            self.send(frames.REQUEST_PART, number, part)
        self.send(frames.REQUEST, number, last)
        self.asked[number] = SentRequest(number, payload)
        return self.asked[number]

    def kill(self, asked: SentRequest, grace: float) -> None:
        """Write a KILL frame, without waiting."""
        self.send(frames.KILL, asked.number, {"grace": grace})

    def run(self, *steps: Mapping[str, Any], **arguments: Any) -> SentRequest:
        """Write a request, and wait for its end."""
        asked = self.ask(*steps, **arguments)
        self.finish(asked)
        return asked

    def run_command(self, text: str, **arguments: Any) -> SentRequest:
        """Run one command."""
        return self.run(command(text), **arguments)

    def ask_call(
        self, call: Callable[..., object], /, *, before: Any = (), **kwargs: Any
    ) -> SentRequest:
        """Write a request that calls a function, after some other steps."""
        step, payload = self.prepare_call(call, **kwargs)
        return self.ask(*before, step, payload=payload)

    def prepare_call(
        self, call: Callable[..., object], /, **kwargs: Any
    ) -> tuple[dict[str, Any], bytes]:
        """Write what a call of a function needs; return its step and its payload."""
        self.send_modules()
        spool, contents, *_ = dump_call(call, (), kwargs)
        for key, content in contents.items():
            for chunk in _chunks(content):
                self.send(frames.CONTENT, 0, bytes.fromhex(key) + chunk)
        payload = spool.read_at(0, len(spool))
        return function(payload, contents=contents), payload

    def call(self, call: Callable[..., object], /, **kwargs: Any) -> SentRequest:
        """Call a function on the host."""
        asked = self.ask_call(call, **kwargs)
        self.finish(asked)
        return asked

    def send_modules(self, kind: str = "function") -> None:
        """Write what steps of a kind need, before the first one only."""
        if kind not in self._modules_sent:
            self._modules_sent.add(kind)
            self.send(frames.MODULES, 0, module_archive(STEP_MODULES[kind]))

    def finish(self, *asked: SentRequest) -> None:
        """Wait for the end of these requests."""
        self.wait(lambda: all(one.finished for one in asked), "the end of a request")

    def wait_for_output(self, asked: SentRequest, count: int = 1) -> list[str]:
        """Wait until the running step has printed so many lines, and return them."""
        self.wait(lambda: asked.finished or _lines(asked) >= count, f"{count} lines of output")
        assert _lines(asked) >= count, (asked.ended, asked.output)
        return asked.text.splitlines()

    def wait_for_reply(self) -> bootstrap.HandshakeReply:
        """Wait for the reply of the bootstrap, and return it: which Python there is."""
        self.wait(lambda: self.reply is not None, "the reply")
        assert self.reply is not None
        return self.reply

    def wait_for_hello(self) -> dict[str, Any]:
        """Wait for the supervisor's HELLO, and return its content."""
        self.wait(lambda: self.hello is not None, "the hello")
        assert self.hello is not None
        return self.hello

    def wait_until_written(self) -> None:
        """Wait until the pipe to the host has taken all bytes; read nothing."""
        self.wait(lambda: not self._to_write, "space in the pipe", reading=False)

    def wait(self, condition: Condition, what: str, reading: bool = True) -> None:
        """Write and read until the condition holds.

        Raises:
            AssertionError: It does not hold in time, or the host's half has ended.
        """
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert not self.ended, f"the host's half ended before {what}: {self.errors()}"
            assert time.monotonic() < deadline, f"not within {TIMEOUT:g} s: {what}; {self.errors()}"
            self._exchange(deadline, reading)

    def wait_for_end(self) -> int:
        """Wait for the end of its standard output and of its process; return the exit status."""
        deadline = time.monotonic() + TIMEOUT
        while not self.ended:
            assert time.monotonic() < deadline, "its standard output does not end"
            self._exchange(deadline, reading=True)
        return self.process.wait(TIMEOUT)

    def errors(self) -> str:
        """Return what it has printed on its standard error."""
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "backslashreplace")

    @property
    def is_idle(self) -> bool:
        """True if it runs and every request has ended."""
        alive = not self.ended and self.stdin >= 0 and self.process.poll() is None
        return alive and all(asked.finished for asked in self.asked.values())

    def close_stdin(self) -> None:
        """Close the lifeline."""
        if self.stdin >= 0:
            os.close(self.stdin)
            if self.stdout == self.stdin:
                self.stdout = -1
            self.stdin = -1
            self._to_write.clear()

    def close_stdout(self) -> None:
        """Stop reading: writes of the host fail from now on."""
        if self.stdout >= 0:
            os.close(self.stdout)
            self.stdout = -1

    def close(self) -> None:
        """Close both pipes, and kill the host's half if it does not end."""
        self.close_stdin()
        self.close_stdout()
        try:
            self.process.wait(GIVE_UP)
        except subprocess.TimeoutExpired:
            if self.hello is not None and is_alive(self.hello["pid"]):
                os.kill(self.hello["pid"], signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        self._errors.close()

    def _exchange(self, deadline: float, reading: bool) -> None:
        """Wait until the pipes are ready, then write and read once."""
        self._queue_input()
        poller = select.poll()
        if reading and self.stdout >= 0:
            poller.register(self.stdout, select.POLLIN)
        if self._to_write and self.stdin >= 0:
            events = select.POLLOUT | (select.POLLIN if self.stdin == self.stdout else 0)
            poller.register(self.stdin, events)
        for fd, event in poller.poll(max(0.0, deadline - time.monotonic()) * 1000 + 1):
            if fd == self.stdout and event & (select.POLLIN | select.POLLHUP):
                self._handle_output(os.read(fd, 1 << 18))
            if fd == self.stdin and event & (select.POLLOUT | select.POLLERR):
                self._write_once()

    def _write_once(self) -> None:
        try:
            written = os.write(self.stdin, self._to_write[0])
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):  # the read that follows finds the end
            self._to_write.clear()
            return
        self._to_write[0] = self._to_write[0][written:]
        if not self._to_write[0]:
            self._to_write.popleft()

    def _queue_input(self) -> None:
        """Queue a frame of each payload, as far as the host has given credit for it."""
        for asked in self.asked.values():
            if asked.payload and not self._to_write and not asked.finished:
                chunk = asked.payload[: frames.CHUNK]
                if asked.credit >= len(chunk):
                    asked.credit -= len(chunk)
                    asked.payload = asked.payload[frames.CHUNK :]
                    self.send(frames.INPUT, asked.number, bytes(chunk))

    def _handle_output(self, data: bytes) -> None:
        if not data:
            self.ended = True
            return
        if self.reply is None:
            self.reply = self._handshake.feed(data)
            if self.reply is None:
                return
            data = self.reply.rest
        for kind, number, payload in self._reader.feed(data):
            if kind == frames.HELLO:
                self.hello = json.loads(payload)
            elif kind == frames.HEARTBEAT:
                self.heartbeats += 1
            else:
                self.asked[number].handle_frame(kind, payload)


def _lines(asked: SentRequest) -> int:
    return asked.output[-1].count(b"\n") if asked.output else 0


def _chunks(data: bytes) -> list[bytes]:
    return [data[start : start + frames.CHUNK] for start in range(0, len(data), frames.CHUNK)]


def _pipes() -> tuple[tuple[int, ...], int, int]:
    their_stdin, stdin = os.pipe()
    stdout, their_stdout = os.pipe()
    return (their_stdin, their_stdout), stdin, stdout


def _socket() -> tuple[tuple[int, ...], int, int]:
    ours, theirs = socket.socketpair()
    fd = ours.detach()
    return (theirs.detach(),), fd, fd


def _environment(
    folder: Path, temporary: Path, changes: Mapping[str, str | None]
) -> dict[str, str]:
    environment: dict[str, str | None] = {
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "TMPDIR": str(temporary),
        # nothing_left_behind finds the processes of this run by it.
        "LAZYCLUSTER_TEST_SESSION": os.environ.get("LAZYCLUSTER_TEST_SESSION"),
        **host_coverage.variables(),
        **changes,
    }
    return {name: value for name, value in environment.items() if value is not None}
