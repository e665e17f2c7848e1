"""The sshd that the other tests stand on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from loopback_sshd import LoopbackSshdError
from support.processes import state
from support.waiting import wait_until


def ssh(sshd, command, **arguments):
    argv = ["ssh", "-F", str(sshd.config_file), "-o", "BatchMode=yes", sshd.alias, command]
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, **arguments
    )


@contextmanager
def open_session(sshd):
    """A session that echoes what it is sent."""
    argv = ["ssh", "-F", str(sshd.config_file), sshd.alias, "echo ready; exec cat"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as session:
        try:
            assert session.stdout.readline() == b"ready\n"
            yield session
        finally:
            session.kill()


GONE = {None, "Z"}
"""No process of the tests has to wait for processes that have lost their parent."""


def test_ssh_gets_in_and_finds_a_fresh_home(make_sshd):
    sshd = make_sshd()
    result = ssh(sshd, 'ls -A "$HOME"; echo "$HOME"')
    assert (result.returncode, result.stdout) == (0, f"{sshd.home}\n"), result.stderr


def test_the_python_of_the_tests_is_there_but_not_their_packages(sshd):
    version = "{}.{}".format(*sys.version_info)
    result = ssh(sshd, f"python{version} -c 'import sys; print(sys.prefix)'")
    assert result.stdout == f"{sys.base_prefix}\n", result.stderr


def test_environment_and_extra_lines_reach_their_places(make_sshd):
    sshd = make_sshd(
        alias="other",
        environment={"A": "x y", "B": "100%h"},
        sshd_config=["PermitTTY no"],
        ssh_config=["ServerAliveInterval 7"],
    )
    result = ssh(sshd, 'echo "$A $B"; tty')
    assert result.stdout == "x y 100%h\nnot a tty\n", result.stderr
    argv = ["ssh", "-F", str(sshd.config_file), "-G", "other"]
    assert (
        "\nserveraliveinterval 7\n" in subprocess.run(argv, capture_output=True, text=True).stdout
    )


def test_killed_connections_end_and_new_ones_are_accepted(make_sshd):
    sshd = make_sshd()
    with open_session(sshd) as session:
        sshd.kill_connections()
        assert session.wait() == 255
        assert sshd.connection_pids() == []
    assert ssh(sshd, "exit 3").returncode == 3


def test_paused_connections_go_on_when_resumed(make_sshd):
    sshd = make_sshd()
    with open_session(sshd) as session:
        sshd.pause()
        session.stdin.write(b"more\n")
        session.stdin.flush()
        assert {state(pid) for pid in sshd.connection_pids()} == {"T"}
        sshd.resume()
        assert session.stdout.readline() == b"more\n"


def test_stop_ends_live_connections_and_removes_the_folder(make_sshd):
    sshd = make_sshd()
    with open_session(sshd) as session:
        pids = [sshd.pid, *sshd.connection_pids()]
        sshd.pause()
        sshd.stop()
        assert session.wait() == 255
    assert not sshd.folder.exists()
    assert {state(pid) for pid in pids} <= GONE
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", sshd.port))
    sshd.stop()


def test_a_refused_configuration_is_an_error_in_sshds_words(make_sshd):
    with pytest.raises(LoopbackSshdError, match="Bad configuration option: NoSuchOption"):
        make_sshd(sshd_config=["NoSuchOption yes"])


def test_a_manager_killed_with_9_takes_its_sshd_along():
    """Though a forked child of the manager lives on."""
    code = (
        "from loopback_sshd import LoopbackSshd; import os, sys\n"
        "sshd = LoopbackSshd().start()\n"
        "if os.fork():\n"
        "    print(sshd.pid, sshd.port, sshd.folder, flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.path.dirname(sys.modules["loopback_sshd"].__file__),
    }
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as manager:
        pid, port, folder = manager.stdout.readline().split()
        manager.kill()
        manager.wait()
        wait_until(lambda: state(int(pid)) in GONE and not os.path.exists(folder))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)))
