"""The host's half over a pair of pipes, with no ssh: what sshd's login shell would be given.

It speaks the wire format directly, and every wait has an end.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lazycluster._conversation import bootstrap
from lazycluster._conversation.host_sources import cloudpickle_sources
from lazycluster._functions.payload import dump_call
from lazycluster._shared import archive, frames
from lazycluster._ssh.settings import Settings
from support import host_coverage
from support.processes import is_alive
from support.waiting import TIMEOUT

KEEPALIVE = 60.0
"""Seconds; no test that uses it is silent for four times as long."""

GIVE_UP = 5.0
"""Seconds that a supervisor has to end of itself before it is killed; it needs at most 4."""

Condition = Callable[[], bool]


def command(text: str, by: str | None = "/bin/sh") -> dict[str, Any]:
    """A step that runs a command by a shell, None for the account's own."""
    return {"kind": "command", "command": text, "shell": by}


def operation(name: str, **arguments: Any) -> dict[str, Any]:
    """A step that does something of the library's own."""
    return {"kind": "operation", "operation": name, "arguments": arguments}


def function(payload: bytes, python: Sequence[int] = sys.version_info[:2]) -> dict[str, Any]:
    """A step that calls a function."""
    return {"kind": "function", "input": len(payload), "python": list(python)}


class Asked:
    """A request and what has come for it.

    Attributes:
        pids: Of the steps that have started, in order.
        output: What each of them printed.
        value: What each of them returned, as it was pickled.
        ended: What was told of each step that has ended.
        finished: Whether nothing more comes.
    """

    def __init__(self, number: int, payload: bytes) -> None:
        self.number = number
        self.pids: list[int] = []
        self.output: list[bytearray] = []
        self.value: list[bytearray] = []
        self.ended: list[dict[str, Any]] = []
        self.finished = False
        self.on_output: Callable[[bytes], None] | None = None
        self.payload = memoryview(payload)
        self.credit = frames.FIRST_WINDOW

    def take(self, kind: int, payload: bytes) -> None:
        """One frame; they come in an order that makes sense."""
        assert not self.finished, f"frame {kind} after the end of request {self.number}"
        if kind == frames.STARTED:
            told = json.loads(payload)
            assert told["step"] == len(self.pids) == len(self.ended)
            self.pids.append(told["pid"])
            self.output.append(bytearray())
            self.value.append(bytearray())
        elif kind == frames.OUTPUT:
            assert len(self.pids) == len(self.ended) + 1, "output between two steps"
            if self.on_output is not None:
                self.on_output(payload)
            else:
                self.output[-1] += payload
        elif kind == frames.VALUE:
            assert len(self.pids) == len(self.ended) + 1, "a value between two steps"
            self.value[-1] += payload
        elif kind == frames.ENDED:
            told = json.loads(payload)
            assert told["step"] == len(self.ended)
            self.ended.append(told)
        elif kind == frames.CREDIT:
            self.credit += json.loads(payload)["bytes"]
        else:
            assert kind == frames.FINISHED
            self.finished = True

    @property
    def text(self) -> str:
        """What its last step printed."""
        return self.output[-1].decode()

    @property
    def returned(self) -> Any:
        """The value of its last step."""
        import pickle

        assert self.ended[-1].get("returned"), (self.ended, bytes(self.output[-1]))
        return pickle.loads(bytes(self.value[-1]))


class PipeHost:
    """A supervisor that runs here, started as on a host.

    Args:
        python: The `python=` of the user, None to let the host look for one.
        keepalive: Seconds between heartbeats.
        environment: Variables, in addition to a few; None removes one.
        folder: Where it starts, and its home directory.
        temporary: Its `$TMPDIR`.
        login_shell: Its name or path.
        under: Words before those of the login shell.
        one_socket: Whether standard input and output are one socket, as sshd gives them.
    """

    def __init__(
        self,
        python: str | None,
        *,
        folder: Path,
        temporary: Path,
        keepalive: float = KEEPALIVE,
        environment: Mapping[str, str | None] | None = None,
        login_shell: str = "/bin/sh",
        under: Sequence[str] = (),
        one_socket: bool = False,
    ) -> None:
        self.token = bootstrap.make_token()
        self.asked: dict[int, Asked] = {}
        self.answer: bootstrap.HandshakeReply | None = None
        self.hello: dict[str, Any] | None = None
        self.heartbeats = 0
        self.ended = False  # whether its standard output is at its end
        self._preamble = bootstrap.Handshake(self.token)
        self._reader = frames.FrameReader(frames.TO_MANAGER)
        self._modules_sent = False
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
        settings = Settings("localhost", python=python, keepalive=keepalive)
        self.write(bootstrap.bootstrap_input(self.token, settings))

    # What is said

    def write(self, data: bytes) -> None:
        """Have bytes written as soon as they can be."""
        self._to_write.append(memoryview(data))

    def send(self, kind: int, number: int = 0, payload: bytes | Mapping[str, Any] = b"") -> None:
        """Have a frame written."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode("ascii")
        self.write(frames.encode(kind, number, data))

    def ask(
        self,
        *steps: Mapping[str, Any],
        working_dir: str | None = None,
        environment: Mapping[str, str] | None = None,
        payload: bytes = b"",
    ) -> Asked:
        """Have a request written; do not wait for anything."""
        number = len(self.asked) + 1
        description = json.dumps(
            {"steps": steps, "working_dir": working_dir, "environment": environment or {}}
        ).encode("ascii")
        *parts, last = _chunks(description)
        for part in parts:
            self.send(frames.REQUEST_PART, number, part)
        self.send(frames.REQUEST, number, last)
        self.asked[number] = Asked(number, payload)
        return self.asked[number]

    def kill(self, asked: Asked, grace: float) -> None:
        """Have a KILL written."""
        self.send(frames.KILL, asked.number, {"grace": grace})

    def run(self, *steps: Mapping[str, Any], **arguments: Any) -> Asked:
        """Ask, and wait until all of it is over."""
        asked = self.ask(*steps, **arguments)
        self.finish(asked)
        return asked

    def run_command(self, text: str, **arguments: Any) -> Asked:
        """Run one command."""
        return self.run(command(text), **arguments)

    def ask_call(self, call: Callable[..., object], /, *, before: Any = (), **kwargs: Any) -> Asked:
        """Ask for a call of a function, by value, after some other steps."""
        self.send_modules()
        spool = dump_call(call, (), kwargs)
        payload = spool.read_at(0, len(spool))
        spool.close()
        return self.ask(*before, function(payload), payload=payload)

    def call(self, call: Callable[..., object], /, **kwargs: Any) -> Asked:
        """Call a function on the host, by value."""
        asked = self.ask_call(call, **kwargs)
        self.finish(asked)
        return asked

    def send_modules(self) -> None:
        """Have cloudpickle sent, once."""
        if not self._modules_sent:
            self._modules_sent = True
            self.send(frames.MODULES, 0, archive.pack(cloudpickle_sources()))

    # What is waited for

    def finish(self, *asked: Asked) -> None:
        """Wait until these requests are over."""
        self.wait(lambda: all(one.finished for one in asked), "the end of a request")

    def wait_for_output(self, asked: Asked, count: int = 1) -> list[str]:
        """Wait until the running step has printed that many lines; the lines."""
        self.wait(lambda: asked.finished or _lines(asked) >= count, f"{count} lines of output")
        assert _lines(asked) >= count, (asked.ended, asked.output)
        return asked.text.splitlines()

    def wait_for_answer(self) -> bootstrap.HandshakeReply:
        """Wait until the bootstrap has said which Python there is."""
        self.wait(lambda: self.answer is not None, "the answer")
        assert self.answer is not None
        return self.answer

    def wait_for_hello(self) -> dict[str, Any]:
        """Wait until the supervisor has said who it is."""
        self.wait(lambda: self.hello is not None, "the hello")
        assert self.hello is not None
        return self.hello

    def wait_until_written(self) -> None:
        """Wait until the host's pipe has taken all; nothing is read."""
        self.wait(lambda: not self._to_write, "room in the pipe", reading=False)

    def wait(self, condition: Condition, what: str, reading: bool = True) -> None:
        """Write and read until it holds; that it does not in time is a failure, as is the end."""
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert not self.ended, f"the host's half ended before {what}: {self.errors()}"
            assert time.monotonic() < deadline, f"not within {TIMEOUT:g} s: {what}; {self.errors()}"
            self._exchange(deadline, reading)

    def wait_for_end(self) -> int:
        """Wait until its standard output is at its end and it has gone; the exit status."""
        deadline = time.monotonic() + TIMEOUT
        while not self.ended:
            assert time.monotonic() < deadline, "its standard output does not end"
            self._exchange(deadline, reading=True)
        return self.process.wait(TIMEOUT)

    def errors(self) -> str:
        """What it has printed on its standard error."""
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "backslashreplace")

    # Its end

    @property
    def is_idle(self) -> bool:
        """Whether it lives and has nothing to do."""
        alive = not self.ended and self.stdin >= 0 and self.process.poll() is None
        return alive and all(asked.finished for asked in self.asked.values())

    def close_stdin(self) -> None:
        """The end of the lifeline."""
        if self.stdin >= 0:
            os.close(self.stdin)
            if self.stdout == self.stdin:
                self.stdout = -1
            self.stdin = -1
            self._to_write.clear()

    def close_stdout(self) -> None:
        """Nobody reads any more."""
        if self.stdout >= 0:
            os.close(self.stdout)
            self.stdout = -1

    def close(self) -> None:
        """Let it end, and make sure that it does."""
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

    # Bytes

    def _exchange(self, deadline: float, reading: bool) -> None:
        """Write and read once, when one of them can be."""
        self._queue_input()
        poller = select.poll()
        if reading and self.stdout >= 0:
            poller.register(self.stdout, select.POLLIN)
        if self._to_write and self.stdin >= 0:
            events = select.POLLOUT | (select.POLLIN if self.stdin == self.stdout else 0)
            poller.register(self.stdin, events)
        for fd, event in poller.poll(max(0.0, deadline - time.monotonic()) * 1000 + 1):
            if fd == self.stdout and event & (select.POLLIN | select.POLLHUP):
                self._take(os.read(fd, 1 << 18))
            if fd == self.stdin and event & (select.POLLOUT | select.POLLERR):
                self._write_once()

    def _write_once(self) -> None:
        try:
            written = os.write(self.stdin, self._to_write[0])
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):  # that it ended is seen when reading
            self._to_write.clear()
            return
        self._to_write[0] = self._to_write[0][written:]
        if not self._to_write[0]:
            self._to_write.popleft()

    def _queue_input(self) -> None:
        """As much of the payloads as was asked for, a frame of each at a time."""
        for asked in self.asked.values():
            if asked.payload and not self._to_write and not asked.finished:
                piece = asked.payload[: frames.CHUNK]
                if asked.credit >= len(piece):
                    asked.credit -= len(piece)
                    asked.payload = asked.payload[frames.CHUNK :]
                    self.send(frames.INPUT, asked.number, bytes(piece))

    def _take(self, data: bytes) -> None:
        if not data:
            self.ended = True
            return
        if self.answer is None:
            self.answer = self._preamble.feed(data)
            if self.answer is None:
                return
            data = self.answer.rest
        for kind, number, payload in self._reader.feed(data):
            if kind == frames.HELLO:
                self.hello = json.loads(payload)
            elif kind == frames.HEARTBEAT:
                self.heartbeats += 1
            else:
                self.asked[number].take(kind, payload)


def _lines(asked: Asked) -> int:
    return asked.output[-1].count(b"\n") if asked.output else 0


def _chunks(data: bytes) -> list[bytes]:
    return [data[start : start + frames.CHUNK] for start in range(0, len(data), frames.CHUNK)]


def _pipes() -> tuple[tuple[int, ...], int, int]:
    their_stdin, stdin = os.pipe()
    stdout, their_stdout = os.pipe()
    return (their_stdin, their_stdout), stdin, stdout


def _socket() -> tuple[tuple[int, ...], int, int]:
    import socket

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
        # By which the session's own check finds what stays behind.
        "LAZYCLUSTER_TEST_SESSION": os.environ.get("LAZYCLUSTER_TEST_SESSION"),
        **host_coverage.variables(),
        **changes,
    }
    return {name: value for name, value in environment.items() if value is not None}
