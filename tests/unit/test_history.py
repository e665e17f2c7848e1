"""The newest executions of a Runtime: bounded by count and bytes, whatever refers to them."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import weakref

import pytest

from lazycluster import RuntimeTask
from lazycluster._tasks import history as module
from lazycluster._tasks.execution import Execution
from lazycluster._tasks.history import History
from lazycluster._tasks.steps import RunFunction
from lazycluster.exceptions import LazyclusterError, SerializationError, TaskExecutionError
from support.waiting import TIMEOUT

pytestmark = pytest.mark.every_python


@pytest.fixture(autouse=True)
def _own_file(monkeypatch):
    """Give each test a file of its own: a spool that an earlier test left alive keeps its file."""
    monkeypatch.setattr("lazycluster._spool._files", weakref.WeakValueDictionary())


@pytest.fixture
def history():
    return History("host", {})


class Reader:
    """What a user keeps to read the values of an execution."""


def begin(history, *, functions=1, key=None, name="t"):
    """Add an execution of functions, which runs."""
    task = RuntimeTask(name)
    steps = tuple(RunFunction(f"f{number}") for number in range(functions))
    execution = Execution(name, steps, "host", task=task, on_end=history.end)
    execution.key = key
    if key is not None:
        history._processes[key] = object()
    history.add(execution)
    return execution


def give(execution, *returned):
    """Make the first functions of an execution return values."""
    for index, value in enumerate(returned):
        execution.values.append(index, memoryview(pickle.dumps(value)))
        execution.values.mark_returned(index)


def execute(history, *returned, read=False, key=None, error=None, functions=1, in_background=False):
    """Add an execution of functions that has ended; return it with what its values are read by."""
    execution = begin(history, functions=functions, key=key)
    execution.in_background = in_background
    reader = Reader()
    execution.let_read(reader)
    give(execution, *returned)
    if read:
        list(execution.values)
    if error is not None:
        details = {"task": None, "task_step_index": 0, "execution_log_file_path": None}
        execution.error = TaskExecutionError(error, host="host", **details)
    execution.finish()
    return execution, reader


def values(history):
    return list(history.function_returns())


def kept(history):
    """Return the values, also if some have fallen out."""
    return [value for execution in history for value in execution.values]


def open_files():
    return len(os.listdir("/dev/fd"))


def test_the_newest_executions_are_kept(history, monkeypatch):
    """The oldest fall out, with their process handles."""
    monkeypatch.setattr(module, "EXECUTIONS_KEPT", 3)
    for number in range(5):
        execute(history, number, key=str(number))
    assert kept(history) == [2, 3, 4]
    assert list(history._processes) == ["2", "3", "4"]


def test_what_runs_does_not_fall_out(history, monkeypatch):
    """And comes first, if it has begun first."""
    monkeypatch.setattr(module, "EXECUTIONS_KEPT", 2)
    begin(history, name="runs")
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
    assert kept(history) == [bytes([number]) * 50_000 for number in range(21, 30)]
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
    task = RuntimeTask("t")
    execution = Execution("t", (RunFunction("f"),), "host", task=task, on_end=history.end)
    history.add(execution)
    give(execution, 1)
    execution.finish()
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
        values(history)
    history.clear()
    assert values(history) == []


def test_a_reader_thread_does_not_call_the_handlers_of_loggers(history, monkeypatch, caplog):
    """It ends executions in the background, and a handler may use a host."""
    monkeypatch.setattr(module, "EXECUTIONS_KEPT", 2)
    posted = []
    monkeypatch.setattr(module.completion, "post", posted.append)
    for number in range(5):
        execute(history, number, in_background=True)
        gc.collect()
    assert caplog.records == []
    for action in posted:
        action()
    assert len(caplog.records) == 1


def test_values_that_were_read_or_can_still_be_read_are_no_warning(history, monkeypatch, caplog):
    """A service reads each value; a script keeps its tasks."""
    monkeypatch.setattr(module, "EXECUTIONS_KEPT", 2)
    for number in range(5):
        execute(history, number, read=True)
    assert values(history) == [3, 4]
    kept = [execute(history, number) for number in range(5)]
    assert caplog.records == []
    assert [next(iter(execution.values)) for execution, _ in kept] == [0, 1, 2, 3, 4]


# --- Values and errors in their places ---


def test_a_function_that_failed_is_none_and_the_error_comes_last(history):
    """So that zip with the functions holds."""
    execute(history, 1)
    execute(history, error="first")
    execute(history, 3)
    returns = history.function_returns()
    assert [next(returns), next(returns), next(returns)] == [1, None, 3]
    with pytest.raises(TaskExecutionError, match="first"):
        next(returns)


def test_each_function_of_a_failed_execution_has_one_place(history):
    """Those that returned, the one that failed, and those that were not called."""
    execute(history, 1, 2, functions=4, error="first")
    execute(history, functions=0, error="no function")
    execute(history, 5)
    returns = history.function_returns()
    assert [next(returns) for _ in range(5)] == [1, 2, None, None, 5]
    with pytest.raises(TaskExecutionError, match="first"):
        next(returns)


def test_the_other_errors_are_logged_unless_they_were(history, caplog):
    """An asynchronous execution has logged its own; no error is logged twice."""
    for text in ("first", "second", "third"):
        execute(history, error=text)
    begun, _ = execute(history, error="fourth")
    begun.logged = True
    for _ in range(2):
        with pytest.raises(TaskExecutionError, match="first"):
            values(history)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert [record.getMessage() for record in caplog.records] == ["second", "third"]


def test_a_value_that_cannot_be_unpickled_does_not_hide_the_later_ones(history):
    """It is None in its place, and its error comes last."""
    execution = begin(history)
    execution.values.append(0, memoryview(b"no pickle"))
    execution.values.mark_returned(0)
    execution.finish()
    execute(history, 2)
    returns = history.function_returns()
    assert [next(returns), next(returns)] == [None, 2]
    with pytest.raises(SerializationError):
        next(returns)


def test_what_still_runs_and_is_not_waited_for_has_what_has_returned(history):
    """A function that is still to return is not one that failed."""
    running = begin(history, functions=3)
    give(running, 1)
    execute(history, 2)
    assert values(history) == [1, 2]


# --- To forget ---


def test_what_runs_is_forgotten_and_its_end_changes_nothing(history):
    """It neither comes back nor takes the handle of a later execution with its key along."""
    running = begin(history, key="key")
    execute(history, 1, key="ended")
    history.clear()
    assert list(history) == []
    assert history._processes == {}
    assert history.running == [running]
    execute(history, 2, key="key")
    give(running, 3)
    running.finish()
    assert history.running == []
    assert values(history) == [2]
    assert list(history._processes) == ["key"]


def test_a_file_is_written_without_the_lock(history, monkeypatch):
    """Another thread can begin an execution meanwhile."""
    monkeypatch.setattr(module, "MEMORY_KEPT", 10)
    found = []

    def pwrite(*_):
        thread = threading.Thread(target=lambda: found.append(list(history)))
        thread.start()
        thread.join(TIMEOUT)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", pwrite)
    execution, _ = execute(history, b"x" * 100)
    assert found == [[execution]]
