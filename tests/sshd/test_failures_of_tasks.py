"""The error of a step, and timeouts."""

from __future__ import annotations

import os
import pickle
import stat
import time

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import CommandError, StepTimeoutError
from support.hosts import commands, ended, failed, run
from support.processes import is_alive
from support.waiting import TIMEOUT

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


@pytest.mark.parametrize("execute_async", [False, True])
def test_timeout_of_a_step_ends_with_the_step(runtime, execute_async):
    """The next one may take longer."""
    task = RuntimeTask().run_command("true", timeout=1.0).run_command("sleep 1.5; echo done")
    runtime.execute_task(task, execute_async)
    task.join()
    assert task.error is None
    assert task.execution_log == ["", "done\n"]


@pytest.mark.parametrize("timeout", ["of the step", "of the task"])
def test_timeout_of_an_asynchronous_task_without_a_thread(runtime, timeout):
    """It is the step's error as in a synchronous one."""
    of_step, of_task = (0.5, None) if timeout == "of the step" else (None, 0.5)
    task = (
        RuntimeTask().run_command("true").run_command("echo early; exec sleep 600", timeout=of_step)
    )
    ended(runtime.execute_task(task.run_command("touch never"), timeout=of_task))
    assert isinstance(task.error.__cause__, StepTimeoutError)
    assert task.error.__cause__.timeout == 0.5
    assert task.error.task_step_index == 1
    assert task.execution_log[1] == "early\n"
    assert task.process.exitcode == 1


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
