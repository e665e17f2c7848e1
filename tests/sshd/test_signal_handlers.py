"""Exceptions of signal handlers, as Celery, RQ and timeout decorators raise them."""

from __future__ import annotations

import os
import time

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import FileTransferError
from support.hosts import await_step, commands, ended
from support.processes import await_gone, await_recorded
from support.signals import Alarm, handled
from support.waiting import wait_until


class SoftTimeLimitError(Exception):
    """A task queue's exception."""


class OddError(Exception):
    """It cannot be copied."""

    def __init__(self, one, two):
        super().__init__(one)


ERRORS = [SoftTimeLimitError("late"), TimeoutError("late"), OddError(1, 2), KeyboardInterrupt()]


@pytest.fixture(params=ERRORS, ids=lambda error: type(error).__name__)
def alarm(request):
    """Return an alarm that raises an exception, and is not set yet."""
    with handled(Alarm(request.param)) as alarm:
        yield alarm


def check(alarm, action, *args, **keywords):
    """Set the alarm, and check that an action raises exactly its exception."""
    alarm.set()
    with pytest.raises(type(alarm.error)) as caught:
        action(*args, **keywords)
    assert caught.value is alarm.error


def test_a_command_is_stopped(runtime, pids, alarm):
    """Its processes have gone when the exception passes."""
    task = commands(f"touch {pids}/$$; exec sleep 1000")
    check(alarm, runtime.execute_task, task, execute_async=False)
    await_gone(await_recorded(pids, 1))
    assert task.error is not None
    assert not task._last.execution.is_alive


def test_a_function_is_stopped(runtime, alarm):
    """Its process ends, too."""
    check(alarm, runtime.execute_function, sleep, seconds=1000)


def sleep(seconds):
    time.sleep(seconds)


class SlowToPickle:
    def __reduce__(self):
        time.sleep(1000)
        return int, ()


def test_pickling(runtime, alarm):
    """A slow `__reduce__` is a user's code, and the handler's exception is not its own."""
    check(alarm, runtime.execute_function, sleep, seconds=SlowToPickle())
    check(alarm, RuntimeTask().run_function, sleep, seconds=SlowToPickle())


class SlowToLoad:
    def __reduce__(self):
        return load_slowly, (os.getpid(),)


def load_slowly(host):
    if os.getpid() != host:
        time.sleep(1000)


def make_slow_value():
    return SlowToLoad()


def test_unpickling(runtime, alarm):
    """The values of a function are unpickled when they are read."""
    task = runtime.execute_function(make_slow_value)
    check(alarm, list, task.function_returns)


def test_files(runtime, tmp_path, alarm):
    """A terabyte takes long; nothing is left of the copy."""
    big = tmp_path / "big"
    with open(big, "wb") as file:
        file.truncate(1 << 40)
    check(alarm, runtime.send_file, str(big), f"{tmp_path}/copy")
    check(alarm, runtime.get_file, str(big), f"{tmp_path}/copy")
    wait_until(lambda: os.listdir(tmp_path) == ["big"])


@pytest.mark.parametrize("wait", ["join", "join all", "process", "function_returns"])
def test_waiting_for_an_asynchronous_execution(own_runtime, alarm, wait):
    """It goes on; the caller only stops waiting."""
    task = own_runtime.execute_task(commands("sleep 1000"))
    await_step(task)
    action = {
        "join": task.join,
        "join all": own_runtime.join,
        "process": task.process.join,
        "function_returns": lambda: list(task.function_returns),
    }[wait]
    check(alarm, action)
    assert task.process.is_alive()
    task.process.kill()
    ended(task)


def test_an_operation(own_runtime, alarm):
    """As `echo` is one."""

    def repeat():
        while True:
            own_runtime.echo("hi")

    check(alarm, repeat)
    assert own_runtime.echo("hi") == "hi"


def test_a_second_exception_passes_at_once(runtime, pids):
    """A command that ignores SIGTERM is not waited for."""
    with handled(Alarm(times=2)) as alarm:
        alarm.set()
        with pytest.raises(KeyboardInterrupt) as caught:
            runtime.execute_task(
                commands(f"trap '' TERM; touch {pids}/$$; while :; do sleep 1; done"),
                execute_async=False,
            )
    assert caught.value is alarm.raised[1]


def test_what_the_library_knows_is_still_its_own_error(runtime, tmp_path):
    """A missing file is an OSError of the manager, which has an errno."""
    with pytest.raises(FileTransferError):
        runtime.send_file(str(tmp_path / "missing"))


def test_a_handler_may_stop_the_task_that_its_thread_waits_for(runtime):
    """It does not wait for itself."""
    task = commands("sleep 1000")
    with handled(Alarm(), lambda *_: task.stop()) as alarm:
        alarm.set()
        with pytest.raises(Exception, match="15"):
            runtime.execute_task(task, execute_async=False)
