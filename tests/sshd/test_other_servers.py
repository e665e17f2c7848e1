"""Hosts whose server is not OpenSSH: dropbear and asyncssh."""

from __future__ import annotations

import contextlib
import os
import socket
import threading

import pytest

from lazycluster import Connection, Runtime
from lazycluster.exceptions import (
    CommandError,
    ConnectionLostError,
    ForwardError,
    SshError,
    StepTimeoutError,
)
from support.hosts import call, run
from support.other_servers import AsyncsshServer, Dropbear
from support.processes import await_gone, await_recorded, recorded
from support.services import WORD, Service, fetch, free_port
from support.waiting import wait_until


@pytest.fixture(scope="module", params=[Dropbear, AsyncsshServer])
def server(request, tmp_path_factory):
    """A server for all tests; one that a test ends fails all that follow."""
    with request.param(tmp_path_factory.mktemp("server")) as running:
        yield running
        assert running.process.poll() is None, running.log.read_text()


@pytest.fixture
def connection(server):
    with Connection(server.alias, config_file=server.config_file, connect_timeout=150) as opened:
        transport = opened._open().transport
        yield opened
        assert opened._open().transport is transport  # it was not lost


def test_run(connection):
    """Output, input and exit status are the command's."""
    result = connection.run("echo out; echo err >&2; cat; exit 3", check=False)
    assert (result.stdout, result.stderr, result.exit_status) == ("out\n", "err\n", 3)
    with pytest.raises(CommandError):
        connection.run("false")


def test_run_ends_what_it_leaves_behind(connection, pids):
    """Its own process group, and not the server's."""
    connection.run(f"sh -c 'touch {pids}/$$; exec sleep 1000' & touch {pids}/$!")
    await_gone(await_recorded(pids, 1))
    assert connection.run("echo hi").stdout == "hi\n"


def test_run_over_the_timeout(connection, pids):
    """The command and its children have gone, and nothing else."""
    with pytest.raises(StepTimeoutError):
        connection.run(f"touch {pids}/$$; sh -c 'touch {pids}/$$; exec sleep 1000'; :", timeout=1)
    await_gone(recorded(pids))
    assert connection.run("echo hi").stdout == "hi\n"


def test_run_ends_with_the_connection(server, pids):
    with Connection(server.alias, config_file=server.config_file, connect_timeout=150) as closed:
        closed.open()
        thread = threading.Thread(target=_run_until_closed, args=(closed, pids))
        thread.start()
        await_recorded(pids, 1)
    thread.join()
    await_gone(recorded(pids))


def _run_until_closed(connection, pids):
    with pytest.raises(ConnectionLostError):
        connection.run(f"touch {pids}/$$; sleep 1000; :")


def test_send_and_get(connection, server, tmp_path):
    if isinstance(server, AsyncsshServer):
        pytest.skip("scp itself fails: asyncssh 2.24 sends no exit status at the end of SFTP")
    (tmp_path / "a file").write_bytes(b"\0\xff" * 1000)
    connection.send(tmp_path / "a file", tmp_path / "there")
    connection.get(tmp_path / "there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"\0\xff" * 1000
    with pytest.raises(SshError, match="No such file"):
        connection.get(tmp_path / "none", tmp_path / "back")


def test_tasks_and_functions(server):
    """As on any other host."""
    keywords = {"config_file": server.config_file, "connect_timeout": 150}
    runtime = Runtime(server.alias, connection_kwargs=keywords)
    try:
        assert run(runtime, "echo one", "echo two") == ["one\n", "two\n"]
        assert call(runtime, os.getpid) != os.getpid()
    finally:
        runtime.cleanup()


def speak(port):
    """Return what a service answers at a port of this computer."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(b"ping")
        return client.recv(4)


@pytest.fixture
def service():
    """The port of a service that answers once."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve():
            client, _ = listener.accept()
            with client:
                client.sendall(client.recv(4)[::-1])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(30)


def test_forward_local(connection, service):
    with connection.forward_local(0, service) as forward:
        assert speak(forward.port) == b"gnip"


def test_forward_remote_of_any_port(connection, server, service):
    """Its end is the end, although Debian's dropbear goes on listening."""
    forward = connection.forward_remote(0, service)
    assert speak(forward.port) == b"gnip"
    if isinstance(server, Dropbear):
        with pytest.raises(ForwardError, match=r"dropbear .* until the connection ends"):
            forward.cancel()
        with contextlib.suppress(ConnectionResetError):
            assert speak(forward.port) == b""
    else:
        forward.cancel()
    assert not forward.is_alive()
    assert not forward.lost
    forward.cancel()


def test_forwards_to_third_hosts_and_from_sockets(connection, server, short_folder):
    """A socket of the manager is ssh's affair alone."""
    with contextlib.closing(Service("127.0.0.2")) as third:
        for port in (0, short_folder / "a"):
            with connection.forward_local(port, third.port, to_host="127.0.0.2") as forward:
                assert fetch(forward.path or forward.port) == WORD
        forward = connection.forward_remote(0, third.port, to_host="127.0.0.2")
        assert fetch(forward.port) == WORD


def test_a_forward_remote_to_a_socket_of_the_manager(connection, short_folder):
    with contextlib.closing(Service(str(short_folder / "a"))):
        forward = connection.forward_remote(0, short_folder / "a")
        assert fetch(forward.port) == WORD


def test_sockets_of_these_hosts_are_refused_early(connection, server, short_folder):
    """dropbear does not know them, and this asyncssh server is not told to take them."""
    with contextlib.closing(Service(str(short_folder / "a"))):
        if isinstance(server, Dropbear):
            with pytest.raises(ForwardError, match="It is not OpenSSH, and forwards no unix"):
                connection.forward_local(0, short_folder / "a")
        with pytest.raises(ForwardError, match=r"\(remote port forwarding failed for listen path"):
            connection.forward_remote(short_folder / "b", 1)
    assert os.listdir(short_folder) == ["a"]


def test_an_address_of_these_hosts(connection, server):
    """dropbear takes one with its option -a alone, and says nothing without it."""
    with contextlib.closing(Service()) as service:
        if isinstance(server, Dropbear):
            with pytest.raises(ForwardError, match="dropbear needs its option -a"):
                connection.forward_remote(0, service.port, bind_address="127.0.0.5")
        else:
            forward = connection.forward_remote(0, service.port, bind_address="127.0.0.5")
            assert fetch(forward.port, "127.0.0.5") == WORD


def test_a_connection_that_finds_no_server_there(connection, monkeypatch, caplog):
    monkeypatch.setattr("lazycluster._ssh.forward_watch.INTERVAL", 0.02)
    forward = connection.forward_local(0, free_port())
    assert fetch(forward.port) == b""
    wait_until(lambda: any(str(forward) in r.getMessage() for r in caplog.records))
