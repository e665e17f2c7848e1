"""Tasks that run in the background: waiting, errors, and the handle of the process."""

from __future__ import annotations

import copy
import gc
import logging
import threading

import pytest

from lazycluster import Runtime, RuntimeTask
from lazycluster.exceptions import TaskExecutionError
from support.hosts import commands, double, ended, run
from support.processes import is_alive
from support.waiting import TIMEOUT, wait_until

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


@pytest.mark.parametrize("debug", [False, True], ids=["without a thread", "with a thread"])
def test_a_task_that_begins_after_the_cleanup_does_not_log_in(own_runtime, monkeypatch, debug):
    """It waits for a login, or its thread has not run yet; both ask for a target then."""
    find, may_begin = type(own_runtime)._find_target, threading.Event()

    def find_late(runtime, own, closed=None):
        assert may_begin.wait(TIMEOUT)
        return find(runtime, own, closed)

    monkeypatch.setattr(type(own_runtime), "_find_target", find_late)
    monkeypatch.setattr(type(own_runtime), "_find_open_target", lambda runtime, own: None)
    task = RuntimeTask().run_command("sleep 1000")
    own_runtime.execute_task(task, debug=debug)
    connection = own_runtime._connection
    closer = threading.Thread(target=own_runtime.cleanup)
    closer.start()
    wait_until(lambda: connection._current is None)
    may_begin.set()
    closer.join(TIMEOUT)
    assert task.process.exitcode == -15
    assert connection._current is None


def test_threads_do_not_grow_with_tasks(runtime, gate):
    """The frames that arrive drive them."""
    ended(runtime.execute_task(commands("true")))
    runtime.submit(double, 1).result()
    before = threading.active_count()
    tasks = [runtime.execute_task(commands("true", gate.wait)) for _ in range(30)]
    futures = [runtime.submit(double, number) for number in range(30)]
    wait_until(lambda: all(task.process.pid for task in tasks))
    assert threading.active_count() == before
    gate.open()
    for task in tasks:
        ended(task)
    assert [future.result() for future in futures] == [2 * number for number in range(30)]
    assert threading.active_count() == before


def test_a_task_can_be_waited_for_in_a_callback(runtime):
    """Its error is logged in the thread of callbacks, which waits."""
    found = []

    def wait(future):
        for line in ("true", "false"):
            task = runtime.execute_task(commands(line))
            task.join()
            found.append(task.process.exitcode)

    future = runtime.submit(double, 1)
    future.add_done_callback(wait)
    wait_until(lambda: len(found) == 2)
    assert found == [0, 1]


def test_a_handler_of_a_logger_that_waits_for_a_host_stops_no_connection(runtime, caplog):
    """It is not called in the thread that reads what the host sends."""
    found = []

    class Handler(logging.Handler):
        def emit(self, record):
            found.append(runtime.run("echo hi").stdout)

    handler = Handler(logging.ERROR)
    logging.getLogger("lazycluster").addHandler(handler)
    try:
        ended(runtime.execute_task(commands("false")))
    finally:
        logging.getLogger("lazycluster").removeHandler(handler)
    assert found == ["hi\n"]


def test_a_task_keeps_the_connection_of_a_runtime_that_is_freed(sshd, gate):
    """Until its end."""
    runtime = Runtime("loopback", connection_kwargs={"config_file": sshd.config_file})
    task = runtime.execute_task(commands(f"{gate.wait}; echo done"))
    wait_until(lambda: task.process.pid)
    del runtime
    gc.collect()
    gate.open()
    ended(task)
    assert task.execution_log == ["done\n"]
