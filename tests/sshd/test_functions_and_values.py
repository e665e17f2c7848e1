"""What functions are given and return: of every kind, of any size, and what cannot travel."""

from __future__ import annotations

import os
import posix
import socket
import subprocess
import sys
import threading

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import LazyclusterError, SerializationError, TaskExecutionError
from support.hosts import call, cause, commands, ended

pytestmark = [pytest.mark.separate_host, pytest.mark.usefixtures("stays_good")]


def add(a, b=1):
    return a + b


def len_of(items):
    return len(items)


# --- Kinds of values -------------------------------------------------------------------------


def same(value):
    return value


class Ours:
    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return type(other) is Ours and other.value == self.value

    __hash__ = None


@pytest.mark.parametrize(
    "value",
    [
        None,
        ...,
        NotImplemented,
        float("inf"),
        10**400,
        "\N{SNOWMAN}\0\udcff",
        b"",
        [[], (), {}, set(), frozenset([None])],
        ValueError("as a value"),
        Ours([Ours(None)]),
        Ours,
        len,
        os,
    ],
    ids=lambda value: repr(value)[:20] if not isinstance(value, Ours) else "Ours",
)
def test_f26_value_goes_there_and_back(runtime, value):
    """It is the same, or equal."""
    returned = call(runtime, same, value=value)
    if isinstance(value, Exception):
        assert (type(returned), returned.args) == (type(value), value.args)
    else:
        assert returned is value or returned == value


def test_f26_value_that_holds_itself(runtime):
    """It still does."""
    value = []
    value.append(value)
    returned = call(runtime, same, value=value)
    assert returned[0] is returned


def test_f26_function_as_value(runtime):
    """It can be called here, with what it closed over there."""

    def make():
        there = os.getpid()
        return lambda: (there, os.getpid())

    there, here = call(runtime, make)()
    assert here == os.getpid() != there


def test_f26_none_is_a_value(runtime):
    """One for each that was returned."""
    task = RuntimeTask().run_function(print).run_command("true").run_function(print)
    runtime.execute_task(task, execute_async=False)
    assert list(task.function_returns) == [None, None]


@pytest.mark.parametrize(
    "make",
    [threading.Lock, lambda: (n for n in ()), socket.socket, lambda: open("/dev/null", "wb")],
    ids=["lock", "generator", "socket", "open file"],
)
def test_f26_argument_that_cannot_be_pickled(runtime, requests, make):
    """SerializationError at once, with the names of argument and function; nothing was asked."""
    value = make()
    with pytest.raises(SerializationError, match=r"argument `value` of `same`"):
        runtime.execute_function(same, value=value)
    assert requests == []
    if hasattr(value, "close"):
        value.close()


# --- What cannot be returned -----------------------------------------------------------------


def generator():
    return (number for number in range(3))


def coroutine():
    async def nothing():
        pass

    return [nothing()]  # it would be run if it were the value itself


def open_socket():
    import socket

    return socket.socket()


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (threading.Lock, "lock"),
        (generator, "generator"),
        (coroutine, "coroutine"),
        (open_socket, "socket"),
        (lambda: open("/dev/null", "wb"), "BufferedWriter"),
        (lambda: sys._getframe(), "frame"),
    ],
    ids=["lock", "generator", "coroutine", "socket", "open file", "frame"],
)
def test_f27_value_that_cannot_be_pickled(runtime, function, kind):
    """SerializationError that names the function, says that it is the value, and of which type."""
    with pytest.raises(TaskExecutionError) as caught:
        runtime.execute_function(function)
    assert isinstance(caught.value.__cause__, SerializationError)
    assert function.__qualname__.rpartition(".")[2] in str(caught.value)
    assert "value" in str(caught.value)
    assert kind in str(caught.value)


def test_f27_function_whose_value_cannot_be_pickled_has_run(runtime, both_sides):
    """What it did is done, and what it printed is in the log; the step after it does not run."""

    def work(path):
        with open(path, "w") as file:
            file.write("done")
        print("printed")
        return threading.Lock()

    task = RuntimeTask().run_function(work, path=str(both_sides / "effect"))
    task.run_command("echo next")
    with pytest.raises(TaskExecutionError) as caught:
        runtime.execute_task(task, execute_async=False)
    assert (both_sides / "effect").read_text() == "done"
    assert task.execution_log == ["printed\n", ""]
    assert "has run to its end" in str(caught.value)


def test_f27_value_that_fails_when_half_of_it_has_gone(runtime):
    """No part of it is taken for the value, nor for that of the next step."""
    task = RuntimeTask().run_function(lambda: 1)
    task.run_function(lambda: [bytes(2**22), threading.Lock()])
    with pytest.raises(TaskExecutionError):
        runtime.execute_task(task, execute_async=False)
    returns = task.function_returns
    assert next(returns) == 1
    with pytest.raises(LazyclusterError):
        next(returns)


def test_f27_value_that_cannot_be_unpickled_here(runtime):
    """SerializationError when it is asked for."""

    def make():
        import types

        module = types.ModuleType("only_there_4711")
        exec("class Thing: pass", module.__dict__)
        module.Thing.__module__ = module.__name__
        sys.modules[module.__name__] = module
        return module.Thing()

    task = runtime.execute_function(make)
    with pytest.raises(SerializationError, match="only_there_4711"):
        list(task.function_returns)


def test_f26_unpicklable_argument(runtime):
    """SerializationError when it is added, with the argument's name and the function's."""
    with pytest.raises(SerializationError, match=r"(?s)second.*of_two|of_two.*second"):
        RuntimeTask().run_function(of_two, first=1, second=threading.Lock())


def of_two(first, second):
    return first, second


def test_f26_unpicklable_function(runtime, requests):
    """SerializationError with its name; nothing was asked of the host."""
    lock = threading.Lock()

    def guarded():
        return lock.locked()

    with pytest.raises(SerializationError, match="guarded"):
        runtime.execute_function(guarded)
    assert requests == []


def test_f26_step_that_cannot_be_pickled_is_not_added():
    """The task is as it was."""
    task = commands("true")
    with pytest.raises(SerializationError):
        task.run_function(of_two, first=1, second=threading.Lock())
    assert len(task.steps) == 1


# --- Much of it ---


HUGE = """
import hashlib, os, re, sys
from lazycluster import Runtime, RuntimeTask

SIZE = 200 * 2**20

def peak(process):
    with open(f"/proc/{process}/status") as file:
        return int(re.search(r"VmHWM:\\s*(\\d+) kB", file.read())[1]) * 1024

def same(data):
    return data

def peak_of_supervisor():
    return peak(os.getppid())

runtime = Runtime(sys.argv[1], connection_kwargs={"config_file": sys.argv[2]})
data = os.urandom(SIZE)
digest = hashlib.sha256(data).digest()
task = RuntimeTask().run_function(same, data=data)
del data  # so that there is one such object at a time, the argument or the value
runtime.execute_task(task, execute_async=False)
(value,) = task.function_returns
whole = hashlib.sha256(value).digest() == digest
(supervisor,) = runtime.execute_function(peak_of_supervisor).function_returns
print(whole, peak("self") - SIZE, supervisor)
"""


@pytest.fixture(scope="module")
def huge_call(host_sshd, tmp_path_factory):
    """200 MB there and back: whether they arrived, and the memory of both sides beyond them."""
    script = tmp_path_factory.mktemp("huge") / "huge.py"
    script.write_text(HUGE)
    done = subprocess.run(
        [sys.executable, script, host_sshd.alias, host_sshd.config_file],
        stdout=subprocess.PIPE,
        text=True,
        timeout=280,
        check=True,
    )
    whole, manager, supervisor = done.stdout.split()
    return whole == "True", int(manager), int(supervisor)


def test_f26_200_megabytes_arrive(huge_call):
    """As an argument and as a value."""
    assert huge_call[0]


def test_f26_200_megabytes_are_in_the_memory_of_the_manager_once(huge_call):
    """As the object that the user has, and not as a pickle besides."""
    assert huge_call[1] < 64 * 2**20


def test_f26_200_megabytes_are_not_in_the_memory_of_the_supervisor(huge_call):
    """They pass through in pieces."""
    assert huge_call[2] < 64 * 2**20


def test_f26_many_arguments_at_once(runtime):
    """A big call does not hold up small ones, and their bytes are not mixed."""
    big = runtime.execute_function(len_of, execute_async=True, items=bytes(20 * 2**20))
    values = [call(runtime, add, a=number) for number in range(20)]
    assert values == list(range(1, 21))
    assert list(ended(big).function_returns) == [20 * 2**20]


def test_f26_argument_that_is_not_read(runtime):
    """A function that exits while its arguments are still coming does not block anything."""

    class Exits:
        def __reduce__(self):
            return posix._exit, (3,)  # coverage.py replaces os._exit by a closure

    error = cause(runtime, of_two, first=Exits(), second=bytes(20 * 2**20))
    assert error.exit_status == 3
    assert call(runtime, add, a=1) == 2
