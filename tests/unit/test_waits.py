"""Waits of the main thread, which runs the handlers of signals."""

from __future__ import annotations

import math
import threading

import pytest

from lazycluster._functions.reading import read_apart
from lazycluster._waits import INTERVAL, one_wait, wait_repeatedly
from support.signals import Alarm, handled


def in_thread(function, *arguments):
    found = []
    thread = threading.Thread(target=lambda: found.append(function(*arguments)))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(
    ("seconds", "main", "other"),
    [
        (None, INTERVAL, None),
        (1e9, INTERVAL, min(1e9, threading.TIMEOUT_MAX)),
        (math.inf, INTERVAL, threading.TIMEOUT_MAX),
        (0.5, 0.5, 0.5),
        (0, 0, 0),
    ],
)
def test_only_the_main_thread_waits_in_parts(seconds, main, other):
    assert one_wait(seconds) == main
    assert in_thread(one_wait, seconds) == other


def test_a_wait_is_repeated_until_it_returns_something_true():
    results = [0, "", "found", "more"]
    asked = []

    def wait(seconds):
        asked.append(seconds)
        return results.pop(0)

    assert wait_repeatedly(wait) == "found"
    assert asked == [INTERVAL] * 3


def test_a_wait_is_called_once_even_if_there_is_no_time():
    asked = []
    assert wait_repeatedly(asked.append, 0) is None
    assert asked == [0]


def test_no_part_is_longer_than_what_is_left():
    asked = []

    def wait(seconds):
        asked.append(seconds)
        threading.Event().wait(seconds)

    assert wait_repeatedly(wait, INTERVAL * 1.1) is None
    assert asked[0] == INTERVAL
    assert 0 < asked[1] < INTERVAL


@pytest.mark.parametrize(
    "wait",
    [
        lambda event: wait_repeatedly(event.wait),
        lambda event: read_apart(event.wait),
    ],
    ids=["an event", "a file that is slow to read"],
)
def test_a_signal_that_ends_no_wait(wait):
    """Its handler runs all the same."""
    event = threading.Event()
    with handled(Alarm()) as alarm:
        alarm.set_aside()
        with pytest.raises(KeyboardInterrupt) as caught:
            wait(event)
    event.set()
    assert caught.value is alarm.raised[0]
