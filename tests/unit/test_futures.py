"""RemoteFuture: what a host reports, at any moment, and what concurrent.futures makes of it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import json
import os
import pickle
import threading
import weakref
from types import SimpleNamespace

import pytest

from lazycluster._conversation.request import Request
from lazycluster._shared import frames
from lazycluster._tasks import invocation as invocation_module
from lazycluster._tasks import unfinished
from lazycluster._tasks.completion import completion, timers
from lazycluster._tasks.execution import Target
from lazycluster._tasks.invocation import Invocation
from lazycluster._tasks.starter import Starter
from lazycluster._tasks.steps import RunCommand, RunFunction
from lazycluster.exceptions import (
    AuthenticationError,
    ConnectionLostError,
    LazyclusterError,
    RemoteFunctionError,
    SerializationError,
    StepTimeoutError,
)
from lazycluster.futures import RemoteFuture
from support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.every_python

LOST = ConnectionLostError("lost", host="h", started=None)
UNSTARTED = ConnectionLostError("lost", host="h", started=False)


class Host:
    """A conversation that the test leads.

    Attributes:
        request: The last request.
        killed: The grace of each kill.
        refuses: Raised in place of the next request.
    """

    def __init__(self):
        self.killed = []
        self.refuses = None
        self.requests = []

    def request(self, steps, *, on_output, on_errors, on_value, on_logged, on_end, **places):
        if self.refuses is not None:
            error, self.refuses = self.refuses, None
            raise error
        writer = SimpleNamespace(send=self._send, feed=lambda source: None)
        sinks = {
            frames.OUTPUT: on_output,
            frames.ERRORS: on_errors,
            frames.VALUE: on_value,
            frames.LOGGED: on_logged,
        }
        request = Request(1, len(steps), writer, iter(()), sinks, on_end, live=False)
        self.requests.append(request)
        self.places = places
        return request

    def _send(self, frame):
        self.killed.append(json.loads(frame[frames.HEADER.size :])["grace"])

    @property
    def target(self):
        return Target(self, "/work", {"A": "1"}, "sub")

    def send(self, kind, payload=b""):
        self.requests[-1].handle_frame(kind, payload)

    def start(self):
        self.send(frames.STARTED, b'{"step": 0, "pid": 7}')

    def end(self, **outcome):
        self.send(frames.ENDED, json.dumps({"step": 0, **outcome}).encode())
        self.send(frames.FINISHED)
        self.requests[-1].notify()

    def returns(self, value):
        self.start()
        self.send(frames.VALUE, memoryview(pickle.dumps(value)))
        self.end(exit_status=0, returned=True)


@pytest.fixture(autouse=True)
def _forget_unfinished():
    """Keep what is left unfinished here from being reported at the end of the tests."""
    yield
    unfinished._entries.clear()


@pytest.fixture
def host():
    return Host()


def submit(host, **options):
    invocation = Invocation(RunFunction("f"), "h", **options)
    future = RemoteFuture(invocation)
    Starter("h").start(invocation, host.target, lambda: host.target)
    return future


@pytest.fixture
def future(host):
    return submit(host)


def settled():
    """Wait until the completion thread has done what it has got."""
    completion.start()
    done = threading.Event()
    completion.post(done.set)
    assert done.wait(TIMEOUT)


class Loads:
    """Counts how often it is unpickled."""

    count = 0

    def __reduce__(self):
        return Loads._load, ()

    @staticmethod
    def _load():
        Loads.count += 1
        return [Loads.count]


# --- The value ---


def test_a_value_is_unpickled_when_it_is_asked_for_and_once(host, future):
    before = Loads.count
    host.returns(Loads())
    assert future.done()
    assert Loads.count == before
    threads = concurrent.futures.ThreadPoolExecutor(4)
    with threads:
        values = list(threads.map(lambda _: future.result(TIMEOUT), range(4)))
    assert Loads.count == before + 1
    assert all(value is values[0] for value in values)


def test_a_value_that_cannot_be_unpickled_is_the_exception(host, future):
    host.start()
    host.send(frames.VALUE, memoryview(b"cno_such_module\nname\n."))
    host.end(exit_status=0, returned=True)
    assert isinstance(future.exception(), SerializationError)
    with pytest.raises(SerializationError, match="no_such_module"):
        future.result()


def test_a_host_that_sends_no_value_does_not_block(host, future):
    host.start()
    host.end(exit_status=0, returned=True)
    with pytest.raises(SerializationError, match="no value"):
        future.result(TIMEOUT)


def test_a_value_of_a_command_is_not_unpickled(host):
    """A hostile host may send one."""
    invocation = Invocation(RunCommand("true"), "h")
    future = RemoteFuture(invocation)
    Starter("h").start(invocation, host.target, lambda: host.target)
    before = Loads.count
    host.returns(Loads())
    with pytest.raises(SerializationError):
        future.result(TIMEOUT)
    assert Loads.count == before


def test_what_a_call_needs_is_freed_at_its_end(host):
    owner = Host()
    invocation = Invocation(RunFunction("f"), "h")
    invocation.owner = owner
    future = RemoteFuture(invocation)
    Starter("h").start(invocation, host.target, lambda: host.target)
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is not None
    host.returns(1)
    gc.collect()
    assert gone() is None
    assert future.result() == 1


def test_the_request_has_the_places_of_its_target(host, future):
    assert host.places["working_dir"] == "/work"
    assert host.places["environment"] == {"A": "1"}
    assert host.places["cwd"] == "sub"


# --- Failures ---


def test_a_process_that_ends_is_an_error(host, future):
    host.start()
    host.send(frames.OUTPUT, memoryview(b"last words"))
    host.end(signal=9)
    with pytest.raises(RemoteFunctionError) as caught:
        future.result(TIMEOUT)
    assert caught.value.signal == 9


def test_wait_for_the_first_exception_knows_a_failure(host):
    failed, other = submit(host), submit(host)
    host.requests[-2].fail(LOST)
    done, rest = concurrent.futures.wait([failed, other], TIMEOUT, "FIRST_EXCEPTION")
    assert (done, rest) == ({failed}, {other})
    assert other.cancel()


def test_a_request_that_has_no_outcome_was_stopped(host, future):
    host.send(frames.FINISHED)
    host.requests[-1].notify()
    with pytest.raises(LazyclusterError, match="before it began"):
        future.result(TIMEOUT)


def test_output_that_cannot_be_stored_ends_the_call(host, monkeypatch):
    def refuse(self, stream, data):
        raise OSError("disk full")

    monkeypatch.setattr(invocation_module.Lines, "append", refuse)
    future = submit(host, on_output=print)
    host.start()
    host.send(frames.OUTPUT, memoryview(b"x"))
    with pytest.raises(OSError, match="disk full"):
        future.result(TIMEOUT)
    assert host.killed == [invocation_module.TERMINATE_GRACE]


def test_a_traceback_does_not_grow_while_the_future_is_kept(host, future):
    host.requests[-1].fail(LOST)
    assert future.exception(TIMEOUT).__traceback__ is None


# --- Cancelling ---


def test_cancel_notifies_at_once_and_kills_behind_it(host, future):
    host.start()
    waiting = concurrent.futures.ThreadPoolExecutor(1)
    with waiting:
        found = waiting.submit(concurrent.futures.wait, [future], TIMEOUT)
        assert future.running()
        assert future.cancel()
        assert found.result(TIMEOUT).done == {future}
    assert host.killed == [invocation_module.TERMINATE_GRACE]
    assert not future.running()
    host.end(signal=15)  # comes later, and changes nothing
    assert future.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        future.exception()


def test_the_outcome_counts_if_it_comes_before_a_cancel(host, future):
    host.returns(3)
    assert not future.cancel()
    assert future.result() == 3
    assert host.killed == []


def test_cancels_at_once_agree(host):
    """None of them raises or logs that the future is in an unexpected state."""
    for _ in range(50):
        future = submit(host)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert all(pool.map(lambda _, future=future: future.cancel(), range(4)))


def test_an_outcome_and_a_cancel_at_once_agree(host):
    for number in range(50):
        future = submit(host)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            cancelled = pool.submit(future.cancel)
            pool.submit(host.returns, number).result(TIMEOUT)
            assert cancelled.result(TIMEOUT) == future.cancelled()
        if not future.cancelled():
            assert future.result() == number


def test_a_cancel_while_the_request_is_made_kills_it():
    host = Host()
    invocation = Invocation(RunFunction("f"), "h")
    future = RemoteFuture(invocation)
    original = host.request
    host.request = lambda *args, **kwargs: (future.cancel(), original(*args, **kwargs))[1]
    invocation.start(host.target)
    assert host.killed == [invocation_module.TERMINATE_GRACE]


# --- Callbacks ---


def test_callbacks_run_in_the_thread_of_callbacks(host, future):
    threads = []
    future.add_done_callback(lambda done: threads.append(threading.current_thread().name))
    host.returns(1)
    settled()
    assert threads == ["lazycluster callbacks"]
    future.add_done_callback(lambda done: threads.append(threading.current_thread()))
    assert threads[1:] == [threading.current_thread()]


def test_lines_come_before_the_end(host):
    seen = []
    future = submit(host, on_output=seen.append)
    future.add_done_callback(lambda done: seen.append("end"))
    host.start()
    for data in (b"a\nb", b"\n", b"c"):
        host.send(frames.OUTPUT, memoryview(data))
    host.send(frames.VALUE, memoryview(pickle.dumps(1)))
    host.end(exit_status=0, returned=True)
    assert future.result(TIMEOUT) == 1
    settled()
    assert seen == ["a\n", "b\n", "c", "end"]


def test_asyncio_copies_value_and_exception(host):
    async def main():
        good, bad = submit(host), submit(host)
        waiting = [asyncio.wrap_future(good), asyncio.wrap_future(bad)]
        host.returns(5)  # of the second
        host.requests[-2].fail(LOST)
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), TIMEOUT)

    error, value = asyncio.run(main())
    assert isinstance(error, ConnectionLostError)
    assert value == 5


def test_the_snapshot_of_python_3_14_has_the_value(host):
    future, failed = submit(host), None
    assert future._get_snapshot() == (False, False, None, None)
    host.returns(5)
    assert future._get_snapshot() == (True, False, 5, None)
    failed = submit(host)
    host.requests[-1].fail(LOST)
    assert future._get_snapshot()[:2] == (True, False)
    assert isinstance(failed._get_snapshot()[3], ConnectionLostError)
    cancelled = submit(host)
    cancelled.cancel()
    assert cancelled._get_snapshot() == (True, True, None, None)


# --- Timeouts ---


@pytest.mark.parametrize("method", ["result", "exception"])
@pytest.mark.parametrize("timeout", [-1, float("nan"), "1"])
def test_a_timeout_that_is_none_is_refused_also_after_the_end(host, method, timeout):
    future = submit(host)
    for end in (lambda: None, lambda: host.returns(1)):
        end()
        with pytest.raises(ValueError, match="Invalid timeout"):
            getattr(future, method)(timeout)


@pytest.mark.parametrize("timeout", [float("inf"), 1e300])
def test_a_wait_may_be_longer_than_the_system_can_wait(host, timeout):
    future = submit(host)
    timers.start()
    timers.call_at(0, lambda: host.returns(1))
    assert future.result(timeout) == 1


def test_a_timeout_kills_and_is_the_error(host):
    future = submit(host, timeout=0.01)
    host.start()
    host.send(frames.OUTPUT, memoryview(b"so far"))
    wait_until(lambda: host.killed)
    assert not future.done()
    host.end(signal=15)
    with pytest.raises(StepTimeoutError) as caught:
        future.result(TIMEOUT)
    assert (caught.value.timeout, caught.value.output) == (0.01, "so far")


def test_a_callback_holds_up_no_timeout(host, future):
    other = Host()
    killed = []
    future.add_done_callback(lambda _: killed.append(wait_until(lambda: other.killed)))
    submit(other, timeout=0.01)
    host.returns(1)
    settled()
    assert len(killed) == 1
    other.end(signal=15)


def test_a_callback_waits_for_a_call_that_has_callbacks(host, future):
    """They run meanwhile, in the thread that waits."""
    other, lines, seen = Host(), [], []
    second = submit(other, on_output=lines.append)

    def callback(_):
        with pytest.raises(concurrent.futures.TimeoutError):
            second.result(0.01)
        other.start()
        other.send(frames.OUTPUT, memoryview(b"a line\n"))
        other.end(signal=9)
        seen.append(second.exception(TIMEOUT))

    future.add_done_callback(callback)
    host.returns(1)
    wait_until(lambda: seen)
    assert ([type(error) for error in seen], lines) == ([RemoteFunctionError], ["a line\n"])


def test_a_host_that_does_not_end_the_call_is_not_waited_for(host, monkeypatch):
    monkeypatch.setattr(invocation_module, "TERMINATE_GRACE", 0.01)
    monkeypatch.setattr(invocation_module, "KILL_TIMEOUT", 0.01)
    future = submit(host, timeout=0.01)
    with pytest.raises(StepTimeoutError):
        future.result(TIMEOUT)


def test_a_call_that_ends_in_time_is_not_killed(host):
    future = submit(host, timeout=0.2)
    host.returns(1)
    later = threading.Event()
    timers.call_at(0, later.set)
    assert later.wait(TIMEOUT)
    assert future.result() == 1
    assert future._call._timer.action is None
    assert host.killed == []


# --- Starting ---


def test_a_connection_that_has_just_ended_is_opened_again(host):
    invocation = Invocation(RunFunction("f"), "h")
    future = RemoteFuture(invocation)
    host.refuses = UNSTARTED
    Starter("h").start(invocation, host.target, lambda: host.target)
    wait_until(lambda: host.requests)
    host.returns(3)
    assert future.result(TIMEOUT) == 3


def test_what_may_have_started_is_not_repeated(host):
    invocation = Invocation(RunFunction("f"), "h")
    future = RemoteFuture(invocation)
    host.refuses = LOST
    Starter("h").start(invocation, host.target, lambda: host.target)
    assert future.exception(TIMEOUT) is LOST
    assert host.requests == []


def test_a_login_that_fails_is_the_error_of_all_that_wait_for_it():
    attempts, may_fail = [], threading.Event()

    def log_in():
        attempts.append(1)
        may_fail.wait(TIMEOUT)
        raise AuthenticationError("no", host="h")

    starter = Starter("h")
    futures = []
    for _ in range(5):
        invocation = Invocation(RunFunction("f"), "h")
        futures.append(RemoteFuture(invocation))
        starter.start(invocation, None, log_in)
    may_fail.set()
    errors = [future.exception(TIMEOUT) for future in futures]
    assert {type(error) for error in errors} == {AuthenticationError}
    assert len(set(map(id, errors))) == 5
    assert attempts == [1]


def test_what_was_cancelled_before_the_login_is_not_sent(host):
    may_log_in = threading.Event()

    def log_in():
        may_log_in.wait(TIMEOUT)
        return host.target

    starter = Starter("h")
    first, second = (Invocation(RunFunction("f"), "h") for _ in range(2))
    futures = [RemoteFuture(first), RemoteFuture(second)]
    starter.start(first, None, log_in)
    starter.start(second, None, log_in)
    assert futures[1].cancel()
    may_log_in.set()
    wait_until(lambda: not starter._has_thread)
    assert len(host.requests) == 1


def test_a_thread_that_cannot_be_started_is_an_error(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    invocation = Invocation(RunFunction("f"), "h")
    starter = Starter("h")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="thread"):
            starter.start(invocation, None, lambda: None)
    assert not starter._waiting


# --- Forks ---


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_may_read_what_has_come_before(host):
    finished, pending = submit(host), submit(host)
    host.requests[-2].handle_frame(frames.STARTED, b'{"step": 0, "pid": 7}')
    host.requests[-2].handle_frame(frames.VALUE, memoryview(pickle.dumps(9)))
    ended = json.dumps({"step": 0, "exit_status": 0, "returned": True}).encode()
    host.requests[-2].handle_frame(frames.ENDED, ended)
    host.requests[-2].handle_frame(frames.FINISHED, b"")
    host.requests[-2].notify()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert finished.result() == 9
            called = []
            finished.add_done_callback(called.append)
            assert called == [finished]
            try:
                pending.cancel()
            except LazyclusterError:
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert pending.cancel()
