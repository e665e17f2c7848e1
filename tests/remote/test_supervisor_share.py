"""Shared values: unpickled once in a branch, and found by the functions that are forked from it."""

from __future__ import annotations

import os
import pickle
import shlex
import signal

import pytest

from lazycluster._shared import frames
from support.pipe_host import command
from support.processes import await_gone

PRELOAD = {"modules": [], "contents": [], "environment": {}}


def share(host, value, key="k", python=None, preload=PRELOAD, **changes):
    """Write the request that shares a value, and as much of the value as the host takes."""
    data = value if isinstance(value, bytes) else pickle.dumps(value, protocol=4)
    host.send_modules()
    step = {
        "kind": "share",
        "key": key,
        "pickle": len(data),
        "buffers": [],
        "input": len(data),
        "python": list(python or host.wait_for_hello()["python"][:2]),
        "contents": [],
        "preload": preload,
    }
    payload = changes.pop("payload", data)
    return host.ask({**step, **changes}, payload=payload)


def give(host, bringing, data):
    """Write more of a value than its request has."""
    host.run_command("true")  # what was asked before has been written
    host.send(frames.INPUT, bringing.number, data)


def shared(host, value, key="k", **more):
    """Share a value and return its outcome."""
    asked = share(host, value, key, **more)
    host.finish(asked)
    return asked.ended[0] if asked.ended else None


class Named:
    """Pickles as the shared value of a key."""

    def __init__(self, key):
        self.key = key

    def __reduce__(self):
        from lazycluster._functions import rebuild

        return rebuild.shared_value, (self.key,)


def ask_for(host, *keys, before=(), needs=None, **environment):
    """Write a request that returns the values of keys."""
    step, payload = host.prepare_call(identity, values=[Named(key) for key in keys])
    step = {**step, "preload": PRELOAD, "shared": list(keys if needs is None else needs)}
    return host.ask(*before, step, payload=payload, environment=environment)


def identity(values):
    return values


def values_of(host, *keys):
    asked = ask_for(host, *keys)
    host.finish(asked)
    return asked.returned


def test_each_python_takes_a_value_of_its_own_version(host):
    """A Python that cannot import cloudpickle says so, as for functions."""
    outcome = shared(host, [1, 2], "each")
    if tuple(host.wait_for_hello()["python"]) >= (3, 8):
        assert outcome["result"] is True
    else:
        assert outcome.get("result") is True or outcome["failure"] == "python_modules"
    host.send(frames.FREE, 0, b"each")


def test_another_minor_version_is_told_and_nothing_is_unpickled(host, tmp_path):
    version = host.wait_for_hello()["python"]
    data = b"cos\nmkdir\n(V" + str(tmp_path / "made").encode() + b"\ntR."
    outcome = shared(host, data, "other", python=[version[0], version[1] + 1])
    assert outcome["failure"] == "python_version"
    assert outcome["python"] == "{}.{}.{}".format(*version)
    assert not (tmp_path / "made").exists()
    host.send(frames.FREE, 0, b"other")


def test_several_values_are_found(new_own_host):
    assert shared(new_own_host, "one", "a")["result"] is True
    assert shared(new_own_host, ["two"], "b")["result"] is True
    assert values_of(new_own_host, "a", "b", "a") == ["one", ["two"], "one"]


def test_what_is_missing_is_named_and_the_function_not_started(new_own_host):
    shared(new_own_host, "one", "a")
    asked = ask_for(new_own_host, "a", "b", before=[command("echo before")])
    new_own_host.finish(asked)
    assert asked.ended[0]["exit_status"] == 0
    assert asked.ended[1]["failure"] == "shared"
    assert asked.ended[1]["keys"] == ["b"]
    assert len(asked.pids) == 1


def test_a_call_waits_for_a_value_that_is_on_its_way(new_own_host):
    data = pickle.dumps("x" * 1000)
    bringing = share(new_own_host, data, payload=data[:-10])
    waiting = ask_for(new_own_host, "k")
    running = new_own_host.run_command("echo runs")  # the host has read both by now
    assert running.text == "runs\n"
    assert not waiting.finished
    assert not bringing.finished
    give(new_own_host, bringing, data[-10:])
    new_own_host.finish(bringing, waiting)
    assert waiting.returned == ["x" * 1000]


def test_the_end_of_a_value_on_its_way_ends_the_wait(new_own_host):
    data = pickle.dumps("x")
    bringing = share(new_own_host, data, payload=data[:-1])
    waiting = ask_for(new_own_host, "k")
    new_own_host.kill(bringing, 5)
    new_own_host.finish(bringing, waiting)
    assert bringing.ended == []
    assert waiting.ended[0]["keys"] == ["k"]


def test_a_value_that_cannot_be_unpickled_fails_the_calls_that_need_it(new_own_host):
    """Those that wait, and those that come later, until it comes again."""
    data = b"cbuiltins\nint\n(Vx\ntR."
    bringing = share(new_own_host, data, payload=data[:-1])
    waiting = ask_for(new_own_host, "k")
    give(new_own_host, bringing, data[-1:])
    new_own_host.finish(bringing, waiting)
    for asked in (bringing, waiting):
        assert asked.ended[0].get("type") == "ValueError", asked.ended
    later = ask_for(new_own_host, "k")
    new_own_host.finish(later)
    assert later.ended[0].get("type") == "ValueError", later.ended
    data = pickle.dumps("x")
    again = share(new_own_host, data, payload=data)
    later = ask_for(new_own_host, "k")
    new_own_host.finish(again, later)
    assert later.returned == ["x"]


def test_a_killed_call_that_waits_does_not_start(new_own_host):
    data = pickle.dumps("x")
    bringing = share(new_own_host, data, payload=data[:-1])
    waiting = ask_for(new_own_host, "k")
    new_own_host.kill(waiting, 5)
    new_own_host.finish(waiting)
    give(new_own_host, bringing, data[-1:])
    new_own_host.finish(bringing)
    assert waiting.pids == waiting.ended == []


def test_the_same_key_once_more_is_not_read(new_own_host):
    shared(new_own_host, "first")
    assert shared(new_own_host, "second", payload=b"")["result"] is True
    assert values_of(new_own_host, "k") == ["first"]


def test_a_key_that_is_on_its_way_already_is_not_read(new_own_host):
    data = pickle.dumps("first")
    bringing = share(new_own_host, data, payload=data[:-1])
    assert shared(new_own_host, "second", payload=b"")["result"] is True
    give(new_own_host, bringing, data[-1:])
    new_own_host.finish(bringing)
    assert values_of(new_own_host, "k") == ["first"]


def test_a_freed_value_is_missing_but_not_for_calls_that_were_there_before(new_own_host):
    shared(new_own_host, "kept", "a")
    data = pickle.dumps("x")
    bringing = share(new_own_host, data, payload=data[:-1])
    waiting = ask_for(new_own_host, "a", "k")
    for key in (b"a", b"k", b"unknown"):
        new_own_host.send(frames.FREE, 0, key)
    give(new_own_host, bringing, data[-1:])
    new_own_host.finish(bringing, waiting)
    assert waiting.ended[0].get("returned"), waiting.ended
    assert waiting.returned == ["kept", "x"]
    asked = ask_for(new_own_host, "a")
    new_own_host.finish(asked)
    assert asked.ended[0]["keys"] == ["a"]


def test_the_branch_ends_with_its_last_value(new_own_host):
    shared(new_own_host, "one", "a")
    shared(new_own_host, "two", "b")
    asked = ask_for(new_own_host, "a")
    new_own_host.finish(asked)
    branch = parent_of_calls(new_own_host, "b")
    new_own_host.send(frames.FREE, 0, b"a")
    assert parent_of_calls(new_own_host, "b") == branch
    new_own_host.send(frames.FREE, 0, b"b")
    await_branch_end(new_own_host, branch)


def parent_of_calls(host, key):
    step, payload = host.prepare_call(parent_with, value=Named(key))
    asked = host.ask({**step, "preload": PRELOAD, "shared": [key]}, payload=payload)
    host.finish(asked)
    return asked.returned


def parent_with(value):
    return os.getppid()


def await_branch_end(host, branch):
    host.run_command("true")  # the host has read what was sent before
    await_gone([branch])


def test_a_value_of_more_than_was_announced_ends_its_branch_alone(new_own_host):
    data = pickle.dumps("x" * 300_000)
    bringing = share(new_own_host, data, payload=data[:-1])
    give(new_own_host, bringing, b"xyz")
    new_own_host.finish(bringing)
    assert new_own_host.run_command("echo fine").text == "fine\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_branch_that_ends_ends_what_it_was_given(new_own_host, number):
    shared(new_own_host, "x")
    branch = parent_of_calls(new_own_host, "k")
    data = pickle.dumps("y")
    bringing = share(new_own_host, data, "other", payload=data[:-1])
    waiting = ask_for(new_own_host, "other")
    new_own_host.run_command("true")
    os.kill(branch, number)
    new_own_host.finish(bringing, waiting)
    for asked in (bringing, waiting):
        assert asked.ended[0]["failure"] == "shared"
        assert asked.ended[0]["keys"] == []
    asked = ask_for(new_own_host, "k")
    new_own_host.finish(asked)
    assert asked.ended[0]["keys"] == ["k"]


def test_a_variable_that_needs_a_new_python_is_named(new_own_host):
    shared(new_own_host, "x")
    asked = ask_for(new_own_host, "k", PYTHONHASHSEED="5")
    new_own_host.finish(asked)
    assert asked.ended[0]["keys"] == []
    assert "PYTHONHASHSEED" in asked.ended[0]["message"]


def test_a_key_that_is_not_said_before_is_an_error_of_the_call(new_own_host):
    shared(new_own_host, "x")
    asked = ask_for(new_own_host, "unsaid", needs=["k"])
    new_own_host.finish(asked)
    assert asked.ended[0]["stage"] == "load"


def test_f20_modules_in_pythonpath_are_not_imported_by_a_branch(make_host, own_python, tmp_path):
    """They are there for functions."""
    for name in ("mmap", "gc", "threading", "signal", "importlib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    line = f"{shlex.quote(own_python)} -S"
    host = make_host(line=line, environment={"PYTHONPATH": str(tmp_path)})
    assert shared(host, "x") == {"result": True, "step": 0}
    assert values_of(host, "k") == ["x"]
