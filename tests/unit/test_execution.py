"""How an execution takes what comes from the host, in whatever moments it comes."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from types import SimpleNamespace

import pytest

from lazycluster import RuntimeTask
from lazycluster._conversation.request import Request
from lazycluster._shared import frames, tree_stream
from lazycluster._tasks.background import run_in_background
from lazycluster._tasks.execution import Execution, Target, stop_all
from lazycluster._tasks.starter import Starter
from lazycluster.exceptions import FileTransferError
from lazycluster.processes import TaskProcess


class QuickHost:
    """A conversation with a host that has sent all frames before the caller waits for them."""

    def __init__(self, folder, value):
        self.control_folder = str(folder)
        self._value = value

    def request(self, steps, *, on_output, on_value, live, **_):
        sinks = {frames.OUTPUT: on_output, frames.VALUE: on_value}
        writer = SimpleNamespace(send=lambda data: None, feed=lambda source: None)
        request = Request(1, len(steps), writer, iter(()), sinks, lambda _: None, live=live)
        request.handle_frame(frames.STARTED, json.dumps({"step": 0, "pid": 1}).encode())
        request.handle_frame(frames.VALUE, memoryview(self._value))
        ended = {"step": 0, "exit_status": 0, "result": None}
        request.handle_frame(frames.ENDED, json.dumps(ended).encode())
        request.handle_frame(frames.FINISHED, b"")
        return request


def test_what_cannot_be_stored_is_the_error_though_the_end_has_come(tmp_path):
    """And not what comes of going on after it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken").write_text("old")
    value = b"".join(tree_stream.pack(str(tmp_path / "folder")))
    task = RuntimeTask().get_file("folder", str(tmp_path / "taken"))
    execution = Execution("get", task.steps, "host", task=task)
    with pytest.raises(FileTransferError) as caught:
        execution.run(lambda: Target(QuickHost(tmp_path, value), None, {}))
    assert caught.value.errno == errno.ENOTDIR
    assert (tmp_path / "taken").read_text() == "old"


def test_all_are_told_to_stop_before_any_is_waited_for(monkeypatch):
    """So that many hosts take the time of one; what has ended is left alone."""
    events = []
    executions = [Execution(name, (), "host", task=RuntimeTask()) for name in "abc"]
    for one in executions:
        one._request = SimpleNamespace(kill=lambda grace, name=one.name: events.append(name))
    executions[1]._done.set()
    monkeypatch.setattr(Execution, "wait", lambda self, timeout: events.append(f"wait {self.name}"))
    stop_all(executions, signal.SIGTERM, 1.0)
    assert events == ["a", "c", "wait a", "wait c"]


def test_the_wait_for_many_that_are_stopped_is_bounded(monkeypatch):
    """By one deadline for all of them."""
    now = [100.0]
    waits = []

    def wait(self, timeout):
        waits.append(timeout)
        now[0] += 4.0

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(Execution, "wait", wait)
    executions = [Execution("t", (), "host", task=RuntimeTask()) for _ in range(4)]
    stop_all(executions, signal.SIGTERM, 5.0)
    assert waits == [10.0, 6.0, 2.0, 0.0]


def test_the_functions_among_the_steps_are_known():
    """Each has a place in the values of a Runtime."""
    task = RuntimeTask().run_command("a").run_function(os.getpid).run_command("b")
    task.run_function(os.getpid).send_file("a")
    assert Execution("t", task.steps, "host", task=task).functions == (1, 3)


def test_an_execution_that_gets_no_thread_has_failed(monkeypatch):
    """It is not a success without values, and nothing waits for it."""

    def start(self):
        raise RuntimeError("can't start new thread")

    task = RuntimeTask().run_function(os.getpid)
    execution = Execution("t", task.steps, "host", task=task)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            run_in_background(
                execution, "t", lambda: None, lambda: pytest.fail("it was run"), Starter("host")
            )
    assert not execution.is_alive
    assert isinstance(execution.error.__cause__, RuntimeError)
    assert TaskProcess("t", execution).exitcode == 1
    assert execution.returns() == [None]
