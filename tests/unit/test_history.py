"""The newest executions of a Runtime: bounded by count and bytes, whatever refers to them."""

from __future__ import annotations

import gc
import os
import pickle
import weakref

import pytest

from lazycluster import RuntimeTask
from lazycluster._tasks import history as module
from lazycluster._tasks.execution import Execution
from lazycluster._tasks.history import History
from lazycluster.exceptions import LazyclusterError

pytestmark = pytest.mark.every_python


@pytest.fixture(autouse=True)
def _own_file(monkeypatch):
    """Give each test a file of its own: a spool that an earlier test left alive keeps its file."""
    monkeypatch.setattr("lazycluster._spool._files", weakref.WeakValueDictionary())


@pytest.fixture
def history():
    return History("host", {})


def execute(history, value=b"", *, task=None, read=False, key=None):
    """Add an execution of a function that has returned a value; return it with its task."""
    task = task or RuntimeTask("t")
    execution = Execution("t", (), "host", task=task, on_end=history.end)
    execution.key = key
    if key is not None:
        history._processes[key] = object()
    history.add(execution)
    execution.values.append(0, memoryview(pickle.dumps(value)))
    execution.values.mark_returned(0)
    if read:
        list(execution.values)
    execution._finish()
    return execution, task


def values(history):
    return [value for execution in history for value in execution.returns()]


def open_files():
    return len(os.listdir("/dev/fd"))


def test_the_newest_executions_are_kept(history, monkeypatch):
    """The oldest fall out, with their process handles."""
    monkeypatch.setattr(module, "EXECUTIONS_KEPT", 3)
    for number in range(5):
        execute(history, number, key=str(number))
    assert values(history) == [2, 3, 4]
    assert list(history._processes) == ["2", "3", "4"]


def test_what_runs_does_not_fall_out(history, monkeypatch):
    """And comes first, if it has begun first."""
    monkeypatch.setattr(module, "EXECUTIONS_KEPT", 2)
    task = RuntimeTask("runs")
    running = Execution("runs", (), "host", task=task)
    history.add(running)
    for number in range(4):
        execute(history, number)
    assert [execution.name for execution in history] == ["runs", "t", "t"]


def test_bytes_are_bounded_and_lie_in_one_file(history, monkeypatch):
    """Beyond a limit the oldest values are moved to a file, beyond the next they fall out."""
    monkeypatch.setattr(module, "MEMORY_KEPT", 100_000)
    monkeypatch.setattr(module, "BYTES_KEPT", 500_000)
    before = open_files()
    for number in range(30):
        execute(history, bytes([number]) * 50_000)
    assert open_files() == before + 1
    in_memory = sum(execution.values.spool.in_memory for execution in history)
    assert 0 < in_memory <= 100_000
    assert values(history) == [bytes([number]) * 50_000 for number in range(21, 30)]
    history.clear()
    assert open_files() == before


def test_a_value_larger_than_all_limits_is_kept_until_the_next(history, monkeypatch):
    """It must be readable after the call that returned it."""
    monkeypatch.setattr(module, "BYTES_KEPT", 10)
    execute(history, b"x" * 100)
    assert values(history) == [b"x" * 100]
    execute(history, b"y" * 100)
    assert [execution.values.spool.in_memory > 0 for execution in history] == [True]


def test_values_stay_in_memory_where_no_file_can_be_written(history, monkeypatch):
    """A full disk of the manager loses no value that has arrived."""
    monkeypatch.setattr(module, "MEMORY_KEPT", 10)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for number in range(3):
        execute(history, bytes([number]) * 100)
    assert values(history) == [bytes([number]) * 100 for number in range(3)]


def test_tasks_are_not_kept_alive(history):
    """Their arguments are freed with them."""
    _, task = execute(history, 1)
    alive = weakref.ref(task)
    del task
    gc.collect()
    assert alive() is None
    assert values(history) == [1]


def test_a_value_dropped_unread_is_one_warning_and_an_error(history, monkeypatch, caplog):
    """The warning names the cure, and the values of a Runtime are never silently incomplete."""
    monkeypatch.setattr(module, "EXECUTIONS_KEPT", 2)
    for number in range(5):
        execute(history, number)
        gc.collect()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "clear_tasks()" in record.getMessage()
    with pytest.raises(LazyclusterError, match="clear_tasks"):
        history.check_complete()
    history.clear()
    history.check_complete()


def test_values_that_were_read_or_can_still_be_read_are_no_warning(history, monkeypatch, caplog):
    """A service reads each value; a script keeps its tasks."""
    monkeypatch.setattr(module, "EXECUTIONS_KEPT", 2)
    for number in range(5):
        execute(history, number, read=True)
    history.check_complete()
    tasks = [execute(history, number) for number in range(5)]
    assert caplog.records == []
    assert [next(iter(execution.values)) for execution, _ in tasks] == [0, 1, 2, 3, 4]


def test_the_execution_before_counts_but_is_not_shown(history, monkeypatch):
    """A task that is executed again and again is bounded, too."""
    monkeypatch.setattr(module, "EXECUTIONS_KEPT", 3)
    task = RuntimeTask("t")
    for number in range(5):
        for execution in history:
            execution.replaced = True
        execute(history, number, task=task, key=str(number))
    assert values(history) == [4]
    assert len(history._processes) == 3
    history.check_complete()
