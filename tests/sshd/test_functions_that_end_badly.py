"""Functions that raise, exit, crash or never end: each ending is told, and harms nothing else."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import (
    RemoteFunctionError,
    StepTimeoutError,
    TaskExecutionError,
)
from support.hosts import cause
from support.processes import is_alive
from support.waiting import wait_until

pytestmark = [pytest.mark.separate_host, pytest.mark.usefixtures("stays_good")]


# --- It raises -------------------------------------------------------------------------------


class OddError(Exception):
    """Pickles well and cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__(one)


def fail_deeply(text):
    def inner():
        raise OddError(text, 2)

    inner()


def test_f22_remote_exception(runtime):
    """Type, message, function and host are plain values."""
    error = cause(runtime, fail_deeply, text="not today")
    assert isinstance(error, RemoteFunctionError)
    assert error.exception_type.rpartition(".")[2] == "OddError"
    assert error.exception_message == "not today"
    assert (error.function, error.host) == ("fail_deeply", runtime.host)
    assert (error.exit_status, error.signal) == (None, None)


def test_f22_traceback_on_the_host(runtime):
    """It begins in the user's function and has its lines; nothing of ours is in it."""
    error = cause(runtime, fail_deeply, text="not today")
    assert "in fail_deeply" in error.traceback
    assert "in inner" in error.traceback
    assert "raise OddError(text, 2)" in error.traceback
    assert set(re.findall(r'File "(.+?)"', error.traceback)) == {__file__}


def test_f22_causes_are_in_the_traceback(runtime):
    """`raise … from` is kept as text."""

    def fail():
        try:
            {}["first"]
        except KeyError as error:
            raise ValueError("second") from error

    text = cause(runtime, fail).traceback
    assert "KeyError: 'first'" in text
    assert "ValueError: second" in text


def test_f22_message_of_a_failed_function(runtime):
    """It names the function, the host, the exception and its message."""
    with pytest.raises(TaskExecutionError) as caught:
        runtime.execute_function(fail_deeply, text="not today")
    for part in ("fail_deeply", runtime.host, "OddError", "not today"):
        assert part in str(caught.value)


def test_f22_huge_message_is_bounded(runtime):
    """An exception of 50 MB arrives shortened."""
    error = cause(runtime, lambda: exec("raise ValueError('x' * 50_000_000)"))
    assert error.exception_type == "ValueError"
    assert len(error.exception_message) < 2**20


def test_f22_exception_that_has_no_text(runtime):
    """A broken __str__ does not hide the rest."""

    class BrokenError(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    def fail():
        raise BrokenError

    error = cause(runtime, fail)
    assert error.exception_type.endswith("BrokenError")
    assert "in fail" in error.traceback


@pytest.mark.skipif(sys.version_info < (3, 11), reason="ExceptionGroup is new in Python 3.11")
def test_f22_exception_group(runtime):
    """Each of the group is in the traceback."""

    def fail():
        group = __builtins__["ExceptionGroup"]
        raise group("both", [ValueError("one of them"), OSError(5, "the other")])

    error = cause(runtime, fail)
    assert error.exception_type == "ExceptionGroup"
    for part in ("both (2 sub-exceptions)", "ValueError: one of them", "the other"):
        assert part in error.traceback


def test_f22_exception_with_arguments_that_cannot_be_pickled(runtime):
    """They do not travel; their text does."""

    def fail():
        raise ValueError("held", threading.Lock())

    error = cause(runtime, fail)
    assert error.exception_type == "ValueError"
    assert "'held', <unlocked _thread.lock" in error.exception_message


def test_f22_exception_of_a_class_that_only_the_host_has(runtime):
    """Its name comes, with that of its module."""

    def fail():
        raise type("StrangeError", (Exception,), {"__module__": "only.there"})("why")

    error = cause(runtime, fail)
    assert (error.exception_type, error.exception_message) == ("only.there.StrangeError", "why")


def test_f22_exception_that_ends_who_asks_for_its_text(runtime):
    """Its type and place come all the same."""

    class FatalError(Exception):
        def __str__(self):
            raise SystemExit(0)

    def fail():
        raise FatalError

    error = cause(runtime, fail)
    assert error.exception_type.endswith("FatalError")
    assert error.exit_status is None


class FailsToLoad:
    def __reduce__(self):
        return fail_deeply, ("while it was unpickled",)


def test_f22_argument_that_raises_when_it_is_unpickled_on_the_host(runtime):
    """The function was not called, and the error says so."""
    error = cause(runtime, lambda it: it, it=FailsToLoad())
    assert error.exception_message == "while it was unpickled"
    assert "could not be loaded" in str(error)


def test_f22_exceptions_in_del_and_at_exit_cost_nothing(runtime):
    """They are printed as at the end of a program; the value is there."""

    class Fragile:
        def __del__(self):
            raise ValueError("on its way out")

    def leave():
        import atexit

        atexit.register(print, "at exit")
        atexit.register(fail_deeply, "not today at exit")
        Fragile()
        return "value"

    task = runtime.execute_function(leave)
    assert list(task.function_returns) == ["value"]
    (log,) = task.execution_log
    assert "ValueError: on its way out" in log
    assert "not today at exit" in log
    assert "\nat exit\n" in log  # the function before it, which is called after it


# --- It exits --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [(0, 0, "0"), (3, 3, "3"), (None, 0, ""), ("text", 1, "text"), (-1, 255, "-1")],
    ids=str,
)
def test_f23_sys_exit(runtime, code, status, message):
    """A failure, be it with 0, as the function has not returned; the status is told."""
    error = cause(runtime, lambda: sys.exit(code))
    assert error.exception_type == "SystemExit"
    assert (error.exit_status, error.signal, error.exception_message) == (status, None, message)


@pytest.mark.parametrize("status", [0, 3, 255])
def test_f23_os_exit(runtime, status):
    """The process ended without a value: the status is told, and no exception."""
    error = cause(runtime, lambda: os._exit(status))
    assert isinstance(error, RemoteFunctionError)
    assert (error.exit_status, error.signal, error.exception_type) == (status, None, None)


def test_f23_no_value_is_made_up(runtime):
    """What os._exit(0) has ended has not returned None."""
    task = RuntimeTask().run_function(lambda: os._exit(0))
    with pytest.raises(TaskExecutionError):
        runtime.execute_task(task, execute_async=False)
    with pytest.raises(TaskExecutionError):
        list(task.function_returns)


def test_f23_function_that_becomes_another_program(runtime):
    """Its exit status is told; it has not returned."""
    error = cause(runtime, lambda: os.execvp("sh", ["sh", "-c", "exit 5"]))
    assert (error.exit_status, error.signal) == (5, None)


def end_by(how):
    import faulthandler
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if how == "abort":
        os.abort()
    if how == "segmentation fault":
        faulthandler._sigsegv()
    os.kill(os.getpid(), how)
    time.sleep(600)


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("abort", signal.SIGABRT),
        ("segmentation fault", signal.SIGSEGV),
        (signal.SIGKILL, signal.SIGKILL),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGHUP, signal.SIGHUP),
    ],
    ids=str,
)
def test_f23_function_that_a_signal_ends(runtime, how, number):
    """Its number is told, and no exit status."""
    error = cause(runtime, end_by, how=how)
    assert isinstance(error, RemoteFunctionError)
    assert (error.exit_status, error.signal) == (None, number)


def test_f23_keyboard_interrupt(runtime):
    """Raised or by SIGINT, it is a failure like others."""

    def fail():
        raise KeyboardInterrupt

    assert cause(runtime, fail).exception_type == "KeyboardInterrupt"
    assert cause(runtime, end_by, how=signal.SIGINT).exception_type == "KeyboardInterrupt"


def test_f23_recursion_without_end(runtime):
    """A RecursionError, with a traceback that stays short."""

    def fail(depth=0):
        return fail(depth + 1)

    error = cause(runtime, fail)
    assert error.exception_type == "RecursionError"
    assert "in fail" in error.traceback
    assert len(error.traceback) < 2**16


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps RLIMIT_AS")
def test_f23_memory_error(runtime):
    """It is told although no memory is left when it is raised."""

    def fail():
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))
        held = []
        size = 2**24
        while True:
            try:
                held.append(bytearray(size))
            except MemoryError:
                size //= 2
                if size < 64:
                    raise

    error = cause(runtime, fail)
    assert error.exception_type == "MemoryError"
    assert "in fail" in error.traceback


# --- It never ends ---------------------------------------------------------------------------


def ignore_and_wait():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    print(os.getpid())
    while True:
        time.sleep(600)


def test_f23_function_that_never_returns_ends_at_its_timeout(runtime):
    """Though it ignores and blocks what it can; it has gone when the error comes."""
    task = RuntimeTask().run_function(ignore_and_wait)
    with pytest.raises(TaskExecutionError) as caught:
        runtime.execute_task(task, execute_async=False, timeout=1)
    assert isinstance(caught.value.__cause__, StepTimeoutError)
    (log,) = task.execution_log
    assert not log or not is_alive(int(log))  # on a slow computer it may not have begun


def test_f23_function_that_never_returns_ends_when_it_is_killed(runtime):
    """At once, with its process."""
    task = runtime.execute_function(ignore_and_wait, execute_async=True)
    pid = int(wait_until(lambda: "".join(task.execution_log).strip()))
    task.process.kill()
    assert not is_alive(pid)
    assert task.process.exitcode == -9


def test_f23_stopped_function_can_be_terminated(runtime):
    """SIGSTOP does not keep a process."""
    task = runtime.execute_function(
        lambda: os.kill(os.getpid(), signal.SIGSTOP), execute_async=True
    )
    pid = wait_until(lambda: task.process.pid)
    task.process.terminate()
    assert not is_alive(pid)
