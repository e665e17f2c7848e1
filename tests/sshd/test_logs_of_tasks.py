"""The execution log of a task: what is in it, its file, and how it is printed."""

from __future__ import annotations

import copy
import io
import os
import pickle
import shutil
import stat
import subprocess
import sys
import textwrap

import pytest

from lazycluster import RuntimeTask
from lazycluster._tasks.steps import HEADING_LIMIT
from lazycluster._text import one_line
from lazycluster.exceptions import StepTimeoutError, TaskExecutionError
from support.hosts import commands, double, ended, failed, run
from support.waiting import TIMEOUT, wait_until


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
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("execute_async", [False, True])
def test_silent_execution_leaves_no_log_file(
    runtime, tmp_path, monkeypatch, capsys, task, execute_async, debug
):
    """Not even a folder, whatever is read except the path."""
    monkeypatch.setenv("LAZYCLUSTER_HOME", str(tmp_path / "home"))
    runtime.execute_task(task, execute_async, debug=debug)
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
