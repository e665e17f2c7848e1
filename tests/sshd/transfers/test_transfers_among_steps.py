"""Copies as steps of a task."""

from __future__ import annotations

import errno
import filecmp
import logging
import os
import shlex

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import FileTransferError, TaskExecutionError
from support.hosts import ended
from support.transfers import both_ways, failure_of, text


def test_file_steps_between_others(runtime, here, there):
    """Logs and values are where they belong, and the steps run in order."""
    (here / "sent").write_text("hello")
    task = RuntimeTask().run_command("echo zero").run_function(text, value="one")
    task.send_file("sent").run_command("cat sent; echo more >> sent")
    task.get_file("sent", "got").run_function(text, value="five").run_command("echo six")
    task.run_command(f"cat {here}/got")
    runtime.execute_task(task, execute_async=False)
    log = ["zero\n", "", "", "hello", "", "", "six\n", "hellomore\n"]
    assert task.execution_log == log
    assert list(task.function_returns) == ["one", "five"]
    assert task.error is None


def test_skipped_files_are_in_the_log_of_their_step(runtime, here, there):
    """And in no other."""
    (here / "folder").mkdir()
    os.mkfifo(here / "folder" / "fifo")
    task = RuntimeTask().run_command("echo zero").send_file("folder").run_command("echo two")
    runtime.execute_task(task, execute_async=False)
    assert task.execution_log[::2] == ["zero\n", "two\n"]
    assert "fifo" in task.execution_log[1]


def test_step_before_may_make_the_local_file(runtime, here, there):
    """It is looked for when its step is reached. The host is this computer."""
    path = shlex.quote(str(here / "made"))
    task = RuntimeTask().run_command(f"echo hello > {path}").send_file("made").run_command("cat m*")
    runtime.execute_task(task, execute_async=False)
    assert task.execution_log == ["", "", "hello\n"]


def test_file_that_was_got_can_be_sent(runtime, here, there):
    """In one task."""
    (there / "one").write_text("hello")
    task = RuntimeTask().get_file("one").send_file("one", "two").run_command("cat two")
    assert runtime.execute_task(task, execute_async=False).execution_log[2] == "hello"


@pytest.mark.parametrize("index", [0, 1, 2])
def test_missing_local_file(runtime, here, there, index):
    """The error says which step, which paths and why; the steps after it do not run."""
    task = RuntimeTask("my-task")
    for number in range(index):
        task.run_command(f"echo {number}")
    task.send_file("no-such-file", "target").run_command("touch after")
    error = failure_of(runtime, task)
    assert isinstance(error, TaskExecutionError)
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOENT
    assert error.local_path == str(here / "no-such-file")
    assert error.remote_path == "target"
    assert error.task_step_index == index
    assert error.task is task
    assert error.host == runtime.host
    assert isinstance(error.__cause__, FileNotFoundError)
    assert str(here / "no-such-file") in str(error)
    assert task.execution_log[:index] == [f"{number}\n" for number in range(index)]
    assert os.listdir(there) == []


@pytest.mark.parametrize("index", [0, 1, 2])
def test_missing_remote_file(runtime, here, there, index):
    """The same from the other side."""
    task = RuntimeTask("my-task")
    for number in range(index):
        task.run_command(f"echo {number}")
    task.get_file("no-such-file", "target").run_command("touch after")
    error = failure_of(runtime, task)
    assert isinstance(error, TaskExecutionError)
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOENT
    assert error.local_path == str(here / "target")
    assert error.remote_path == "no-such-file"
    assert error.task_step_index == index
    assert isinstance(error.__cause__, FileNotFoundError)
    assert str(there / "no-such-file") in str(error)
    assert runtime.host in str(error)
    assert task.execution_log[:index] == [f"{number}\n" for number in range(index)]
    assert os.listdir(there) == os.listdir(here) == []


def test_missing_file_of_an_asynchronous_execution(runtime, here, there, caplog):
    """It is the task's error, logged, and the process says so."""
    with caplog.at_level(logging.ERROR, "lazycluster"):
        task = ended(runtime.send_file("no-such-file", execute_async=True))
    assert isinstance(task.error, FileTransferError)
    assert task.process.exitcode == 1
    assert "no-such-file" in caplog.text
    with pytest.raises(FileTransferError):
        list(task.function_returns)


@both_ways
def test_asynchronous_copy(runtime, way, base, elsewhere):
    """It goes on by itself, and its process ends well."""
    (elsewhere / "name").write_bytes(os.urandom(1 << 20))
    method = runtime.send_file if way == "send" else runtime.get_file
    task = method(str(elsewhere / "name"), None, True)
    task.join()
    assert task.process.exitcode == 0
    assert filecmp.cmp(elsewhere / "name", base / "name", shallow=False)


def test_task_of_files_can_be_executed_again(runtime, here, there):
    """With what the files hold then."""
    task = RuntimeTask().send_file("name").run_command("cat name")
    for content in ("one", "two"):
        (here / "name").write_text(content)
        assert runtime.execute_task(task, execute_async=False).execution_log[1] == content


def test_variables_do_not_lead_a_copy_astray(own_runtime, here):
    """Neither PATH nor what Python reads counts."""
    own_runtime.env_variables = {"PATH": "/nowhere", "PYTHONPATH": "/nowhere", "LANG": "C"}
    (here / "ü").write_text("hello")
    own_runtime.send_file("ü", "ä")
    own_runtime.get_file("ä")
    assert (here / "ä").read_text() == "hello"


def test_copy_over_a_connection(connection, here, account_file):
    """A task that a Connection executes starts in the account's home directory."""
    (here / "name").write_text("hello")
    name = account_file.name
    task = RuntimeTask().send_file("name", name).get_file(name).run_command(f"cat {name}")
    assert task.execute(connection).execution_log == ["", "", "hello"]
    assert account_file.read_text() == (here / name).read_text() == "hello"


def test_copy_to_a_host(user_config, here, account_file):
    """A name that ssh knows is enough."""
    (here / account_file.name).write_text("hello")
    RuntimeTask().send_file(account_file.name).execute(user_config.alias)
    assert account_file.read_text() == "hello"
