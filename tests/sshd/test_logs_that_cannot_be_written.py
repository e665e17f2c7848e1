"""A log or live output that cannot be written decides nothing: the step's own outcome counts."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys

import pytest

from lazycluster._tasks import log as log_module
from support.hosts import call, commands, ended
from support.programs import manager_on_a_full_disk
from support.waiting import TIMEOUT, wait_until

LINES = "seq 100000"


@pytest.fixture(autouse=True)
def warn_again(monkeypatch):
    """Warn of each reason again."""
    monkeypatch.setattr(log_module, "_warned_of", set())


def test_a_full_disk(sshd):
    """The output is kept within bounds, and a value that is lost is said to be."""
    argv = [sys.executable, manager_on_a_full_disk.__file__, sshd.alias, str(sshd.config_file)]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert result.returncode == 0, result.stderr
    assert "make_value has run to its end" in result.stdout
    assert "cannot be stored on the manager: [Errno 27] File too large" in result.stdout
    assert result.stderr.count("An execution log cannot be written") == 1


def test_no_folder_for_logs(runtime, monkeypatch, caplog):
    """Commands, functions, echo and filters go on, with one warning."""
    monkeypatch.setenv("LAZYCLUSTER_HOME", "/dev/null/logs")
    task = runtime.execute_task(commands("echo one", LINES, "exit 3"))
    assert ended(task).error.__cause__.exit_status == 3
    assert task.execution_log[0] == "one\n"
    assert task.execution_log[1].endswith("\n100000\n")
    assert task.execution_log_file_path is None
    assert call(runtime, print_and_return, value=5) == 5
    assert runtime.echo("hi") == "hi"
    assert runtime.check_filter(filter_commands="echo true")
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "/dev/null" in warnings[0].getMessage()


def print_and_return(value):
    print("value", value)
    return value


def test_a_folder_that_is_removed_while_a_step_prints(runtime, gate, tmp_path, monkeypatch, capsys):
    """Its output is still live and whole."""
    monkeypatch.setenv("LAZYCLUSTER_HOME", str(tmp_path))
    task = commands(f"{LINES}; {gate.wait}; {LINES}; exit 3")
    runtime.execute_task(task, debug=True)
    wait_until(lambda: "\n100000\n" in "".join(task.execution_log))
    shutil.rmtree(tmp_path / "execution_log")
    gate.open()
    assert ended(task).error.__cause__.exit_status == 3
    assert capsys.readouterr().out.count("\n100000\n") == 2


class Broken(io.StringIO):
    """A standard output whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [Broken(), closed(), None], ids=["broken", "closed", "none"])
@pytest.mark.parametrize("execute_async", [False, True])
def test_standard_output_that_cannot_be_written(
    runtime, monkeypatch, caplog, stream, execute_async
):
    """The step runs to its end; the next print of the program itself raises, as without us."""
    monkeypatch.setattr(sys, "stdout", stream)
    task = commands("echo one", "sleep 0.1; echo two")
    runtime.execute_task(task, execute_async, debug=True)
    task.join()
    assert task.error is None
    assert task.execution_log == ["one\n", "two\n"]
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (0 if stream is None else 1)


def test_standard_error_that_cannot_be_written(runtime, monkeypatch, tmp_path):
    """The line of a copy's progress is lost, the copy is not."""
    (tmp_path / "file").write_bytes(b"x" * 1000)
    broken = Broken()
    broken.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", broken)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    runtime.send_file(str(tmp_path / "file"), str(tmp_path / "copy"), progress=True)
    assert os.path.getsize(tmp_path / "copy") == 1000


def test_no_descriptor_for_a_log(runtime, monkeypatch):
    """EMFILE of the log concerns nobody else."""

    def no_descriptor(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(log_module, "create_log_file", no_descriptor)
    task = runtime.execute_task(commands("echo one"), execute_async=False)
    assert task.execution_log == ["one\n"]
