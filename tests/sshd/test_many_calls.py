"""A service that calls without end: what it holds stays flat, with and without clear_tasks."""

from __future__ import annotations

import gc
import os
import threading

import pytest

from lazycluster import RuntimeTask
from lazycluster._tasks import history
from lazycluster.exceptions import LazyclusterError, TaskExecutionError
from support.hosts import call, commands, ended

KEPT = 20


@pytest.fixture
def few_kept(monkeypatch):
    """Few executions are kept, so that a hundred calls show what many thousands do."""
    monkeypatch.setattr(history, "EXECUTIONS_KEPT", KEPT)
    monkeypatch.setattr(history, "MEMORY_KEPT", 1 << 20)
    monkeypatch.setattr(history, "BYTES_KEPT", 16 << 20)


def held():
    """Return what this process holds: descriptors, threads, and objects of each class of ours."""
    gc.collect()
    ours = [one for one in gc.get_objects() if type(one).__module__.startswith("lazycluster.")]
    return len(os.listdir("/dev/fd")), threading.active_count(), len(ours)


def check_flat(repeat, count=60):
    """Check that more calls hold no more than the first ones."""
    for _ in range(count):
        repeat()
    before = held()
    for _ in range(count):
        repeat()
    descriptors, threads, objects = held()
    assert descriptors <= before[0] + 1
    assert threads <= before[1]
    assert objects <= before[2] + 10


def swap(data):
    return data[::-1]


def fail(data):
    raise ValueError(len(data))


@pytest.mark.parametrize("clear", [False, True])
def test_calls_with_large_arguments_and_values(own_runtime, few_kept, clear):
    """More than a megabyte each way, which had a descriptor each."""
    data = b"ab" * 600_000

    def repeat():
        assert call(own_runtime, swap, data=data) == data[::-1]
        if clear:
            own_runtime.clear_tasks()

    check_flat(repeat, 40)


def test_calls_that_fail(own_runtime, few_kept):
    """Their errors refer to tasks and frames, with all that the callers hold."""
    data = b"ab" * 600_000

    def repeat():
        with pytest.raises(TaskExecutionError, match="1200000"):
            own_runtime.execute_function(fail, data=data)

    check_flat(repeat, 40)


def test_tasks_of_every_kind(own_runtime, few_kept, tmp_path):
    """Commands, files, asynchronous executions, and their process handles."""
    (tmp_path / "file").write_bytes(b"x" * 1000)

    def repeat():
        own_runtime.send_file(str(tmp_path / "file"), "copy")
        own_runtime.get_file("copy", str(tmp_path / "back"))
        ended(own_runtime.execute_task(commands("echo hi", "exit 3")))
        own_runtime.echo("hi")
        own_runtime.check_filter(filter_commands="echo true")

    check_flat(repeat, 30)
    assert len(own_runtime.get_processes()) <= KEPT


def test_a_task_that_is_executed_again_and_again(own_runtime, few_kept):
    """Each execution counts, and the newest ones stay."""
    task = RuntimeTask("again").run_function(swap, data="ab").run_command("echo hi")

    def repeat():
        assert list(ended(own_runtime.execute_task(task)).function_returns) == ["ba"]

    check_flat(repeat, 30)
    assert len(own_runtime.get_processes()) <= KEPT
    assert list(own_runtime.function_returns) == ["ba"] * KEPT


def test_a_task_that_runs_many_times_at_once(own_runtime, few_kept):
    """What it knows of the executions that have ended is freed."""
    task = RuntimeTask("crowd").run_function(swap, data="ab" * 10_000)

    def repeat():
        for _ in range(KEPT):
            own_runtime.execute_task(task)
        own_runtime.join()
        list(task.function_returns)
        own_runtime.clear_tasks()

    check_flat(repeat, 5)


def test_a_task_that_is_forgotten_while_it_runs(own_runtime, few_kept):
    """Its end is not counted, and nothing of it stays."""

    def repeat():
        task = own_runtime.execute_function(swap, execute_async=True, data="ab")
        own_runtime.clear_tasks()
        ended(task)

    check_flat(repeat, 30)
    assert own_runtime.get_processes() == {}
    assert list(own_runtime.function_returns) == []


def test_a_value_of_an_earlier_execution_cannot_be_read_from_its_task(
    own_runtime, few_kept, caplog
):
    """So it is lost when it falls out, although the task is still there."""
    task = RuntimeTask("again").run_function(swap, data="ab")
    for _ in range(KEPT + 1):
        own_runtime.execute_task(task, execute_async=False)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with pytest.raises(LazyclusterError, match="clear_tasks"):
        list(own_runtime.function_returns)


def test_what_is_referred_to_stays_usable(own_runtime, few_kept):
    """A list of tasks has all values, logs and errors, and each can be executed again."""
    tasks = [own_runtime.execute_function(swap, data=f"{n:07}" * 9000) for n in range(2 * KEPT)]
    assert [next(task.function_returns)[::-1][:7] for task in tasks] == [
        f"{n:07}" for n in range(2 * KEPT)
    ]
    again = own_runtime.execute_task(tasks[0], execute_async=False)
    assert len(next(again.function_returns)) == 63000


def test_values_of_a_runtime_are_not_silently_incomplete(own_runtime, few_kept, caplog):
    """What fell out unread is an error, which clear_tasks ends."""
    for number in range(KEPT + 5):
        own_runtime.execute_function(swap, data=str(number))
    with pytest.raises(LazyclusterError, match="clear_tasks"):
        list(own_runtime.function_returns)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    own_runtime.clear_tasks()
    own_runtime.execute_function(swap, data="ab")
    assert list(own_runtime.function_returns) == ["ba"]


def test_ended_exposures_are_bounded(own_runtime, few_kept, monkeypatch):
    """Their handles stay for a while."""
    monkeypatch.setattr("lazycluster._runtime.process_host.EXECUTIONS_KEPT", 3)
    for _ in range(6):
        own_runtime.stop_process(own_runtime.expose_port_from_runtime(9, 0))
    assert len(own_runtime.get_processes()) <= 4
