"""What a script prints of an error that it does not catch: each thing once, and in few lines."""

from __future__ import annotations

import collections
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lazycluster import Connection, Runtime, RuntimeTask
from lazycluster.exceptions import LazyclusterError
from support.hosts import commands

HEAD = """\
import os, socket, sys, threading
from lazycluster import Connection, Pool, Runtime, RuntimeTask

alias, config = sys.argv[1:]
keywords = {"config_file": config}


def fail(x):
    return {}[x]


def show(done, total):
    return {}[done]


"""
RUNTIME = "runtime = Runtime(alias, connection_kwargs=keywords)\n"
POOL = "pool = Pool([alias], slots=1, connection_kwargs=keywords)\n"
CONNECTION = "connection = Connection(alias, **keywords)\n"
MANY_LINES = "for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done; exit 2"
OURS = re.compile(r'File "(<lazycluster|.*/lazycluster/)')

MISSING = """
def use():
    import lc_nowhere
def make():
    import types
    module = sys.modules["lc_nowhere"] = types.ModuleType("lc_nowhere")
    exec("class Thing: pass", vars(module))
    return module.Thing()
"""

# The lines of a script, and what its error must say.
SCRIPTS = {
    "a failed command": (
        RUNTIME + f"t = runtime.execute_task(RuntimeTask('t').run_command({MANY_LINES!r}), False)",
        ["Step 0 of the task 't' failed on loopback: exit status 2.", "line 9", "exit 2` failed"],
    ),
    "a failed command that prints nothing": (
        RUNTIME + "runtime.execute_task(RuntimeTask('t').run_command('exit 2'), False)",
        ["Step 0 of the task 't' failed on loopback: exit status 2.", "`exit 2` failed"],
    ),
    "a command ended by a signal": (
        RUNTIME + "runtime.execute_task(RuntimeTask('t').run_command('kill -9 $$'), False)",
        ["failed on loopback: signal 9 (SIGKILL).", "`kill -9 $$` failed"],
    ),
    "a task on a connection": (
        CONNECTION + f"t = RuntimeTask('t').run_command({MANY_LINES!r}).execute(connection)",
        ["Step 0 of the task 't' failed on loopback: exit status 2.", "line 9"],
    ),
    "a command of a connection": (
        CONNECTION + f"t = connection.run({MANY_LINES!r})",
        ["CommandError: ", "exit status 2", "line 9", "loopback"],
    ),
    "a command of a runtime": (
        RUNTIME + f"t = runtime.run({MANY_LINES!r})",
        ["CommandError: ", "exit status 2", "line 9", "loopback"],
    ),
    "a timeout of a runtime's command": (
        RUNTIME + "runtime.with_options(timeout=0.5).run('exec sleep 60')",
        ["StepTimeoutError: A command took too long.", "0.5 seconds", "exec sleep 60"],
    ),
    "a called function whose process ends": (
        RUNTIME + "runtime.call(os.abort)",
        ["RemoteFunctionError: The process of abort ended by signal 6"],
    ),
    "a called function that exits": (
        RUNTIME + "runtime.call(sys.exit, 3)",
        ["RemoteFunctionError: exit raised SystemExit on loopback:", "SystemExit: 3"],
    ),
    "a called function whose value cannot be pickled": (
        RUNTIME + "runtime.call(threading.Lock)",
        ["SerializationError: ", "its value cannot be pickled: "],
    ),
    "a wrong host name": (
        "runtime = Runtime('no-such-host.invalid', connection_kwargs=keywords)",
        ["InvalidRuntimeError: no-such-host.invalid cannot be used as a Runtime: ", "spelling"],
    ),
    "a wrong host name of a connection": (
        "connection = Connection('no-such-host.invalid', **keywords).open()",
        ["ConnectError: Cannot connect to no-such-host.invalid: ", "spelling"],
    ),
    "a connection in a with statement": (
        "with Connection('no-such-host.invalid', **keywords):\n    pass",
        ["ConnectError: Cannot connect to no-such-host.invalid: "],
    ),
    "a refused login": (
        "runtime = Runtime(alias, connection_kwargs={**keywords, 'user': 'no-such-user'})",
        ["InvalidRuntimeError: loopback cannot be used as a Runtime: ", "Permission denied"],
    ),
    "a missing file": (
        RUNTIME + "runtime.send_file('/no/such')",
        ["MissingFileError: ", "failed on loopback: '/no/such' does not exist (on the manager)."],
    ),
    "a missing file of the host": (
        RUNTIME + "runtime.get_file('/no/such')",
        ["MissingFileError: ", "failed on loopback: '/no/such' does not exist (on loopback)."],
    ),
    "a timeout": (
        RUNTIME + "t = RuntimeTask('t').run_command('echo begun; exec sleep 60', timeout=0.5)\n"
        "runtime.execute_task(t, execute_async=False)",
        ["failed on loopback: timeout of 0.5 seconds.", "  begun", "exec sleep 60` was stopped."],
    ),
    "a timeout of a connection's command": (
        CONNECTION + "connection.run('exec sleep 60', timeout=0.5)",
        ["StepTimeoutError: A command took too long.", "0.5 seconds", "exec sleep 60"],
    ),
    "a task that failed asynchronously": (
        RUNTIME + "t = RuntimeTask('t').run_command('echo a line; exit 2')\n"
        "values = list(runtime.execute_task(t).function_returns)",
        ["TaskExecutionError: Step 0 of the task 't' failed on loopback: exit status 2."],
    ),
    "a port in use": (
        RUNTIME + "taken = socket.create_server(('127.0.0.1', 0))\n"
        "key = runtime.expose_port_from_runtime(4000, taken.getsockname()[1])",
        ["PortInUseError: Port "],
    ),
    "a working directory that cannot be made": (
        "runtime = Runtime(alias, '/dev/null/x', connection_kwargs=keywords)",
        ["/dev/null/x cannot be made on loopback: "],
    ),
    "another working directory that cannot be made": (
        RUNTIME + "runtime.working_dir = '/dev/null/x'",
        ["PathCreationError: /dev/null/x cannot be made on loopback: "],
    ),
    "a folder that cannot be made": (
        RUNTIME + "runtime.create_dir('/dev/null/x')",
        ["PathCreationError: /dev/null/x cannot be made on loopback: "],
    ),
    "an argument that cannot be pickled": (
        RUNTIME + "runtime.execute_function(fail, x=threading.Lock())",
        ["SerializationError: The call cannot be pickled: argument `x` of `fail` (_thread.lock). "],
    ),
    "a value that cannot be pickled": (
        RUNTIME + "runtime.execute_function(threading.Lock)",
        ["its value cannot be pickled: "],
    ),
    "a module that the host lacks": (
        RUNTIME + MISSING + "runtime.call(use)",
        ["ModuleNotFoundError: No module named 'lc_nowhere'", "neither installed on loopback nor"],
    ),
    "a module that the host lacks, in a task": (
        RUNTIME + MISSING + "runtime.execute_function(use)",
        ["No module named 'lc_nowhere'", "neither installed on loopback nor here"],
    ),
    "a value of a package that is missing here": (
        RUNTIME + MISSING + "runtime.call(make)",
        ["SerializationError: ", "lc_nowhere is not installed here. Install it here, or"],
    ),
    "a function that asks": (
        RUNTIME + "runtime.call(input)",
        ["EOFError: a function on a host has no terminal to read from. Pass what it asks for"],
    ),
    "a function whose process ends": (
        RUNTIME + "runtime.execute_function(os.abort)",
        ["The process of abort ended by signal 6 (SIGABRT) on loopback before the function "],
    ),
    "a callback that raises": (
        RUNTIME + "runtime.send_file(__file__, 'copy', progress=show)",
        ["`progress` raised KeyError.", "in show", "    return {}[done]"],
    ),
}

# The lines of a script that calls `fail` on the host.
CALLS = {
    "call": RUNTIME + "value = runtime.call(fail, 'the key')",
    "call of a view": RUNTIME + "value = runtime.with_options(timeout=60).call(fail, 'the key')",
    "result": RUNTIME + "value = runtime.submit(fail, 'the key').result()",
    "the second result": RUNTIME + "future = runtime.submit(fail, 'the key')\n"
    "future.exception()\nvalue = future.result()",
    "execute_function": RUNTIME + "runtime.execute_function(fail, x='the key')",
    "execute_task": RUNTIME + "t = RuntimeTask('t').run_function(fail, x='the key')\n"
    "runtime.execute_task(t, execute_async=False)",
    "execute": CONNECTION + "RuntimeTask('t').run_function(fail, x='the key').execute(connection)",
    "function_returns": RUNTIME + "t = runtime.execute_function(fail, True, x='the key')\n"
    "for value in t.function_returns:\n    pass",
    "all function_returns": RUNTIME + "t = runtime.execute_function(fail, True, x='the key')\n"
    "for value in runtime.function_returns:\n    pass",
    "result again": RUNTIME + "future = runtime.submit(fail, 'the key')\n"
    "for last in (False, True):\n"
    "    try:\n"
    "        future.result()\n"
    "    except KeyError:\n"
    "        if last:\n"
    "            raise",
    "function_returns again": RUNTIME + "t = runtime.execute_function(fail, True, x='the key')\n"
    "for last in (False, True):\n"
    "    try:\n"
    "        list(t.function_returns)\n"
    "    except Exception:\n"
    "        if last:\n"
    "            raise",
    "the result of a pool": POOL + "value = pool.submit(fail, 'the key').result()",
    "a map of a pool": POOL + "for value in pool.map(fail, ['the key']):\n    pass",
    "a map of a pool in chunks": POOL + "t = list(pool.map(fail, ['the key'] * 3, chunksize=2))",
    "exception": RUNTIME + "t = runtime.execute_function(fail, True, x='the key')\n"
    "t.join()\nraise t.error.__cause__.exception",
}


@pytest.fixture(scope="module")
def run_script(sshd, tmp_path_factory):
    """Run the lines of a script, and return what it has printed on standard error."""
    folder = tmp_path_factory.mktemp("scripts")

    def run(lines):
        script = folder / "script.py"
        script.write_text(HEAD + lines + "\n")
        words = [sys.executable, str(script), sshd.alias, str(sshd.config_file)]
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            cwd=folder,
        )
        assert done.returncode == 1, done.stderr
        return done.stderr

    return run


def without_marks(text):
    """Return the lines without the `~~~^^^` that Python adds from 3.11 on."""
    return [line for line in text.splitlines() if not re.fullmatch(r" *[~^]+", line)]


def said_twice(lines):
    counted = collections.Counter(line.strip() for line in lines if line.strip())
    header = "Traceback (most recent call last):"
    return [line for line, count in counted.items() if count > 1 and line != header]


def frames_of_ours(text):
    return [line for line in text.splitlines() if OURS.search(line)]


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_error_is_said_once_and_in_few_lines(run_script, name):
    script, parts = SCRIPTS[name]
    text = run_script(script)
    assert len(text.splitlines()) <= 15, text
    assert said_twice(text.splitlines()) == [], text
    assert len(frames_of_ours(text)) <= 1, text
    assert [part for part in parts if part not in text] == [], text


@pytest.mark.parametrize("name", CALLS)
def test_the_traceback_of_the_host_is_said_once(run_script, name):
    text = run_script(CALLS[name])
    lines = without_marks(text)
    logged = [line for line in lines if line.startswith("Step ")]
    # On the host: the header, the frame, its line, and the exception.
    assert len(lines) - len(logged) <= 4 + 8, text
    assert said_twice(lines) == [], text
    assert len(frames_of_ours(text)) <= 1, text
    assert text.count("    return {}[x]") == 1, text
    assert re.search("KeyError: 'the key'.?$", text), text


# --- Log lines ---


def test_the_log_line_of_a_failed_command_is_one_line(own_runtime, caplog):
    task = commands("echo first; echo 'the last line'; exit 3", name="t")
    own_runtime.execute_task(task)
    task.join()
    (message,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert message.startswith(
        f"Step 0 of the task 't' failed on {own_runtime.host}: exit status 3."
    )
    assert "exit 3` failed." in message
    assert "the last line" in message
    assert "\n" not in message


def test_the_log_line_of_a_failed_function_names_the_place(own_runtime, caplog):
    def fail():
        raise ValueError("first\nsecond")

    task = own_runtime.execute_function(fail, execute_async=True)
    task.join()
    (message,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert "fail raised ValueError: first\\nsecond." in message
    assert re.search(r'File ".*test_uncaught_errors.py", line \d+, in fail', message)
    assert "\n" not in message


# --- What stays ---


def test_the_frames_of_a_users_method_stay(own_runtime):
    """A subclass may override methods, which others of its methods call."""

    class Mine(RuntimeTask):
        def run_command(self, command, **keywords):
            raise LazyclusterError("of the user")

        def both(self):
            return self.run_command("true")

    with pytest.raises(LazyclusterError) as caught:
        Mine().both()
    names = [entry.name for entry in caught.traceback]
    assert names[-2:] == ["both", "run_command"]


def test_an_unexpected_exception_keeps_its_frames(own_runtime, monkeypatch):
    """It may be a mistake of lazycluster's."""
    monkeypatch.setattr(own_runtime._connection, "_open", lambda **_: {}["mistake"])
    with pytest.raises(KeyError) as caught:
        own_runtime.execute_function(pow, base=2, exp=3)
    paths = {Path(entry.path).parent.name for entry in caught.traceback}
    assert {"lazycluster", "_tasks"} <= paths


def test_public_methods_keep_their_signatures_and_sources():
    assert list(inspect.signature(Runtime.execute_task).parameters)[:2] == ["self", "task"]
    assert inspect.signature(Connection.run).parameters["command"].annotation == "str"
    assert "def execute_task(" in inspect.getsource(Runtime.execute_task)
    assert Runtime.function_returns.__doc__.startswith("Yield the values")
    assert Runtime.execute_task.__module__ == "lazycluster.runtimes"
