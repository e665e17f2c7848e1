"""One task, several executions at once."""

from __future__ import annotations

import copy
import os
from concurrent.futures import ThreadPoolExecutor

from lazycluster import RuntimeTask
from support.hosts import commands, failed
from support.processes import is_alive
from support.waiting import TIMEOUT, wait_until


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
