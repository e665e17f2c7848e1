"""Runtime on a real host: its directory, variables, processes, tasks, and its end."""

from __future__ import annotations

import contextlib
import doctest
import functools
import os
import pwd
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import lazycluster.runtimes
import lazycluster.tasks
from lazycluster import Connection, Runtime, RuntimeTask
from lazycluster.exceptions import LazyclusterError, PathCreationError, TaskExecutionError
from support.hosts import Gate, call, commands, ended, run
from support.processes import is_alive
from support.waiting import wait_until


@pytest.fixture
def home_folder():
    """An unused name of a folder in the home directory of the account; removed afterwards."""
    path = os.path.join(pwd.getpwuid(os.getuid()).pw_dir, f"lctest-{os.urandom(4).hex()}")
    yield path
    if os.path.isdir(path):
        os.rmdir(path)


# --- What it is ---


def test_host_is_what_was_given(runtime, sshd):
    """Not what the alias resolves to."""
    assert runtime.host == sshd.alias


def test_repr_holds_nothing_but_the_host(own_runtime):
    """No variable, no file."""
    own_runtime.env_variables = {"PASSWORD": "my-secret"}
    assert repr(own_runtime) == f"<Runtime {own_runtime.host!r}>"


def test_users_own_configuration_counts(user_config):
    """`Runtime(alias)` is all that is needed."""
    runtime = Runtime(user_config.alias)
    assert runtime.echo("hi") == "hi"
    runtime.cleanup()


@pytest.mark.parametrize("documented", [Runtime, RuntimeTask])
def test_examples_of_the_docstring_hold(user_config, documented, monkeypatch):
    """Run as they stand, with another name for the host."""

    class Aliased(Runtime):
        def __init__(self, host):
            super().__init__(user_config.alias)

    class AliasedConnection(Connection):
        def __init__(self, host):
            super().__init__(user_config.alias)

    monkeypatch.setattr(lazycluster.tasks, "Connection", AliasedConnection)
    names = {"Runtime": Aliased, "RuntimeTask": RuntimeTask}
    (example,) = (
        found
        for found in doctest.DocTestFinder(recurse=False).find(documented, globs=names)
        if found.examples
    )
    said = []
    results = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not results.failed, "".join(said)


def test_valid_runtime(runtime):
    """A host that works is valid."""
    assert runtime.is_valid_runtime() is True


def test_runtime_is_not_valid_when_its_host_has_gone(make_sshd, make_runtime):
    """It is asked anew, and nothing is raised."""
    sshd = make_sshd()
    runtime = make_runtime(on=sshd)
    sshd.stop()
    assert runtime.is_valid_runtime() is False


def test_runtime_is_valid_again_after_cleanup(own_runtime):
    """The use after it logs in again."""
    own_runtime.cleanup()
    assert own_runtime.is_valid_runtime() is True


# --- The working directory ---


def test_temporary_working_directory_is_private(runtime):
    """0700, empty at first and of this account."""
    status = os.stat(runtime.working_dir)
    assert stat.S_IMODE(status.st_mode) == 0o700


def test_temporary_working_directory_is_removed_by_cleanup(own_runtime):
    """With all that is in it."""
    path = own_runtime.working_dir
    run(own_runtime, "mkdir -p a/b; touch a/b/c; ln -s / root; chmod 500 a/b")
    own_runtime.cleanup()
    assert not os.path.lexists(path)


def test_two_runtimes_have_two_working_directories(make_runtime):
    """They do not get in each other's way."""
    assert make_runtime().working_dir != make_runtime().working_dir


def test_working_directory_that_is_given(make_runtime, tmp_path):
    """It is made, with those above it."""
    path = str(tmp_path / "a b" / "ü" / "c")
    runtime = make_runtime(path)
    assert runtime.working_dir == path
    assert run(runtime, "pwd") == [path + "\n"]


def test_working_directory_that_is_given_stays(make_runtime, tmp_path):
    """cleanup() removes only what is ours."""
    path = tmp_path / "mine"
    runtime = make_runtime(str(path))
    run(runtime, "touch file")
    runtime.cleanup()
    assert (path / "file").exists()


def test_working_directory_that_is_there_is_used(make_runtime, tmp_path):
    """With what is in it."""
    (tmp_path / "file").write_text("there")
    assert run(make_runtime(str(tmp_path)), "cat file") == ["there"]


def test_working_directory_with_a_tilde(make_runtime, home_folder):
    """As the first character it is the account's home directory, as everywhere in ssh."""
    runtime = make_runtime(f"~/{os.path.basename(home_folder)}")
    shell = run(runtime, "echo ~")[0].strip()
    assert runtime.working_dir == f"{shell}/{os.path.basename(home_folder)}"
    assert os.path.isdir(runtime.working_dir)


@pytest.mark.parametrize("home", ["$HOME", "${HOME}"])
def test_working_directory_below_the_variable_of_the_home(make_runtime, home_folder, home):
    """It means the home directory at the start of a path."""
    runtime = make_runtime(f"{home}/{os.path.basename(home_folder)}")
    shell = run(runtime, "echo $HOME")[0].strip()
    assert runtime.working_dir == f"{shell}/{os.path.basename(home_folder)}"
    assert run(runtime, "pwd") == [runtime.working_dir + "\n"]


def test_relative_working_directory_is_below_the_home_directory(make_runtime, home_folder):
    """Its path is made absolute."""
    name = os.path.basename(home_folder)
    runtime = make_runtime(name)
    assert os.path.isabs(runtime.working_dir)
    assert os.path.samefile(runtime.working_dir, home_folder)
    assert run(runtime, "pwd") == [runtime.working_dir + "\n"]


def test_working_directory_below_a_link_is_what_was_given(make_runtime, tmp_path):
    """For the manager, for commands, for functions and in texts."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    path = str(tmp_path / "link" / "new")
    runtime = make_runtime(path)
    assert runtime.working_dir == runtime.echo("${PWD}") == path
    assert run(runtime, "echo $PWD; pwd; echo $WORKING_DIR") == [f"{path}\n" * 3]
    assert call(runtime, os.getenv, key="PWD") == path
    assert (tmp_path / "folder" / "new").is_dir()
    runtime.working_dir = str(tmp_path / "link")
    assert runtime.working_dir == runtime.echo("${PWD}") == str(tmp_path / "link")


def test_tilde_elsewhere_is_a_tilde(make_runtime, tmp_path):
    """It expands as the first character only."""
    runtime = make_runtime(f"{tmp_path}/~")
    assert runtime.working_dir == f"{tmp_path}/~"
    assert (tmp_path / "~").is_dir()


def test_working_directory_that_cannot_be_made(make_runtime, tmp_path, nothing_left):
    """PathCreationError with the path; nothing is left open."""
    (tmp_path / "file").write_text("")
    path = str(tmp_path / "file" / "below")
    with pytest.raises(PathCreationError) as caught:
        make_runtime(path)
    assert caught.value.path.startswith(str(tmp_path / "file"))
    nothing_left()


def test_setting_the_working_directory(own_runtime, tmp_path):
    """It is made, and tasks and their variable are there from now on."""
    path = str(tmp_path / "new" / "dir")
    own_runtime.working_dir = path
    assert own_runtime.working_dir == path
    assert run(own_runtime, "pwd; echo $WORKING_DIR") == [f"{path}\n{path}\n"]


def test_setting_the_working_directory_removes_a_temporary_one(own_runtime, tmp_path):
    """It would have no use any more."""
    old = own_runtime.working_dir
    own_runtime.working_dir = str(tmp_path)
    assert not os.path.exists(old)


def test_setting_the_working_directory_keeps_one_that_was_given(make_runtime, tmp_path):
    """It is the user's."""
    runtime = make_runtime(str(tmp_path / "one"))
    runtime.working_dir = str(tmp_path / "two")
    assert (tmp_path / "one").is_dir()


def test_working_directory_that_was_set_stays(own_runtime, tmp_path):
    """cleanup() does not remove it."""
    own_runtime.working_dir = str(tmp_path / "mine")
    own_runtime.cleanup()
    assert (tmp_path / "mine").is_dir()


def test_setting_the_working_directory_to_a_folder_within_the_temporary_one(own_runtime):
    """Tasks can run there."""
    own_runtime.working_dir = own_runtime.working_dir + "/sub"
    assert run(own_runtime, "pwd") == [own_runtime.working_dir + "\n"]


def test_setting_the_working_directory_to_what_it_is(own_runtime):
    """It is still there, and tasks can run in it."""
    own_runtime.working_dir = own_runtime.working_dir
    assert run(own_runtime, "pwd") == [own_runtime.working_dir + "\n"]


def test_setting_a_working_directory_that_cannot_be_made(own_runtime, tmp_path):
    """PathCreationError with the path and the host's reason; the old one stays."""
    (tmp_path / "file").write_text("")
    old = own_runtime.working_dir
    with pytest.raises(PathCreationError, match=r"Not a directory|File exists"):
        own_runtime.working_dir = str(tmp_path / "file" / "below")
    assert own_runtime.working_dir == old
    assert run(own_runtime, "pwd") == [old + "\n"]


def test_working_directory_that_no_byte_string_can_be(own_runtime):
    """A lone surrogate is an error, and the old directory stays."""
    old = own_runtime.working_dir
    with pytest.raises((ValueError, PathCreationError)):
        own_runtime.working_dir = "/tmp/\ud800"
    assert own_runtime.working_dir == old


def test_f45_working_directory_that_has_gone(own_runtime):
    """A step there fails with the path and the reason."""
    run(own_runtime, "rmdir ../${PWD##*/}")
    with pytest.raises(TaskExecutionError, match="No such file") as caught:
        run(own_runtime, "pwd")
    assert own_runtime.working_dir in str(caught.value)


def test_f45_questions_in_a_working_directory_that_has_gone(own_runtime, tmp_path):
    """The error names it, and the cure, whatever was asked."""
    own_runtime.working_dir = tmp_path / "job"
    assert own_runtime.delete_dir(own_runtime.working_dir)
    for ask in (
        lambda: own_runtime.get_free_port([1]),
        lambda: own_runtime.echo("x"),
        lambda: own_runtime.create_dir("/tmp"),
        lambda: own_runtime.delete_dir("/no/such/folder"),
    ):
        with pytest.raises(LazyclusterError, match=r"job on .* does not exist any more"):
            ask()
    own_runtime.working_dir = tmp_path / "job"
    assert own_runtime.echo("$PWD").endswith("job")


# --- Variables ---


def test_working_directory_is_in_a_variable(runtime):
    """Under the name that the constant says."""
    assert Runtime.WORKING_DIR_ENV_VAR_NAME == "WORKING_DIR"
    assert run(runtime, "echo $WORKING_DIR") == [runtime.working_dir + "\n"]
    assert runtime.env_variables == {"WORKING_DIR": runtime.working_dir}


def test_variables_of_the_runtime_reach_commands_and_functions(own_runtime):
    """All tasks get them."""
    own_runtime.env_variables = {"A": "1"}
    assert run(own_runtime, "echo $A") == ["1\n"]
    assert call(own_runtime, os.getenv, key="A") == "1"


def test_variables_that_are_set_replace_all_before(own_runtime):
    """But for that of the working directory, which is always there."""
    own_runtime.env_variables = {"A": "1"}
    own_runtime.env_variables = {"B": "2"}
    assert own_runtime.env_variables == {"B": "2", "WORKING_DIR": own_runtime.working_dir}
    assert run(own_runtime, 'echo "[$A$B]"; echo $WORKING_DIR') == [
        f"[2]\n{own_runtime.working_dir}\n"
    ]


def test_variables_that_are_added(own_runtime):
    """New ones come to those there, and old ones get the new value."""
    own_runtime.env_variables = {"A": "1", "B": "1"}
    own_runtime.add_env_variables({"B": "2", "C": "2"})
    assert run(own_runtime, "echo $A$B$C") == ["122\n"]


def test_variables_of_the_task_win(own_runtime):
    """The Runtime's others are there all the same, and later tasks have them all."""
    own_runtime.env_variables = {"A": "runtime", "B": "runtime"}
    task = commands("echo $A $B")
    task.env_variables = {"A": "task"}
    assert own_runtime.execute_task(task, execute_async=False).execution_log == ["task runtime\n"]
    assert run(own_runtime, "echo $A") == ["runtime\n"]
    assert task.env_variables == {"A": "task"}


@pytest.mark.parametrize("value", ["a\nb", "'\"`$(x)", "", "x" * 100_000])
def test_f37_value_of_a_runtime_arrives_exactly(own_runtime, value):
    """No shell reads it on the way."""
    own_runtime.env_variables = {"ODD": value}
    assert run(own_runtime, 'printf %s "$ODD"') == [value]


@pytest.mark.parametrize("name", ["", "1A", "A B", "A=B", "Ä"])
def test_f37_bad_name_of_a_variable_is_refused(own_runtime, name):
    """A ValueError, and the variables are as before; the value is not told."""
    own_runtime.env_variables = {"A": "1"}
    before = own_runtime.env_variables
    with pytest.raises(ValueError, match="name") as caught:
        own_runtime.env_variables = {name: "my-secret"}
    assert "my-secret" not in str(caught.value)
    with pytest.raises(ValueError, match="name") as caught:
        own_runtime.add_env_variables({"B": "2", name: "my-secret"})
    assert "my-secret" not in str(caught.value)
    assert own_runtime.env_variables == before


# --- echo ---


def test_echo_expands_variables(runtime):
    """The host's shell does, in the working directory."""
    assert runtime.echo("${PWD}") == runtime.working_dir
    assert runtime.echo("at $WORKING_DIR!") == f"at {runtime.working_dir}!"


def test_echo_expands_variables_of_the_runtime(own_runtime):
    """Any value, as it is."""
    own_runtime.env_variables = {"A": "a  b\n*\\n"}
    assert own_runtime.echo("$A") == "a  b\n*\\n"


ODD_TEXTS = [
    "",
    "hi",
    "a  b",
    "*",
    "'",
    '"',
    'say "hi"',
    "\\n",
    "a\nb",
    "-n",
    "%s",
    "ü日本",
    "!!",
    "~",
]


@pytest.mark.parametrize("value", [5, 0.5, None, True])
def test_echo_of_something_else_is_its_text(runtime, value):
    """As `str()` makes it."""
    assert runtime.echo(value) == str(value)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_echo_gives_other_text_back(runtime, text):
    """Whatever a shell might take it for."""
    assert runtime.echo(text) == text


def test_echo_of_nul_ends_nothing_else(own_runtime):
    """It is a ValueError, or an error of its own; the connection holds."""
    before = run(own_runtime, "pwd")
    with pytest.raises((ValueError, TaskExecutionError)):
        own_runtime.echo("a\0b")
    assert run(own_runtime, "pwd") == before


def test_echo_is_none_of_the_tasks(own_runtime):
    """It leaves no log and no process behind."""
    own_runtime.echo("hi")
    assert own_runtime.get_processes() == {}
    with pytest.raises(ValueError, match="echo"):
        own_runtime.execution_log("echo")


# --- Tasks ---


def test_execute_task_returns_the_task(runtime):
    """Both ways."""
    task = commands("true")
    assert runtime.execute_task(task, execute_async=False) is task
    assert runtime.execute_task(task) is task
    ended(task)


def test_function_returns_of_all_tasks(own_runtime):
    """In the order in which the tasks were executed, not in which they ended."""
    slow = RuntimeTask()
    slow.run_command("sleep 0.2").run_function(text, value="slow")
    fast = RuntimeTask().run_function(text, value="fast").run_function(text, value="faster")
    own_runtime.execute_task(slow)
    own_runtime.execute_task(fast)
    run(own_runtime, "true")
    assert list(own_runtime.function_returns) == ["slow", "fast", "faster"]


def text(value):
    return value


def test_function_returns_of_a_runtime_can_be_asked_for_twice(own_runtime):
    """They are all yielded again."""
    own_runtime.execute_function(text, value=1)
    assert list(own_runtime.function_returns) == list(own_runtime.function_returns) == [1]


def test_function_returns_of_a_failed_task(own_runtime):
    """The values before it, then its error."""
    own_runtime.execute_function(text, value=1)
    own_runtime.execute_task(commands("exit 3"))
    values = own_runtime.function_returns
    assert next(values) == 1
    with pytest.raises(TaskExecutionError):
        next(values)


def test_execution_log_of_a_task_by_its_name(own_runtime):
    """The last one of that name."""
    own_runtime.execute_task(commands("echo one", name="a"), execute_async=False)
    own_runtime.execute_task(commands("echo two", name="b"), execute_async=False)
    own_runtime.execute_task(commands("echo three", name="a"), execute_async=False)
    assert own_runtime.execution_log("a") == ["three\n"]
    assert own_runtime.execution_log("b") == ["two\n"]


def test_execution_log_of_an_unknown_task(runtime):
    """A ValueError that names it."""
    with pytest.raises(ValueError, match="no-such-task"):
        runtime.execution_log("no-such-task")


def test_print_log_of_a_runtime(own_runtime, capsys):
    """Each task's, under the task's name."""
    own_runtime.execute_task(commands("echo one", name="first"), execute_async=False)
    own_runtime.execute_task(commands("echo two", name="second"), execute_async=False)
    own_runtime.print_log()
    assert capsys.readouterr().out.splitlines() == [
        f"Log of Task first on {own_runtime.host}:",
        "0: echo one",
        "   one",
        f"Log of Task second on {own_runtime.host}:",
        "0: echo two",
        "   two",
    ]


def test_a_runtime_has_its_own_executions_of_a_task(make_runtime):
    """Also where the task was executed elsewhere or again meanwhile."""
    one, two = make_runtime(), make_runtime()
    task = RuntimeTask("t").run_command("echo $A").run_function(os.getenv, key="A")
    for number, runtime in enumerate([one, two, one]):
        task.env_variables = {"A": str(number)}
        ended(runtime.execute_task(task))
    assert one.execution_log("t") == ["2\n", ""]
    assert two.execution_log("t") == ["1\n", ""]
    assert list(one.function_returns) == ["0", "2"]
    assert list(two.function_returns) == ["1"]
    assert list(task.function_returns) == ["2"]
    assert len(one.get_processes()) == 2


def test_a_task_runs_on_several_runtimes_at_once(make_runtime):
    """Each joins its own; a failure on one host is not one of the other."""
    one, two = make_runtime(), make_runtime()
    gate = Gate(one)
    task = RuntimeTask("t").run_command(f'[ "$A" = 2 ] || {gate.wait}; exit "$A"')
    for number, runtime in ((0, one), (2, two)):
        task.env_variables = {"A": str(number)}
        runtime.execute_task(task)
    two.join()
    (first,) = one.task_processes
    assert first.is_alive()
    assert task.error.host == two.host
    gate.open()
    one.join()
    assert first.exitcode == 0
    assert list(one.function_returns) == []
    with pytest.raises(TaskExecutionError):
        list(two.function_returns)


def test_print_log_of_a_runtime_has_each_execution(own_runtime, capsys):
    task = commands("echo $A", name="t")
    for number in range(2):
        task.env_variables = {"A": f"value {number}"}
        own_runtime.execute_task(task, execute_async=False)
    own_runtime.print_log()
    printed = capsys.readouterr().out
    assert printed.index("value 0") < printed.index("value 1")


def test_values_of_a_runtime_can_be_zipped_with_its_functions(own_runtime, caplog):
    """None stands for a function that failed; the first error comes last, others are logged."""
    values = [1, ValueError("first"), 3, KeyError("second"), 5]
    for value in values:
        own_runtime.execute_function(give, execute_async=True, value=value)
    returns = own_runtime.function_returns
    assert [found for _, found in zip(values, returns)] == [1, None, 3, None, 5]
    with pytest.raises(TaskExecutionError, match="first"):
        next(returns)
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [sum(text in line for line in logged) for text in ("first", "second")] == [1, 1]


def give(value):
    if isinstance(value, Exception):
        raise value
    return value


def test_names_of_shortcuts(own_runtime, tmp_path, monkeypatch):
    """As in 0.2: they are in process keys, and scripts ask for their logs by them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("a")
    host = own_runtime.host
    tasks = [
        own_runtime.execute_function(text, value=1),
        own_runtime.execute_function(functools.partial(text, value=1)),
        own_runtime.execute_function(lambda: 1),
        own_runtime.execute_function("a".upper),
        own_runtime.send_file("a"),
        own_runtime.get_file("a", "b"),
    ]
    names = [
        "execute-function-text",
        "execute-function-text",
        "execute-function-<lambda>",
        "execute-function-upper",
        f"send-file-a-to-{host}",
        f"get-file-a-from-{host}",
    ]
    assert [task.name for task in tasks] == names
    assert own_runtime.execution_log("execute-function-<lambda>") == [""]
    key = own_runtime.execute_function(text, True, value=1).process.name
    assert key == f"{host}::task::execute-function-text"


def test_join_of_a_runtime(own_runtime):
    """Waits for all tasks, save for those of omit_on_join."""
    omitted = own_runtime.execute_task(commands("sleep 600"), omit_on_join=True)
    tasks = [own_runtime.execute_task(commands("sleep 0.1")) for _ in range(5)]
    own_runtime.join()
    assert not any(task.process.is_alive() for task in tasks)
    assert omitted.process.is_alive()


def test_clear_tasks_forgets_what_has_ended(own_runtime):
    """Logs, values and handles of the Runtime; the task has its own still."""
    task = ended(own_runtime.execute_task(RuntimeTask("t").run_function(text, value=1)))
    own_runtime.clear_tasks()
    assert own_runtime.get_processes() == {}
    assert list(own_runtime.function_returns) == []
    with pytest.raises(ValueError, match="t"):
        own_runtime.execution_log("t")
    assert list(task.function_returns) == [1]


def test_clear_tasks_forgets_what_runs_and_lets_it_run_on(own_runtime):
    """Its key is free again; `cleanup` ends it."""
    task = own_runtime.execute_task(commands("exec sleep 600", name="t"))
    process = task.process
    pid = wait_until(lambda: process.pid)
    own_runtime.clear_tasks()
    assert own_runtime.get_processes() == {}
    assert own_runtime.task_processes == []
    with pytest.raises(ValueError, match="t"):
        own_runtime.get_process(process.name)
    with pytest.raises(ValueError, match="t"):
        own_runtime.execution_log("t")
    own_runtime.join()
    assert list(own_runtime.function_returns) == []
    assert is_alive(pid)
    other = own_runtime.execute_task(commands("exec sleep 600", name="t")).process
    assert other.name == process.name
    other.kill()
    assert process.is_alive()
    own_runtime.cleanup()
    assert process.exitcode == -15
    assert not is_alive(pid)


def test_what_was_forgotten_can_be_stopped_by_its_task(own_runtime):
    task = own_runtime.execute_task(commands("exec sleep 600"))
    own_runtime.clear_tasks()
    task.stop()
    assert task.process.exitcode == -15
    assert own_runtime.get_processes() == {}


def test_clear_tasks_forgets_what_runs_synchronously(own_runtime):
    """Its thread goes on to wait for it."""
    task = commands("echo hi; sleep 600", name="t")

    def execute():
        with contextlib.suppress(TaskExecutionError):  # it is stopped below
            own_runtime.execute_task(task, execute_async=False)

    thread = threading.Thread(target=execute)
    thread.start()
    try:
        wait_until(lambda: task.execution_log == ["hi\n"])
        own_runtime.clear_tasks()
        with pytest.raises(ValueError, match="t"):
            own_runtime.execution_log("t")
        assert thread.is_alive()
    finally:
        own_runtime.cleanup()
        thread.join()


def test_runtime_is_safe_to_use_from_many_threads(own_runtime):
    """Tasks, variables and information at once."""

    def use(number):
        own_runtime.add_env_variables({f"V{number}": str(number)})
        return run(own_runtime, f"echo $V{number}"), own_runtime.echo(f"{number}")

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(use, range(60)))
    assert found == [([f"{number}\n"], f"{number}") for number in range(60)]


# --- Processes ---


def test_key_of_a_process(own_runtime):
    """Host, task and name; it is the handle's name."""
    task = own_runtime.execute_task(commands("true", name="my task"))
    assert task.process.name == f"{own_runtime.host}::task::my task"
    assert own_runtime.get_process(task.process.name) is task.process


def test_second_task_of_one_name_has_a_key_of_its_own(own_runtime):
    """Both can be had."""
    tasks = [own_runtime.execute_task(commands("true", name="n")) for _ in range(3)]
    tasks.append(own_runtime.execute_task(commands("true", name="n::2")))
    keys = [task.process.name for task in tasks]
    assert len(set(keys)) == 4
    assert [own_runtime.get_process(key) for key in keys] == [task.process for task in tasks]
    assert all(Runtime.is_runtime_task_process(key) for key in keys)


def test_unknown_process(runtime):
    """A ValueError that names the key."""
    for method in (runtime.get_process, runtime.stop_process):
        with pytest.raises(ValueError, match="no-such-key"):
            method("no-such-key")


def test_processes_are_all_that_were_started(own_runtime):
    """In order; synchronous executions have none."""
    run(own_runtime, "true")
    tasks = [own_runtime.execute_task(commands("true")) for _ in range(3)]
    processes = [task.process for task in tasks]
    assert own_runtime.task_processes == processes
    assert list(own_runtime.get_processes().values()) == processes


def test_alive_processes(own_runtime):
    """Those that have ended are left out and not counted."""
    ended(own_runtime.execute_task(commands("true")))
    alive = own_runtime.execute_task(commands("sleep 600")).process
    assert own_runtime.get_processes(only_alive=True) == {alive.name: alive}
    assert own_runtime.alive_process_count == 1
    assert own_runtime.alive_task_process_count == 1
    alive.kill()
    assert own_runtime.alive_process_count == 0
    assert own_runtime.alive_task_process_count == 0


def test_stop_process(own_runtime):
    """It returns with the process gone from the host."""
    task = own_runtime.execute_task(commands("exec sleep 600"))
    pid = wait_until(lambda: task.process.pid)
    own_runtime.stop_process(task.process.name)
    assert not is_alive(pid)
    assert task.process.exitcode == -15


def test_processes_that_are_handed_out_are_a_copy(own_runtime):
    """Who changes the dictionary does not change the Runtime."""
    task = own_runtime.execute_task(commands("true"))
    own_runtime.get_processes().clear()
    assert own_runtime.get_process(task.process.name) is task.process


# --- Its end ---


def test_cleanup_leaves_nothing(make_runtime, nothing_left):
    """Neither processes nor folders, on both sides, with tasks running."""
    runtime = make_runtime()
    tasks = [runtime.execute_task(commands("sleep 600 & sleep 600")) for _ in range(3)]
    tasks.append(runtime.execute_function(functools.partial(os.system, "sleep 600"), True))
    wait_until(lambda: all(task.process.pid for task in tasks))
    runtime.cleanup()
    nothing_left()
    assert not os.path.exists(runtime.working_dir)


def test_cleanup_ends_the_tasks(own_runtime):
    """Their handles say that they were terminated."""
    task = own_runtime.execute_task(commands("sleep 600"))
    wait_until(lambda: task.process.pid)
    own_runtime.cleanup()
    assert task.process.exitcode == -15


def test_cleanup_twice_is_fine(own_runtime):
    """The second does nothing."""
    own_runtime.cleanup()
    own_runtime.cleanup()


def test_cleanup_keeps_logs_and_values(own_runtime):
    """They are with their tasks."""
    task = RuntimeTask().run_command("echo hi").run_function(text, value=1)
    own_runtime.execute_task(task, execute_async=False)
    own_runtime.cleanup()
    assert task.execution_log == ["hi\n", ""]
    assert list(task.function_returns) == [1]


def test_use_after_cleanup_logs_in_again(own_runtime):
    """With a new temporary working directory."""
    old = own_runtime.working_dir
    own_runtime.cleanup()
    assert run(own_runtime, "pwd") == [own_runtime.working_dir + "\n"]
    assert own_runtime.working_dir != old


def test_use_after_cleanup_has_the_directory_that_was_given(make_runtime, tmp_path):
    """It was not removed, after all."""
    runtime = make_runtime(str(tmp_path))
    runtime.cleanup()
    assert run(runtime, "pwd") == [f"{tmp_path}\n"]


def test_terminated_task_leaves_the_others_alone(own_runtime):
    """They share a connection and nothing else."""
    doomed, other = (own_runtime.execute_task(commands("sleep 600")) for _ in range(2))
    wait_until(lambda: doomed.process.pid and other.process.pid)
    doomed.process.kill()
    assert other.process.is_alive()
    assert run(own_runtime, "echo hi") == ["hi\n"]
