"""Environment variables: data on their way to the host, perhaps secret, never shell text."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lazycluster import RuntimeTask
from support.hosts import call, commands, ended, run
from support.waiting import wait_until

VALUES = {
    "empty": "",
    "newlines": "\na\n\nb\n",
    "quotes": "'\"`\\'\\\"",
    "substitutions": "$(touch made) `touch made` $HOME ${X:?} $$ !! %s %n",
    "equals": "=a=b==",
    "blanks": " \t a  b ",
    "globs": "* ? [a-z] ~ {a,b}",
    "operators": "; & | > made < # exit 1",
    "controls": "".join(map(chr, range(1, 32))) + "\x7f",
    "unicode": "Zoë ☃ 🦔 \u202e",
    "not utf-8": "a\udcff\udc80b",
    "100 kB": "x" * 100_000,
}


def see():
    line = 'printf %s. "$ODD"'
    return os.environb[b"ODD"], subprocess.check_output(["sh", "-c", line])


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_f37_value_arrives_exactly(own_runtime, value):
    """At a command, at a function and at the function's children; of the Runtime and of a task."""
    expected = os.fsencode(value)
    own_runtime.env_variables = {"ODD": value}
    task = RuntimeTask().run_command('printf %s. "$ODD"; printf %s. "$OWN"; ls')
    task.run_function(see)
    task.env_variables = {"OWN": value}
    own_runtime.execute_task(task, execute_async=False)
    assert Path(task.execution_log_file_path).read_bytes() == (expected + b".") * 2
    assert list(task.function_returns) == [(expected, expected + b".")]


@pytest.mark.parametrize("value", ["a\0b", "\ud800", None, [1], b"bytes"], ids=ascii)
def test_f37_value_that_no_variable_can_have(own_runtime, value):
    """ValueError or TypeError at once, in which the value is not told."""
    with pytest.raises((ValueError, TypeError)) as caught:
        own_runtime.env_variables = {"ODD": value}
    assert "ODD" in str(caught.value)
    assert own_runtime.env_variables == {"WORKING_DIR": own_runtime.working_dir}
    task = commands("true")
    with pytest.raises((ValueError, TypeError)):
        task.env_variables = {"ODD": value}
    assert task.env_variables == {}


# --- Variables that mean something -----------------------------------------------------------

OVERRIDES = {
    "PATH": "/nowhere",
    "HOME": "/nowhere",
    "LD_PRELOAD": "/nowhere/no.so",
    "LD_LIBRARY_PATH": "/nowhere",
    "SHELL": "/nowhere",
    "TMPDIR": "/nowhere",
    "PYTHONPATH": "/nowhere",
    "PYTHONSTARTUP": "/nowhere",
    "IFS": "e",
    "PS4": "$(echo 1)",
    "LC_ALL": "no_WHERE.no",
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_f37_any_variable_can_be_overridden(own_runtime, name):
    """The step has it; it does no harm to the connection, to functions or to later tasks."""
    before = call(own_runtime, os.getenv, key=name)
    task = RuntimeTask().run_command(f"echo . && echo ${name}")
    task.run_function(os.getenv, key=name)
    task.env_variables = {name: OVERRIDES[name]}
    own_runtime.execute_task(task, execute_async=False)
    assert list(task.function_returns) == [OVERRIDES[name]]
    lines = task.execution_log[0].splitlines()
    assert "." in lines  # among what a loader or a shell may say of such a value
    if name not in ("IFS", "PS4"):  # a shell makes its own; bash does for root
        assert lines[-1] == OVERRIDES[name]
    assert call(own_runtime, os.getenv, key=name) == before
    assert run(own_runtime, "echo after") == ["after\n"]


def test_f37_path_decides_what_a_command_finds(own_runtime, tmp_path):
    """Of the task, before that of the account."""
    program = tmp_path / "only-here"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    task = commands("only-here")
    task.env_variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert own_runtime.execute_task(task, execute_async=False).execution_log == ["found\n"]


def test_f37_time_zone_of_a_function(own_runtime):
    """As in a Python that was started with it."""
    own_runtime.env_variables = {"TZ": "ODD-5"}
    assert call(own_runtime, lambda: (time.tzname[0], time.timezone)) == ("ODD", -5 * 3600)


# --- Secrets ---------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_f37_value_is_nowhere_but_in_the_step(make_runtime, gate, caplog):
    """Not in an argv, a log, a message or a repr; in the environment of the step and no other."""
    caplog.set_level(logging.DEBUG)
    secret = "s3cr3t-" + os.urandom(8).hex()
    runtime = make_runtime()
    runtime.env_variables = {"TOKEN": secret}
    task = commands(f"echo began; {gate.wait}; exit 3")
    task.env_variables = {"OTHER": secret}
    runtime.execute_task(task)
    wait_until(lambda: task.execution_log == ["began\n"])
    step = task.process.pid
    told, has = [], []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if secret.encode() in (folder / "cmdline").read_bytes():
                told.append(folder)
            if secret.encode() in (folder / "environ").read_bytes():
                has.append(int((folder / "stat").read_text().rpartition(")")[2].split()[3]))
        except OSError:  # it ended, or it belongs to another user
            continue
    assert told == []
    assert set(has) == {step}  # its session: the shell and what that runs
    gate.open()
    ended(task)
    texts = [repr(runtime), repr(task), repr(task.steps), repr(task.process), str(task.error)]
    texts += [repr(task.error), str(task.error.__cause__), caplog.text, *task.execution_log]
    texts += [Path(task.execution_log_file_path).read_text()]
    for folder in Path(os.environ["XDG_RUNTIME_DIR"]).glob("lazycluster-*/*"):
        if folder.is_file():
            texts.append(folder.read_text(errors="replace"))
    assert "began" in "".join(texts)
    assert not [text for text in texts if secret in text]


def test_a_python_program_is_seen_while_it_runs(runtime, gate):
    """Of a command and of a function's child, without `python -u`."""
    code = f"print('early'); import os; os.system({gate.wait!r})"
    line = f"{sys.executable} -c {shlex.quote(code)}"
    tasks = [commands(line), RuntimeTask().run_function(os.system, command=line)]
    for task in tasks:
        runtime.execute_task(task)
    wait_until(lambda: [task.execution_log for task in tasks] == [["early\n"]] * 2)
    gate.open()
    for task in tasks:
        ended(task)
