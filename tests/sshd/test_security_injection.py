"""Data is data: what a user typed, or a file is called, is no option and no shell text."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lazycluster import Connection
from lazycluster._ssh.options import ssh_version
from support.hosts import commands

# ── options of ssh ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(ssh_version() < (8, 5), reason="this ssh does not know LogVerbose")
def test_value_that_begins_with_a_dash_is_a_value(sshd):
    """An option of lazycluster's that is given a dash reaches ssh as a value, not as an option."""
    with Connection(
        sshd.alias, config_file=sshd.config_file, options={"LogVerbose": "-oProxyCommand=false"}
    ) as connection:
        assert commands("echo hi").execute(connection).execution_log == ["hi\n"]


# ── names, variables and paths on the host ────────────────────────────────────────────────────────

NASTY = [
    "$(touch ran)",
    "`touch ran`",
    "; touch ran",
    "a && touch ran",
    "'; touch ran; '",
    '"; touch ran; "',
    "-rf",
    "--help",
    "a\ntouch ran\n",
    "*",
    "~",
    "${HOME}",
    "\\",
    "\x1b]0;x\x07",
]


def test_nasty_text_is_data_wherever_it_is_given(own_runtime, tmp_path):
    """Folders, working directories, files, variables, arguments; and nothing of it has run."""
    own_runtime.working_dir = home = str(tmp_path / "there")
    folder = Path(home)
    target = tmp_path / "target"
    target.mkdir()
    for text in NASTY:
        name = f"./{text}" if text in ("~", "${HOME}") else text  # they mean something at the start
        own_runtime.create_dir(name)
        assert os.listdir(folder) == [text]

        local = tmp_path / "local" / text
        local.parent.mkdir(exist_ok=True)
        local.write_text("data")
        own_runtime.send_file(str(local), f"{name}/{text}")
        assert os.listdir(folder / text) == [text]
        own_runtime.get_file(f"{name}/{text}", str(target))
        assert os.listdir(target) == [text]
        (target / text).unlink()

        task = commands('printf %s "$A"').run_function(str, object=text).run_function(os.getcwd)
        task.env_variables = {"A": text}
        own_runtime.working_dir = f"{home}/{text}"
        own_runtime.execute_task(task, execute_async=False)
        assert task.execution_log == [text, "", ""]
        assert list(task.function_returns) == [text, f"{home}/{text}"]
        assert not own_runtime.check_filter(installed_executables=text)

        own_runtime.working_dir = home
        assert own_runtime.delete_dir(name)
        assert os.listdir(folder) == []


ECHOED = [
    "$(touch ran)",
    "`touch ran`",
    "$(touch ran)`touch ran`",
    '"; touch ran; "',
    '"$(touch ran)"',
    "\\$(touch ran)",
    "\\`touch ran\\`",
    "${X:-$(touch ran)}",
    "${X:=`touch ran`}",
    "$((1+1))",
    "$$(touch ran)",
    "$",
    "a$",
    "${",
    "'",
]


@pytest.mark.parametrize("text", ECHOED)
def test_echo_runs_nothing(runtime, text):
    """Variables are all that a shell reads in it."""
    assert runtime.echo(text) == text
    assert not os.path.exists(f"{runtime.working_dir}/ran")


@pytest.mark.parametrize(
    "text", ["$(touch ran)", "`touch ran`", "-n", "../../x", "a\nb; touch ran"]
)
def test_name_of_a_task_is_no_path(runtime, text):
    """It is in the name of a log file."""
    task = runtime.execute_task(commands("echo hi", name=text), execute_async=False)
    path = Path(task.execution_log_file_path)
    assert path.parent.parent.name == "execution_log"
    assert re.fullmatch(r"[\w.-]+", path.name, re.ASCII)
    assert not os.path.exists(f"{runtime.working_dir}/ran")


def test_ssh_gets_the_host_behind_two_dashes(sshd, tmp_path, monkeypatch):
    """A host that ssh could take for an option would be a host all the same."""
    recorded = tmp_path / "argv"
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    real = shutil.which("ssh")
    ssh.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >>'{recorded}'\nexec {real} \"$@\"\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(ssh.parent), prepend=os.pathsep)
    with Connection(sshd.alias, config_file=sshd.config_file) as connection:
        connection.run("true")
    words = recorded.read_text().split("\n")
    assert words[words.index(sshd.alias) - 1] == "--"
    answer = subprocess.run(
        [real, "-F", "none", "--", "-oProxyCommand=touch ran", "true"],
        capture_output=True,
        cwd=tmp_path,
    )
    assert answer.returncode == 255
    assert not (tmp_path / "ran").exists()
