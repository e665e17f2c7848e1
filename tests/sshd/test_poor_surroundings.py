"""Managers without a home, a terminal, descriptors or a usable ssh: it works, or says why not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lazycluster
from lazycluster import Connection, Runtime
from lazycluster.exceptions import LazyclusterError
from support.hosts import call, commands, run
from support.interpreters import OWN_PYTHON
from support.machine import needs_mounts
from support.programs import poor_manager

MANAGER_TIMEOUT = 250  # seconds for a manager that logs in and does a bit of everything
PACKAGES = os.pathsep.join(
    [str(Path(lazycluster.__file__).parents[1]), *(path for path in sys.path if path)]
)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make these surroundings")


@pytest.fixture
def manager(sshd, tmp_path):
    """Runs poor_manager, and gives what came of it and what it printed on standard error."""

    def run_it(*before, without=(), **variables):
        folder = tmp_path / "manager"
        folder.mkdir()
        environment = {**os.environ, "PYTHONPATH": PACKAGES, **variables}
        for name in without:
            environment.pop(name, None)
        argv = [*before, sys.executable, poor_manager.__file__, sshd.config_file, folder]
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            timeout=MANAGER_TIMEOUT,
            start_new_session=True,  # and so without a terminal
        )
        result = folder / "result"
        return result.read_text() if result.exists() else f"none: {done}", done.stderr

    return run_it


def test_f42_no_terminal_and_nothing_on_standard_input(manager):
    """As under cron."""
    assert manager() == ("works", "")


def test_f42_no_home(manager):
    """ssh itself asks the system for it."""
    assert manager(without=["HOME", "XDG_STATE_HOME", "LAZYCLUSTER_HOME"]) == ("works", "")


def test_f42_home_that_is_not_there(manager):
    """Nothing is looked for in it, and nothing is written."""
    assert manager(HOME="/no/such/folder") == ("works", "")


@pytest.mark.parametrize("which", ["<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_f42_standard_streams_that_are_closed_at_the_start(manager, which):
    """None of our pipes gets a number that something prints to."""
    result, _ = manager("/bin/sh", "-c", f'exec "$@" {which}', "sh")
    assert result == "works"


def test_f42_64_descriptors(manager):
    """As `ulimit -n 64` leaves them."""
    assert manager("/bin/sh", "-c", 'ulimit -n 64; exec "$@"', "sh") == ("works", "")


def test_f42_a_locale_that_is_none(manager):
    """And with a standard output that is ASCII alone."""
    result = manager(LC_ALL="nowhere", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert result == ("works", "")


def test_f40_folders_too_long_for_a_socket(manager, tmp_path):
    """Both; /tmp is left."""
    long = tmp_path / ("l" * 100)
    long.mkdir()
    variables = {"XDG_RUNTIME_DIR": str(long), "TMPDIR": str(long)}
    assert manager(**variables) == ("works", "")
    assert os.listdir(long) == []


UNUSABLE_TMP = 'mount --bind /tmp /tmp && mount -o remount,ro,bind /tmp && exec "$@"'


@needs_mounts
def test_f40_tmp_that_is_read_only(sshd, short_folder):
    """With TMPDIR elsewhere it works, without it one sentence says what to set."""
    argv = ["unshare", "-m", "/bin/sh", "-c", UNUSABLE_TMP, "sh"]
    argv += [sys.executable, poor_manager.__file__, str(sshd.config_file), str(short_folder)]
    environment = {**os.environ, "PYTHONPATH": PACKAGES, "LAZYCLUSTER_HOME": str(short_folder)}
    environment.update(PYTHONDONTWRITEBYTECODE="1", TMPDIR=str(short_folder))
    environment.pop("XDG_RUNTIME_DIR")
    subprocess.run(argv, env=environment, check=True, timeout=MANAGER_TIMEOUT, capture_output=True)
    assert (short_folder / "result").read_text() == "works"
    del environment["TMPDIR"]
    subprocess.run(argv, env=environment, check=True, timeout=MANAGER_TIMEOUT, capture_output=True)
    said = (short_folder / "result").read_text()
    assert "Set XDG_RUNTIME_DIR" in said
    assert "/tmp: Read-only file system." in said


@needs_mounts
def test_f42_home_that_is_read_only(sshd, short_folder):
    """It works: the logs, which would be there, go to a temporary folder."""
    (short_folder / "home").mkdir()
    argv = ["unshare", "-m", "/bin/sh", "-c"]
    argv += ['mount -t tmpfs -o ro none "$1" && shift && exec "$@"', "sh", short_folder / "home"]
    argv += [sys.executable, poor_manager.__file__, str(sshd.config_file), str(short_folder)]
    environment = {**os.environ, "PYTHONPATH": PACKAGES, "PYTHONDONTWRITEBYTECODE": "1"}
    environment["HOME"] = str(short_folder / "home")
    for name in ("LAZYCLUSTER_HOME", "XDG_STATE_HOME"):
        del environment[name]
    subprocess.run(argv, env=environment, check=True, timeout=MANAGER_TIMEOUT, capture_output=True)
    assert (short_folder / "result").read_text() == "works"


@needs_mounts
def test_f40_file_system_without_room_for_a_socket(short_folder):
    """A folder can be made there and no more; another place is tried."""
    module = "lazycluster._ssh.control_folder"
    code = f"from {module} import make_control_folder; print(make_control_folder())"
    (short_folder / "full").mkdir()
    argv = ["unshare", "-m", "/bin/sh", "-c"]
    argv += [
        f'mount -t tmpfs -o nr_inodes=3,mode=700 none {short_folder}/full && exec "$@"',
        "sh",
        sys.executable,
        "-c",
        code,
    ]
    environment = {**os.environ, "PYTHONPATH": PACKAGES}
    environment["XDG_RUNTIME_DIR"] = str(short_folder / "full")
    done = subprocess.run(
        argv, env=environment, check=True, timeout=MANAGER_TIMEOUT, capture_output=True
    )
    folder = Path(done.stdout.decode().strip())
    shutil.rmtree(folder)
    assert folder.parent == Path("/tmp")


NO_USER = """
import os, sys
from lazycluster import Connection
from lazycluster._conversation import conversation as _conversation
from lazycluster._conversation import bootstrap
from lazycluster._ssh import login_queue
from lazycluster._ssh.settings import Settings
# That user may not be able to read these files.
bootstrap.bootstrap_command()
bootstrap.bootstrap_input("x", Settings("host"))
os.setgroups([])
os.setgid(12345)
os.setuid(12345)
try:
    Connection("host.invalid", config_file="none").open()
except Exception as error:
    print(type(error).__name__, error)
"""


@root_only
def test_f42_no_user_of_that_number_is_one_sentence():
    """As in a container that was given any number; ssh refuses to run."""
    environment = {**os.environ, "PYTHONPATH": PACKAGES}
    environment.pop("XDG_RUNTIME_DIR")
    environment.pop("COVERAGE_PROCESS_CONFIG", None)  # this uid cannot write the data
    done = subprocess.run(
        [sys.executable, "-c", NO_USER],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=MANAGER_TIMEOUT,
    )
    assert done.stderr == ""
    assert re.fullmatch(
        r"LazyclusterError ssh refuses to run: No user exists for uid 12345\. "
        r"[^.]*/etc/passwd\.\n",
        done.stdout,
    )


# ── other programs that are called ssh ────────────────────────────────────────────────────────────


@pytest.fixture
def ssh_in_path(tmp_path, monkeypatch):
    """Puts a script called ssh first in PATH, or has nothing else there."""

    def put(script, alone=False):
        folder = tmp_path / "bin"
        folder.mkdir()
        if script is not None:
            (folder / "ssh").write_text(f"#!/bin/sh\n{script}\n")
            (folder / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=None if alone else os.pathsep)

    return put


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (None, ["no `ssh` in PATH", "openssh-client"]),
        ("echo OpenSSH_6.6.1p1 Ubuntu-2ubuntu2 >&2", ["OpenSSH_6.6.1p1", "7.0", "update"]),
        ("echo Dropbear v2022.83 >&2", ["Dropbear", "not OpenSSH", "PATH"]),
        ("echo 'ssh: unknown option -V' >&2; exit 1", ["unknown option -V", "not OpenSSH"]),
        ("exit 1", ["nothing", "not OpenSSH"]),
        ("echo OpenSSH_for_Windows_9.5p1 >&2", ["control master", "WSL"]),
    ],
    ids=["missing", "old", "dropbear", "dbclient", "silent", "windows"],
)
def test_f41_an_ssh_that_will_not_do_is_one_sentence(ssh_in_path, script, words, nothing_left):
    """With what it said and what to do; nothing else is started."""
    ssh_in_path(script, alone=True)
    with pytest.raises(LazyclusterError) as caught:
        Runtime("host")
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    nothing_left()


def test_f41_a_wrapper_around_ssh_works(sshd, ssh_in_path):
    """Whatever it does before; it has to end by exec, or take signals."""
    real = shutil.which("ssh")
    ssh_in_path(f'WRAPPED=1; export WRAPPED; exec {real} -o SetEnv=A=1 "$@"')
    runtime = Runtime(sshd.alias, connection_kwargs={"config_file": sshd.config_file})
    try:
        assert run(runtime, "echo hi") == ["hi\n"]
        assert runtime._connection.run("echo hi").stdout == "hi\n"
    finally:
        runtime.cleanup()


def test_f41_a_wrapper_that_stays_before_ssh_works(sshd, ssh_in_path, nothing_left):
    """One that does not end by exec is ended with all that it started."""
    real = shutil.which("ssh")
    ssh_in_path(f'{real} "$@"')
    with Connection(sshd.alias, config_file=sshd.config_file) as connection:
        assert commands("echo hi").execute(connection).execution_log == ["hi\n"]
    nothing_left()


# ── clocks ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def leaping_clock(monkeypatch):
    """The wall clock of this process leaps by a year, back and forth, whenever it is looked at."""
    real = time.time
    leaps = []

    def leap():
        leaps.append(None)
        return real() + (len(leaps) % 3 - 1) * 31_536_000

    monkeypatch.setattr(time, "time", leap)
    return leaps


def test_f43_the_clock_of_the_manager_may_leap(leaping_clock, make_runtime):
    """Nothing is decided by it: no timeout passes early or late."""
    runtime = make_runtime()
    task = commands("echo hi", "sleep 0.1")
    runtime.execute_task(task, execute_async=False, timeout=60)
    assert task.execution_log == ["hi\n", ""]
    with pytest.raises(LazyclusterError, match="timeout"):
        runtime.execute_task(commands("sleep 1000"), execute_async=False, timeout=0.2)


LEAPING = """
import sys, time
real = time.time
count = [0]
def leap():
    count[0] += 1
    return real() + (count[0] % 3 - 1) * 31536000
time.time = leap
"""


def test_f43_the_clock_of_the_host_may_leap(make_runtime, tmp_path):
    """And be years off."""
    (tmp_path / "sitecustomize.py").write_text(LEAPING)
    python = f"env PYTHONPATH={tmp_path} {OWN_PYTHON}"
    runtime = make_runtime(python=python, keepalive=0.5)
    assert run(runtime, "echo hi", "sleep 1.1") == ["hi\n", ""]

    def differs():
        return abs(time.time() - time.time()) > 1

    assert call(runtime, differs)
    with pytest.raises(LazyclusterError, match="timeout"):
        runtime.execute_task(commands("sleep 1000"), execute_async=False, timeout=0.2)


# ── one host, twice ───────────────────────────────────────────────────────────────────────────────


def test_f44_one_host_under_two_aliases_is_two_runtimes(sshd, tmp_path):
    """What one does and how it ends is nothing to the other."""
    config = tmp_path / "config"
    text = sshd.config_file.read_text()
    config.write_text(text + text.replace(f"Host {sshd.alias}", "Host twin"))
    file = tmp_path / "file"
    runtimes = [
        Runtime(alias, connection_kwargs={"config_file": config})
        for alias in (sshd.alias, "twin", "twin")
    ]
    try:
        assert len({runtime.working_dir for runtime in runtimes}) == 3
        for number, runtime in enumerate(runtimes):
            file.write_text(str(number))
            runtime.send_file(str(file))
        tasks = [runtime.execute_task(commands("cat file", name="same")) for runtime in runtimes]
        for task in tasks:
            task.join()
        assert [task.execution_log for task in tasks] == [["0"], ["1"], ["2"]]
        assert len({task.execution_log_file_path for task in tasks}) == 3
        runtimes[0].cleanup()
        assert not os.path.exists(runtimes[0].working_dir)
        assert run(runtimes[1], "cat file") == ["1"]
        runtimes[1].cleanup()
        assert run(runtimes[2], "cat file") == ["2"]
    finally:
        for runtime in runtimes:
            runtime.cleanup()
