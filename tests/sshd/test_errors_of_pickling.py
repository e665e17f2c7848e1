"""What cannot travel is named on both sides: the way to it, and the cure."""

from __future__ import annotations

import concurrent.futures
import importlib
import re
import sys
import threading
import types

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import (
    RemoteFunctionError,
    RemoteTraceback,
    SerializationError,
    TaskExecutionError,
)

pytestmark = pytest.mark.usefixtures("stays_good")


class Holder:
    def __init__(self):
        self.lock = threading.Lock()


def make_holder():
    return {"result": [1, Holder()]}


def make_lock():
    return threading.Lock()


def make_connection():
    import sqlite3

    return {"db": sqlite3.connect(":memory:")}


def make_closure():
    lock = threading.Lock()
    return lambda: lock


def make_file():
    return open("/dev/null", "rb")


def make_deep():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    return deep


def make_thread():
    return [threading.Thread()]


def make_stubborn():
    class Stubborn:
        def __reduce__(self):
            raise ValueError("not this one")

    return (Stubborn(),)


def make_many():
    return [*range(100_000), threading.Lock()]


VALUES = {
    make_lock: r"value \(_thread.lock\)\. Return plain data\.$",
    make_holder: r"value → key 'result' → item 1 → attribute `lock` \(_thread.lock\)\. "
    r"Return plain data\. Or leave it out in `Holder.__getstate__`\.$",
    make_connection: r"value → key 'db' \(sqlite3.Connection\)\. Return plain data\.$",
    make_closure: r"value → closure variable `lock` \(_thread.lock\), \S+\.py:\d+\. Return plain",
    make_file: r"value \(_io.BufferedReader\)\. Return its contents, or its path for get_file\.$",
    make_deep: r"value \(list\) is nested too deeply: (more than )?\d+ levels\. Make it flatter\.$",
    make_thread: r"value → item 0 \(threading.Thread\)\. Return plain data, after it has ended\.$",
    make_stubborn: r"value → item 0 \(\S*Stubborn\): ValueError: not this one\. Return plain data",
    make_many: r"value → item 100000 \(_thread.lock\)\.",
}


@pytest.mark.parametrize("function", VALUES, ids=lambda function: function.__name__)
def test_f27_the_way_to_what_cannot_come_back_is_named(runtime, function):
    with pytest.raises(SerializationError) as caught:
        runtime.call(function)
    name = function.__name__
    beginning = rf"{name} has run to its end on \S+, but its value cannot be pickled: "
    assert re.match(beginning + VALUES[function], str(caught.value)), str(caught.value)


def test_f27_a_task_and_a_future_say_it_as_well(runtime):
    way = r"value → key 'result' → item 1 → attribute `lock`"
    with pytest.raises(SerializationError, match=way):
        runtime.submit(make_holder).result()
    with pytest.raises(TaskExecutionError, match=way) as caught:
        runtime.execute_function(make_holder)
    assert isinstance(caught.value.__cause__, SerializationError)


def test_f26_the_way_to_what_cannot_be_sent_is_named(runtime, requests):
    """Before anything is sent."""

    def guarded():
        return lock

    lock = threading.Lock()
    for send in (runtime.call, runtime.submit, RuntimeTask().run_function):
        with pytest.raises(SerializationError, match=r"`guarded` → closure variable `lock` \(_thr"):
            send(guarded)
    assert requests == []


# --- Packages ---


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Make a package, of one version here and of another there; return the folder for the host."""

    def make(version, body, *, name="lc_versions"):
        folder = tmp_path / version / "site-packages"
        folder.mkdir(parents=True)
        (folder / f"{name}.py").write_text(f"__version__ = {version!r}\n{body}")
        metadata = folder / f"{name}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        (metadata / "RECORD").write_text(f"{name}.py,,\n{name}-{version}.dist-info/METADATA,,\n")
        return folder

    here = make("2.4.6", "class New:\n    def __init__(self):\n        self.x = 1\n")
    there = make("1.26.4", "class Old:\n    pass\n")
    monkeypatch.syspath_prepend(here)
    importlib.invalidate_caches()
    yield types.SimpleNamespace(
        here=here, there=there, module=importlib.import_module("lc_versions")
    )
    sys.modules.pop("lc_versions", None)


def test_an_argument_of_another_version_names_both(runtime, package):
    there = runtime.with_options(env={"PYTHONPATH": str(package.there)})
    with pytest.raises(Exception, match="New") as caught:
        there.call(lambda given: given.x, package.module.New())
    sentence = r"lc_versions is 1\.26\.4 on \S+ and 2\.4\.6 here; such values do not travel"
    assert re.search(sentence, str(caught.value))
    assert not re.search(sentence, str(caught.value.__cause__))
    assert "_lazycluster" not in str(caught.value.__cause__)
    assert "lambda given: given.x" in str(caught.value.__cause__)
    task = RuntimeTask().run_function(lambda given: given.x, given=package.module.New())
    task.env_variables = {"PYTHONPATH": str(package.there)}
    with pytest.raises(TaskExecutionError) as failed:
        runtime.execute_task(task, execute_async=False)
    assert re.search(sentence, str(failed.value.__cause__))


def test_a_value_of_another_version_names_both(runtime, package):
    """Here the class that the value needs is missing."""

    def make():
        import lc_versions

        return lc_versions.Old()

    there = runtime.with_options(env={"PYTHONPATH": str(package.there)})
    for get in (
        lambda: there.call(make),
        lambda: there.submit(make).result(),
    ):
        with pytest.raises(SerializationError) as caught:
            get()
        assert "lc_versions is" in str(caught.value)
        assert "and 2.4.6 here; such values do not travel" in str(caught.value)


def test_a_value_that_is_read_after_the_connection_says_the_version_here(make_runtime, package):
    """The host cannot be asked any more."""

    def make():
        import lc_versions

        return lc_versions.Old()

    runtime = make_runtime()
    future = runtime.with_options(env={"PYTHONPATH": str(package.there)}).submit(make)
    concurrent.futures.wait([future], 60)
    runtime.cleanup()
    with pytest.raises(SerializationError, match=r"lc_versions is 2\.4\.6 here, and perhaps"):
        future.result()


def test_a_package_that_is_missing_here_is_named_once(runtime, package):
    def make():
        import types

        module = types.ModuleType("lc_only_there")
        exec("class Thing: pass", module.__dict__)
        module.Thing.__module__ = module.__name__
        sys.modules[module.__name__] = module
        return module.Thing()

    with pytest.raises(SerializationError) as caught:
        runtime.call(make)
    assert str(caught.value) == (
        "the value of the function cannot be unpickled here: lc_only_there is not installed here. "
        "Install it here, or return plain data."
    )


def test_a_package_that_is_missing_there_is_named_with_its_side(runtime):
    def use():
        import lc_nowhere_at_all

        return lc_nowhere_at_all

    with pytest.raises(ModuleNotFoundError) as caught:
        runtime.call(use)
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert "raised ModuleNotFoundError on " in str(cause)
    assert "lc_nowhere_at_all is neither installed on " in str(caught.value)
    assert "No module named 'lc_nowhere_at_all'" in str(caught.value)
    assert "lc_nowhere_at_all'" not in str(cause)
    assert caught.value.name == "lc_nowhere_at_all"


# --- No terminal ---


def ask():
    return input("Name? ")


def stop():
    breakpoint()  # noqa: T100
    return 1


@pytest.mark.parametrize(
    ("function", "cure"),
    [
        (ask, "Pass what it asks for as an argument."),
        (stop, "Call it on the manager to debug it"),
    ],
    ids=["input", "breakpoint"],
)
def test_a_function_that_needs_a_terminal_says_that_there_is_none(runtime, function, cure):
    with pytest.raises(Exception, match="a function on a host has no terminal") as caught:
        runtime.call(function)
    assert type(caught.value).__name__ in ("EOFError", "BdbQuit")
    assert cure in str(caught.value)
    with pytest.raises(TaskExecutionError, match="a function on a host has no terminal") as caught:
        runtime.execute_function(function)
    assert isinstance(caught.value.__cause__, RemoteFunctionError)


def test_breakpoints_can_be_left_out(runtime):
    assert runtime.with_options(env={"PYTHONBREAKPOINT": "0"}).call(stop) == 1


def test_the_end_of_another_input_is_as_it_was(runtime):
    """A function may read from what it has put in the place of standard input."""

    def read():
        import io
        import sys

        sys.stdin = io.StringIO("")
        return input()

    with pytest.raises(EOFError, match=r"^EOF when reading a line$"):
        runtime.call(read)
