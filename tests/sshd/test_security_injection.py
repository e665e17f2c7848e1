"""Data is data: what a user typed, or a file is called, is no option and no shell text."""

from __future__ import annotations

import os
import re
import shutil
import string
import subprocess
from pathlib import Path

import pytest

from lazycluster import Connection
from lazycluster.exceptions import ConnectError
from support.hosts import commands

# ── options of ssh ────────────────────────────────────────────────────────────────────────────────

OPTIONS = ["-oProxyCommand=touch ran", "-oProxyCommand=touch${IFS}ran", "-E/tmp/ran", "--", "-"]
CONTROL = ["a\nb", "a\rb", "a\x1b[0mb", "a\0b", "a\x7fb", "a\x9bb", "a\u2028b", "a b", "a\tb"]


@pytest.mark.parametrize("text", [*OPTIONS, *CONTROL], ids=repr)
@pytest.mark.parametrize(
    "parameter",
    [
        lambda text: {"host": text},
        lambda text: {"host": f"me@{text}"},
        lambda text: {"host": f"{text}@host"},
        lambda text: {"host": f"ssh://{text}@host"},
        lambda text: {"host": f"ssh://me@{text}:22"},
        lambda text: {"host": "host", "user": text},
        lambda text: {"host": "host", "jump_host": text},
        lambda text: {"host": "host", "jump_host": f"jump,me@{text}"},
        lambda text: {"host": "host", "jump_host": f"{text}@jump"},
        lambda text: {"host": "host", "options": {text: "yes"}},
    ],
    ids=[
        "host",
        "at",
        "user-at",
        "url-user",
        "url-host",
        "user",
        "jump",
        "jump-2",
        "j-user",
        "opt",
    ],
)
def test_what_ssh_could_take_for_an_option_is_refused(parameter, text, no_process):
    """A ValueError before any process starts; blanks and control characters likewise."""
    with pytest.raises(ValueError, match=r"host|user|options"):
        Connection(**parameter(text))


@pytest.mark.parametrize("text", ["a\nb", "a\nProxyCommand touch ran", "a\rb", "a\0b", "a\x1bb"])
def test_value_of_an_option_is_one_line(text, no_process):
    """Nobody adds a second option to the first, or talks to the terminal of who reads the error."""
    with pytest.raises(ValueError, match="options") as caught:
        Connection("host", options={"HostKeyAlias": text})
    assert str(caught.value).isprintable()


def test_value_that_begins_with_a_dash_is_a_value(sshd):
    """An option of lazycluster's that is given a dash reaches ssh as a value, not as an option."""
    with Connection(
        sshd.alias, config_file=sshd.config_file, options={"LogVerbose": "-oProxyCommand=false"}
    ) as connection:
        assert commands("echo hi").execute(connection).execution_log == ["hi\n"]


# ── %h and %r of the user's ProxyCommand and Match exec ───────────────────────────────────────────


@pytest.fixture
def percent_config(tmp_path):
    """A config whose ProxyCommand and Match exec hand %h, %n and %r to a shell."""
    config = tmp_path / "config"
    config.write_text(
        f"Match exec \"echo %n %r >>'{tmp_path}/match'\"\n"
        "Host *\n"
        # As long as 3 is open ssh waits, and does not kill it.
        f"ProxyCommand echo %h %r 3>&1 >>'{tmp_path}/proxy'\n"
    )
    (tmp_path / "empty").mkdir()
    return config


INJECTIONS = [
    "$(touch ran)",
    "`touch ran`",
    "a;touch${IFS}ran",
    "a|touch${IFS}ran",
    "a&touch${IFS}ran",
    "'$(touch${IFS}ran)'",
    '"$(touch${IFS}ran)"',
    "a\ntouch ran",
    "${IFS}touch",
    ">ran",
    "<(touch${IFS}ran)",
    "a\\",
]


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.parametrize("where", ["host", "user", "host-user", "jump_host"])
def test_what_a_proxy_command_would_run_is_refused(
    percent_config, where, text, no_process, tmp_path
):
    """CVE-2023-51385 and CVE-2025-61984: nothing of it comes so far as a shell."""
    keywords = {
        "host": {"host": text},
        "user": {"host": "host", "user": text},
        "host-user": {"host": f"{text}@host"},
        "jump_host": {"host": "host", "jump_host": text},
    }[where]
    with pytest.raises(ValueError, match=r"host|user"):
        Connection(config_file=percent_config, **keywords)
    assert sorted(os.listdir(tmp_path)) == ["config", "empty"]


@pytest.mark.parametrize("where", ["host", "user"])
def test_what_is_let_through_is_one_literal_word_of_a_proxy_command(
    percent_config, where, tmp_path, monkeypatch
):
    """All characters that are not refused reach the shell of a ProxyCommand as themselves."""
    monkeypatch.chdir(tmp_path / "empty")

    def connection(text):
        keywords = {"host": text} if where == "host" else {"host": "host", "user": text}
        return Connection(config_file=percent_config, connect_timeout=2, **keywords)

    let_through = ""
    for character in string.punctuation:
        try:
            connection(f"a{character}b")
        except ValueError:
            continue
        # In a host @ ends the user; a shell takes the backslash of DOMAIN\\user away, and no more.
        if character not in ("@" if where == "host" else "\\"):
            let_through += character
    assert set("._-") <= set(let_through)
    assert not set("$`;&|<>()'\"") & set(let_through)
    word = f"a{let_through}b"
    with pytest.raises(ConnectError):
        connection(word).open()
    # In the place of the other is what the developer is called.
    lines = set((tmp_path / "proxy").read_text().splitlines())  # one for each try
    (words,) = [line.split() for line in lines]
    assert len(words) == 2
    assert words[0 if where == "host" else 1] == word
    assert os.listdir(tmp_path / "empty") == []


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
        name = "./~" if text == "~" else text  # the one that means something, if it comes first
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


def test_python_is_the_one_command_line_beside_run_command(no_process):
    """It is read by a shell, as documented; a line break cannot be in it."""
    with pytest.raises(ValueError, match="python"):
        Connection("host", python="python3\ntouch ran")


def test_no_shell_true_in_the_library():
    """Only argv is ever run on the manager."""
    import lazycluster

    folder = Path(lazycluster.__file__).parent
    for path in folder.rglob("*.py"):
        text = path.read_text()
        assert "shell=True" not in text, path
        assert "os.system" not in text, path
        assert "os.popen" not in text, path


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
