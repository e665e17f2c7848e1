"""Conversation: requests, frames and ends over a transport that is a script, with no ssh."""

from __future__ import annotations

import copy
import json
import math
from types import SimpleNamespace

import pytest

from lazycluster._conversation import conversation as conversation_module
from lazycluster._conversation.conversation import DESCRIPTION_LIMIT, Conversation
from lazycluster._shared import frames
from lazycluster._ssh.resolved import ResolvedConfig
from lazycluster._ssh.settings import Settings
from lazycluster.exceptions import (
    ConnectionLostError,
    ForwardError,
    LazyclusterError,
    ProtocolError,
    PythonNotFoundError,
    PythonVersionError,
)

pytestmark = pytest.mark.every_python

KEEPALIVE = 60.0
SETTINGS = Settings("host", keepalive=KEEPALIVE)
# It needs no module beyond the bootstrap's.
STEP = {"kind": "operation", "operation": "make_directory", "arguments": {"path": "a"}}
FUNCTION = {"kind": "function", "input": 0, "python": [3, 9], "contents": [], "levels": {}}


class FakeTransport:
    """A transport whose reader thread is the test.

    Attributes:
        script: What `read` returns: bytes, or None for a deadline that passes; the end at its end.
        deadlines: The deadlines of the reads so far.
        error: The reason of the end, None before it.
    """

    def __init__(self, settings, config, remote_command, spent, on_login_over):
        self.master = SimpleNamespace(
            folder="/nonexistent",
            lifeline=-1,
            log=lambda: "the log",
            has_printed=lambda _: True,
        )
        self.script = []
        self.deadlines = []
        self.closing = False
        self.error = None

    def start(self, session):
        self.session = session

    def read(self, deadline):
        self.deadlines.append(deadline)
        return self.script.pop(0) if self.script else b""

    @property
    def ended(self):
        return self.error is not None

    def end_error(self, started):
        error = copy.copy(self.error)
        error.started = started
        return error

    def lost_error(self, started, note=""):
        return ConnectionLostError(f"lost{note}", host="host", started=started)


class FakeWriter:
    """A writer whose pipe always has space.

    Attributes:
        sent: What was written, a write each.
        fed: The requests that have more input.
    """

    def __init__(self, fd, name):
        self.sent = []
        self.fed = []
        self.last = 0.0

    def send(self, data):
        self.sent.append(data)

    def heartbeat(self, data):
        self.send(data)

    def feed(self, source):
        self.fed.append(source)

    def close(self):
        return True


class Host:
    """A conversation and the script of its host."""

    def __init__(self):
        self.conversation = Conversation(SETTINGS, ResolvedConfig(SETTINGS))
        self.transport = self.conversation.transport
        self.writer = self.conversation._writer
        (bootstrap,) = self.writer.sent
        self.token = next(word for word in bootstrap.split() if word.startswith(b"lazycluster-"))
        self.writer.sent.clear()

    def reply(self, text=b"python", rest=b""):
        """Return what the conversation takes for the first frames."""
        return self.conversation.find_reply(self.token + b" " + text + b"\n" + rest)

    def request(self, *steps, **keywords):
        keywords = {"working_dir": None, "environment": {}, **keywords}
        return self.conversation.request(steps or (STEP,), **keywords)

    def frames(self):
        """Return the frames that have been written since the last time."""
        data = b"".join(self.writer.sent)
        self.writer.sent.clear()
        found = frames.FrameReader(frames.TO_SUPERVISOR).feed(data)
        return [(kind, number, bytes(payload)) for kind, number, payload in found]

    def serve(self, *script):
        """Let the host send this and go; return the reason of the end."""
        self.transport.script = list(script)
        return self.conversation.serve(b"")

    def end(self):
        """Do what the transport does at the end."""
        self.transport.error = ConnectionLostError("lost", host="host", started=None)
        self.conversation.end(self.transport.error)


@pytest.fixture
def new_host(monkeypatch):
    """A host that has not replied yet."""
    monkeypatch.setattr(conversation_module, "Transport", FakeTransport)
    monkeypatch.setattr(conversation_module, "Writer", FakeWriter)
    return Host()


@pytest.fixture
def host(new_host):
    """A host with a Python, which has replied."""
    assert new_host.reply() == b""
    return new_host


def frame(kind, content=b"", number=1):
    payload = content if isinstance(content, bytes) else json.dumps(content).encode()
    return frames.encode(kind, number, payload)


def all_of_a_step(number=1, *, output=b""):
    return [
        frame(frames.STARTED, {"step": 0, "pid": 5}, number),
        *([frame(frames.OUTPUT, output, number)] if output else []),
        frame(frames.ENDED, {"step": 0, "exit_status": 0}, number),
        frame(frames.FINISHED, b"", number),
    ]


# --- The reply ---


def test_the_reply_is_found_behind_noise(new_host):
    assert new_host.conversation.find_reply(b"Welcome!\n") is None
    assert new_host.conversation.noise == "Welcome!"
    assert new_host.reply(rest=b"frames") == b"frames"
    assert new_host.conversation.has_python


def test_another_token_is_not_a_reply(new_host):
    """What a start file prints cannot be taken for the host's reply."""
    assert new_host.conversation.find_reply(b"lazycluster-" + b"0" * 32 + b" python\n") is None


@pytest.mark.parametrize(
    ("reply", "error"),
    [(b"none - -", PythonNotFoundError), (b"old 2.7.18", PythonVersionError)],
)
def test_without_a_python_requests_fail_and_the_connection_stays(new_host, reply, error):
    """Those before the reply and those after it; commands and forwards do not need a Python."""
    early = new_host.request()
    assert new_host.reply(reply) == b""
    assert not new_host.conversation.has_python
    with pytest.raises(error):
        early.wait()
    with pytest.raises(error):
        new_host.request()
    ended = new_host.serve(b"noise", b"more noise")
    assert isinstance(ended, ConnectionLostError)
    assert new_host.transport.deadlines == [math.inf] * 3  # no heartbeat is expected there
    assert not new_host.conversation.stop_writing()  # no supervisor ends there by itself


def test_what_interpreters_have_printed_may_come_behind_the_reply(new_host):
    """Standard error goes another way; its last line says that all has come."""
    master, asked_for = new_host.transport.master, []

    def print_late(line):
        asked_for.append(line)
        if len(asked_for) == 3:
            master.log = lambda: "no such module: python/9"
        return len(asked_for) == 3

    master.has_printed = print_late
    early = new_host.request()
    new_host.reply(b"none 1")
    with pytest.raises(PythonNotFoundError, match="no such module: python/9"):
        early.wait()
    assert set(asked_for) == {f"{new_host.conversation.token} end\n".encode()}


# --- Requests ---


def test_a_request_is_written_before_the_reply(new_host):
    """A login and its first request take one round trip."""
    new_host.request(working_dir="/tmp", environment={"A": "1"}, task=7)
    ((kind, number, payload),) = new_host.frames()
    assert (kind, number) == (frames.REQUEST, 1)
    assert json.loads(payload) == {
        "steps": [STEP],
        "working_dir": "/tmp",
        "cwd": None,
        "environment": {"A": "1"},
        "task": 7,
    }


def test_requests_are_numbered_in_their_order(host):
    assert [host.request().number for _ in range(3)] == [1, 2, 3]
    assert [number for _, number, _ in host.frames()] == [1, 2, 3]


def test_the_first_input_is_written_with_the_request(host):
    """One write, so one packet."""
    request = host.request(chunks=iter([b"input"]))
    assert len(host.writer.sent) == 1
    assert host.frames()[1:] == [(frames.INPUT, 1, b"input")]
    assert not request.has_input
    assert host.writer.fed == []


def test_the_writer_takes_the_rest_of_the_input(host):
    request = host.request(chunks=iter([b"input", b"more"]))
    assert request.has_input
    assert host.writer.fed == [request]


def test_a_module_is_sent_before_its_first_use_only(host):
    step = {"kind": "operation", "operation": "port_state", "arguments": {"port": 1}}
    host.request(step)
    host.request(step)
    kinds = [kind for kind, _, _ in host.frames()]
    assert kinds[-1] == frames.REQUEST
    assert kinds.count(frames.REQUEST) == 2
    assert frames.MODULES not in kinds[kinds.index(frames.REQUEST) :]


def test_a_call_that_is_repeated_has_the_same_description(host):
    """And another one has its own, though that of the last call is kept."""
    environments = [{"A": "1"}, {"A": "1"}, {"A": "2"}, {}, {"A": "1"}]
    for environment in environments:
        host.request(FUNCTION, environment=environment)
    described = [json.loads(data) for kind, _, data in host.frames() if kind == frames.REQUEST]
    assert [one["environment"] for one in described] == environments
    assert all(one["steps"] == [FUNCTION] for one in described)


def test_a_long_description_is_cut_into_parts(host):
    """No frame holds up the others for long; together they are the description."""
    text = "x" * (frames.CHUNK + 100)
    host.request({**STEP, "arguments": {"path": text}})
    found = host.frames()
    assert [kind for kind, _, _ in found] == [frames.REQUEST_PART, frames.REQUEST]
    assert (
        json.loads(b"".join(data for _, _, data in found))["steps"][0]["arguments"]["path"] == text
    )


def test_a_description_beyond_the_limit_is_refused(host):
    with pytest.raises(ValueError, match="Send a file instead"):
        host.request({**STEP, "arguments": {"path": "x" * DESCRIPTION_LIMIT}})
    assert host.frames() == []
    assert host.request().number == 1


def test_input_that_cannot_be_read_is_the_callers_error(host):
    """And nothing has been sent."""

    def chunks():
        raise OSError("the disk")
        yield b""

    with pytest.raises(OSError, match="the disk"):
        host.request(chunks=chunks())
    assert host.frames() == []


def test_a_request_after_the_end_has_not_started(host):
    host.end()
    with pytest.raises(ConnectionLostError) as caught:
        host.request()
    assert caught.value.started is False


# --- Frames ---


def test_frames_reach_their_request(host):
    output = {}
    requests = [
        host.request(on_output=lambda step, data, at=at: output.setdefault(at, bytes(data)))
        for at in (1, 2)
    ]
    first, second = all_of_a_step(1, output=b"one"), all_of_a_step(2, output=b"two")
    mixed = [piece for pair in zip(first, second) for piece in pair]
    assert isinstance(host.serve(b"".join(mixed)), ConnectionLostError)
    assert output == {1: b"one", 2: b"two"}
    for request in requests:
        assert request.finished
        request.wait()


def test_frames_may_come_in_any_chunks(host):
    request = host.request()
    data = b"".join(all_of_a_step(output=b"some output"))
    host.serve(*(data[at : at + 1] for at in range(len(data))))
    assert request.finished


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        frame(frames.KILL, {"grace": 0}),
        frame(frames.OUTPUT, b"x", number=7),
        frame(frames.STARTED, b"{"),
        frame(frames.STARTED, {"step": 5, "pid": 1}),
        frame(frames.ENDED, b"[" * 100_000),
        b"".join(all_of_a_step()) + frame(frames.OUTPUT, b"late"),
    ],
    ids=[
        "no frame",
        "our own",
        "no request",
        "no JSON",
        "no such step",
        "nested",
        "behind the end",
    ],
)
def test_bytes_that_violate_the_protocol_end_the_connection(host, data):
    host.request()
    error = host.serve(data, b"never read")
    assert type(error) is ProtocolError
    assert host.transport.script == [b"never read"]


def test_frames_before_a_violation_count(host):
    request = host.request()
    error = host.serve(b"".join(all_of_a_step()) + frame(frames.OUTPUT, b"x", number=7))
    assert type(error) is ProtocolError
    assert request.finished


# --- Signs of life ---


def test_a_heartbeat_is_sent_when_nothing_was_written_for_a_while(host):
    host.serve(None, None)
    assert [(kind, number) for kind, number, _ in host.frames()] == [(frames.HEARTBEAT, 0)] * 2


def test_a_host_that_is_silent_for_four_periods_is_lost(host, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(conversation_module.time, "monotonic", lambda: now[0])
    deadlines = []

    def read(deadline):
        deadlines.append(deadline)
        now[0] = deadline

    def heartbeat(data):
        host.writer.last = now[0]

    host.transport.read = read
    host.writer.last = now[0]
    host.writer.heartbeat = heartbeat
    error = host.conversation.serve(b"")
    assert type(error) is ConnectionLostError
    assert "no sign of life for 240 s" in str(error)
    assert error.stderr == "the log"
    assert deadlines == [1000.0 + periods * KEEPALIVE for periods in (1, 2, 3, 4)]


# --- The end ---


def test_the_end_tells_each_request_whether_its_step_had_started(host):
    ready, running, between = host.request(), host.request(), host.request(STEP, STEP)
    host.serve(
        frame(frames.STARTED, {"step": 0, "pid": 5}, 2),
        frame(frames.STARTED, {"step": 0, "pid": 6}, 3),
        frame(frames.ENDED, {"step": 0, "exit_status": 0}, 3),
    )
    host.end()
    for request, started in ((ready, None), (running, True), (between, None)):
        with pytest.raises(ConnectionLostError) as caught:
            request.wait()
        assert caught.value.started is started
        assert not request.closed


def test_requests_that_the_manager_ends_are_marked(host):
    request = host.request()
    host.transport.closing = True
    host.end()
    assert request.closed


def test_a_request_that_has_finished_does_not_fail_at_the_end(host):
    request = host.request()
    host.serve(b"".join(all_of_a_step()))
    host.end()
    request.wait()
    assert request.outcomes[0].exit_status == 0


# --- Operations ---


def operate(host, content, monkeypatch):
    """Call an operation whose process ends like this."""

    def wait(request, deadline=None):
        host.serve(
            frame(frames.STARTED, {"step": 0, "pid": 5}, request.number),
            frame(frames.ENDED, {"step": 0, **content}, request.number),
            frame(frames.FINISHED, b"", request.number),
        )

    monkeypatch.setattr(conversation_module.Request, "wait", wait)
    return host.conversation.operate("port_state", {"port": 1})


def test_an_operation_returns_its_result(host, monkeypatch):
    assert operate(host, {"exit_status": 0, "result": {"free": True}}, monkeypatch) == {
        "free": True
    }


def test_the_host_works_on_an_operation_while_something_else_is_done(host, monkeypatch):
    """If that fails, the operation is ended."""
    ended = []
    monkeypatch.setattr(conversation_module.Request, "kill", lambda _, grace: ended.append(grace))

    def fail():
        assert len(host.conversation._requests) == 1
        assert not ended
        raise ForwardError("", host="host")

    with pytest.raises(ForwardError):
        host.conversation.operate("port_state", {"port": 1}, meanwhile=fail)
    assert ended == [0]


def test_an_operation_that_fails_raises_the_hosts_oserror(host, monkeypatch):
    content = {"failure": "os", "errno": 13, "message": "Permission denied", "path": "/x"}
    with pytest.raises(PermissionError) as caught:
        operate(host, content, monkeypatch)
    assert caught.value.filename == "/x"


def test_an_operation_whose_process_is_killed_is_an_error(host, monkeypatch):
    with pytest.raises(LazyclusterError, match="port_state on host did not come to its end"):
        operate(host, {"signal": 9}, monkeypatch)
