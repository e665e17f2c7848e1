"""execute_task of a group: broadcasts, one host, and what the group knows of its tasks."""

from __future__ import annotations

import logging
import re
import threading

import pytest

from lazycluster import GroupError, RuntimeTask, TaskExecutionError
from support.hosts import Gate, await_step, commands
from support.waiting import wait_until

HOSTS = ["web1", "web2", "web3"]


@pytest.fixture(autouse=True)
def no_tasks(group):
    """Make each test begin with a group without tasks."""
    group.clear_tasks()


def meeting(folder, count):
    """Return a command that ends when as many have begun as there are hosts."""
    return (
        f"touch {folder}/$$; until [ $(ls {folder} | wc -l) -ge {count} ]; do sleep 0.01; done; "
        "echo met"
    )


@pytest.mark.parametrize("execute_async", [True, False])
def test_a_broadcast_begins_everywhere_before_it_waits_for_any(group, tmp_path, execute_async):
    """Each host waits for the others. One after the other, as in 0.2, the first would not end."""
    task = commands(meeting(tmp_path, 3), name="meet")
    tasks = group.execute_task(task, broadcast=True, execute_async=execute_async)
    group.join()
    assert [one.execution_log for one in tasks] == [["met\n"]] * 3


def test_a_broadcast_returns_a_copy_for_each_host_with_the_name(group):
    """In 0.2 all hosts had one object, whose log and values were the last host's."""
    task = commands("echo $WORKING_DIR", name="where").run_function(pow, base=2, exp=3)
    tasks = group.execute_task(task, broadcast=True, execute_async=False)
    assert isinstance(tasks, list)
    assert len({id(one) for one in [task, *tasks]}) == 4
    assert [one.name for one in tasks] == ["where"] * 3
    logged = [one.execution_log[0].strip() for one in tasks]
    assert logged == [runtime.working_dir for runtime in group]
    assert [list(one.function_returns) for one in tasks] == [[8]] * 3
    assert task.execution_log == []


def test_a_synchronous_broadcast_raises_when_all_have_ended(group, tmp_path):
    """0.2 stopped at the first failure. Here the failing host fails first."""
    fails = f'[ "$NAME" != web1 ] || {{ echo out of luck; exit 3; }}; {meeting(tmp_path, 2)}'
    for runtime in group:
        runtime.add_env_variables({"NAME": runtime.host})
    task = commands(fails, name="three")
    with pytest.raises(GroupError) as caught:
        group.execute_task(task, broadcast=True, execute_async=False)
    assert list(caught.value.results) == ["web2", "web3"]
    assert [one.execution_log for one in caught.value.results.values()] == [["met\n"]] * 2
    (error,) = caught.value.errors.values()
    assert isinstance(error, TaskExecutionError)
    assert (error.host, error.task.name) == ("web1", "three")
    text = str(caught.value)
    assert text == "1 of 3 hosts failed.\n  web1: exit status 3: out of luck"
    assert isinstance(caught.value.__cause__, TaskExecutionError)


def test_equal_reasons_are_said_once(group):
    with pytest.raises(GroupError, match=r"3 of 3 hosts failed.\n  web\[1-3\]: exit status 3\Z"):
        group.execute_task(commands("exit 3"), broadcast=True, execute_async=False)


def test_an_asynchronous_broadcast_logs_its_errors_and_goes_on(group, caplog):
    tasks = group.execute_task(commands("exit 3"), broadcast=True)
    group.join()
    assert [one.process.exitcode for one in tasks] == [1] * 3
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 3


def test_variables_of_one_host_are_not_those_of_another(group):
    """In 0.2 all Runtimes had one dictionary."""
    mine = {"A": "1"}
    group.set_env_variables(mine)
    first, second, third = group
    first.env_variables["A"] = "first"
    second.add_env_variables({"B": 2})
    mine["A"] = "changed"
    assert [runtime.env_variables["A"] for runtime in group] == ["first", "1", "1"]
    assert "B" not in third.env_variables
    group.add_env_variables({"A": 3})
    tasks = group.execute_task(commands("echo $A-$B"), broadcast=True, execute_async=False)
    assert [one.execution_log for one in tasks] == [["3-\n"], ["3-2\n"], ["3-\n"]]
    with pytest.raises(ValueError, match="Invalid name"):
        group.set_env_variables({"no name": 1})


def test_without_broadcast_the_given_host_executes_the_task_itself(group):
    task = commands("echo here")
    assert group.execute_task(task, host="web2", execute_async=False) is task
    assert [len(runtime._history.running) for runtime in group] == [0] * 3
    group.get_runtime("web2").execution_log(task.name)
    with pytest.raises(ValueError, match="not in the group"):
        group.execute_task(task, host="web9")
    with pytest.raises(ValueError, match="not both"):
        group.execute_task(task, host="web1", broadcast=True)


def test_without_a_host_the_least_busy_one_executes_it(group):
    tasks = [group.execute_task(commands("sleep 600", name=f"t{n}")) for n in range(5)]
    try:
        counts = [runtime.alive_task_process_count for runtime in group]
        assert counts == [2, 2, 1]
        assert group.get_runtime().host == "web3"
        assert len(group.task_processes) == 5
    finally:
        for task in tasks:
            task.stop()


def test_omit_on_join_means_what_it_says(group):
    gate = Gate(group.get_runtime("web1"))
    waiting = group.execute_task(commands(gate.wait), broadcast=True, omit_on_join=True)
    assert [task.omit_on_join for task in waiting] == [True] * 3
    group.join()  # returns although they run
    assert [task.process.is_alive() for task in waiting] == [True] * 3
    gate.open()
    for task in waiting:
        task.process.join()


def test_debug_prints_and_does_not_omit_on_join(group, capsys):
    """0.2 passed it as omit_on_join."""
    tasks = group.execute_task(commands("echo one; echo two"), broadcast=True, debug=True)
    assert [task.omit_on_join for task in tasks] == [False] * 3
    group.join()
    printed = sorted(capsys.readouterr().out.splitlines())
    assert printed == [f"web{n}: {word}" for n in (1, 2, 3) for word in ("one", "two")]


def test_each_line_of_a_broadcast_names_its_host_also_if_one_host_prints(group, capsys):
    """Another host may print later; a line without a host would be a guess."""
    with pytest.raises(GroupError):
        group.execute_task(
            commands(
                '[ "$WORKING_DIR" = "' + group.get_runtime("web2").working_dir + '" ]', "echo alone"
            ),
            broadcast=True,
            execute_async=False,
            debug=True,
        )
    assert capsys.readouterr().out == "web2: alone\n"


def test_one_host_that_prints_is_not_named(group, capsys):
    group.execute_task(commands("echo alone"), host="web1", execute_async=False, debug=True)
    assert capsys.readouterr().out == "alone\n"


def test_a_timeout_is_one_of_each_host(group):
    with pytest.raises(GroupError) as caught:
        group.execute_task(commands("sleep 600"), broadcast=True, execute_async=False, timeout=0.2)
    assert list(caught.value.errors) == HOSTS
    assert "timeout of 0.2 seconds" in str(caught.value)


def test_function_returns_are_those_of_the_tasks_of_the_group_in_order(group):
    group.get_runtime("web1").execute_function(pow, base=9, exp=9)
    task = RuntimeTask("a").run_function(pow, base=2, exp=1)
    group.execute_task(task, broadcast=True)
    group.execute_task(RuntimeTask("b").run_function(pow, base=3, exp=2), host="web3")
    group.execute_task(task, host="web1", execute_async=False)
    group.execute_task(task, host="web1", execute_async=False)
    assert list(group.function_returns) == [2, 2, 2, 9, 2, 2]
    group.clear_tasks()
    assert list(group.function_returns) == []
    assert group.task_processes == []


def test_function_returns_have_none_for_a_failure_and_raise_at_their_end(group):
    def where():
        import os

        return {"web1": 1, "web3": 3}[os.environ["NAME"]]

    for runtime in group:
        runtime.add_env_variables({"NAME": runtime.host})
    group.execute_task(RuntimeTask().run_function(where), broadcast=True)
    returns = group.function_returns
    assert [next(returns) for _ in range(3)] == [1, None, 3]
    with pytest.raises(TaskExecutionError):
        next(returns)


def test_tasks_that_nothing_keeps_are_forgotten(group, monkeypatch):
    """A script for weeks does not fill the memory; a value that was lost unread is an error."""
    monkeypatch.setattr("lazycluster._tasks.history.EXECUTIONS_KEPT", 2)
    monkeypatch.setattr("lazycluster._group.started.PRUNED_AT", 4)
    for _ in range(6):
        task = RuntimeTask().run_function(pow, base=2, exp=2)
        group.execute_task(task, host="web1", execute_async=False)
        del task
    wait_until(lambda: len(list(group._started)) <= 3)
    with pytest.raises(Exception, match="dropped before they were read"):
        list(group.function_returns)


def test_an_interrupted_broadcast_stops_what_it_has_begun(group, pids, monkeypatch):
    """As Ctrl-C does."""
    begun = threading.Event()

    def interrupt(self):
        assert begun.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr("lazycluster._group.parallel._Batch.has_more", interrupt)
    watcher = threading.Thread(
        target=lambda: (wait_until(lambda: len(list(pids.iterdir())) == 3), begun.set())
    )
    watcher.start()
    command = f"touch {pids}/$$; exec sleep 600"
    with pytest.raises(KeyboardInterrupt):
        group.execute_task(commands(command), broadcast=True, execute_async=False)
    watcher.join()
    for runtime in group:
        assert runtime._history.running == []


def test_print_log_has_what_was_executed_on_each_host(group, capsys):
    group.execute_task(commands("echo hi", name="greet"), broadcast=True, execute_async=False)
    group.print_log()
    printed = capsys.readouterr().out
    assert re.findall(r"^Log of Task greet on (\w+):$", printed, re.MULTILINE) == HOSTS
    assert printed.count("   hi\n") == 3


def test_a_subclass_of_a_task_keeps_its_attributes_in_the_copies(group):
    class Mine(RuntimeTask):
        colour = "none"

    task = Mine("mine").run_command("true")
    task.colour = ["red"]
    task.env_variables["A"] = "1"
    tasks = group.execute_task(task, broadcast=True, execute_async=False)
    assert [type(one) for one in tasks] == [Mine] * 3
    assert [one.colour for one in tasks] == [["red"]] * 3
    assert tasks[0].colour is not task.colour
    assert tasks[0].env_variables["A"] == "1"


@pytest.mark.parametrize("task", ["echo hi", None, len])
def test_something_else_than_a_task_is_a_type_error(group, task):
    with pytest.raises(TypeError, match="must be a RuntimeTask"):
        group.execute_task(task, broadcast=True)


def test_bad_flags_and_timeouts_are_errors_before_anything_starts(group, requests):
    for keywords in ({"broadcast": 1}, {"debug": "yes"}):
        with pytest.raises(TypeError, match="must be True, False or None"):
            group.execute_task(commands("true"), **keywords)
    with pytest.raises(ValueError, match="timeout"):
        group.execute_task(commands("true"), broadcast=True, timeout=-1)
    assert requests == []


def test_a_step_that_runs_can_be_seen_in_the_processes(group):
    tasks = group.execute_task(commands("sleep 600", name="s"), broadcast=True)
    for task in tasks:
        await_step(task)
    assert [process.name for process in group.task_processes] == [f"{h}::task::s" for h in HOSTS]
    for process in group.task_processes:
        process.kill()
