"""RuntimeTask on a real host: names, steps, logs, values, processes, timeouts, copies."""

from __future__ import annotations

import copy
import io
import logging
import os
import pickle
import shutil
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lazycluster import RuntimeTask
from lazycluster._tasks.steps import HEADING_LIMIT
from lazycluster._text import one_line
from lazycluster.exceptions import CommandError, StepTimeoutError, TaskExecutionError
from support.hosts import commands, ended, run
from support.processes import is_alive
from support.waiting import TIMEOUT, wait_until


def failed(runtime, task, **keywords):
    """Executes a task that fails, and gives its TaskExecutionError."""
    with pytest.raises(TaskExecutionError) as caught:
        runtime.execute_task(task, execute_async=False, **keywords)
    return caught.value


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


# --- The execution log ---


def test_silent_step_has_an_empty_entry(runtime):
    """Entry i is step i."""
    assert run(runtime, "true", "echo hi", "true") == ["", "hi\n", ""]


def test_failed_task_has_an_entry_for_each_step(runtime):
    """Those that did not run have an empty one."""
    task = commands("echo one", "echo two; exit 1", "echo three")
    failed(runtime, task)
    assert task.execution_log == ["one\n", "two\n", ""]


def test_standard_output_and_error_are_in_order(runtime):
    """As they came, in one text."""
    assert run(runtime, "echo a; echo b >&2; echo c; echo d >&2") == ["a\nb\nc\nd\n"]


def test_log_of_a_step_grows_while_it_runs(runtime, gate):
    """What was printed can be read before the step has ended."""
    task = runtime.execute_task(commands(f"echo early; {gate.wait}; echo late"))
    wait_until(lambda: task.execution_log == ["early\n"])
    assert task.process.is_alive()
    gate.open()
    assert ended(task).execution_log == ["early\nlate\n"]


def test_log_has_entries_of_steps_begun(runtime, gate):
    """The running step has one, those to come have none."""
    task = runtime.execute_task(commands("echo one", gate.wait, "echo three"))
    wait_until(lambda: task.execution_log == ["one\n", ""])
    gate.open()
    assert ended(task).execution_log == ["one\n", "", "three\n"]


def test_f14_bytes_that_are_no_text_are_escaped(runtime):
    """Whatever is not UTF-8 is shown by its number."""
    assert run(runtime, r"printf 'a\377\303\274b'") == ["a\\xffüb"]


def test_log_without_a_last_newline(runtime):
    """Nothing is added to what was printed."""
    assert run(runtime, "printf a", "printf b") == ["a", "b"]


def test_f14_large_log_is_whole(runtime):
    """5 MB come from the file, each byte in its place."""
    task = runtime.execute_task(commands("seq 700000", "echo after"), execute_async=False)
    expected = "".join(f"{number}\n" for number in range(1, 700001))
    assert os.path.getsize(task.execution_log_file_path) == len(expected) + len("after\n")
    assert task.execution_log == [expected, "after\n"]


def test_f14_large_log_is_not_in_memory(runtime):
    """What is served from the file is gone with the file."""
    task = runtime.execute_task(commands("seq 100000"), execute_async=False)
    os.unlink(task.execution_log_file_path)
    with pytest.raises(OSError, match="log"):
        _ = task.execution_log


def test_log_file_has_the_output(runtime):
    """All steps, as bytes, and nothing else."""
    task = runtime.execute_task(commands("echo one", "printf '\\377'"), execute_async=False)
    with open(task.execution_log_file_path, "rb") as file:
        assert file.read() == b"one\n\xff"


def test_log_file_is_private(runtime):
    """0600, in folders of 0700."""
    path = runtime.execute_task(commands("echo"), execute_async=False).execution_log_file_path
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700


SILENT = pytest.mark.parametrize(
    "task",
    [commands("true"), RuntimeTask().run_function(int), RuntimeTask()],
    ids=["command", "function", "no steps"],
)


@SILENT
@pytest.mark.parametrize("execute_async", [False, True])
def test_silent_execution_leaves_no_log_file(
    runtime, tmp_path, monkeypatch, capsys, task, execute_async
):
    """Not even a folder, whatever is read except the path."""
    monkeypatch.setenv("LAZYCLUSTER_HOME", str(tmp_path / "home"))
    runtime.execute_task(task, execute_async, debug=True)
    task.join()
    task.print_log()
    assert "".join(task.execution_log) == ""
    assert task.error is None
    assert list(tmp_path.iterdir()) == []


@SILENT
def test_silent_execution_has_an_empty_log_file(runtime, task):
    """As in 0.2, a script can open it after any execution."""
    runtime.execute_task(task, execute_async=False)
    with open(task.execution_log_file_path, "rb") as file:
        assert file.read() == b""


def test_log_file_is_there_from_the_beginning(runtime, gate):
    """Its path does not change, so that it can be followed."""
    task = runtime.execute_task(commands(f"{gate.wait}; echo hi"))
    path = task.execution_log_file_path
    with open(path, "rb") as file:
        assert file.read() == b""
        gate.open()
        assert ended(task).execution_log_file_path == path
        assert file.read() == b"hi\n"


def test_log_file_that_was_removed_before_the_first_byte_is_made_again(runtime, gate):
    """Another process may remove the oldest files of a host, and a user the folder."""
    task = runtime.execute_task(commands(f"{gate.wait}; echo hi"))
    shutil.rmtree(os.path.dirname(task.execution_log_file_path))
    gate.open()
    with open(ended(task).execution_log_file_path, "rb") as file:
        assert file.read() == b"hi\n"


def test_a_log_that_waits_for_its_first_byte_has_no_descriptor(runtime, gate):
    """Thousands may wait."""
    run(runtime, "true")
    before = len(os.listdir("/dev/fd"))
    tasks = [runtime.execute_task(commands(gate.wait)) for _ in range(20)]
    wait_until(lambda: all(task.process.pid for task in tasks))
    assert len(os.listdir("/dev/fd")) < before + 20
    gate.open()
    runtime.join()


def test_log_file_in_lazycluster_home(runtime, tmp_path, monkeypatch):
    """$LAZYCLUSTER_HOME comes first."""
    monkeypatch.setenv("LAZYCLUSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    task = runtime.execute_task(commands("echo", name="t"), execute_async=False)
    folder, file = os.path.split(task.execution_log_file_path)
    assert folder == str(tmp_path / "home" / "execution_log" / runtime.host)
    assert file.startswith("t_")
    assert file.endswith(".log")


def test_log_file_in_xdg_state_home(runtime, tmp_path, monkeypatch):
    """Without $LAZYCLUSTER_HOME it is a folder of $XDG_STATE_HOME."""
    monkeypatch.delenv("LAZYCLUSTER_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = runtime.execute_task(commands("echo"), execute_async=False).execution_log_file_path
    assert path.startswith(str(tmp_path / "lazycluster" / "execution_log" / runtime.host) + "/")


def test_temporary_log_goes_with_the_process(sshd, tmp_path):
    """Where no home can be written the log is in a temporary folder until the manager exits."""
    script = """
        import os, sys
        from lazycluster import Runtime, RuntimeTask
        runtime = Runtime(sys.argv[1], connection_kwargs={"config_file": sys.argv[2]})
        task = runtime.execute_task(RuntimeTask().run_command("echo hi"), execute_async=False)
        print(task.execution_log_file_path, os.path.exists(task.execution_log_file_path))
    """
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    for name in ("HOME", "LAZYCLUSTER_HOME", "XDG_STATE_HOME"):
        del environment[name]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), sshd.alias, sshd.config_file],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    path, existed = done.stdout.split()
    assert path.startswith(f"{tmp_path}/")
    assert existed == "True"
    assert list(tmp_path.iterdir()) == []


def test_each_execution_starts_a_new_log(runtime):
    """The old entries are gone, and the old file stays."""
    task = commands("echo $((1 + 1))")
    first = runtime.execute_task(task, execute_async=False).execution_log_file_path
    second = runtime.execute_task(task, execute_async=False).execution_log_file_path
    assert task.execution_log == ["2\n"]
    assert first != second
    assert os.path.exists(first)


def test_silent_execution_forgets_the_log_file_of_the_one_before(runtime):
    """The path is that of the last execution."""
    task = RuntimeTask().run_command('[ "$PRINT" = no ] || echo hi')
    first = runtime.execute_task(task, execute_async=False).execution_log_file_path
    task.env_variables = {"PRINT": "no"}
    assert runtime.execute_task(task, execute_async=False).execution_log_file_path != first


def test_print_log_prints_each_step_and_its_output_below_it(runtime, tmp_path, capsys):
    """By index and name; a silent step has no more than that."""
    (tmp_path / "file").write_text("text")
    heading = one_line(f"send {tmp_path}/file", HEADING_LIMIT)
    task = commands("echo hi; echo ho", "if true\nthen true; fi").run_function(double, x=1)
    task.send_file(tmp_path / "file", "sent").get_file("sent", tmp_path)
    runtime.execute_task(task, execute_async=False)
    task.print_log()
    assert capsys.readouterr().out.splitlines() == [
        "0: echo hi; echo ho",
        "   hi",
        "   ho",
        "1: if true …",
        "2: call of double",
        f"3: {heading}",
        "4: get sent",
    ]
    copy.deepcopy(task).print_log()
    assert capsys.readouterr().out == ""
    pickle.loads(pickle.dumps(task)).print_log()
    assert len(capsys.readouterr().out.splitlines()) == 7


def test_print_log_leaves_out_the_steps_that_did_not_run(runtime, capsys):
    """They are not silent steps. Neither is there anything before the first execution."""
    task = commands("echo hi", "echo ho; exit 3", "echo never")
    task.print_log()
    assert capsys.readouterr().out == ""
    ended(runtime.execute_task(task)).print_log()
    printed = capsys.readouterr().out
    assert printed == "0: echo hi\n   hi\n1: echo ho; exit 3\n   ho\n"


def test_nothing_is_printed_unasked(runtime, capfd):
    """Neither on standard output nor on standard error."""
    run(runtime, "echo hi; echo ho >&2")
    assert capfd.readouterr() == ("", "")


def test_debug_prints_and_logs(runtime, capsys):
    """Both of the streams, in order, and the log is the same as without."""
    task = commands("echo hi; echo ho >&2", "echo hu")
    runtime.execute_task(task, execute_async=False, debug=True)
    assert capsys.readouterr().out == "hi\nho\nhu\n"
    assert task.execution_log == ["hi\nho\n", "hu\n"]


def test_debug_prints_live(runtime, gate, monkeypatch):
    """What a step prints is to be seen while it runs."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    task = runtime.execute_task(commands(f"echo early; {gate.wait}; echo late"), debug=True)
    wait_until(lambda: out.getvalue() == "early\n")
    gate.open()
    ended(task)
    assert out.getvalue() == "early\nlate\n"


def test_f14_debug_keeps_characters_whole(runtime, gate, capsys):
    """A character that comes in two pieces is printed as one."""
    line = rf"printf '\303'; {gate.wait}; printf '\274'"
    task = runtime.execute_task(commands(line), debug=True)
    wait_until(lambda: task.execution_log == ["\\xc3"])
    gate.open()
    ended(task)
    assert capsys.readouterr().out == "ü\n"


def test_debug_prints_a_line_at_the_end_of_its_step_though_it_is_not_complete(
    runtime, gate, monkeypatch
):
    """Not before, and not later."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    task = runtime.execute_task(commands("printf early", gate.wait, "printf late"), debug=True)
    wait_until(lambda: out.getvalue() == "early\n")
    gate.open()
    ended(task)
    assert out.getvalue() == "early\nlate\n"


def test_debug_prints_what_came_before_a_timeout(runtime, monkeypatch):
    """The step has no end of its own."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    task = RuntimeTask().run_command("printf early; exec sleep 1000", timeout=1)
    runtime.execute_task(task, debug=True)
    ended(task)
    assert isinstance(task.error.__cause__, StepTimeoutError)
    assert out.getvalue() == "early\n"


def test_broken_standard_output_is_an_error_of_the_task(runtime, monkeypatch, caplog):
    """Nothing fails silently, also when a replaced sys.stdout raises something odd."""

    class Broken(io.StringIO):
        def write(self, text):
            raise RuntimeError("no place to print to")

    monkeypatch.setattr(sys, "stdout", Broken())
    task = ended(runtime.execute_task(commands("echo hi"), debug=True))
    monkeypatch.undo()
    assert isinstance(task.error, TaskExecutionError)
    assert task.process.exitcode == 1


# --- Values ---


def double(x):
    return 2 * x


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


# --- Synchronous and asynchronous ---


def test_execute_task_is_asynchronous_unless_told(runtime, gate):
    """It returns while the task runs."""
    task = runtime.execute_task(commands(gate.wait))
    assert task.process.is_alive()
    gate.open()
    ended(task)


def test_synchronous_execution_has_no_process(runtime):
    """And it has ended when execute_task returns."""
    task = runtime.execute_task(commands("echo hi"), execute_async=False)
    assert task.process is None
    assert task.execution_log == ["hi\n"]


def test_process_of_an_earlier_execution_is_gone(runtime):
    """After a synchronous execution there is none, also if the one before had one."""
    task = ended(runtime.execute_task(commands("true")))
    runtime.execute_task(task, execute_async=False)
    assert task.process is None


def test_join_waits_for_the_end(runtime, gate):
    """The log is complete after it."""
    task = runtime.execute_task(commands(f"{gate.wait}; echo done"))
    gate.open()
    task.join()
    assert task.execution_log == ["done\n"]


def test_join_omits_a_task_of_omit_on_join(runtime, gate):
    """It returns while the task runs."""
    task = runtime.execute_task(commands(gate.wait), omit_on_join=True)
    task.join()
    assert task.process.is_alive()
    gate.open()
    ended(task)


def test_omit_on_join_is_of_one_execution(runtime, gate):
    """The next one without it is waited for."""
    task = runtime.execute_task(commands(gate.wait), omit_on_join=True)
    gate.open()
    ended(task)
    gate.close()
    runtime.execute_task(task)
    gate.open()
    task.join()
    assert not task.process.is_alive()


def test_deepcopy_of_a_running_task_can_be_executed(runtime, gate):
    """At the same time as the original."""
    task = runtime.execute_task(commands(f"{gate.wait}; echo hi"))
    twin = runtime.execute_task(copy.deepcopy(task))
    assert task.process.is_alive()
    assert twin.process.is_alive()
    gate.open()
    assert ended(task).execution_log == ended(twin).execution_log == ["hi\n"]


@pytest.mark.parametrize("omit", [True, False])
def test_omit_on_join_of_the_task_is_left_as_it_was_set(runtime, gate, omit):
    """`execute_task` without the parameter does not change it."""
    task = commands(gate.wait)
    task.omit_on_join = omit
    runtime.execute_task(task)
    assert task.omit_on_join is omit
    if omit:
        task.join()
        runtime.join()
        assert task.process.is_alive()
    gate.open()
    ended(task)
    assert task.omit_on_join is omit


def test_omit_on_join_shows_how_the_task_was_executed(runtime):
    """In 0.2 the parameter set the attribute."""
    task = runtime.execute_task(commands("true"), omit_on_join=True)
    assert task.omit_on_join is True
    assert runtime.execute_task(task).omit_on_join is False
    runtime.execute_task(task, omit_on_join=True)
    task.omit_on_join = False
    assert task.omit_on_join is False
    task.join()
    assert not task.process.is_alive()


def test_omit_on_join_can_be_set_while_the_task_runs(runtime, gate):
    """It holds for all of its executions that run."""
    task = commands(gate.wait)
    processes = [runtime.execute_task(task).process for _ in range(2)]
    task.omit_on_join = True
    task.join()
    runtime.join()
    assert all(process.is_alive() for process in processes)
    task.omit_on_join = False
    gate.open()
    runtime.join()
    assert not any(process.is_alive() for process in processes)


def test_omit_on_join_has_no_effect_on_a_synchronous_execution(runtime):
    """Which has ended before there is anything to join."""
    task = RuntimeTask().run_function(double, x=1)
    runtime.execute_task(task, execute_async=False, omit_on_join=True)
    assert task.omit_on_join is False
    assert list(task.function_returns) == [2]


# --- One task, several executions at once ---


def test_task_can_run_several_times_at_once(runtime, gate):
    """Each has a process, a log and a value; the task shows the one that began last."""
    task = RuntimeTask("many").run_command("echo $A").run_command(gate.wait)
    task.run_function(os.getenv, key="A")
    processes = []
    for number in range(3):
        task.env_variables = {"A": str(number)}
        processes.append(runtime.execute_task(task).process)
    paths = [task.execution_log_file_path]
    assert len({process.name for process in processes}) == 3
    assert all(process.is_alive() for process in processes)
    assert task.process is processes[-1]
    gate.open()
    assert list(task.function_returns) == ["2"]
    assert task.execution_log == ["2\n", "", ""]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert paths == [task.execution_log_file_path]


def test_task_shows_the_last_execution_also_if_an_earlier_one_ends_later(runtime, gate):
    """A failure of the earlier one is not the task's."""
    task = commands(f'[ "$WAIT" = no ] || {{ {gate.wait}; echo early; exit 3; }}; echo late')
    early = runtime.execute_task(task).process
    task.env_variables = {"WAIT": "no"}
    runtime.execute_task(task, execute_async=False)
    assert task.process is None
    gate.open()
    early.join()
    assert early.exitcode == 1
    assert task.execution_log == ["late\n"]
    assert task.error is None
    assert list(task.function_returns) == []


def test_synchronous_executions_of_one_task_in_many_threads(own_runtime):
    """Each raises its own error, and each is in the history of the Runtime."""
    task = RuntimeTask("n").run_command('exit "$STATUS"')

    def execute(number):
        own = copy.copy(task)
        own.env_variables = {"STATUS": str(number)}
        return failed(own_runtime, own).__cause__.exit_status

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(execute, range(1, 33))) == list(range(1, 33))
        errors = list(pool.map(lambda _: failed(own_runtime, commands("false")), range(8)))
        same = commands("exit 7")
        errors = list(pool.map(lambda _: failed(own_runtime, same), range(32)))
    assert len(set(map(id, errors))) == 32
    assert same.error in errors
    assert all(error.task is same for error in errors)


def test_join_of_a_task_waits_for_its_last_execution(runtime, gate):
    """Earlier ones have their handles, and `Runtime.join`."""
    task = commands(f'[ "$WAIT" = no ] || {gate.wait}')
    early = runtime.execute_task(task).process
    task.env_variables = {"WAIT": "no"}
    late = runtime.execute_task(task).process
    task.join()
    assert not late.is_alive()
    assert early.is_alive()
    gate.open()
    runtime.join()
    assert not early.is_alive()


def test_stop_ends_every_running_execution(runtime):
    """Of both kinds; when it returns, nothing of the task is left."""
    task = commands("echo $$; exec sleep 600")
    processes = [runtime.execute_task(task).process for _ in range(3)]
    pids = [wait_until(lambda process=process: process.pid) for process in processes]
    with ThreadPoolExecutor() as pool:
        synchronous = pool.submit(failed, runtime, task)
        try:
            printed = wait_until(lambda: task.process is None and "".join(task.execution_log))
        finally:
            task.stop()
        assert not any(process.is_alive() for process in processes)
        assert not any(is_alive(pid) for pid in [*pids, int(printed)])
        assert synchronous.result(TIMEOUT).output == printed
    assert [process.exitcode for process in processes] == [-15] * 3
    task.stop()


def test_stop_signals_all_before_it_waits_for_any(runtime, tmp_path):
    """Each of two executions ends only when the other has got its SIGTERM, too."""
    line = (
        "trap 'touch $ME; until [ -e $OTHER ]; do sleep 0.01; done; exit 0' TERM; echo ready; "
        "while :; do sleep 0.01; done"
    )
    task = commands(f"cd {tmp_path}; {line}")
    processes = []
    for me, other in (("a", "b"), ("b", "a")):
        task.env_variables = {"ME": me, "OTHER": other}
        processes.append(runtime.execute_task(task).process)
        wait_until(lambda: task.execution_log == ["ready\n"])
    task.stop()
    assert [process.exitcode for process in processes] == [0, 0]  # neither needed SIGKILL


def test_steps_and_name_of_an_execution_are_those_at_its_beginning(own_runtime, gate):
    """What is changed later is for the next one."""
    task = own_runtime.execute_task(commands(gate.wait, name="old"))
    task.name = "new"
    task.run_command("echo more")
    gate.open()
    own_runtime.join()
    assert task.process.name.endswith("::old")
    assert task.execution_log == [""]
    assert own_runtime.execute_task(task).process.name.endswith("::new")
    own_runtime.join()
    assert own_runtime.execution_log("old") == [""]
    assert own_runtime.execution_log("new") == ["", "more\n"]


# --- Errors of an asynchronous execution ---


def test_error_is_logged_when_it_happens(runtime, caplog):
    """At ERROR, with the task's name and the host."""
    ended(runtime.execute_task(commands("exit 3", name="doomed")))
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name.partition(".")[0] == "lazycluster"
    assert "doomed" in record.getMessage()
    assert runtime.host in record.getMessage()


def test_error_is_kept(runtime):
    """task.error is the TaskExecutionError, with its cause."""
    task = ended(runtime.execute_task(commands("exit 3")))
    assert isinstance(task.error, TaskExecutionError)
    assert task.error.__cause__.exit_status == 3


def test_error_is_none_after_success(runtime):
    """Also if the execution before failed."""
    task = commands('[ "$GOOD" ]')
    ended(runtime.execute_task(task))
    assert task.error is not None
    task.env_variables = {"GOOD": "yes"}
    assert ended(runtime.execute_task(task)).error is None


def test_error_makes_exitcode_1(runtime):
    """Whatever the command's exit status is."""
    assert ended(runtime.execute_task(commands("exit 3"))).process.exitcode == 1


def test_error_is_raised_by_function_returns(runtime):
    """Not silently no values."""
    task = runtime.execute_task(commands("exit 3").run_function(double, x=1))
    with pytest.raises(TaskExecutionError):
        list(task.function_returns)


def test_error_is_not_raised_by_join(runtime):
    """As in the reference."""
    task = runtime.execute_task(commands("exit 3"))
    task.join()
    assert task.error is not None


# --- The process handle ---


@pytest.fixture
def sleeping(runtime):
    """A task whose one step sleeps, with its pid on the host."""
    task = runtime.execute_task(commands("exec sleep 600", name="sleeper"))
    pid = wait_until(lambda: task.process.pid)
    yield task, pid
    task.process.kill()


def test_pid_is_that_of_the_step_on_the_host(runtime, gate):
    """As the command itself knows it."""
    task = runtime.execute_task(commands(f"echo $$; {gate.wait}"))
    wait_until(lambda: task.execution_log[:1] not in ([], [""]))
    assert task.execution_log == [f"{task.process.pid}\n"]
    gate.open()
    ended(task)


def test_pid_after_the_end_is_none(runtime):
    """No process is the step's any more."""
    assert ended(runtime.execute_task(commands("true"))).process.pid is None


def test_exitcode_while_alive_is_none(sleeping):
    """As multiprocessing has it."""
    task, _ = sleeping
    assert task.process.is_alive()
    assert task.process.exitcode is None


def test_exitcode_after_success_is_0(runtime):
    """And it is not alive."""
    process = ended(runtime.execute_task(commands("true"))).process
    assert not process.is_alive()
    assert process.exitcode == 0


def test_join_of_a_process_gives_up_after_its_timeout(sleeping):
    """It returns, and the process is still alive."""
    task, _ = sleeping
    task.process.join(0.01)
    assert task.process.is_alive()


def test_terminate_ends_the_step(sleeping):
    """When it returns, the process on the host has gone."""
    task, pid = sleeping
    task.process.terminate()
    assert not is_alive(pid)


def test_terminate_makes_exitcode_minus_15(sleeping):
    """The number of SIGTERM."""
    task, _ = sleeping
    task.process.terminate()
    assert task.process.exitcode == -15


def test_kill_makes_exitcode_minus_9(sleeping):
    """The number of SIGKILL, and the process on the host has gone."""
    task, pid = sleeping
    task.process.kill()
    assert task.process.exitcode == -9
    assert not is_alive(pid)


def test_terminate_lets_the_step_clean_up(runtime):
    """SIGTERM comes first, and what a trap prints is logged."""
    line = "trap 'echo cleaned; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    task = runtime.execute_task(commands(line))
    wait_until(lambda: task.execution_log == ["ready\n"])
    task.process.terminate()
    assert task.execution_log[0].endswith("cleaned\n")  # bash tells of its sleep, too


def test_terminate_ends_children_too(runtime):
    """The whole process group."""
    task = runtime.execute_task(commands("sleep 600 & echo $!; wait"))
    (child,) = wait_until(lambda: [int(entry) for entry in task.execution_log if entry])
    task.process.terminate()
    assert not is_alive(child)


def test_terminated_task_runs_no_further_step(own_runtime):
    """It stops where it is."""
    task = own_runtime.execute_task(commands("exec sleep 600", "touch never"))
    wait_until(lambda: task.process.pid)
    task.process.terminate()
    assert run(own_runtime, "ls") == [""]


def test_terminate_is_no_error_in_the_log(sleeping, caplog):
    """The caller wanted it, so no warning; task.error still has the reason."""
    task, _ = sleeping
    task.process.terminate()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert isinstance(task.error, TaskExecutionError)


def test_terminate_at_once_is_fine(runtime):
    """Also before the step has started; what was asked for never goes on."""
    tasks = [runtime.execute_task(commands("sleep 600")) for _ in range(10)]
    for task in tasks:
        task.process.terminate()
    assert [task.process.exitcode for task in tasks] == [-15] * 10


def test_terminate_after_the_end_does_nothing(runtime):
    """The exitcode stays what it was."""
    process = ended(runtime.execute_task(commands("true"))).process
    process.terminate()
    process.kill()
    assert process.exitcode == 0


# --- The error of a step ---


def test_exit_status_of_a_failed_command(runtime):
    """It is in the CommandError that is the cause."""
    cause = failed(runtime, commands("echo oops; exit 3")).__cause__
    assert isinstance(cause, CommandError)
    assert (cause.exit_status, cause.signal) == (3, None)
    assert (cause.host, cause.command) == (runtime.host, "echo oops; exit 3")
    assert cause.output == "oops\n"


def test_exit_status_255_is_an_exit_status(runtime):
    """And no lost connection."""
    assert failed(runtime, commands("exit 255")).__cause__.exit_status == 255


def test_signal_that_ended_a_command(runtime):
    """It is told apart from an exit status."""
    cause = failed(runtime, commands("kill -9 $$")).__cause__
    assert (cause.exit_status, cause.signal) == (None, 9)


def test_exit_status_137_is_an_exit_status(runtime):
    """It is not taken for a signal."""
    cause = failed(runtime, commands("exit 137")).__cause__
    assert (cause.exit_status, cause.signal) == (137, None)


def test_unknown_command_is_127(runtime):
    """As the shell has it, with its message in the output."""
    error = failed(runtime, commands("no-such-command"))
    assert error.__cause__.exit_status == 127
    assert "no-such-command" in error.output


def test_attributes_of_a_task_execution_error(runtime):
    """Task, step, host, log file and what the failed step printed."""
    task = commands("echo one", "echo two; false")
    error = failed(runtime, task)
    assert error.task is task
    assert error.task_step_index == 1
    assert error.host == runtime.host
    assert error.execution_log_file_path == task.execution_log_file_path
    assert error.output == "two\n"


@pytest.mark.parametrize("line", ["exit 3", "kill -9 $$", "echo hi; exit 3"])
def test_log_file_of_an_error_is_there(runtime, tmp_path, monkeypatch, line):
    """Whether the step printed something or not; so it is for the error of a handle."""
    monkeypatch.setenv("LAZYCLUSTER_HOME", str(tmp_path))
    error = failed(runtime, commands(line))
    assert stat.S_IMODE(os.stat(error.execution_log_file_path).st_mode) == 0o600
    task = ended(runtime.execute_task(commands(line)))
    assert os.path.isfile(task.error.execution_log_file_path)
    assert pickle.loads(pickle.dumps(task)).error.execution_log_file_path == (
        task.execution_log_file_path
    )


def test_message_of_a_task_execution_error(runtime):
    """It names the task, the step, the host, how the command ended, its last lines and the log."""
    task = commands("seq 9; echo why >&2; exit 3", name="doomed")
    error = failed(runtime, task)
    headline, *lines = str(error).splitlines()
    assert headline == (
        f"Step 0 of the task 'doomed' failed on {runtime.host}: exit status 3. "
        f"Log: {task.execution_log_file_path}"
    )
    assert lines == ["  6", "  7", "  8", "  9", "  why"]
    assert str(error.__cause__) == "The command `seq 9; echo why >&2; exit 3` failed."


def test_output_of_an_error_is_bounded(runtime):
    """A long log is not in the exception, its end is."""
    error = failed(runtime, commands("seq 100000; exit 1"))
    assert len(error.output) < 100_000
    assert error.output.endswith("\n100000\n")


def test_error_of_a_synchronous_task_is_kept_too(runtime):
    """task.error is what was raised."""
    task = commands("false")
    assert failed(runtime, task) is task.error


def test_error_can_be_pickled(runtime):
    """With its attributes, its cause and the task."""
    error = failed(runtime, commands("echo one", "echo two; exit 3", name="t"))
    twin = pickle.loads(pickle.dumps(error))
    assert str(twin) == str(error)
    assert (twin.task_step_index, twin.host, twin.output) == (1, runtime.host, "two\n")
    assert isinstance(twin.__cause__, CommandError)
    assert twin.__cause__.exit_status == 3
    assert twin.task.name == "t"
    assert twin.task.execution_log == ["one\n", "two\n"]


# --- Copies ---


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


# --- Timeouts ---


def test_step_that_takes_too_long(runtime):
    """StepTimeoutError is the cause, with the command and the timeout."""
    cause = failed(runtime, RuntimeTask().run_command("exec sleep 600", timeout=0.2)).__cause__
    assert isinstance(cause, StepTimeoutError)
    assert (cause.command, cause.timeout, cause.host) == ("exec sleep 600", 0.2, runtime.host)


def test_output_of_a_step_that_takes_too_long(runtime):
    """What came until then is in the error and in the log."""
    task = RuntimeTask().run_command("echo early; exec sleep 600", timeout=0.5)
    error = failed(runtime, task)
    assert error.output == "early\n"
    assert error.__cause__.output == "early\n"
    assert task.execution_log == ["early\n"]


def test_step_that_takes_too_long_is_gone(runtime):
    """With its children, when the error is raised."""
    task = RuntimeTask().run_command("echo $$; sleep 600 & echo $!; wait", timeout=0.5)
    pids = failed(runtime, task).output.split()
    assert len(pids) == 2
    assert not any(is_alive(int(pid)) for pid in pids)


def test_steps_after_one_that_takes_too_long_do_not_run(own_runtime):
    """The task has failed."""
    task = RuntimeTask().run_command("sleep 600", timeout=0.2).run_command("touch never")
    assert failed(own_runtime, task).task_step_index == 0
    assert run(own_runtime, "ls") == [""]


def test_timeout_of_a_step_is_not_of_the_others(runtime):
    """It begins with its own step."""
    task = RuntimeTask().run_command("sleep 0.5").run_command("echo hi", timeout=0.4)
    assert runtime.execute_task(task, execute_async=False).execution_log == ["", "hi\n"]


def test_step_that_is_in_time(runtime):
    """A timeout that does not pass has no effect."""
    task = RuntimeTask().run_command("echo hi", timeout=TIMEOUT)
    assert runtime.execute_task(task, execute_async=False).execution_log == ["hi\n"]


def test_step_that_ignores_sigterm_is_killed(runtime):
    """After the grace, by SIGKILL."""
    line = "trap '' TERM; echo $$; while :; do sleep 600; done"
    error = failed(runtime, RuntimeTask().run_command(line, timeout=0.5))
    assert isinstance(error.__cause__, StepTimeoutError)
    assert not is_alive(int(error.output))


def test_timeout_of_a_whole_task(runtime):
    """It bounds all steps together; the error tells which one ran."""
    task = commands("true", "exec sleep 600", "true")
    error = failed(runtime, task, timeout=0.5)
    assert isinstance(error.__cause__, StepTimeoutError)
    assert error.task_step_index == 1


def test_timeout_of_a_whole_task_over_a_function(runtime):
    """Functions are stopped too."""
    error = failed(runtime, RuntimeTask().run_function(sleep_long), timeout=1.0)
    assert isinstance(error.__cause__, StepTimeoutError)
    assert not is_alive(int(error.output))


def sleep_long():
    print(os.getpid())
    time.sleep(600)


def test_timeout_of_an_asynchronous_task(runtime):
    """It is task.error then, with exitcode 1."""
    task = ended(runtime.execute_task(commands("exec sleep 600"), timeout=0.2))
    assert isinstance(task.error.__cause__, StepTimeoutError)
    assert task.process.exitcode == 1


def test_shorter_of_two_timeouts_counts(runtime):
    """That of the step or that of the task."""
    task = RuntimeTask().run_command("exec sleep 600", timeout=600)
    assert failed(runtime, task, timeout=0.2).__cause__.timeout == 0.2
    task = RuntimeTask().run_command("exec sleep 600", timeout=0.2)
    assert failed(runtime, task, timeout=600).__cause__.timeout == 0.2


BAD_TIMEOUTS = [0, -1, float("nan"), float("inf"), "5", True]


@pytest.mark.parametrize("timeout", BAD_TIMEOUTS)
def test_bad_timeout_of_a_task_is_refused(runtime, timeout):
    """A ValueError, and the task can still be executed."""
    task = commands("echo hi")
    with pytest.raises(ValueError, match="timeout"):
        runtime.execute_task(task, timeout=timeout)
    assert runtime.execute_task(task, execute_async=False).execution_log == ["hi\n"]


def test_absurdly_long_timeout(runtime):
    """It is either refused with a ValueError or as good as none."""
    try:
        task = RuntimeTask().run_command("echo hi", timeout=1e12)
    except ValueError:
        return
    assert runtime.execute_task(task, execute_async=False).execution_log == ["hi\n"]


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
