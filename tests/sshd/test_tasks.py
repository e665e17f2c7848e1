"""RuntimeTask on a real host: names, steps, environment, and without a Runtime."""

from __future__ import annotations

import os

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import StepTimeoutError, TaskExecutionError
from support.hosts import commands, double, ended, failed, run

# --- Names and what a task is made of ---


def test_command_that_no_byte_string_can_be_is_refused(own_runtime):
    """A lone surrogate is a ValueError or an error of its own task; the connection holds."""
    before = run(own_runtime, "pwd")
    with pytest.raises((ValueError, TaskExecutionError)):
        run(own_runtime, "echo \ud800")
    assert run(own_runtime, "pwd") == before


def test_odd_name_of_a_task_is_no_path(runtime):
    """The log's file stays in the folder of its host, whatever the task is called."""
    task = commands("echo hi", name="../../a b/ü\n" + "x" * 300)
    runtime.execute_task(task, execute_async=False)
    folder, file = os.path.split(task.execution_log_file_path)
    assert os.path.basename(folder) == runtime.host
    assert "/" not in file


def test_task_without_steps_succeeds(runtime):
    """It has an empty log and no values."""
    task = runtime.execute_task(RuntimeTask(), execute_async=False)
    assert task.execution_log == []
    assert list(task.function_returns) == []


# --- Steps ---


def test_steps_run_in_order(runtime):
    """Commands and functions mixed, each after the one before."""
    task = RuntimeTask().run_command("echo one").run_function(print_two).run_command("echo three")
    runtime.execute_task(task, execute_async=False)
    assert task.execution_log == ["one\n", "two\n", "three\n"]


def print_two():
    print("two")


def test_steps_after_a_failed_one_do_not_run(own_runtime):
    """The task stops at its first failure."""
    failed(own_runtime, commands("touch first", "exit 3", "touch third"))
    assert run(own_runtime, "ls") == ["first\n"]


def test_change_of_directory_ends_with_the_step(runtime):
    """Each step begins in the working directory."""
    log = run(runtime, "cd / && pwd", "pwd")
    assert log == ["/\n", runtime.working_dir + "\n"]


def test_variables_end_with_the_step(runtime):
    """What a command exports is gone in the next."""
    assert run(runtime, "export LEFT=1", 'echo "[$LEFT]"') == ["", "[]\n"]


def test_many_short_steps(runtime):
    """Each prints and ends at once; none gets in the way of the next, and the connection holds."""
    lines = [f"echo {number}" for number in range(300)]
    assert run(runtime, *lines) == [f"{number}\n" for number in range(300)]


def test_five_commands_are_one_request(runtime, requests):
    """Steps that follow one another on the host cost one round trip."""
    run(runtime, *["true"] * 5)
    assert requests == [["command"] * 5]


def test_commands_and_functions_are_one_request(runtime, requests):
    """A function in between does not cut the task in two."""
    task = RuntimeTask().run_command("true").run_function(print_two).run_command("true")
    runtime.execute_task(task, execute_async=False)
    assert requests == [["command", "function", "command"]]


def test_f15_standard_input_is_empty(runtime):
    """A command that reads gets the end of file at once."""
    assert run(runtime, "cat; echo $?") == ["0\n"]


def test_command_is_taken_as_it_is(runtime):
    """Quotes, newlines, backslashes and other alphabets arrive unchanged."""
    assert run(runtime, "cat <<'E'\n'\"\\ $x `y` ü 日本\t!!\nE") == ["'\"\\ $x `y` ü 日本\t!!\n"]


def test_command_of_a_megabyte(runtime):
    """It is longer than what a host takes as an argument."""
    text = "x" * 2**20
    assert run(runtime, f": {text}; echo done") == ["done\n"]


def test_pipe_that_is_closed_ends_its_writer(runtime):
    """SIGPIPE is as in a shell: `yes | head` ends without a complaint."""
    assert run(runtime, "yes | head -n 1") == ["y\n"]


def test_steps_added_while_it_runs_are_for_the_next_time(runtime, gate):
    """An execution has the steps that were there when it began."""
    task = runtime.execute_task(commands(gate.wait))
    task.run_command("echo late")
    gate.open()
    assert ended(task).execution_log == [""]
    assert len(task.steps) == 2


# --- Environment of a task ---


ODD_VALUES = {
    "newline": "a\nb\n",
    "quotes": "'\"`",
    "command": "$(touch x) `touch y` ${HOME} $$",
    "empty": "",
    "blanks": "  a  ",
    "backslash": "\\n\\",
    "unicode": "ü日本",
    "no-utf8": "\udcff",
    "100kB": "x" * 100_000,
}


@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES)
def test_value_arrives_exactly_in_a_command(runtime, value):
    """No shell reads it on the way."""
    task = RuntimeTask().run_command('printf %s "$ODD"')
    task.env_variables = {"ODD": value}
    runtime.execute_task(task, execute_async=False)
    expected = os.fsencode(value).decode("utf-8", "backslashreplace")
    assert task.execution_log == [expected]


@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES)
def test_value_arrives_exactly_in_a_function(runtime, value):
    """os.environ has it as it is here."""
    task = RuntimeTask().run_function(os.getenv, key="ODD")
    task.env_variables = {"ODD": value}
    runtime.execute_task(task, execute_async=False)
    assert list(task.function_returns) == [value]


BAD_NAMES = ["", "1A", "A B", "A=B", "A-B", "A\n", "Ä", "A;touch x", None]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_name_put_in_later_is_refused(name):
    """A ValueError at once."""
    task = commands("echo hi")
    with pytest.raises(ValueError, match="name"):
        task.env_variables[name] = "x"
    assert task.env_variables == {}


def test_variable_that_no_byte_string_can_be_is_refused(own_runtime):
    """A lone surrogate is an error at once that tells no value; the connection holds."""
    before = run(own_runtime, "pwd")
    task = commands("true")
    with pytest.raises(ValueError, match="PASSWORD") as caught:
        task.env_variables["PASSWORD"] = "my-secret\ud800"
    assert "my-secret" not in str(caught.value)
    assert run(own_runtime, "pwd") == before


# --- Without a Runtime ---


def test_execute_returns_the_task(connection):
    """So that calls can be chained."""
    task = commands("echo hi")
    assert task.execute(connection) is task


def test_execute_leaves_the_connection_open(connection, sshd):
    """It belongs to its owner."""
    connection.open()
    serving = sshd.connection_pids()
    commands("true").execute(connection)
    assert sshd.connection_pids() == serving


def test_execute_starts_in_the_home_directory(connection):
    """Of the account, as `ssh host command` does."""
    import pwd

    task = commands("pwd").run_function(os.getcwd).execute(connection)
    home = os.path.realpath(pwd.getpwuid(os.getuid()).pw_dir)
    assert task.execution_log[0] == f"{home}\n"
    assert list(task.function_returns) == [home]


def test_execute_sets_the_variables_of_the_task(connection):
    """As in a Runtime."""
    task = commands("echo $A")
    task.env_variables = {"A": "1"}
    assert task.execute(connection).execution_log == ["1\n"]


def test_execute_raises_the_error_of_a_step(connection):
    """A TaskExecutionError with its cause."""
    with pytest.raises(TaskExecutionError) as caught:
        commands("exit 3").execute(connection)
    assert caught.value.__cause__.exit_status == 3


def test_execute_with_a_timeout(connection):
    """For the whole task."""
    with pytest.raises(TaskExecutionError) as caught:
        commands("exec sleep 600").execute(connection, timeout=0.3)
    assert isinstance(caught.value.__cause__, StepTimeoutError)


def test_execute_with_debug_prints(connection, capsys):
    """What the steps print."""
    commands("echo hi").execute(connection, debug=True)
    assert capsys.readouterr().out == "hi\n"


def test_execute_on_a_host_string(user_config, nothing_left):
    """A connection is opened for it, and closed."""
    task = commands("echo hi").run_function(double, x=1)
    assert task.execute(user_config.alias) is task
    assert task.execution_log == ["hi\n", ""]
    assert list(task.function_returns) == [2]
    nothing_left()


def test_shell_of_a_command(runtime):
    """Its options count, and a command too long for an argv is run by it, too."""
    task = RuntimeTask().run_command("echo $0 $-", shell="/bin/sh -e")
    task.run_command("echo one; false; echo two # " + "x" * 200_000, shell="sh -e")
    failed(runtime, task)
    assert task.execution_log[0].startswith("/bin/sh ")
    assert "e" in task.execution_log[0].split()[1]
    assert task.execution_log[1] == "one\n"
