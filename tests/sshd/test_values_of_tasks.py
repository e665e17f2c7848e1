"""The values of a task's functions."""

from __future__ import annotations

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import TaskExecutionError
from support.hosts import commands, double, failed
from support.waiting import wait_until


def no_value():
    return None


def test_values_come_in_the_order_of_the_steps(runtime):
    """With commands in between, which have none."""
    task = RuntimeTask()
    for number in range(3):
        task.run_function(double, x=number).run_command("true")
    runtime.execute_task(task, execute_async=False)
    assert list(task.function_returns) == [0, 2, 4]


def test_values_can_be_asked_for_twice(runtime):
    """They are all yielded again."""
    task = runtime.execute_function(double, x=1)
    assert list(task.function_returns) == [2]
    assert list(task.function_returns) == [2]


def test_none_is_yielded_when_it_was_returned(runtime):
    """It counts as a value as any other."""
    task = RuntimeTask().run_function(no_value).run_function(double, x=1).run_function(no_value)
    runtime.execute_task(task, execute_async=False)
    assert list(task.function_returns) == [None, 2, None]


def test_commands_have_no_value(runtime):
    """No None is yielded that no function returned."""
    assert list(runtime.execute_task(commands("echo hi")).function_returns) == []


def test_values_wait_for_the_task(runtime, gate):
    """function_returns joins first."""
    task = RuntimeTask().run_command(gate.wait).run_function(double, x=4)
    runtime.execute_task(task)
    gate.open()
    assert list(task.function_returns) == [8]


def test_cleanup_forgets_the_values(runtime):
    """And keeps the log."""
    task = RuntimeTask().run_command("echo hi").run_function(double, x=1)
    runtime.execute_task(task, execute_async=False)
    task.cleanup()
    assert list(task.function_returns) == []
    assert task.execution_log == ["hi\n", ""]


def test_cleanup_twice_is_fine(runtime):
    """Also of a task that never ran."""
    RuntimeTask().cleanup()
    task = runtime.execute_function(double, x=1)
    task.cleanup()
    task.cleanup()


def test_task_can_be_executed_after_cleanup(runtime):
    """It has values again."""
    task = runtime.execute_function(double, x=1)
    task.cleanup()
    runtime.execute_task(task, execute_async=False)
    assert list(task.function_returns) == [2]


def test_cleanup_of_a_running_task_lets_it_run_on(runtime, gate):
    """As in 0.2; only `stop` ends it."""
    task = RuntimeTask().run_function(double, x=4).run_command(gate.wait)
    runtime.execute_task(task)
    wait_until(lambda: len(task.execution_log) == 2)
    task.cleanup()
    assert task.process.is_alive()
    gate.open()
    assert list(task.function_returns) == [8]
    task.cleanup()
    assert list(task.function_returns) == []


def test_values_of_a_failed_task(runtime):
    """Those there are, then the error."""
    task = RuntimeTask().run_function(double, x=1).run_function(no_value).run_command("exit 1")
    task.run_function(double, x=2)
    error = failed(runtime, task)
    values = task.function_returns
    assert [next(values), next(values)] == [2, None]
    with pytest.raises(TaskExecutionError) as caught:
        next(values)
    assert caught.value is error


def test_values_of_the_execution_before_are_gone(runtime):
    """A task has the values of its last execution."""
    task = runtime.execute_function(double, x=1)
    runtime.execute_task(task, execute_async=False)
    assert list(task.function_returns) == [2]
