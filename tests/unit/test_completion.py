"""The thread that runs callbacks and timers, and lines of output for a callback."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from lazycluster._tasks import completion as module
from lazycluster._tasks import lines as lines_module
from lazycluster._tasks.completion import CompletionThread, Timer, completion
from lazycluster._tasks.lines import Lines
from support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.every_python


@pytest.fixture
def thread():
    thread = CompletionThread("test")
    thread.start()
    yield thread
    thread._stop()


def wait_for(thread):
    done = threading.Event()
    thread.post(done.set)
    assert done.wait(TIMEOUT)


# --- Actions and timers ---


def test_actions_run_in_their_order(thread):
    seen = []
    for number in range(100):
        thread.post(lambda number=number: seen.append(number))
    wait_for(thread)
    assert seen == list(range(100))


def test_an_action_that_fails_is_logged_and_the_next_ones_run(thread, caplog):
    def fail():
        raise SystemExit(3)

    thread.post(fail)
    wait_for(thread)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_timers_run_at_their_time_in_order(thread):
    seen, done = [], threading.Event()
    now = time.monotonic()

    def see(delay):
        seen.append((delay, time.monotonic() >= now + delay))
        if len(seen) == 4:
            done.set()

    def add():  # at once, however slow the computer is
        for delay in (0.03, 0.02, -1, 0.01):
            thread._add(Timer(now + delay, lambda delay=delay: see(delay)))

    thread.post(add)
    assert done.wait(TIMEOUT)
    assert seen == [(-1, True), (0.01, True), (0.02, True), (0.03, True)]


def test_a_timer_is_not_held_up_by_many_actions(thread):
    done = threading.Event()
    timer_ran = []

    def again():
        if not timer_ran:
            thread.post(again)
        else:
            done.set()

    thread.call_at(time.monotonic() + 0.01, lambda: timer_ran.append(1))
    thread.post(again)
    assert done.wait(TIMEOUT)


def test_a_cancelled_timer_does_not_run(thread):
    seen = []
    timer = thread.call_at(time.monotonic() + 0.01, lambda: seen.append(1))
    timer.cancel()
    done = threading.Event()
    thread.call_at(time.monotonic() + 0.02, done.set)
    assert done.wait(TIMEOUT)
    assert seen == []


def test_cancelled_timers_do_not_pile_up(thread, monkeypatch):
    """A service may make a million calls with a timeout of an hour."""
    monkeypatch.setattr(thread, "_most_timers", 10)
    monkeypatch.setattr(module, "MOST_TIMERS", 10)
    kept = [thread.call_at(time.monotonic() + 3600, print) for _ in range(5)]
    for _ in range(1000):
        thread.call_at(time.monotonic() + 3600, print).cancel()
    wait_for(thread)
    assert len(thread._timers) <= 21
    assert all(timer.action is print for timer in kept)


def test_it_starts_again_after_the_exit_handler():
    thread = CompletionThread("test")
    thread.start()
    thread._stop()
    assert thread._thread is None
    thread.start()
    wait_for(thread)
    thread._stop()


def test_a_callback_without_end_does_not_hold_up_the_exit(monkeypatch):
    monkeypatch.setattr(module, "EXIT_TIMEOUT", 0.01)
    thread = CompletionThread("test")
    thread.start()
    may_end, started = threading.Event(), threading.Event()
    thread.post(lambda: (started.set(), may_end.wait(TIMEOUT)))
    assert started.wait(TIMEOUT)
    running = thread._thread
    thread._stop()
    assert running.is_alive()
    may_end.set()
    running.join(TIMEOUT)


# --- Lines ---


@pytest.fixture
def seen():
    completion.start()
    return []


def split(seen, *parts):
    """Hand over parts of streams, and return the lines that come of them."""
    lines = Lines(seen.append, "host")
    for part in parts:
        stream, data = part if isinstance(part, tuple) else (0, part)
        lines.append(stream, memoryview(data))
    lines.finish_and_wait()
    return seen


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b"a\nb\n"], ["a\n", "b\n"]),
        ([b"a", b"b\n", b"c"], ["ab\n", "c"]),
        ([b"\n\n"], ["\n", "\n"]),
        ([], []),
        ([b"a\rb\x0bc\x85d\r\n"], ["a\rb\x0bc\\x85d\r\n"]),
        (["ü".encode()[:1], "ü".encode()[1:] + b"\n"], ["ü\n"]),
        ([b"\xff\n", b"\xc3"], ["\\xff\n", "\\xc3"]),
        ([(0, b"a"), (1, b"b\n"), (0, b"c\n"), (1, b"d")], ["b\n", "ac\n", "d"]),
    ],
    ids=str,
)
def test_output_comes_in_whole_lines(seen, parts, expected):
    assert split(seen, *parts) == expected


def test_a_very_long_line_comes_in_parts(seen, monkeypatch):
    monkeypatch.setattr(lines_module, "LINE_LIMIT", 100)
    monkeypatch.setattr(lines_module, "READ", 30)
    parts = split(seen, "ü".encode() * 500 + b"\nrest")
    assert "".join(parts) == "ü" * 500 + "\nrest"
    assert max(map(len, parts)) < 150
    assert parts[-1] == "rest"


def test_what_waits_for_a_slow_callback_is_not_in_memory():
    """It goes to the file of large values."""
    completion.start()
    may_go, started = threading.Event(), threading.Event()

    def wait(line):
        started.set()
        may_go.wait(TIMEOUT)
        sizes.append(len(line))

    sizes = []
    lines = Lines(wait, "host")
    lines.append(0, memoryview(b"first\n"))
    assert started.wait(TIMEOUT)
    for _ in range(100):
        lines.append(0, memoryview(b"x" * 49_999 + b"\n"))
    assert len(lines._waiting) == 5_000_000
    assert lines._waiting.in_memory == 0
    may_go.set()
    lines.finish_and_wait()
    assert sizes == [6, *[50_000] * 100]


def test_a_callback_may_wait_for_lines_of_its_own(seen):
    def nested(line):
        inner = Lines(seen.append, "host")
        inner.append(0, memoryview(b"inner of " + line.encode()))
        inner.finish_and_wait()

    lines = Lines(nested, "host")
    lines.append(0, memoryview(b"a\nb\n"))
    lines.finish_and_wait()
    assert seen == ["inner of a\n", "inner of b\n"]


def test_only_the_first_exception_is_logged(seen, caplog):
    def fail(line):
        seen.append(line)
        raise ValueError(line)

    lines = Lines(fail, "host")
    lines.append(0, memoryview(b"a\nb\n"))
    lines.finish_and_wait()
    assert seen == ["a\n", "b\n"]
    assert len(caplog.records) == 1
    assert "host" in caplog.records[0].getMessage()


def test_the_end_comes_though_the_lines_cannot_be_read(seen, monkeypatch, caplog):
    lines = Lines(seen.append, "host")

    def fail(*_):
        raise OSError("no file")

    monkeypatch.setattr(lines._waiting, "read_at", fail)
    with lines._lock:
        lines._is_posted = True  # so that `finish` finds the bytes
    lines.append(0, memoryview(b"a\n"))
    ended = threading.Event()
    lines.finish(ended.set)
    assert ended.wait(TIMEOUT)
    wait_until(lambda: caplog.records)
