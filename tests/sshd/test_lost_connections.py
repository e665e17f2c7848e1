"""Connections that are lost: what is told, what ends, and what the next use finds."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from lazycluster import Connection
from lazycluster._conversation.conversation import Conversation
from lazycluster.exceptions import (
    ConnectError,
    ConnectionLostError,
    InvalidRuntimeError,
    PathCreationError,
    TaskExecutionError,
)
from loopback_sshd import find_sshd
from support.hosts import await_step, commands, ended, open_runtime, run, supervisor
from support.managers import (
    await_nothing_on_manager,
    control_folder,
    guards,
    logins,
    on_manager,
    sshs,
)
from support.processes import await_gone, await_recorded, is_alive, parent, recorded
from support.waiting import wait_until

BUSY = "touch $PIDS/$$; sh -c 'touch $PIDS/$$; exec sleep 1000' & exec sleep 1000"


@pytest.fixture
def lost_runtime(own_sshd):
    """A Runtime whose connection the test loses."""
    runtime = open_runtime(own_sshd)
    yield runtime
    runtime.cleanup()
    await_nothing_on_manager(own_sshd)


def start_busy(runtime, pids):
    """A task with a step that runs, has a child, and is followed by another."""
    runtime.add_env_variables({"PIDS": str(pids)})
    task = runtime.execute_task(commands("echo first", BUSY, "touch $PIDS/../never"))
    await_recorded(pids, 2)
    await_step(task)
    return task


def check_lost_while_running(task):
    cause = ended(task).error.__cause__
    assert isinstance(task.error, TaskExecutionError)
    assert isinstance(cause, ConnectionLostError), cause
    assert cause.started is True
    assert cause.host == task.error.host
    assert task.error.task_step_index == 1
    assert task.execution_log == ["first\n", "", ""]
    assert task.process.exitcode == 1
    with pytest.raises(TaskExecutionError):
        list(task.function_returns)


def await_noticed(sshd):
    """Wait until the manager has seen the loss and put away its own half."""
    await_nothing_on_manager(sshd)


# ── each process is killed ────────────────────────────────────────────────────────────────────────


def lose_by_sshd(sshd, host):
    sshd.kill_connections()


def lose_by_ssh(sshd, host):
    for pid in sshs(sshd):
        os.kill(pid, signal.SIGKILL)


def lose_by_shell(sshd, host):
    shell = parent(host)
    assert Path(f"/proc/{shell}/comm").read_text() == "sh\n"
    os.kill(shell, signal.SIGKILL)


def lose_by_supervisor(sshd, host):
    os.kill(host, signal.SIGTERM)


def lose_by_out_of_memory(sshd, host):
    """The supervisor can do nothing then; its cleanup process does."""
    os.kill(host, signal.SIGKILL)


@pytest.mark.parametrize(
    "lose",
    [lose_by_sshd, lose_by_ssh, lose_by_shell, lose_by_supervisor, lose_by_out_of_memory],
)
def test_f7_a_connection_lost_under_a_running_step(own_sshd, lost_runtime, pids, lose, caplog):
    """The error says that it had started, all of it ends, and the next use logs in once."""
    task = start_busy(lost_runtime, pids)
    host, old = supervisor(lost_runtime), lost_runtime.working_dir
    lose(own_sshd, host)
    check_lost_while_running(task)
    await_gone({host, *recorded(pids)}, "on the host")
    assert any(record.levelno == logging.ERROR for record in caplog.records)
    await_noticed(own_sshd)
    wait_until(lambda: not os.path.exists(old), f"{old} is left")
    assert logins(own_sshd) == 1
    assert run(lost_runtime, 'echo "$WORKING_DIR"') == [f"{lost_runtime.working_dir}\n"]
    assert logins(own_sshd) == 2
    assert lost_runtime.working_dir != old
    assert not (pids / "../never").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_f7_a_guard_that_somebody_ends(own_sshd, lost_runtime, pids, number):
    """The connection works on or is lost, and in the end nothing is left."""
    task = start_busy(lost_runtime, pids)
    (guard,) = guards(own_sshd)
    folder = control_folder(guard)
    os.kill(guard, number)
    await_gone([guard])
    try:
        assert run(lost_runtime, "echo hi") == ["hi\n"]
    except TaskExecutionError as error:
        assert isinstance(error.__cause__, ConnectionLostError)  # noqa: PT017
    assert os.path.exists(task.execution_log_file_path)
    lost_runtime.cleanup()
    assert not task.process.is_alive()
    await_gone(recorded(pids))
    await_nothing_on_manager(own_sshd)
    assert not os.path.exists(folder)


def test_f7_a_control_socket_that_somebody_removes(own_sshd, lost_runtime):
    """What runs does not need it."""
    (guard,) = guards(own_sshd)
    os.unlink(f"{control_folder(guard)}/s")
    assert run(lost_runtime, "echo hi") == ["hi\n"]
    assert logins(own_sshd) == 1


# ── when it is lost ───────────────────────────────────────────────────────────────────────────────


def test_f7_lost_while_idle(own_sshd, lost_runtime, caplog):
    """The next use logs in again, once; its temporary working directory is new, which is said."""
    old = lost_runtime.working_dir
    own_sshd.kill_connections()
    await_noticed(own_sshd)
    caplog.clear()
    assert run(lost_runtime, "pwd", "echo 2") == [f"{lost_runtime.working_dir}\n", "2\n"]
    assert lost_runtime.working_dir != old
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert old in record.getMessage()
    assert lost_runtime.working_dir in record.getMessage()
    assert logins(own_sshd) == 2


def test_f7_a_given_working_dir_stays(own_sshd, tmp_path, caplog):
    """With all that is in it, and without a word."""
    folder = tmp_path / "given"
    runtime = open_runtime(own_sshd, str(folder))
    try:
        run(runtime, "echo kept > file")
        own_sshd.kill_connections()
        await_noticed(own_sshd)
        assert run(runtime, "cat file") == ["kept\n"]
        assert runtime.working_dir == str(folder)
        assert not caplog.records
    finally:
        runtime.cleanup()
    assert (folder / "file").exists()


def test_f7_lost_between_two_tasks_at_once(own_sshd, lost_runtime):
    """Many uses after a loss log in once between them."""
    own_sshd.kill_connections()
    await_noticed(own_sshd)
    tasks = [lost_runtime.execute_task(commands(f"echo {i}")) for i in range(20)]
    assert [ended(task).execution_log for task in tasks] == [[f"{i}\n"] for i in range(20)]
    assert logins(own_sshd) == 2


def test_f7_lost_again_and_again(own_sshd, lost_runtime):
    """The second loss is like the first."""
    for i in range(3):
        assert run(lost_runtime, f"echo {i}") == [f"{i}\n"]
        own_sshd.kill_connections()
        await_noticed(own_sshd)
    assert logins(own_sshd) == 3


def test_f48_a_use_at_the_moment_of_the_loss_runs_once_or_not_at_all(
    own_sshd, lost_runtime, tmp_path
):
    """Whether it may have started is never denied."""
    file = tmp_path / "file"
    for i in range(10):
        own_sshd.kill_connections()
        try:
            run(lost_runtime, f"echo {i} >> {file}")
        except TaskExecutionError as error:
            cause = error.__cause__
            assert isinstance(cause, ConnectionLostError), cause
            assert cause.started is not False
    lines = file.read_text().split() if file.exists() else []
    assert len(lines) == len(set(lines))


def test_f48_what_may_have_started_is_not_repeated(own_sshd, lost_runtime, tmp_path):
    """Nor is the step after it run."""
    file = tmp_path / "file"
    task = lost_runtime.execute_task(
        commands(f"echo one >> {file}", f"echo two >> {file}; sleep 1000", f"echo three >> {file}")
    )
    wait_until(lambda: file.exists() and "two" in file.read_text(), "not started")
    own_sshd.kill_connections()
    assert isinstance(ended(task).error.__cause__, ConnectionLostError)
    await_noticed(own_sshd)
    run(lost_runtime, "true")
    assert file.read_text() == "one\ntwo\n"


def test_f48_nobody_knows_whether_an_unanswered_step_has_started(own_sshd, lost_runtime, tmp_path):
    """The request is under way when the link is cut: the error says so, and it is not repeated."""
    file, host = tmp_path / "file", supervisor(lost_runtime)
    os.kill(host, signal.SIGSTOP)
    try:
        task = lost_runtime.execute_task(commands(f"echo once >> {file}"))
        conversation = lost_runtime._connection._start()
        wait_until(lambda: conversation._requests, "nothing was asked")
        own_sshd.kill_connections()
        cause = ended(task).error.__cause__
    finally:
        os.kill(host, signal.SIGCONT)
    assert isinstance(cause, ConnectionLostError)
    assert cause.started is None
    await_gone([host])
    run(lost_runtime, "true")
    assert not file.exists() or file.read_text() == "once\n"


def test_f48_steps_that_were_not_asked_for_have_not_started(own_sshd, lost_runtime, tmp_path):
    """They are not made up for on a new connection, where nothing is that the first have left."""
    task = commands("until test -e go; do sleep 0.05; done").get_file(str(tmp_path / "no"), ".")
    original = Conversation.request

    def request(self, steps, **keywords):
        if steps[0]["kind"] == "pack":
            own_sshd.kill_connections()
            wait_until(lambda: self.transport.ended, "the loss was not noticed")
        return original(self, steps, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Conversation, "request", request)
        lost_runtime.execute_task(task)
        run(lost_runtime, "touch go")
        cause = ended(task).error.__cause__
    assert isinstance(cause, ConnectionLostError)
    assert cause.started is False
    assert task.error.task_step_index == 1


def test_f7_a_connection_is_opened_again(own_sshd):
    """Without a Runtime as well."""
    with Connection(own_sshd.alias, config_file=own_sshd.config_file) as connection:
        assert commands("echo 1").execute(connection).execution_log == ["1\n"]
        own_sshd.kill_connections()
        await_noticed(own_sshd)
        assert commands("echo 2").execute(connection).execution_log == ["2\n"]
    assert logins(own_sshd) == 2


def test_f48_many_threads_while_it_is_lost(own_sshd, lost_runtime, tmp_path):
    """Each use works or says that the connection was lost; none hangs, none runs twice."""
    file = tmp_path / "file"
    outcomes: list[object] = []
    lost = threading.Event()

    def use(number):
        for turn in range(10_000):
            try:
                printed = run(lost_runtime, f"echo {number}-{turn} >> {file}; echo {turn}")
                outcomes.append(printed == [f"{turn}\n"])
                if lost.is_set():
                    return
            except TaskExecutionError as error:
                outcomes.append(error.__cause__)

    threads = [threading.Thread(target=use, args=[i], daemon=True) for i in range(20)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(outcomes) > 40, "nothing runs")
    own_sshd.kill_connections()
    lost.set()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive()
    wrong = [o for o in outcomes if o is not True and not isinstance(o, ConnectionLostError)]
    assert not wrong
    lines = file.read_text().split()
    assert len(lines) == len(set(lines))
    assert logins(own_sshd) == 2


# ── no answer ─────────────────────────────────────────────────────────────────────────────────────


def test_f9_a_host_that_is_down_and_up_again(own_sshd, lost_runtime, pids):
    """A running step lives through a restart of sshd; without sshd the next use says why."""
    lost_runtime.add_env_variables({"PIDS": str(pids)})
    task = lost_runtime.execute_task(commands("until test -e go; do sleep 0.05; done; echo done"))
    await_step(task)
    os.kill(own_sshd.pid, signal.SIGKILL)
    await_gone([own_sshd.pid])
    run(lost_runtime, "touch go")
    assert ended(task).execution_log == ["done\n"]

    for pid in on_manager(own_sshd):
        if pid in sshs(own_sshd):
            os.kill(pid, signal.SIGKILL)
    await_noticed(own_sshd)
    with pytest.raises(TaskExecutionError) as failure:
        run(lost_runtime, "echo down")
    assert isinstance(failure.value.__cause__, ConnectError)
    assert "refused" in str(failure.value)
    assert not lost_runtime.is_valid_runtime()
    await_nothing_on_manager(own_sshd)

    with subprocess.Popen(
        [find_sshd(), "-D", "-e", "-f", str(own_sshd.folder / "sshd_config")],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as again:
        try:
            wait_until(lost_runtime.is_valid_runtime, "it does not come back")
            assert run(lost_runtime, "echo up") == ["up\n"]
        finally:
            lost_runtime.cleanup()
            again.kill()


# ── half-open ─────────────────────────────────────────────────────────────────────────────────────

KEEPALIVE = 1.0  # seconds; the end comes after four times that


@pytest.fixture
def impatient(own_sshd):
    runtime = open_runtime(own_sshd, keepalive=KEEPALIVE, orphan_timeout=4 * KEEPALIVE)
    yield runtime
    own_sshd.resume()
    runtime.cleanup()
    await_nothing_on_manager(own_sshd)


def test_f8_half_open_under_a_running_step(own_sshd, impatient, pids):
    """Both sides find out by themselves, and a new login works meanwhile."""
    task = start_busy(impatient, pids)
    host, old = supervisor(impatient), impatient.working_dir
    own_sshd.pause()
    paused = set(own_sshd.connection_pids())
    check_lost_while_running(task)
    await_gone({host, *recorded(pids)}, "on the host")
    assert all(is_alive(pid) for pid in paused)
    wait_until(lambda: not os.path.exists(old), f"{old} is left")
    assert run(impatient, "echo hi") == ["hi\n"]
    assert logins(own_sshd) == 2
    assert not (pids / "../never").exists()


def test_f8_half_open_while_idle(own_sshd, impatient):
    """The next use works."""
    own_sshd.pause()
    await_noticed(own_sshd)
    assert run(impatient, "echo hi") == ["hi\n"]


def test_f8_closing_a_half_open_connection(own_sshd, impatient, pids):
    """cleanup() returns without an answer, and leaves nothing on the manager's side."""
    task = start_busy(impatient, pids)
    own_sshd.pause()
    impatient.cleanup()
    await_gone(on_manager(own_sshd))  # the sleep of the guard's timer may be ending just now
    assert not task.process.is_alive()
    assert task.process.exitcode == -15
    await_gone(recorded(pids), "on the host")


def test_f8_terminate_on_a_half_open_connection(own_sshd, impatient, pids):
    """It returns when the connection has been given up, and with it all that runs."""
    task = start_busy(impatient, pids)
    own_sshd.pause()
    task.process.terminate()
    assert not task.process.is_alive()
    assert task.process.exitcode == -15
    await_gone(recorded(pids), "on the host")


def test_f8_a_short_pause_is_lived_through(own_sshd, lost_runtime, pids):
    """Nothing is lost before four periods are over."""
    task = lost_runtime.execute_task(commands("until test -e go; do sleep 0.05; done; echo done"))
    await_step(task)
    own_sshd.pause()
    other = lost_runtime.execute_task(commands("touch go"))
    own_sshd.resume()
    assert ended(other).error is None
    assert ended(task).execution_log == ["done\n"]
    assert logins(own_sshd) == 1


# ── no way in ─────────────────────────────────────────────────────────────────────────────────────


def test_f1_a_runtime_that_cannot_be_made_leaves_nothing(own_sshd, tmp_path):
    """Neither when no sshd listens, nor when the working directory cannot be made."""
    (tmp_path / "file").touch()
    with pytest.raises(PathCreationError):
        open_runtime(own_sshd, str(tmp_path / "file" / "folder"))
    await_nothing_on_manager(own_sshd)
    with pytest.raises(InvalidRuntimeError) as failure:
        open_runtime(own_sshd, port=1)
    assert isinstance(failure.value.__cause__, ConnectError)
    await_nothing_on_manager(own_sshd)
