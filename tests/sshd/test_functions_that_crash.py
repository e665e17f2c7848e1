"""Functions whose process a signal ends: the error says which, why, and where the function was."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import resource
import signal
import sys
import threading

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import RemoteFunctionError, TaskExecutionError
from support.hosts import cause

pytestmark = [pytest.mark.usefixtures("stays_good"), pytest.mark.every_python]


def crash():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler._sigsegv()


async def crash_in_a_coroutine():
    await asyncio.sleep(0)
    crash()


def crash_in_a_thread():
    thread = threading.Thread(target=crash)
    thread.start()
    thread.join()


def crash_without_streams():
    for stream in (sys.stdout, sys.stderr):
        stream.close()
    sys.stdout = sys.stderr = sys.__stderr__ = None
    crash()


def crash_while_output_is_elsewhere():
    with contextlib.redirect_stderr(open(os.devnull, "w")):
        crash()


def crash_at_the_end():
    import atexit

    atexit.register(crash)


@pytest.mark.parametrize(
    "function",
    [
        crash,
        crash_in_a_coroutine,
        crash_in_a_thread,
        crash_without_streams,
        crash_while_output_is_elsewhere,
        crash_at_the_end,
    ],
)
def test_a_crash_says_where_the_function_was(runtime, function):
    """In the error, in the output while it runs, and in the log of a task."""
    lines = []
    with pytest.raises(RemoteFunctionError, match=r"11 \(SIGSEGV\).*compiled module") as caught:
        runtime.with_options(on_output=lines.append).call(function)
    place = f'  File "{__file__}", line {crash.__code__.co_firstlineno + 2} in crash'
    assert caught.value.traceback.splitlines()[1] == place
    assert place in str(caught.value)
    assert f"{place}\n" in lines
    assert "Fatal Python error: Segmentation fault\n" in lines

    task = RuntimeTask().run_function(function)
    with pytest.raises(TaskExecutionError, match=r"11 \(SIGSEGV\)") as failed:
        runtime.execute_task(task, execute_async=False)
    assert place in task.execution_log[0]
    assert place in str(failed.value.__cause__)


def test_a_crash_in_a_new_python_says_where_too(runtime):
    """The variable makes the host start a Python for the call."""
    view = runtime.with_options(env={"PYTHONHASHSEED": "1"})
    with pytest.raises(RemoteFunctionError, match=r"11 \(SIGSEGV\)") as caught:
        view.call(crash)
    assert caught.value.traceback.splitlines()[1].endswith(" in crash")


def test_a_crash_is_logged_with_its_last_line(runtime, caplog):
    """An asynchronous task has one line for it."""
    task = runtime.execute_task(RuntimeTask("breaks").run_function(crash))
    task.join()
    assert f'(File "{__file__}", line {crash.__code__.co_firstlineno + 2} in crash)' in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
def test_a_signal_has_its_name(runtime, number):
    """Also as the cause of the error of a task."""
    named = rf"signal {int(number)} \({number.name}\)"

    def end(number):
        os.kill(os.getpid(), number)

    with pytest.raises(RemoteFunctionError, match=named) as caught:
        runtime.call(end, int(number))
    assert (caught.value.signal, caught.value.traceback) == (number, None)
    assert str(cause(runtime, end, number=int(number))) == "end did not return."


def test_a_function_that_is_stopped_says_so(runtime):
    """It is no fault of the host."""
    task = runtime.execute_task(RuntimeTask().run_function(signal.pause))
    task.process.terminate()
    assert "it was stopped from here" in str(task.error)
