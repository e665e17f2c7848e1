"""Functions on a real host: what can be called, what travels with it, what is refused."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import PythonVersionError, TaskExecutionError
from support.hosts import call, cause, run
from support.interpreters import other_python
from support.waiting import TIMEOUT

pytestmark = [pytest.mark.every_python, pytest.mark.separate_host]


def add(a, b=1):
    return a + b


# --- What can be called ---


def test_function_with_arguments(runtime):
    """They are given by keyword, defaults hold."""
    assert call(runtime, add, a=1) == 2
    assert call(runtime, add, a=1, b=2) == 3


def test_execute_function_returns_the_task(runtime):
    """It is synchronous unless told."""
    task = runtime.execute_function(add, a=1)
    assert isinstance(task, RuntimeTask)
    assert task.process is None
    assert list(task.function_returns) == [2]


def test_execute_function_asynchronously(runtime):
    """It returns at once, and there is a process."""
    task = runtime.execute_function(add, execute_async=True, a=1)
    assert task.process is not None
    assert list(task.function_returns) == [2]


def test_call_is_one_request(runtime, requests):
    """On an open connection it costs one round trip."""
    call(runtime, add, a=1)
    assert requests == [["function"]]


def test_f26_lambda(runtime):
    """It has no name to be found by."""
    assert call(runtime, lambda x: x * 3, x=2) == 6


def test_closure(runtime):
    """What it closes over travels too, other functions as well."""
    factor = 7

    def inner(x):
        return x * factor

    def outer(x):
        return inner(x) + 1

    assert call(runtime, outer, x=2) == 15


def test_partial(runtime):
    """With positional and keyword arguments."""
    assert call(runtime, functools.partial(add, 1), b=5) == 6
    assert call(runtime, functools.partial(add, a=1, b=2)) == 3


def test_function_of_the_standard_library(runtime):
    """It is imported on the host."""
    assert call(runtime, os.path.basename, p="a/b") == "b"


def test_builtin_function(runtime):
    """Also one that says nothing of its parameters."""
    assert call(runtime, dict, a=1) == {"a": 1}


def test_class_is_called(runtime):
    """What comes back is an instance of it."""
    assert isinstance(call(runtime, Point, x=1, y=2), Point)


class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y

    def swapped(self):
        return Point(self.y, self.x)

    def __call__(self, z):
        return self.x + self.y + z


def test_bound_method(runtime):
    """With the object it is bound to."""
    value = call(runtime, Point(1, 2).swapped)
    assert (value.x, value.y) == (2, 1)


def test_callable_object(runtime):
    """It need not be a function."""
    assert call(runtime, Point(1, 2), z=3) == 6


def test_recursion(runtime):
    """A function finds itself."""

    def factorial(n):
        return n * factorial(n - 1) if n > 1 else 1

    assert call(runtime, factorial, n=10) == 3628800


GLOBAL = {"count": 0}


def test_globals_of_the_module_travel(runtime):
    """As they are when the step is added."""
    assert call(runtime, lambda: GLOBAL["count"]) == 0


def test_function_is_pickled_when_it_is_added(runtime):
    """What changes afterwards does not change the call."""
    data = [1]
    task = RuntimeTask().run_function(len_of, items=data)
    data.append(2)
    runtime.execute_task(task, execute_async=False)
    assert list(task.function_returns) == [1]


def len_of(items):
    return len(items)


def test_f26_instance_of_a_local_class_as_argument(runtime):
    """It is one there as well."""

    class Local:
        pass

    assert call(runtime, lambda x: isinstance(x, Local), x=Local()) is True


def test_f26_instance_of_a_local_class_as_value(runtime):
    """It is an instance of the class that is here."""

    class Local:
        def __init__(self):
            self.a = 1

    value = call(runtime, lambda: Local())
    assert isinstance(value, Local)
    assert value.a == 1


def test_f26_local_module_travels(runtime, tmp_path, monkeypatch):
    """With the functions, classes and constants that the function uses, and other such modules."""
    (tmp_path / "my_base_4711.py").write_text(
        "class Base:\n    pass\n\ndef three():\n    return 3\n"
    )
    (tmp_path / "my_tools_4711.py").write_text(
        "import my_base_4711\nfrom my_base_4711 import Base\nLIMIT = 4\n\n"
        "class Thing(Base):\n    pass\n\n"
        "def helper():\n    return LIMIT + my_base_4711.three()\n\n"
        "def work():\n    return helper(), Thing()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    tools = importlib.import_module("my_tools_4711")
    number, thing = call(runtime, tools.work)
    assert number == 7
    assert isinstance(thing, tools.Thing)


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Makes local modules of sources, by the paths that they have below a folder."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(**texts):
        for name, text in texts.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()

    return make


def test_f26_local_module_that_a_body_imports(runtime, sources):
    """It travels with what it imports in turn, and the manager does not import it."""
    sources(
        **{
            "there_4711": "import os\nfrom pack_4711 import twice\nWHERE = os.getpid()\n",
            "pack_4711/__init__": "from .inner import twice\n",
            "pack_4711/inner": "def twice(x):\n    return 2 * x\n",
        }
    )

    def work(x):
        import there_4711
        from pack_4711.inner import __name__ as name

        return there_4711.twice(x), os.getpid() == there_4711.WHERE, name

    doubled, is_own_process, name = call(runtime, work, x=4)
    assert (doubled, is_own_process, name) == (8, True, "pack_4711.inner")
    assert "there_4711" not in sys.modules


def test_f26_local_module_that_a_method_of_an_argument_imports(runtime, sources):
    """Also while it is unpickled."""
    sources(there_4712="VALUE = 3\n")

    class Holder:
        def __setstate__(self, state):
            import there_4712

            self.value = there_4712.VALUE

    holder = Holder()
    holder.value = 1
    assert call(runtime, lambda it: it.value, it=holder) == 3


def test_f26_exception_in_a_local_module_that_a_body_imports(runtime, sources):
    """Its line is in the traceback, though the host has no such file."""
    sources(there_4713="def fail():\n    raise ValueError('why')  # this line\n")

    def work():
        import there_4713

        there_4713.fail()

    assert "raise ValueError('why')  # this line" in cause(runtime, work).traceback


def test_f26_value_of_a_class_of_a_local_module_that_a_body_imports(runtime, sources):
    """It is an instance of the class that the manager imports then."""
    sources(there_4714="class Thing:\n    def __init__(self):\n        self.a = 1\n")

    def work():
        from there_4714 import Thing

        return Thing()

    value = call(runtime, work)
    assert value.a == 1
    assert type(value) is sys.modules.pop("there_4714").Thing


SCRIPT = """
import sys
from lazycluster import Runtime

BASE = 10

class Result:
    def __init__(self, value):
        self.value = value

def helper(x):
    return BASE + x

def work(x):
    print("working")
    return Result(helper(x))

runtime = Runtime(sys.argv[1], connection_kwargs={"config_file": sys.argv[2]})
task = runtime.execute_function(work, x=5)
(result,) = task.function_returns
print(isinstance(result, Result), result.value, task.execution_log)
"""


def test_f26_function_of_a_script(host_sshd, tmp_path):
    """`__main__` travels by value, and its classes come back as they are here."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, host_sshd.alias, host_sshd.config_file],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (done.stdout, done.stderr) == ("True 15 ['working\\n']\n", "")


# --- What is refused ---


def test_module_that_is_not_on_the_host(runtime):
    """RemoteFunctionError with the ModuleNotFoundError, for what is installed here only."""

    def use():
        import no_such_module_4711

        return no_such_module_4711.value

    assert cause(runtime, use).exception_type == "ModuleNotFoundError"


@pytest.mark.parametrize("function", [None, "print", 5])
def test_empty_function_is_refused(runtime, function):
    """A ValueError, at both doors."""
    with pytest.raises(ValueError, match="function"):
        RuntimeTask().run_function(function)
    with pytest.raises(ValueError, match="function"):
        runtime.execute_function(function)


def test_wrong_arguments_are_refused_at_once(runtime, requests):
    """A TypeError as Python's own, before anything is sent."""
    with pytest.raises(TypeError, match="a"):
        RuntimeTask().run_function(add, c=1)
    with pytest.raises(TypeError, match="add"):
        runtime.execute_function(add)
    assert requests == []


def test_keyword_debug_of_the_function(runtime):
    """A ValueError that names it and functools.partial, which helps."""

    def verbose(debug):
        return debug

    with pytest.raises(ValueError, match=r"(?s)debug.*functools\.partial"):
        runtime.execute_function(verbose, debug=True)
    assert call(runtime, functools.partial(verbose, debug=7)) == 7


def test_keyword_execute_async_of_the_function(runtime):
    """A ValueError that names it and functools.partial."""

    def start(execute_async=None):
        return execute_async

    with pytest.raises(ValueError, match=r"(?s)execute_async.*functools\.partial"):
        runtime.execute_function(start, execute_async=True)


# --- Another Python on the host ---


@pytest.fixture(scope="module")
def other():
    python = other_python()
    if python is None:
        pytest.skip("no Python of another minor version is found on this computer")
    return python


def test_f20_function_on_another_minor_version(make_runtime, other):
    """PythonVersionError that names both versions and the cure; nothing was unpickled."""
    runtime = make_runtime(python=other)
    with pytest.raises(TaskExecutionError) as caught:
        runtime.execute_function(add, a=1)
    error = caught.value.__cause__
    assert isinstance(error, PythonVersionError)
    version = subprocess.run([other, "-V"], capture_output=True, text=True).stdout.split()[1]
    assert (error.host_version, error.host) == (version, runtime.host)
    assert error.manager_version == "{}.{}.{}".format(*sys.version_info)
    for part in (error.host_version, error.manager_version, "python="):
        assert part in str(caught.value)


def test_f20_commands_on_another_minor_version(make_runtime, other):
    """They work all the same, also after a function has failed."""
    runtime = make_runtime(python=other)
    assert run(runtime, "echo hi") == ["hi\n"]
    cause(runtime, add, a=1)
    assert run(runtime, "echo hi", "exit 0") == ["hi\n", ""]
