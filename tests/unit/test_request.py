"""Request: what a host reports of its steps, and what the waiting thread sees of that."""

from __future__ import annotations

import json
import threading
import time

import pytest

from lazycluster._conversation.request import Request
from lazycluster._shared import frames
from lazycluster.exceptions import ConnectionLostError
from support.waiting import TIMEOUT

pytestmark = pytest.mark.every_python

LOST = ConnectionLostError("lost", host="host", started=None)
PASSED = time.monotonic()
"""A deadline that has passed: `wait` looks and returns."""


class FakeWriter:
    """Records what a request sends, and how often it has input for the host."""

    def __init__(self):
        self.sent = []
        self.fed = 0

    def send(self, data):
        self.sent.append(data)

    def feed(self, source):
        self.fed += 1


class Host:
    """A host that reports to a request of some steps.

    Attributes:
        output: What the request has stored of each step's output, as (step, bytes).
        errors: Of each step's standard error.
        value: Of each step's value.
        ended: The request, once it has reported its end.
    """

    def __init__(self, steps, pieces=(), *, live=False):
        self.writer = FakeWriter()
        self.output = []
        self.errors = []
        self.value = []
        self.logged = []
        self.ended = []
        self.request = Request(
            7,
            steps,
            self.writer,
            iter(pieces),
            {
                frames.OUTPUT: lambda step, data: self.output.append((step, bytes(data))),
                frames.ERRORS: lambda step, data: self.errors.append((step, bytes(data))),
                frames.VALUE: lambda step, data: self.value.append((step, bytes(data))),
                frames.LOGGED: lambda step, data: self.logged.append((step, bytes(data))),
            },
            self.ended.append,
            live=live,
        )

    def send(self, kind, payload=b""):
        """Return True if the waiting thread is to be notified."""
        return self.request.handle_frame(kind, payload)

    def report(self, kind, **content):
        return self.send(kind, json.dumps(content).encode())

    def start(self, step):
        return self.report(frames.STARTED, step=step, pid=100 + step)

    def end(self, step, **content):
        return self.report(frames.ENDED, step=step, **(content or {"exit_status": 0}))

    def finish(self):
        return self.send(frames.FINISHED)

    def wants(self, count):
        return self.report(frames.CREDIT, bytes=count)


def wait_in_thread(request):
    """Start a thread that waits for the end of a request; call the result for what it raised."""
    raised = []

    def wait():
        try:
            while not request.finished:
                request.wait()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()

    def join():
        thread.join(TIMEOUT)
        assert not thread.is_alive()
        return raised

    return join


# --- Reports ---


def test_steps_start_and_end_in_turn():
    host = Host(2)
    request = host.request
    assert (request.step, request.pid) == (None, None)
    host.start(0)
    assert (request.step, request.pid, request.outcomes) == (0, 100, [])
    host.end(0, exit_status=3)
    assert (request.step, request.pid) == (0, None)
    assert [outcome.exit_status for outcome in request.outcomes] == [3]
    host.start(1)
    assert (request.step, request.pid) == (1, 101)
    host.end(1, signal=9)
    assert request.outcomes[1].signal == 9
    assert not request.finished
    assert host.finish()
    assert request.finished


def test_what_an_operation_returns_is_not_shared():
    """Its caller may change it, and the next host may send the same bytes."""
    first, second = Host(1), Host(1)
    first.end(0, result=["a"])
    second.end(0, result=["a"])
    first.request.outcomes[0].result.append("b")
    assert second.request.outcomes[0].result == ["a"]


def test_a_start_notifies_only_a_thread_that_has_to_know_it():
    """A notification costs two threads time, and most threads wait for the end."""
    host = Host(2)
    assert not host.start(0)
    assert not host.end(0)
    started = []

    def on_start(step):
        started.append(step)
        return step == 1

    host.request = Request(
        7, 2, host.writer, iter(()), {}, host.ended.append, live=True, on_start=on_start
    )
    assert not host.start(0)
    assert host.end(0)  # what is live prints what came before it
    assert host.start(1)
    assert started == [0, 1]


def test_a_step_may_end_without_having_started():
    """Its process could not be made."""
    host = Host(1)
    host.end(0, failure="os", message="no memory", errno=12)
    assert host.request.step is None
    assert host.request.outcomes[0].failure.errno == 12


@pytest.mark.parametrize(
    "reports",
    [
        lambda host: host.start(1),
        lambda host: (host.start(0), host.start(0)),
        lambda host: (host.start(0), host.start(1)),
        lambda host: (host.start(0), host.end(0), host.start(0)),
        lambda host: (host.start(0), host.end(0), host.start(1), host.end(1), host.start(2)),
        lambda host: (host.end(0), host.end(1), host.end(2)),
    ],
    ids=["second first", "twice", "at once", "again", "one too many", "an end too many"],
)
def test_a_report_out_of_turn_violates_the_protocol(reports):
    with pytest.raises(ValueError, match="out of turn"):
        reports(Host(2))


@pytest.mark.parametrize("kind", [frames.STARTED, frames.ENDED, frames.CREDIT])
@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"{}", b"1", b'{"step": "x"}', b"\xff"])
def test_a_malformed_report_is_an_error_that_the_reader_expects(kind, payload):
    """And whatever it was, the request does not believe that a step runs."""
    host = Host(1)
    try:
        host.send(kind, payload)
    except (ValueError, KeyError, TypeError):
        pass
    assert host.request.step is None
    assert not host.request.finished


# --- Output and values ---


def test_output_and_values_are_stored_with_the_index_of_their_step():
    host = Host(2)
    host.start(0)
    host.send(frames.OUTPUT, memoryview(b"a"))
    host.end(0)
    host.start(1)
    host.send(frames.OUTPUT, memoryview(b"b"))
    host.send(frames.VALUE, memoryview(b"c"))
    assert host.output == [(0, b"a"), (1, b"b")]
    assert host.value == [(1, b"c")]


def test_standard_error_that_is_separate_is_stored_apart():
    host = Host(1)
    host.start(0)
    host.send(frames.OUTPUT, memoryview(b"a"))
    host.send(frames.ERRORS, memoryview(b"b"))
    assert (host.output, host.errors, host.value) == ([(0, b"a")], [(0, b"b")], [])


def test_output_before_the_first_step_is_dropped():
    host = Host(1)
    assert not host.send(frames.OUTPUT, b"early")
    assert host.output == []


def test_output_notifies_only_a_thread_that_shows_it_at_once():
    """A notification for each chunk costs as much as all the rest."""
    quiet, live = Host(1), Host(1, live=True)
    for host in (quiet, live):
        host.start(0)
    assert not quiet.send(frames.OUTPUT, b"x")
    assert live.send(frames.OUTPUT, b"x")
    assert not live.send(frames.VALUE, b"x")


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("not an archive")])
def test_what_cannot_be_stored_is_the_error_of_the_waiting_thread(error):
    """And nothing is stored after it."""
    host = Host(1)
    stored = []

    def store(step, data):
        stored.append(data)
        raise error

    sinks = {frames.OUTPUT: store}
    host.request = Request(7, 1, host.writer, iter(()), sinks, host.ended.append, live=True)
    host.start(0)
    assert not host.send(frames.OUTPUT, b"first")
    assert not host.send(frames.OUTPUT, b"second")
    assert stored == [b"first"]
    with pytest.raises(type(error), match=str(error)):
        host.request.wait()


# --- Input ---


def test_input_is_sent_while_the_host_wants_it():
    chunk = bytes(frames.CHUNK)
    pieces = [chunk, chunk, chunk, b"last"]
    host = Host(1, pieces)
    request = host.request
    sent = []
    while (frame := request.next_frame()) is not None:
        sent.append(frame)
    assert sent == [frames.encode(frames.INPUT, 7, chunk)] * 2  # FIRST_WINDOW holds two
    assert request.has_input
    assert not host.wants(frames.CHUNK + 3)
    assert host.writer.fed == 1
    assert request.next_frame() == frames.encode(frames.INPUT, 7, chunk)
    assert request.next_frame() is None  # 3 bytes do not hold the last chunk
    host.wants(1)
    assert request.next_frame() == frames.encode(frames.INPUT, 7, b"last")
    assert not request.has_input
    assert request.next_frame() is None


def test_no_input_is_sent_for_a_request_that_is_over():
    host = Host(1, [b"input"])
    host.finish()
    assert host.request.next_frame() is None


def test_no_input_is_sent_for_a_request_that_failed():
    host = Host(1, [b"input"])
    host.request.fail(LOST)
    assert host.request.next_frame() is None


def test_kill_sends_the_grace():
    host = Host(1)
    host.request.kill(1.5)
    (frame,) = host.writer.sent
    assert frame == frames.encode(frames.KILL, 7, b'{"grace": 1.5}')


# --- Waiting ---


def test_a_wait_whose_deadline_has_passed_returns():
    Host(1).request.wait(PASSED)


def test_a_wait_returns_for_what_came_before_it():
    """The notification may have come when no thread waited yet."""
    host = Host(1)
    host.start(0)
    host.request.notify()
    host.request.wait()
    host.request.wait(PASSED)  # and once only: another would wait


def test_the_waiting_thread_is_woken_by_the_end():
    host = Host(1)
    join = wait_in_thread(host.request)
    host.start(0)
    host.end(0)
    host.finish()
    host.request.notify()
    assert join() == []


def test_the_waiting_thread_gets_the_error_of_the_connection():
    host = Host(1)
    join = wait_in_thread(host.request)
    host.request.fail(LOST)
    assert join() == [LOST]


def test_the_first_error_counts():
    host = Host(1)
    host.request.fail(OSError("disk full"))
    host.request.fail(LOST)
    with pytest.raises(OSError, match="disk full"):
        host.request.wait()


def test_an_error_after_the_end_does_not_count():
    """The connection may be lost when all has come."""
    host = Host(1)
    host.finish()
    host.request.fail(LOST)
    host.request.wait()


# --- The report of the end ---


def test_the_end_is_reported_once_all_frames_that_came_together_are_handled():
    host = Host(1)
    host.start(0)
    host.end(0)
    host.finish()
    assert host.ended == []
    host.request.notify()
    host.request.notify()
    host.request.fail(LOST)
    assert host.ended == [host.request]
    assert host.request.error is None


def test_an_error_is_reported_as_the_end():
    host = Host(1)
    host.start(0)
    host.request.notify()
    assert host.ended == []
    host.request.fail(LOST)
    host.request.fail(OSError("later"))
    assert host.ended == [host.request]
    assert host.request.error is LOST


def test_a_kill_waits_for_the_end_or_for_its_timeout():
    host = Host(1)
    host.request.kill_and_wait(5, 0)
    assert json.loads(host.writer.sent[0][frames.HEADER.size :]) == {"grace": 5}
    host.finish()
    host.request.kill_and_wait(0, TIMEOUT)


def test_a_kill_does_not_raise_the_error_of_the_lost_connection():
    host = Host(1)
    host.request.fail(LOST)
    host.request.kill_and_wait(0, TIMEOUT)
