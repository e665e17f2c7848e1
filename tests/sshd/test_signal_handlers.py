"""Exceptions of signal handlers, as Celery, RQ and timeout decorators raise them."""

from __future__ import annotations

import os
import signal
import time

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import FileTransferError
from support.hosts import await_step, commands, ended
from support.processes import await_gone, await_recorded
from support.waiting import wait_until

# pytest-timeout's own method would set the alarm that these tests use.
pytestmark = pytest.mark.timeout(method="thread")

SOON = 0.3  # seconds


class SoftTimeLimitError(Exception):
    """A task queue's exception."""


class OddError(Exception):
    """It cannot be copied."""

    def __init__(self, one, two):
        super().__init__(one)


ERRORS = [SoftTimeLimitError("late"), TimeoutError("late"), OddError(1, 2), KeyboardInterrupt()]


@pytest.fixture(params=ERRORS, ids=lambda error: type(error).__name__)
def alarm(request):
    """Return an exception that a signal handler raises soon."""

    def handle(*_):
        raise request.param

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, SOON)
    yield request.param
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def check(alarm, action, *args, **keywords):
    """Check that an action raises exactly the handler's exception."""
    with pytest.raises(type(alarm)) as caught:
        action(*args, **keywords)
    assert caught.value is alarm


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
    check_again = RuntimeTask().run_function
    signal.setitimer(signal.ITIMER_REAL, SOON)
    check(alarm, check_again, sleep, seconds=SlowToPickle())


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
    signal.setitimer(signal.ITIMER_REAL, 0)
    task = runtime.execute_function(make_slow_value)
    signal.setitimer(signal.ITIMER_REAL, SOON)
    check(alarm, list, task.function_returns)


def test_files(runtime, tmp_path, alarm):
    """A terabyte takes long; nothing is left of the copy.

    Python itself loses an exception that a handler raises in a destructor. Then a second alarm
    comes, as a person would press Ctrl-C again.
    """
    signal.setitimer(signal.ITIMER_REAL, 0)
    big = tmp_path / "big"
    with open(big, "wb") as file:
        file.truncate(1 << 40)
    signal.setitimer(signal.ITIMER_REAL, SOON, 30)
    check(alarm, runtime.send_file, str(big), f"{tmp_path}/copy")
    signal.setitimer(signal.ITIMER_REAL, SOON, 30)
    check(alarm, runtime.get_file, str(big), f"{tmp_path}/copy")
    signal.setitimer(signal.ITIMER_REAL, 0)
    wait_until(lambda: os.listdir(tmp_path) == ["big"])


@pytest.mark.parametrize("wait", ["join", "join all", "process", "function_returns"])
def test_waiting_for_an_asynchronous_execution(own_runtime, alarm, wait):
    """It goes on; the caller only stops waiting."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    task = own_runtime.execute_task(commands("sleep 1000"))
    await_step(task)
    action = {
        "join": task.join,
        "join all": own_runtime.join,
        "process": task.process.join,
        "function_returns": lambda: list(task.function_returns),
    }[wait]
    signal.setitimer(signal.ITIMER_REAL, SOON)
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
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert own_runtime.echo("hi") == "hi"


def test_a_second_exception_passes_at_once(runtime, pids):
    """A command that ignores SIGTERM is not waited for."""
    raised = []

    def handle(*_):
        raised.append(SoftTimeLimitError(len(raised)))
        raise raised[-1]

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, SOON, SOON)
        with pytest.raises(SoftTimeLimitError) as caught:
            runtime.execute_task(
                commands(f"trap '' TERM; touch {pids}/$$; while :; do sleep 1; done"),
                execute_async=False,
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught.value is raised[1]


def test_what_the_library_knows_is_still_its_own_error(runtime, tmp_path):
    """A missing file is an OSError of the manager, which has an errno."""
    with pytest.raises(FileTransferError):
        runtime.send_file(str(tmp_path / "missing"))


def test_a_handler_may_stop_the_task_that_its_thread_waits_for(runtime):
    """It does not wait for itself."""
    task = commands("sleep 1000")
    before = signal.signal(signal.SIGALRM, lambda *_: task.stop())
    try:
        signal.setitimer(signal.ITIMER_REAL, SOON)
        with pytest.raises(Exception, match="15"):
            runtime.execute_task(task, execute_async=False)
    finally:
        signal.signal(signal.SIGALRM, before)
