"""Copied and unpickled tasks."""

from __future__ import annotations

import copy
import pickle

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import TaskExecutionError
from support.hosts import commands, double, ended, failed


@pytest.fixture(params=[copy.copy, lambda task: pickle.loads(pickle.dumps(task))])
def make_copy(request):
    """Two ways to copy a task with its results."""
    return request.param


@pytest.fixture
def executed(runtime):
    """A task that has been executed asynchronously."""
    task = RuntimeTask("original").run_command("echo hi").run_function(double, x=4)
    task.env_variables = {"A": "1"}
    return ended(runtime.execute_task(task))


def test_copy_has_the_results(executed, make_copy):
    """Log, values and file of the execution so far."""
    twin = make_copy(executed)
    assert twin.name == "original"
    assert twin.env_variables == {"A": "1"}
    assert twin.execution_log == ["hi\n", ""]
    assert twin.execution_log_file_path == executed.execution_log_file_path
    assert list(twin.function_returns) == [8]


def test_deep_copy_has_a_fresh_state(executed):
    """It is a definition alone, with a number in its name."""
    twin = copy.deepcopy(executed)
    assert twin.name == "original-1"
    assert twin.env_variables == {"A": "1"}
    assert twin.execution_log == []
    assert twin.execution_log_file_path is None
    assert twin.process is None
    assert twin.error is None
    assert list(twin.function_returns) == []


def test_deep_copy_of_a_failed_task_has_no_error(runtime):
    """Nothing of it has failed yet."""
    task = commands("exit 3")
    failed(runtime, task)
    assert copy.deepcopy(task).error is None


def test_copy_has_no_process(executed, make_copy):
    """It is another task, which is not executed."""
    assert make_copy(executed).process is None


def test_copy_can_be_executed(runtime, executed, make_copy):
    """Without an effect on the original."""
    twin = make_copy(executed)
    first = executed.execution_log_file_path
    ended(runtime.execute_task(twin))
    assert list(twin.function_returns) == [8]
    assert twin.execution_log_file_path != first
    assert executed.execution_log_file_path == first


def test_copy_of_a_failed_task_has_the_error(runtime, make_copy):
    """Its function_returns raises too."""
    task = RuntimeTask().run_function(double, x=1).run_command("exit 3")
    failed(runtime, task)
    twin = make_copy(task)
    assert twin.error.__cause__.exit_status == 3
    values = twin.function_returns
    assert next(values) == 2
    with pytest.raises(TaskExecutionError):
        next(values)


def test_cleaned_up_task_can_be_copied(executed, make_copy):
    """The copy has the log, no values, and can be executed."""
    executed.cleanup()
    twin = make_copy(executed)
    assert list(twin.function_returns) == []
    assert twin.execution_log == ["hi\n", ""]


def test_values_of_an_unpickled_task_outlive_cleanup_of_the_original(executed):
    """What one forgets the other has."""
    twin = pickle.loads(pickle.dumps(executed))
    executed.cleanup()
    assert list(twin.function_returns) == [8]


def test_task_is_made_once_and_executed_in_many_copies(runtime):
    """As with a group of Runtimes."""
    original = RuntimeTask("n").run_function(double, x=21)
    twins = [copy.deepcopy(original) for _ in range(5)]
    for twin in twins:
        runtime.execute_task(twin)
    assert [twin.name for twin in twins] == ["n-1", "n-2", "n-3", "n-4", "n-5"]
    assert [list(twin.function_returns) for twin in twins] == [[42]] * 5
