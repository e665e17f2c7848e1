"""What the supervisor prepares for the next call of a function, before the call comes."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time

import pytest

from lazycluster._shared import frames
from support.pipe_host import command, function
from support.waiting import wait_until

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")


def echo(value):
    return value


def children(supervisor):
    with open(f"/proc/{supervisor}/task/{supervisor}/children") as file:
        return {int(pid) for pid in file.read().split()}


def await_next_process(host):
    """Call a function, and wait until only the cleanup process and the next process are there."""
    supervisor = host.wait_for_hello()["pid"]
    used = host.call(os.getpid).returned

    def found():
        pids = children(supervisor)
        return pids if len(pids) == 2 and used not in pids else None

    return wait_until(found)


@pytest.fixture
def settled_host(new_own_host):
    """A supervisor of the test's own, with all modules, whose next process waits."""
    new_own_host.send_modules()
    await_next_process(new_own_host)
    return new_own_host


def warm_up_again():
    own = sys.modules["_lazycluster._remote.warming"]
    texts = sys.modules["_lazycluster._remote.local_modules"]._linecache.cache
    for path in [path for path in texts if not os.path.isabs(path)]:
        del texts[path]  # as in a process that has not warmed up
    found = []
    for _ in range(2):
        state = [sys.path, sys.meta_path, vars(sys.modules["__main__"]), sys.modules, texts]
        found.append((os.environ.get("PWD"), *map(str, map(list, state))))
        own.warm_up()
    own._make_call(os.getcwd())  # raises what a warm-up suppresses
    return found


@needs_proc
def test_the_warm_up_is_a_whole_call_and_leaves_nothing(settled_host):
    """It imports nothing, either: that would take longer than the call."""
    for _ in range(2):  # by a process that has warmed up, and by one that has not
        before, after = settled_host.call(warm_up_again).returned
        assert after == before


class _Stand:
    """Stand for the supervisor, with what a rehearsal takes from it."""

    is_branch = False

    def __init__(self):
        supervisor = sys.modules["_lazycluster._remote.supervisor"]
        self.null = os.open(os.devnull, os.O_RDWR)
        self.branches = supervisor.Branches(None, None, None)
        modules = sys.modules["_lazycluster._remote.imports"]._sent
        self.starter = supervisor.Starter(None, None, None, {}, modules, supervisor.Contents())


def rehearse(steps, times):
    """Return the kinds of the frames that rehearsals would send, and what each has left."""
    module = sys.modules["_lazycluster._remote.rehearsal"]
    supervisor = sys.modules["_lazycluster._remote.supervisor"].Supervisor
    rehearsal = module.Rehearsal(supervisor, _Stand())
    text = json.dumps({"steps": steps, "working_dir": None, "environment": {}}).encode()
    loop, sent, left = rehearsal._double.loop, [], []

    def write(chunks):
        sent.append([bytes(chunk)[0] for chunk in chunks])
        return sum(map(len, chunks))

    loop._write = write
    for _ in range(times):
        before = os.listdir("/proc/self/fd")
        rehearsal.run(text)
        left.append(os.listdir("/proc/self/fd") != before or loop._ending)
    return sent, left


CALL = function(b"-" * 9)


@needs_proc
def test_a_rehearsal_is_a_whole_call_and_leaves_nothing(settled_host):
    """The supervisor makes one after each fork; nothing says so if it stops halfway."""
    sent, left = settled_host.call(rehearse, steps=[CALL], times=3).returned
    assert sent == [[frames.STARTED, frames.VALUE, frames.ENDED, frames.FINISHED]] * 3
    assert left == [False] * 3


@needs_proc
@pytest.mark.parametrize(
    "steps",
    [
        [CALL, command("echo >>ran")],
        [command("echo >>ran")],
        [dict(CALL, python=[3, 1])],
        [dict(CALL, input=frames.CHUNK + 1)],
        [{**CALL, "levels": {"a" * 70_000: 10}}],  # more than a pipe holds
    ],
)
def test_a_rehearsal_starts_nothing_whatever_the_call_is(steps, settled_host):
    _, left = settled_host.call(rehearse, steps=steps, times=3).returned
    assert left == [False] * 3
    assert not settled_host.call(os.path.exists, path="ran").returned


@needs_proc
def test_the_second_call_has_the_process_that_waits_for_it(new_own_host):
    """A module that came after its fork would make it useless, and a fork takes milliseconds."""
    new_own_host.send_modules()
    for _ in range(3):
        waiting = await_next_process(new_own_host)
        assert new_own_host.call(os.getpid).returned in waiting


def test_what_is_logged_before_the_function_is_printed(settled_host, tmp_path):
    """A record goes to the manager's loggers from the call of the function on."""
    (tmp_path / "sitecustomize.py").write_text("import logging\nlogging.warning('early')\n")
    for _ in range(3):
        step, payload = settled_host.prepare_call(echo, value=1)
        variables = {"PYTHONPATH": str(tmp_path)}
        asked = settled_host.run(step, payload=payload, environment=variables)
        assert "early" in asked.text
        time.sleep(0.1)


def test_a_function_and_a_command_of_one_request_run_once_each(settled_host, tmp_path):
    """A rehearsal of such a request would run the command again."""
    ran = tmp_path / "ran"
    for count in (1, 2, 3):
        step, payload = settled_host.prepare_call(echo, value=1)
        settled_host.run(step, command(f"echo >>{ran}"), payload=payload)
        time.sleep(0.05)
        assert ran.read_text() == "\n" * count


@needs_proc
def test_calls_leave_the_supervisor_the_descriptors_that_it_had(settled_host):
    """A rehearsal has some for a moment."""
    folder = f"/proc/{settled_host.wait_for_hello()['pid']}/fd"
    most = min(len(os.listdir(folder)) for _ in range(100))
    for _ in range(10):
        await_next_process(settled_host)
    wait_until(lambda: len(os.listdir(folder)) <= most)


TEXT = """
import sys

def state():
    code = __loader__._modules[__name__][0]
    return type(code).__name__, VALUE

def fail():
    raise ValueError("of a local module")  # it

VALUE = 1
"""


@pytest.fixture
def sent_module(tmp_path, monkeypatch):
    """A local module of the manager."""
    path = tmp_path / "lazycluster_test_prepared.py"
    path.write_text(TEXT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield importlib.import_module(path.stem)
    del sys.modules[path.stem]


def test_the_code_of_a_module_is_made_once_for_all_calls(settled_host, sent_module):
    """A process that is forked later has it, and the lines of tracebacks."""
    for kind in ("bytes", "code", "code"):
        assert settled_host.call(sent_module.state).returned == (kind, 1)
        assert "# it" in settled_host.call(sent_module.fail).ended[0]["traceback"]
        await_next_process(settled_host)


def test_another_text_of_a_module_has_its_own_code(settled_host, sent_module, tmp_path):
    assert settled_host.call(sent_module.state).returned[1] == 1
    await_next_process(settled_host)
    (tmp_path / f"{sent_module.__name__}.py").write_text(TEXT.replace("VALUE = 1", "VALUE = 22"))
    importlib.invalidate_caches()
    importlib.reload(sent_module)
    for kind in ("bytes", "code"):
        assert settled_host.call(sent_module.state).returned == (kind, 22)
        await_next_process(settled_host)


@needs_proc
def test_what_most_modules_import_first_is_there(settled_host):
    """To read it takes 0.3 ms, in each call."""
    assert "__future__" in settled_host.call(names_of_modules).returned


def names_of_modules():
    return list(sys.modules)
