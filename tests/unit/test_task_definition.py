"""How a task is defined: its steps, names, variables and timeouts, before any execution."""

from __future__ import annotations

import copy
import logging
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from lazycluster import Runtime, RuntimeTask
from lazycluster._ssh.endpoints import Endpoint, Route
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


def test_an_empty_name_is_made_up_too():
    """As in lazycluster 0.2."""
    assert RuntimeTask("").name.startswith("task-")


@pytest.mark.parametrize("name", [7, b"a", ["a"]])
def test_bad_name_is_refused(name):
    """What is not a string is a ValueError."""
    with pytest.raises(ValueError, match="name"):
        RuntimeTask(name)


def test_name_can_be_set():
    """But not to what is not a name."""
    task = RuntimeTask("a")
    task.name = "b"
    for bad in ("", None, 7):
        with pytest.raises(ValueError, match="name"):
            task.name = bad
    assert task.name == "b"


def test_a_task_has_a_logger():
    """Scripts of 0.2 log by it."""
    assert RuntimeTask().log is logging.getLogger("lazycluster")


class Named(RuntimeTask):
    """A task of a user's class."""

    def __init__(self, *, tags):
        super().__init__("named")
        self.tags = tags


def test_a_task_as_text():
    """The name of its class and its own."""
    assert str(RuntimeTask("a")) == "RuntimeTask: a"
    assert str(Named(tags=[])) == "Named: named"


def test_repr_counts_the_steps():
    assert repr(RuntimeTask("a")) == "<RuntimeTask 'a', 0 steps>"
    assert repr(commands("true", name="a")) == "<RuntimeTask 'a', 1 step>"
    assert repr(Named(tags=[]).run_command("a").run_command("b")) == "<Named 'named', 2 steps>"


# --- Copies ---


def test_deep_copies_are_numbered():
    """Copies of copies too."""
    task = RuntimeTask("a")
    first, second = copy.deepcopy(task), copy.deepcopy(task)
    names = [one.name for one in (first, second, copy.deepcopy(first), copy.deepcopy(second))]
    assert names == ["a-1", "a-2", "a-1-1", "a-2-1"]
    assert task.name == "a"


def test_deep_copies_that_threads_make_have_names_of_their_own():
    task = RuntimeTask("a")
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: copy.deepcopy(task).name, range(200)))
    assert names == {f"a-{number}" for number in range(1, 201)}


def test_a_deep_copy_has_the_definition_and_is_independent():
    """Steps, variables and omit_on_join; what is added to one is not added to the other."""
    task = commands("true", name="a")
    task.env_variables = {"A": "1"}
    task.omit_on_join = True
    twin = copy.deepcopy(task)
    assert twin.steps == task.steps
    assert twin.env_variables == {"A": "1"}
    assert twin.omit_on_join
    twin.run_command("false")
    twin.env_variables["B"] = "2"
    assert len(task.steps) == 1
    assert task.env_variables == {"A": "1"}


def test_a_deep_copy_of_a_subclass_has_its_class_and_attributes():
    """Its constructor is not called, whatever it takes."""
    task = Named(tags=["x"])
    twin = copy.deepcopy(task)
    assert isinstance(twin, Named)
    assert twin.name == "named-1"
    assert twin.tags == ["x"]
    assert twin.tags is not task.tags


def test_a_deep_copy_inside_a_structure_is_one_copy():
    task = RuntimeTask("a")
    first, second = copy.deepcopy([task, task])
    assert first is second
    assert first.name == "a-1"


@pytest.mark.parametrize("again", [copy.copy, lambda task: pickle.loads(pickle.dumps(task))])
def test_other_copies_have_the_name_and_are_independent(again):
    task = commands("true", name="a")
    task.omit_on_join = True
    twin = again(task)
    assert twin.name == "a"
    assert twin.omit_on_join
    twin.run_command("false").env_variables["B"] = "2"
    assert len(task.steps) == 1
    assert task.env_variables == {}
    assert copy.deepcopy(twin).name == "a-1"


# --- omit_on_join ---


def test_omit_on_join_is_an_attribute():
    task = RuntimeTask()
    assert task.omit_on_join is False
    task.omit_on_join = True
    assert task.omit_on_join is True


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_omit_on_join_is_a_bool(value):
    with pytest.raises(TypeError, match="omit_on_join"):
        RuntimeTask().omit_on_join = value


# --- Arguments that are none ---

FLAGS = [0, 1, 5, "yes", [1], object()]


@pytest.mark.parametrize("flag", FLAGS, ids=type)
@pytest.mark.parametrize("name", ["execute_async", "omit_on_join", "debug"])
def test_a_flag_of_execute_task_is_a_bool_or_none(name, flag, no_process):
    """A TypeError before anything starts; the message does not show the value."""
    task = commands("true")
    with pytest.raises(TypeError, match=f"{name} must be True, False or None") as caught:
        execute_task(task, **{name: flag})
    assert repr(flag) not in str(caught.value)
    assert task.execution_log_file_path is None


@pytest.mark.parametrize("flag", FLAGS, ids=type)
@pytest.mark.parametrize("name", ["execute_async", "debug"])
def test_a_flag_of_execute_function_says_how_arguments_are_given(name, flag):
    """`execute_function(pow, 2)` is a frequent mistake."""
    with pytest.raises(TypeError, match=rf"{name} must be.*functools\.partial"):
        Runtime.execute_function(object.__new__(Runtime), abs, **{name: flag})


@pytest.mark.parametrize("flag", FLAGS, ids=type)
@pytest.mark.parametrize("method", [Runtime.send_file, Runtime.get_file])
def test_a_flag_of_a_copy_is_a_bool_or_none(method, flag):
    with pytest.raises(TypeError, match="execute_async must be True, False or None"):
        method(object.__new__(Runtime), "a", "b", flag)


@pytest.mark.parametrize("flag", FLAGS, ids=type)
def test_a_flag_of_execute_is_a_bool_or_none(flag, no_process):
    with pytest.raises(TypeError, match="debug must be True, False or None"):
        commands("true").execute("host", flag)


@pytest.mark.parametrize("task", ["ls -l", None, print, [RuntimeTask()]], ids=type)
def test_what_is_not_a_task_is_refused(task):
    """The message shows what a command must be put into."""
    with pytest.raises(TypeError, match=r"RuntimeTask\(\)\.run_command\(\.\.\.\)"):
        execute_task(task)


def execute_task(task, **arguments):
    """Call `Runtime.execute_task` of a Runtime that has no host."""
    Runtime.execute_task(object.__new__(Runtime), task, **arguments)


# --- Steps ---


@pytest.mark.parametrize("path", [None, ""])
def test_empty_paths_are_left_out_paths(path):
    """As in 0.2: the working directory, and the current folder."""
    task = RuntimeTask().send_file("a", path).get_file("b", path)
    left_out = RuntimeTask().send_file("a").get_file("b")
    assert task.steps == left_out.steps


@pytest.mark.parametrize("path", [0, False, b"", []], ids=repr)
def test_what_is_only_false_is_not_a_path(path):
    with pytest.raises((ValueError, TypeError), match="path"):
        RuntimeTask().send_file("a", path)
    with pytest.raises((ValueError, TypeError), match="path"):
        RuntimeTask().get_file("a", path)


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


@pytest.mark.parametrize("again", [lambda task: task, copy.deepcopy, copy.copy])
def test_a_task_cannot_set_the_working_directory(again):
    """A ValueError that says what to do: on a Runtime the variable always is its directory."""
    task = again(RuntimeTask())
    with pytest.raises(ValueError, match="assign to `working_dir`"):
        task.env_variables["WORKING_DIR"] = "/tmp"
    with pytest.raises(ValueError, match="assign to `working_dir`"):
        task.env_variables = {"A": "1", "WORKING_DIR": "/tmp"}
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
    forward = Forward("host", Route(Endpoint("", 1), Endpoint("", 2), False), lambda _: None)
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
