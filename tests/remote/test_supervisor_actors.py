"""Actors: processes that stay, whose input is one call after the other."""

from __future__ import annotations

import json
import os
import pickle
import sys
import time

import pytest

from lazycluster._functions.payload import dump_call
from lazycluster._shared import frames, messages
from support.pipe_host import function
from support.processes import await_gone, is_alive, memory_peak

BIG = 64 << 20
FLAT = 40 << 20


class Echo:
    def __init__(self):
        self.seen = []

    def echo(self, value):
        return value

    def size(self, value):
        return len(value)

    def zeros(self, count):
        return bytes(count)

    def sleep(self, seconds):
        print("sleeping", flush=True)
        time.sleep(seconds)

    def say(self, text):
        print(text)
        return text

    def apply(self, function, *args):
        return function(*args)


class Remote:
    """An actor of a host: what the manager's half does, one message at a time."""

    def __init__(self, host, class_=Echo, **step):
        host.send_modules()
        call = dump_call(class_, (), {})
        self.host = host
        self._send_contents(call.contents)
        described = {**function(b"", contents=call.contents), "input": sys.maxsize, "actor": True}
        self.asked = host.ask({**described, **step}, payload=_message(call.payload))
        self.taken = 0  # bytes of its value

    def _send_contents(self, contents):
        for key, content in contents.items():
            self.host.send(frames.CONTENT, 0, bytes.fromhex(key) + content)

    def send(self, name, *args):
        """Send a call, with the contents that it refers to."""
        call = dump_call(name, args, {})
        if call.contents:
            self._send_contents(call.contents)
            keys = json.dumps(list(call.contents)).encode()
            self.host.send(frames.CONTENTS, self.asked.number, keys)
        self.asked.payload = memoryview(bytes(self.asked.payload) + _message(call.payload))

    def receive(self):
        """Return the value of the next reply; an outcome if it is a failure."""
        value = b""
        while True:
            kind, length = messages.HEADER.unpack(self._take(messages.HEADER.size))
            data = self._take(length)
            if kind == messages.RAISED:
                return json.loads(data)
            value += data
            if kind == messages.RETURNED:
                return pickle.loads(value) if value else None

    def _take(self, count):
        asked = self.asked
        self.host.wait(
            lambda: asked.finished or (asked.value and len(asked.value[0]) >= self.taken + count),
            "a reply",
        )
        data = bytes(asked.value[0][self.taken : self.taken + count]) if asked.value else b""
        assert len(data) == count, (asked.ended, asked.output)
        self.taken += count
        return data

    def call(self, name, *args):
        self.send(name, *args)
        return self.receive()

    def close(self):
        self.host.send(frames.INPUT, self.asked.number, messages.encode(messages.CLOSE))
        self.host.finish(self.asked)
        return self.asked.ended[0]


def _message(payload):
    return messages.encode(messages.CALL, payload.read_at(0, len(payload)))


@pytest.fixture
def actor(own_host):
    actor = Remote(own_host)
    assert actor.receive() is None
    yield actor
    if not actor.asked.finished:
        actor.close()


def test_calls_and_replies_are_messages_of_one_request(actor):
    assert [actor.call("echo", number) for number in range(3)] == [0, 1, 2]
    assert actor.call("size", b"12345") == 5
    assert actor.close() == {"step": 0, "returned": True, "exit_status": 0}


def test_another_minor_version_is_told(host, host_python):
    version = host.wait_for_hello()["python"]
    actor = Remote(host, python=[version[0], version[1] + 1])
    host.finish(actor.asked)
    assert actor.asked.ended[0]["failure"] == "python_version"


def test_calls_may_be_sent_before_they_are_wanted(actor):
    for number in range(50):
        actor.send("echo", number)
    assert [actor.receive() for _ in range(50)] == list(range(50))


def test_contents_arrive_in_their_place_behind_input_that_waits(actor):
    """The process does not read while it sleeps, and what came before is in the way."""
    actor.send("sleep", 0.2)
    actor.send("size", bytes(300_000))
    actor.host.wait(lambda: not actor.asked.payload, "the input to be sent")
    actor.host.wait_until_written()
    actor.send("apply", content_of_a_function, 4)
    assert [actor.receive() for _ in range(3)] == [None, 300_000, 8]


def content_of_a_function(value):
    return 2 * value


def test_output_comes_before_the_reply(actor):
    for number in range(20):
        assert actor.call("say", str(number)) == str(number)
        assert actor.asked.text.splitlines() == [str(one) for one in range(number + 1)]


def test_a_class_that_raises_ends_the_process(own_host):
    actor = Remote(own_host, class_=Raises)
    outcome = actor.receive()
    assert outcome["type"].endswith("KeyError")
    own_host.finish(actor.asked)


class Raises:
    def __init__(self):
        raise KeyError("mine")


def test_big_arguments_and_values_do_not_cost_the_supervisor_memory(new_own_host):
    actor = Remote(new_own_host)
    actor.receive()
    supervisor = new_own_host.wait_for_hello()["pid"]
    assert actor.call("size", bytes(1)) == 1
    before = memory_peak(supervisor)
    assert actor.call("size", os.urandom(BIG)) == BIG
    assert len(actor.call("zeros", BIG)) == BIG
    assert memory_peak(supervisor) - before < FLAT
    actor.close()


def test_an_actor_that_does_not_read_holds_nothing_else_up(actor):
    actor.send("sleep", 1000)
    actor.send("size", os.urandom(8 << 20))
    actor.host.wait_for_output(actor.asked, 1)
    assert actor.host.run_command("echo next").text == "next\n"
    actor.host.kill(actor.asked, 0)
    actor.asked.payload = memoryview(b"")
    actor.host.finish(actor.asked)
    assert actor.asked.ended[0]["signal"] == 9


def test_it_ends_with_the_lifeline(new_own_host):
    actor = Remote(new_own_host)
    actor.receive()
    pid = actor.asked.pids[0]
    assert is_alive(pid)
    new_own_host.close_stdin()
    await_gone([pid])


def test_a_call_that_cannot_be_loaded_is_a_failure_of_that_call(actor):
    actor.host.send(
        frames.INPUT, actor.asked.number, messages.encode(messages.CALL, b"\x80nothing")
    )
    assert actor.receive()["stage"] == "load"
    assert actor.call("echo", 1) == 1
