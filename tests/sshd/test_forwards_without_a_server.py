"""A connection through a forward that finds no server: one WARNING for each forward."""

from __future__ import annotations

import contextlib
import logging
import threading

import pytest

from lazycluster.exceptions import ForwardError, SshError
from support.services import WORD, Service, fetch, free_port
from support.waiting import TIMEOUT, wait_until

BOTH = pytest.mark.parametrize("on_host", [False, True], ids=["-L", "-R"])


def make_forward(connection, port, to_port, on_host, **ends):
    """Forward in the given direction."""
    make = connection.forward_remote if on_host else connection.forward_local
    return make(port, to_port, **ends)


@pytest.fixture
def quick(monkeypatch):
    """Look at the log more often."""
    monkeypatch.setattr("lazycluster._ssh.forward_watch.INTERVAL", 0.02)


@pytest.fixture
def warned(quick, caplog):
    """Return a function that waits for a number of warnings, and returns them."""

    def warned(count):
        def found():
            return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]

        wait_until(lambda: len(found()) >= count, found)
        assert len(found()) == count, found()
        return found()

    return warned


def failures(connection):
    """Return how many connections through forwards ssh has reported; our own probes are some."""
    text = connection._open().transport.master.log_bytes(0).decode()
    return text.count("open failed") + text.count(" failed.")


def looked_twice(connection, count=0):
    """Wait until ssh has reported so many failures, and the thread has handled them."""
    wait_until(lambda: failures(connection) >= count)
    watch = connection._open().transport.watch
    size = connection._open().transport.master.log_size()
    wait_until(lambda: watch._position >= size and not watch._text and not watch._lines)
    looked = threading.Event()  # once more, which comes after what it has read before was handled
    begin = watch.begin

    def begin_and_say_so():
        looked.set()
        begin()

    watch.begin = begin_and_say_so
    assert looked.wait(TIMEOUT)
    del watch.begin


@BOTH
@pytest.mark.parametrize("python", ["own_sshd", "bare_sshd"])
def test_the_first_connection_is_reported(connect, on_host, python, request, warned):
    connection = connect(request.getfixturevalue(python))
    forward = make_forward(connection, 0, free_port(), on_host)
    assert warned(0) == []  # our own probes are no clients
    for _ in range(3):
        assert fetch(forward.port) == b""
    (message,) = warned(1)
    assert str(forward) in message
    assert "failed" in message
    looked_twice(connection)
    warned(1)
    if python == "bare_sshd" and not on_host:
        return  # sshd does not say which of several it was, and the host cannot be asked
    again = make_forward(connection, 0, free_port(), on_host)
    assert fetch(again.port) == b""
    assert str(again) in warned(2)[1]


@BOTH
def test_a_forward_with_a_server_is_not_blamed(connect, own_sshd, on_host, warned):
    """sshd does not say which forward it was."""
    connection = connect(own_sshd)
    with contextlib.closing(Service()) as service:
        good = make_forward(connection, 0, service.port, on_host)
        third = make_forward(connection, 0, service.port, on_host, to_host="127.0.0.1")
        dead = make_forward(connection, 0, free_port(), on_host)
        before = failures(connection)
        for _ in range(2):
            assert fetch(dead.port) == b""
            assert fetch(good.port) == fetch(third.port) == WORD
        assert str(dead) in warned(1)[0]
        looked_twice(connection, before + 2)
        warned(1)
    assert fetch(good.port) == b""
    assert str(good) in warned(2)[1]


@BOTH
def test_a_third_host_that_is_unknown(connect, own_sshd, on_host, warned):
    """The reason is the system's."""
    forward = make_forward(connect(own_sshd), 0, 9, on_host, to_host="nowhere.invalid")
    assert fetch(forward.port) == b""
    (message,) = warned(1)
    assert "nowhere.invalid:9" in message
    assert "known" in message


def test_several_third_hosts_may_be_meant(connect, own_sshd, warned):
    """All are named, once."""
    connection = connect(own_sshd)
    forwards = [
        connection.forward_local(0, 9, to_host=address) for address in ("127.0.0.2", "127.0.0.3")
    ]
    for forward in forwards:
        assert fetch(forward.port) == b""
    (message,) = warned(1)
    for forward in forwards:
        assert str(forward) in message
    looked_twice(connection)
    warned(1)


@BOTH
@pytest.mark.parametrize("is_there", [True, False])
def test_a_socket_without_a_server(connect, own_sshd, short_folder, on_host, is_there, warned):
    connection = connect(own_sshd)
    path = short_folder / "service"
    if is_there:
        Service(str(path)).close()  # the socket stays
    forward = make_forward(connection, short_folder / "a", path, on_host)
    assert fetch(forward.path) == b""
    (message,) = warned(1)
    assert str(forward) in message


def test_a_refused_session_is_no_connection_through_a_forward(
    connect, make_sshd, short_folder, warned
):
    """ssh prints of it what it prints of a socket."""
    connection = connect(make_sshd(sshd_config=["MaxSessions 1"]))
    with contextlib.closing(Service(str(short_folder / "a"))) as service:
        connection.forward_local(0, 9).cancel()
        for _ in range(2):  # before there is a forward, and then
            with pytest.raises(SshError, match="MaxSessions"):
                connection.run("true")
            forward = connection.forward_local(0, short_folder / "a")
            tcp = connection.forward_local(0, free_port())
            missing = connection.forward_local(0, short_folder / "b")
            looked_twice(connection)
            missing.cancel()
        looked_twice(connection)
        warned(0)
        assert fetch(forward.port) == WORD
        assert service.count
        tcp.cancel()


def test_the_thread_ends_with_the_last_forward(connect, own_sshd, warned):
    """And begins with the next one."""
    connection = connect(own_sshd)
    for count in (1, 2):
        forward = connection.forward_local(0, free_port())
        assert fetch(forward.port) == b""
        warned(count)
        forward.cancel()
        watch = connection._open().transport.watch
        wait_until(lambda watch=watch: not watch._runs)


@BOTH
def test_a_lost_connection_has_ssh_s_own_reason(connect, own_sshd, on_host):
    """Not what it has printed of a connection through a forward, or of our probes."""
    connection = connect(own_sshd)
    transport = connection._open().transport
    for to_host in ("127.0.0.2", "nowhere.invalid"):
        forward = make_forward(connection, 0, 9, on_host, to_host=to_host)
        assert fetch(forward.port) == b""
    socket = make_forward(connection, 0, "/nowhere/a", on_host)
    assert fetch(socket.port) == b""
    with pytest.raises(ForwardError, match="listen on"):
        connection.forward_local("/nowhere/a", 9)
    own_sshd.kill_connections()
    assert transport.wait_until_ended(100)
    text = str(transport.end_error(None))
    reason = " ssh printed: Connection to 127.0.0.1 closed by remote host."
    # ssh may say it behind the end of its output, which is not waited for.
    assert text.removesuffix(reason) == f"The connection to {own_sshd.alias} was lost."
