"""Functions of local modules over ssh: what a connection gets once, and what no host can import."""

from __future__ import annotations

import importlib

import pytest

from lazycluster import RuntimeTask
from lazycluster._conversation import conversation
from lazycluster.exceptions import SerializationError
from support.hosts import run
from support.waiting import TIMEOUT

pytestmark = [pytest.mark.every_python, pytest.mark.separate_host]


@pytest.fixture
def sent_contents(monkeypatch):
    """Return the keys of the contents that connections send from now on."""
    keys = []
    encode = conversation._content_frames

    def note(key, content):
        keys.append(key)
        return encode(key, content)

    monkeypatch.setattr(conversation, "_content_frames", note)
    return keys


def test_module_is_sent_once_per_connection(make_runtime, local, sent_contents):
    """A changed one is sent again, and so is each to the next connection."""
    module = local(lc_once="def run():\n    return 1\n")
    runtime = make_runtime()
    assert [runtime.call(module.run) for _ in range(3)] == [1, 1, 1]
    assert len(sent_contents) == 1
    local(lc_once="def run():\n    return 22\n")
    module = importlib.reload(module)
    assert [runtime.call(module.run) for _ in range(2)] == [22, 22]
    assert len(sent_contents) == len(set(sent_contents)) == 2
    assert make_runtime().call(module.run) == 22
    assert len(sent_contents) == 3


def test_module_that_came_after_the_process_was_forked_is_there(make_runtime, local):
    """The process that waits for the next call gets it with its job."""
    runtime = make_runtime()
    for number in range(4):
        module = local(**{f"lc_new_{number}": f"def run():\n    return {number}\n"})
        assert runtime.call(module.run) == number


def test_many_modules_at_once(make_runtime, local):
    """Each of several calls gets what it needs, whichever comes first."""
    runtime = make_runtime()
    modules = [local(**{f"lc_many_{n}": f"def run():\n    return {n}\n"}) for n in range(20)]
    futures = [runtime.submit(module.run) for module in modules * 2]
    assert [future.result(TIMEOUT) for future in futures] == [*range(20), *range(20)]


# Only the manager has the file that it reads, and there it is no program.
UNIMPORTABLE = """\
    import sys
    with open(__file__) as config:
        CONFIG = config.readline().strip()
    {extra}
    def run(path=None):
        if path is not None:
            with open(path, "a") as file:
                file.write("ran\\n")
        return CONFIG
"""

FAILURES = {
    "file": "",
    "exit": "sys.exit('not here') if 'pytest' not in sys.modules else None",
    "error": "1 / ('pytest' in sys.modules)",  # also on a host that shares the manager's files
}


@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("way", ["call", "submit", "task", "asynchronous task"])
def test_module_that_no_host_can_import_travels_by_value(make_runtime, local, how, way):
    """The function runs once, and what comes before it once, too."""
    module = local(**{f"lc_{way.split()[0]}_{how}": UNIMPORTABLE.format(extra=FAILURES[how])})
    runtime = make_runtime()
    path = run(runtime, "echo $PWD/ran")[0].strip()
    if way == "call":
        assert runtime.call(module.run, path) == "import sys"
    elif way == "submit":
        future = runtime.with_options(timeout=TIMEOUT).submit(module.run, path)
        assert future.result(TIMEOUT) == "import sys"
    else:
        task = RuntimeTask().run_command("echo before >> ran").run_function(module.run, path=path)
        task.run_command("echo after >> ran")
        runtime.execute_task(task, execute_async=way != "task")
        task.join()
        assert list(task.function_returns) == ["import sys"]
        assert task.execution_log == ["", "", ""]
    lines = runtime.run(f"cat {path}").stdout.split()
    assert lines == (["ran"] if way in ("call", "submit") else ["before", "ran", "after"])


def test_next_call_of_such_a_module_is_by_value_at_once(make_runtime, local, requests):
    module = local(lc_remembered=UNIMPORTABLE.format(extra=FAILURES["error"]))
    runtime = make_runtime()
    requests.clear()
    assert runtime.call(module.run) == "import sys"
    assert requests == [["function"], ["function"]]
    assert runtime.call(module.run) == "import sys"
    assert requests == [["function"]] * 3


def test_module_that_can_travel_in_no_way_is_an_error_before_the_function(runtime, local):
    """With the object that cannot travel by value."""
    module = local(
        lc_no_way="import socket, sys\nsys.modules['pytest']\nSOCKET = socket.socket()\n"
        "def run():\n    return SOCKET\n",
    )
    with module.SOCKET, pytest.raises(SerializationError, match="SOCKET"):
        runtime.call(module.run)


def test_error_of_a_local_module_is_the_managers_class(runtime, local):
    """`except` works as with a process pool."""
    module = local(lc_error="class Own(Exception):\n    pass\ndef run():\n    raise Own(1, 2)\n")
    with pytest.raises(module.Own) as caught:
        runtime.call(module.run)
    assert caught.value.args == (1, 2)
    assert "lc_error.py" in str(caught.value.__cause__)
    assert "raise Own(1, 2)" in str(caught.value.__cause__)


def test_traceback_of_an_import_has_the_lines_of_the_user_only(runtime, tmp_path, monkeypatch):
    """Not those of what imports on the host; the cause's traceback neither."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lc_raises.py").write_text(
        "try:\n    {}['a']\nexcept KeyError as error:\n    raise ValueError('late') from error\n"
    )

    def run():
        import lc_raises

        return lc_raises

    with pytest.raises(ValueError, match="late") as caught:
        runtime.call(run)
    files = [
        line.split('"')[1]
        for line in str(caught.value.__cause__).splitlines()
        if line.lstrip().startswith("File ")
    ]
    module = str(tmp_path / "lc_raises.py")
    assert files == [module, __file__, module]
