"""How a task is defined: its steps, names, variables and timeouts, before any execution."""

from __future__ import annotations

import os
import pickle

import pytest

from lazycluster import RuntimeTask
from lazycluster._tasks.execution import Execution
from lazycluster.forwards import Forward
from lazycluster.processes import PortExposure, TaskProcess
from support.hosts import commands


def test_name_is_kept():
    """The name is the one that was given."""
    assert RuntimeTask("my task").name == "my task"


def test_names_made_up_differ():
    """Tasks without a name get one each."""
    first, second = RuntimeTask(), RuntimeTask()
    assert first.name
    assert first.name != second.name


@pytest.mark.parametrize("name", ["", 7])
def test_bad_name_is_refused(name):
    """Empty names are a ValueError, and so is what is no string."""
    with pytest.raises(ValueError, match="name"):
        RuntimeTask(name)


def test_refused_command_is_not_added():
    """A task keeps only what could be added."""
    task = RuntimeTask()
    with pytest.raises(ValueError, match="empty"):
        task.run_command("")
    assert task.steps == ()


@pytest.mark.parametrize("command", ["", "  \n", None, "echo \0"])
def test_bad_command_is_refused(command):
    """Empty commands are a ValueError when they are added, and so are those with a NUL."""
    with pytest.raises(ValueError, match="command"):
        RuntimeTask().run_command(command)


def test_steps_can_be_chained():
    """Each method that adds a step returns the task."""
    task = RuntimeTask()
    assert task.run_command("true").run_function(os.getpid) is task
    assert len(task.steps) == 2


def test_repr_holds_no_command():
    """There may be a secret in it."""
    assert "secret" not in repr(commands("echo secret"))


def test_log_is_empty_before_the_first_execution():
    """And there is no file."""
    task = commands("echo hi")
    assert task.execution_log == []
    assert task.execution_log_file_path is None


def test_task_that_was_not_executed_has_no_values():
    """Asking is no error."""
    assert list(RuntimeTask().run_function(os.getpid).function_returns) == []


def test_join_without_an_execution_returns():
    """There is nothing to wait for."""
    RuntimeTask().join()


@pytest.mark.parametrize("name", ["", "1A", "A B", "A=B", "A-B", "A\n", "Ä", "A;touch x", None])
def test_bad_name_of_a_variable_is_refused(name):
    """A ValueError when it is set."""
    task = RuntimeTask()
    with pytest.raises(ValueError, match="name"):
        task.env_variables = {name: "x"}
    assert task.env_variables == {}


@pytest.mark.parametrize("value", ["my-secret\0", None, b"my-secret", ["my-secret"]])
def test_bad_value_of_a_variable_is_refused(value):
    """A ValueError that names the variable and does not show the value."""
    with pytest.raises(ValueError, match="PASSWORD") as caught:
        RuntimeTask().env_variables = {"PASSWORD": value}
    assert "my-secret" not in str(caught.value)


def test_value_of_a_badly_named_variable_stays_secret():
    """The message has the name alone."""
    with pytest.raises(ValueError, match="PASS-WORD") as caught:
        RuntimeTask().env_variables = {"PASS-WORD": "my-secret"}
    assert "my-secret" not in str(caught.value)


def test_variables_set_are_a_copy():
    """A dictionary that changes afterwards does not change the task."""
    given = {"A": "1"}
    task = RuntimeTask()
    task.env_variables = given
    given["A"] = "2"
    assert task.env_variables == {"A": "1"}


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", True])
def test_bad_timeout_of_a_step_is_refused(timeout):
    """A ValueError when it is added."""
    with pytest.raises(ValueError, match="timeout"):
        RuntimeTask().run_command("true", timeout=timeout)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", True])
def test_bad_timeout_of_an_execution_is_refused(timeout, no_process):
    """Before any connection is opened."""
    with pytest.raises(ValueError, match="timeout"):
        commands("true").execute("host", timeout=timeout)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", True])
def test_bad_timeout_of_a_wait_is_refused(timeout):
    """A ValueError; 0 looks without waiting, and infinity is no bound."""
    execution = Execution("t", (), "host", task=RuntimeTask())
    process = TaskProcess("key", execution)
    forward = Forward("host", 1, 2, False, lambda _: None)
    for wait in (process.join, forward.wait, PortExposure("key", forward).join):
        with pytest.raises(ValueError, match="timeout"):
            wait(timeout)
        wait(0)
    execution._done.set()
    process.join(float("inf"))


def test_shell_is_split_into_words():
    """As a shell splits them."""
    (step,) = RuntimeTask().run_command("true", shell="bash --rcfile 'a b'").steps
    assert step.describe()["shell"] == ("bash", "--rcfile", "a b")
    assert commands("true").steps[0].describe()["shell"] is None


@pytest.mark.parametrize("shell", ["", " ", "sh '", "sh\0", 7])
def test_bad_shell_is_refused(shell):
    """A ValueError when the step is added."""
    with pytest.raises(ValueError, match="shell"):
        RuntimeTask().run_command("true", shell=shell)


@pytest.mark.parametrize(
    "name", ["", "1A", "A B", "A=B", "Ä", "A-B", "A\n", "A\0", "BASH_FUNC_a%%"]
)
def test_f37_bad_name_of_a_variable_of_a_task(name):
    """A ValueError that shows no value."""
    with pytest.raises(ValueError, match="name") as caught:
        commands("true").env_variables = {name: "my-secret"}
    assert "my-secret" not in str(caught.value)


@pytest.mark.every_python
def test_keyword_function_of_the_function():
    """What needs one of that name gets it by functools.partial."""

    def apply(function):
        return function()

    with pytest.raises(ValueError, match=r"(?s)function.*functools\.partial"):
        RuntimeTask().run_function(apply)


@pytest.mark.parametrize("progress", ["yes", 1, (), [print]], ids=repr)
def test_progress_that_is_none_is_refused(progress):
    with pytest.raises(ValueError, match="progress"):
        RuntimeTask().send_file("x", progress=progress)
    with pytest.raises(ValueError, match="progress"):
        RuntimeTask().get_file("x", progress=progress)


def test_progress_does_not_keep_a_task_from_being_pickled(tmp_path):
    """The copy reports no progress in another process."""
    task = RuntimeTask().get_file("x", str(tmp_path), progress=lambda done, total: None)
    assert pickle.loads(pickle.dumps(task)).steps[0].progress is None
