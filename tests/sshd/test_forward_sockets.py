"""Unix sockets in the place of ports, on either side of a forward."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lazycluster.exceptions import ForwardError, PortInUseError
from support.hosts import supervisor
from support.managers import guards
from support.services import WORD, Service, fetch
from support.waiting import wait_until

BOTH = pytest.mark.parametrize("on_host", [False, True], ids=["-L", "-R"])
LONGEST = 107 if sys.platform.startswith("linux") else 103

# Forwards a socket to a port, and waits to be killed.
MANAGER = """
import sys, time
from lazycluster import Connection
config_file, alias, path, port, on_host = sys.argv[1:]
connection = Connection(alias, config_file=config_file, connect_timeout=150)
make = connection.forward_remote if on_host == "True" else connection.forward_local
n = iter(range(10**6)).__next__
forward = make(path, int(port))
print("ready", flush=True)
time.sleep(1000)
"""


def make_forward(connection, port, to_port, on_host, **ends):
    """Forward in the given direction."""
    make = connection.forward_remote if on_host else connection.forward_local
    return make(port, to_port, **ends)


@pytest.fixture
def folder(short_folder):
    """A folder for sockets of both sides."""
    return short_folder


@pytest.fixture
def service(folder):
    """A service at a socket, and on a port."""
    at_socket, at_port = Service(str(folder / "service")), Service()
    with contextlib.closing(at_socket), contextlib.closing(at_port):
        at_socket.port = at_port.port
        yield at_socket


def names(folder):
    return sorted(set(os.listdir(folder)) - {"service"})


def is_socket(path):
    return stat.S_ISSOCK(os.lstat(path).st_mode)


def replace_by_another(path):
    """Put a server of our own at the path, perhaps with the inode number that is free now."""
    os.unlink(path)
    return contextlib.closing(Service(str(path)))


# --- as it should be ---


@BOTH
def test_a_socket_leads_to_a_port(connect, sshd, folder, service, on_host):
    """Only the account may connect to it, as with ssh."""
    path = folder / "socket"
    forward = make_forward(connect(sshd), path, service.port, on_host)
    assert (forward.port, forward.path, forward.to_port) == (0, str(path), service.port)
    assert fetch(path) == WORD
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
    assert str(path) in str(forward)


@BOTH
@pytest.mark.parametrize("python", ["sshd", "bare_sshd"])
def test_a_port_leads_to_a_socket(connect, folder, service, on_host, python, request):
    connection = connect(request.getfixturevalue(python))
    forward = make_forward(connection, 0, folder / "service", on_host)
    assert (forward.to_port, forward.to_path) == (0, str(folder / "service"))
    assert fetch(forward.port) == WORD


@BOTH
def test_a_socket_leads_to_a_socket(connect, sshd, folder, service, on_host):
    make_forward(connect(sshd), str(folder / "a"), str(folder / "service"), on_host)
    assert fetch(folder / "a") == WORD


@BOTH
def test_a_socket_leads_to_a_third_host(connect, sshd, folder, on_host):
    with contextlib.closing(Service("127.0.0.2")) as third:
        make_forward(connect(sshd), folder / "a", third.port, on_host, to_host="127.0.0.2")
        assert fetch(folder / "a") == WORD


@BOTH
def test_a_service_at_a_socket_may_come_later(connect, sshd, folder, on_host):
    forward = make_forward(connect(sshd), folder / "a", folder / "later", on_host)
    with contextlib.closing(Service(str(folder / "later"))):
        assert fetch(folder / "a") == WORD
    forward.cancel()


@BOTH
@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "a:b",
        "a\\b",
        "%h%%",
        "$HOME",
        "a'b\"c",
        "-L",
        "*",
        "[a]",
        "~",
        "ä€",
        "\udcff",
        "#;&|",
    ],
)
def test_names_are_literal(connect, sshd, folder, service, on_host, name):
    """As the side that listens and as the side that is led to."""
    connection = connect(sshd)
    first = make_forward(connection, folder / name, service.port, on_host)
    assert os.fsencode(name) in os.listdir(os.fsencode(folder))
    second = make_forward(connection, folder / "second", folder / name, on_host)
    assert fetch(folder / "second") == WORD
    second.cancel()
    first.cancel()
    assert names(folder) == []


@BOTH
def test_the_longest_path(connect, sshd, folder, service, on_host):
    name = "x" * (LONGEST - len(os.fsencode(folder)) - 1)
    connection = connect(sshd)
    with make_forward(connection, folder / name, service.port, on_host):
        assert fetch(folder / name) == WORD
    with pytest.raises(ValueError, match=rf"{LONGEST + 1} bytes.*at most {LONGEST}"):
        make_forward(connection, folder / (name + "x"), service.port, on_host)
    with pytest.raises(ValueError, match=rf"{LONGEST + 1} bytes.*at most {LONGEST}"):
        make_forward(connection, 0, folder / (name + "x"), on_host)


def test_a_relative_path_here_begins_at_the_current_folder(
    connect, sshd, folder, service, monkeypatch
):
    monkeypatch.chdir(folder)
    connection = connect(sshd)
    for path in ("./a", Path("b")):
        forward = connection.forward_local(path, service.port)
        assert forward.path == str(folder / path)
        assert fetch(folder / path) == WORD
    forward = connection.forward_remote(0, "./service")
    assert fetch(forward.port) == WORD


# --- the end ---


@BOTH
def test_cancel_removes_it(connect, sshd, folder, service, on_host):
    connection = connect(sshd)
    for _ in range(2):
        forward = make_forward(connection, folder / "a", service.port, on_host)
        assert fetch(folder / "a") == WORD
        forward.cancel()
        assert names(folder) == []


@BOTH
def test_close_removes_it(connect, sshd, folder, service, on_host):
    connection = connect(sshd)
    make_forward(connection, folder / "a", service.port, on_host)
    connection.close()
    wait_until(lambda: names(folder) == [])


@BOTH
def test_a_lost_connection_removes_it(connect, own_sshd, folder, service, on_host):
    forward = make_forward(connect(own_sshd), folder / "a", service.port, on_host)
    own_sshd.kill_connections()
    assert forward.wait(100)
    wait_until(lambda: names(folder) == [])


def killed_manager(sshd, path, service, on_host):
    words = [str(sshd.config_file), sshd.alias, str(path), str(service.port), str(on_host)]
    argv = [sys.executable, "-c", MANAGER, *words]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


@BOTH
def test_a_killed_manager_leaves_none(sshd, folder, service, on_host):
    with killed_manager(sshd, folder / "a b", service, on_host) as manager:
        assert manager.stdout.readline() == b"ready\n"
        assert fetch(folder / "a b") == WORD
        manager.kill()
    wait_until(lambda: names(folder) == [])


@BOTH
def test_a_manager_that_is_killed_while_it_makes_them_leaves_none(sshd, folder, service, on_host):
    """Whether it knows of the socket yet or not."""
    words = [str(sshd.config_file), sshd.alias, str(folder), str(service.port), str(on_host)]
    argv = [
        sys.executable,
        "-c",
        MANAGER.replace("forward = make(path", 'while True: make(f"{path}/{n()}"'),
    ]
    with subprocess.Popen([*argv, *words], stdin=subprocess.DEVNULL) as manager:
        wait_until(lambda: len(names(folder)) > 5)
        manager.kill()
    wait_until(lambda: names(folder) == [])


def test_a_killed_supervisor_leaves_none(own_runtime, folder, service):
    own_runtime.expose_port_to_runtime(service.port, folder / "a")
    assert fetch(folder / "a") == WORD
    os.kill(supervisor(own_runtime), signal.SIGKILL)
    wait_until(lambda: names(folder) == [])


@pytest.fixture(params=["/dev/shm", "/tmp"])
def replaced(request):
    """A folder on a file system that gives inode numbers once, and on one that reuses them."""
    if not os.path.isdir(request.param):
        pytest.skip(f"there is no {request.param}")
    with tempfile.TemporaryDirectory(dir=request.param, prefix="lctest-") as folder:
        yield Path(folder)


@BOTH
@pytest.mark.parametrize("end", ["cancel", "close", "loss", "kill"])
def test_a_socket_that_has_replaced_it_stays(connect, own_sshd, replaced, service, on_host, end):
    """It belongs to another program, though it may have the inode number of ours."""
    path = replaced / "a"
    if end == "kill":
        with killed_manager(own_sshd, path, service, on_host) as manager:
            assert manager.stdout.readline() == b"ready\n"
            with replace_by_another(path):
                manager.kill()
                manager.wait()
                wait_until(lambda: not own_sshd.connection_pids() and not guards(own_sshd))
                assert fetch(path) == WORD
        return
    connection = connect(own_sshd)
    forward = make_forward(connection, path, service.port, on_host)
    with replace_by_another(path):
        if end == "cancel":
            forward.cancel()
        elif end == "close":
            connection.close()
        else:
            own_sshd.kill_connections()
        assert forward.wait(100)
        wait_until(lambda: end == "cancel" or not guards(own_sshd))
        assert fetch(path) == WORD


@BOTH
def test_it_may_have_been_removed_by_somebody(connect, sshd, folder, service, on_host):
    forward = make_forward(connect(sshd), folder / "a", service.port, on_host)
    os.unlink(folder / "a")
    forward.cancel()
    assert not forward.is_alive()


# --- in its way ---


@BOTH
@pytest.mark.parametrize("kind", ["file", "folder", "link", "server", "dead socket"])
def test_what_is_there_stays(connect, sshd, folder, service, on_host, kind):
    """PortInUseError, as ssh has it without StreamLocalBindUnlink."""
    path = folder / "a"
    with contextlib.ExitStack() as stack:
        if kind == "file":
            path.write_text("data")
        elif kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to("nowhere")
        else:
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(path))
            if kind == "server":
                server.listen()
        before = os.lstat(path)
        with pytest.raises(PortInUseError, match=rf"{path} of .* exists already"):
            make_forward(connect(sshd), path, service.port, on_host)
        assert os.lstat(path).st_ino == before.st_ino


@BOTH
def test_the_same_socket_twice(connect, any_sshd, folder, service, on_host):
    """Also on a host without Python; the first works on."""
    connection = connect(any_sshd)
    make_forward(connection, folder / "a", service.port, on_host)
    with pytest.raises(PortInUseError):
        make_forward(connection, folder / "a", service.port, on_host)
    assert fetch(folder / "a") == WORD


def test_a_folder_that_is_missing(connect, sshd, folder, service):
    connection = connect(sshd)
    with pytest.raises(ForwardError, match=r"No such file or directory"):
        connection.forward_local(folder / "no" / "a", service.port)
    with pytest.raises(ForwardError, match=r"able to write to the socket's folder"):
        connection.forward_remote(folder / "no" / "a", service.port)


@pytest.mark.parametrize(
    ("line", "local", "remote"),
    [
        ("AllowStreamLocalForwarding no", False, False),
        ("AllowStreamLocalForwarding local", True, False),
        ("AllowStreamLocalForwarding remote", False, True),
        ("DisableForwarding yes", False, False),
        ("AllowTcpForwarding local", True, False),
    ],
)
def test_f38_sockets_are_forbidden(connect, make_sshd, folder, service, line, local, remote):
    """sshd says nothing of a socket that it is asked for; the service shows it, if it is there."""
    connection = connect(make_sshd(sshd_config=[line]))
    sentence = r"AllowStreamLocalForwarding must be `yes` or `{}`\. .*DisableForwarding must be"
    for on_host, allowed in ((False, local), (True, remote)):
        listen = folder / "a"
        to = service.port if on_host else folder / "service"
        if allowed:
            with make_forward(connection, listen, to, on_host):
                assert fetch(listen) == WORD
        else:
            kind = "remote" if on_host else "local"
            with pytest.raises(ForwardError, match=rf"\(.*failed.*\)\. .*{sentence.format(kind)}"):
                make_forward(connection, listen, to, on_host)
        assert names(folder) == []


@BOTH
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "path", ["", "80", "a", "/a\n", "/${HOME}", "/a/", "/a/.", "/\udc00\0", "/\ud800"]
)
def test_a_path_that_cannot_be(connect, sshd, on_host, which, path, no_process):
    """A ValueError that says what a path is."""
    ends = [1, 2]
    ends[which] = path
    with pytest.raises(ValueError, match=r"port|path"):
        make_forward(connect(sshd), *ends, on_host)


@BOTH
def test_bytes_are_no_path(connect, sshd, on_host, no_process):
    with pytest.raises(TypeError, match=r"os.fsdecode"):
        make_forward(connect(sshd), b"/a", 1, on_host)


def test_a_path_on_a_host_is_absolute_for_a_connection(connect, sshd, no_process):
    """It has no working directory there."""
    with pytest.raises(ValueError, match=r"'\./a'.*absolute"):
        connect(sshd).forward_remote("./a", 1)
    with pytest.raises(ValueError, match=r"'~/a'.*absolute"):
        connect(sshd).forward_local(1, "~/a")


@BOTH
@pytest.mark.parametrize("ends", [{"to_host": "db"}, {"bind_address": "*"}])
def test_a_socket_has_no_host(connect, sshd, on_host, ends, no_process):
    name = next(iter(ends))
    with pytest.raises(ValueError, match=rf"{name} has no meaning for the socket '/a'"):
        make_forward(connect(sshd), "/a", "/a", on_host, **ends)


# --- a Runtime ---


def test_a_runtime_exposes_sockets(own_runtime, folder, service):
    """Its keys have the paths; a path on the host is relative to the working directory."""
    host = own_runtime.host
    key = own_runtime.expose_port_from_runtime(folder / "service", folder / "a::-R::b")
    assert key == f"{host}::-L::{folder}/a::-R::b::{folder}/service"
    exposure = own_runtime.get_process(key)
    assert (exposure.path, exposure.to_path) == (str(folder / "a::-R::b"), str(folder / "service"))
    assert (exposure.port, exposure.to_port) == (0, 0)
    assert fetch(folder / "a::-R::b") == WORD
    own_runtime.stop_process(key)
    own_runtime.working_dir = folder
    key = own_runtime.expose_port_to_runtime(service.port, "./b")
    assert key == f"{host}::-R::{folder}/b::{service.port}"
    assert own_runtime.is_port_exposure_process(key)
    assert fetch(folder / "b") == WORD
    own_runtime.cleanup()
    assert names(folder) == []
