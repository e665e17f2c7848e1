"""The next call: its process is forked, and it is rehearsed where that is safe."""

from __future__ import annotations

import json

import pytest

from lazycluster._remote.next_call import SMALL_REQUEST, NextCall

CALL = {"kind": "function", "input": 9}


class Stub:
    """A loop whose time passes at once, and a starter that counts the forks."""

    def __init__(self):
        self.forks = 0

    def call_later(self, _seconds, action):
        action()

    def prefork(self):
        self.forks += 1


def make(requests, rehearse):
    stub = Stub()
    return NextCall(stub, stub, requests, rehearse), stub


def note(next_call, steps):
    text = json.dumps({"steps": steps}).encode()
    next_call.note(text, next_call.parse(text))
    return text


def test_a_call_is_rehearsed_after_each_fork():
    rehearsed = []
    next_call, stub = make({}, rehearsed.append)
    text = note(next_call, [CALL])
    next_call.plan()
    next_call.plan()
    assert (rehearsed, stub.forks) == ([text] * 2, 2)


@pytest.mark.parametrize(
    ("requests", "steps"),
    [
        ({1: "a request"}, [CALL]),
        ({}, [CALL, {"kind": "command", "command": "reboot"}]),
        ({}, [dict(CALL, actor=True)]),
        ({}, [dict(CALL, levels={"a" * SMALL_REQUEST: 1})]),
        ({}, None),
    ],
)
def test_nothing_else_is_rehearsed(requests, steps):
    next_call, stub = make(requests, pytest.fail)
    if steps is not None:
        note(next_call, steps)
    next_call.plan()
    assert stub.forks == 1


def test_a_rehearsal_that_fails_is_not_repeated_and_forks_go_on():
    tries = []

    def rehearse(text):
        tries.append(text)
        raise MemoryError

    next_call, stub = make({}, rehearse)
    note(next_call, [CALL])
    for _ in range(3):
        next_call.plan()
    assert (len(tries), stub.forks) == (1, 3)
