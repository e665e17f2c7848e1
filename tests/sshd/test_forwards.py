"""Connection.forward with real services, in both directions, and whatever can be in its way."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import socket
import threading

import pytest

from lazycluster._ssh import host_listeners, listeners
from lazycluster._ssh.host_side import HostSide
from lazycluster.exceptions import (
    ForwardError,
    LazyclusterError,
    PortInUseError,
    PythonNotFoundError,
    TaskExecutionError,
)
from lazycluster.processes import PortExposure
from support.hosts import commands
from support.machine import LOW_PORT, may_bind, needs_ipv6, needs_privileged_ports
from support.managers import await_nothing_on_manager, logins, sshs
from support.services import WORD, Service, answers, fetch, free_port
from support.waiting import wait_until

BOTH = pytest.mark.parametrize("on_host", [False, True], ids=["-L", "-R"])


def make_forward(connection, port, to_port, on_host):
    """Forward in the given direction."""
    make = connection.forward_remote if on_host else connection.forward_local
    return make(port, to_port)


@pytest.fixture
def one_session_sshd(make_sshd):
    """An sshd for one test, which counts its logins. A forward does not need a session."""
    return make_sshd(sshd_config=["MaxSessions 1"])


@pytest.fixture(params=["python", "no python"])
def any_host(request):
    """A host with Python, and one without."""
    name = "one_session_sshd" if request.param == "python" else "bare_sshd"
    return request.getfixturevalue(name)


@pytest.fixture
def service():
    service = Service()
    yield service
    service.close()


@contextlib.contextmanager
def on_another_address(port):
    """Listen on the same port of another address, as Docker's name server in its containers."""
    service = Service("127.0.0.11", port)
    try:
        yield
    finally:
        service.close()


# --- as it should be ---


@BOTH
def test_a_service_is_reached(connect, any_host, service, on_host):
    """Through this port, once it is returned; no client has connected to it until then."""
    connection = connect(any_host)
    port = free_port()
    forward = make_forward(connection, port, service.port, on_host)
    assert (forward.port, forward.to_port, forward.on_host) == (port, service.port, on_host)
    assert forward.is_alive()
    assert service.count == 0
    assert fetch(port) == WORD
    assert logins(any_host) == 1


@BOTH
def test_f38_port_0_is_any_that_is_free(connect, any_host, service, on_host):
    """Each time another, though they lead to the same."""
    connection = connect(any_host)
    made = [make_forward(connection, 0, service.port, on_host) for _ in range(3)]
    assert len({forward.port for forward in made}) == 3
    made[1].cancel()
    for forward in (made[0], made[2]):
        assert forward.port > 0
        assert fetch(forward.port) == WORD
    assert not answers(made[1].port)


@needs_ipv6
@BOTH
def test_f38_a_service_on_ipv6_alone_is_reached(connect, one_session_sshd, on_host):
    """localhost is both."""
    known = socket.getaddrinfo("localhost", 1, socket.AF_UNSPEC, socket.SOCK_STREAM)
    if socket.AF_INET6 not in [family for family, *_ in known]:
        pytest.skip("localhost is IPv4 alone here")
    service = Service("::1")
    try:
        forward = make_forward(connect(one_session_sshd), 0, service.port, on_host)
        assert fetch(forward.port) == WORD
    finally:
        service.close()


@BOTH
def test_a_service_may_come_later(connect, one_session_sshd, on_host):
    """A forward needs none."""
    port = free_port()
    forward = make_forward(connect(one_session_sshd), 0, port, on_host)
    service = Service(port=port)
    try:
        assert fetch(forward.port) == WORD
    finally:
        service.close()


@BOTH
def test_it_listens_on_loopback_alone(connect, one_session_sshd, on_host):
    """On 127.0.0.1 and no other address."""
    forward = make_forward(connect(one_session_sshd), 0, 22, on_host)
    with socket.socket() as other:
        other.bind(("127.0.0.2", forward.port))


# --- the end ---


@BOTH
def test_f38_cancel_returns_with_the_port_free(connect, any_host, service, on_host):
    """A second time is fine; the port can be forwarded again."""
    connection = connect(any_host)
    port = free_port()
    for _ in range(3):
        forward = make_forward(connection, port, service.port, on_host)
        assert fetch(port) == WORD
        forward.cancel()
        assert not answers(port)
        assert not forward.is_alive()
        assert not forward.lost
        assert forward.wait(0)
        forward.cancel()


@BOTH
def test_cancel_without_a_control_socket(connect, one_session_sshd, service, on_host, tmp_path):
    """The reason is that socket; the forward still works, and ends with the connection."""
    connection = connect(one_session_sshd)
    forward = make_forward(connection, 0, service.port, on_host)
    control_path = connection._open().transport.master.control_path
    os.rename(control_path, tmp_path / "away")
    with pytest.raises(ForwardError, match=f"nothing answers at its control socket {control_path}"):
        forward.cancel()
    assert fetch(forward.port) == WORD
    connection.close()
    assert not answers(forward.port)


@BOTH
def test_cancel_while_another_address_has_the_port(
    connect, one_session_sshd, service, on_host, caplog
):
    forward = make_forward(connect(one_session_sshd), 0, service.port, on_host)
    with on_another_address(forward.port):
        assert fetch(forward.port) == WORD
        forward.cancel()
        assert not answers(forward.port)
    assert caplog.messages == []


@BOTH
def test_port_0_is_free_on_all_addresses(
    connect, one_session_sshd, service, on_host, monkeypatch, caplog
):
    """Else `cancel` could not tell who listens, and with GatewayPorts two would be on one port."""
    chosen = []
    with contextlib.ExitStack() as others:

        def take(find, *arguments):
            found = find(*arguments)
            if not chosen:
                chosen.append(int(found))
                others.enter_context(on_another_address(chosen[0]))
            return found

        name = "_dynamic_port" if on_host else "_free_port"
        module = host_listeners if on_host else listeners
        monkeypatch.setattr(module, name, functools.partial(take, getattr(module, name)))
        forward = make_forward(connect(one_session_sshd), 0, service.port, on_host)
        assert forward.port != chosen[0]
        assert fetch(forward.port) == WORD
    assert caplog.messages == []


def ports_with_one_free(port):
    """Replace `HostSide.port_is_free` by one that at first finds this port free."""
    original, free = HostSide.port_is_free, [True]

    def port_is_free(self, asked, *more):
        return free.pop() if asked == port and free else original(self, asked, *more)

    return port_is_free


@BOTH
def test_a_port_in_use_for_a_moment(connect, one_session_sshd, service, on_host, monkeypatch):
    """It is free before ssh is asked and after ssh has failed; another port is chosen."""
    connection = connect(one_session_sshd)
    with socket.socket() as in_use:
        in_use.bind(("127.0.0.1", 0))
        taken = in_use.getsockname()[1]
        if on_host:
            monkeypatch.setattr(HostSide, "port_is_free", ports_with_one_free(taken))
        elif may_bind("::1"):  # else ssh may print only that there is no ::1
            monkeypatch.setattr(listeners.ports, "port_is_free", lambda port, addresses: True)
            with pytest.raises(PortInUseError):
                connection.forward_local(taken, service.port)
        name = "_dynamic_port" if on_host else "_free_port"
        chosen = [taken, free_port()]
        module = host_listeners if on_host else listeners
        monkeypatch.setattr(module, name, lambda *_: chosen.pop(0))
        forward = make_forward(connection, 0, service.port, on_host)
        assert (forward.port != taken, chosen) == (True, [])
        assert fetch(forward.port) == WORD
        monkeypatch.undo()


@pytest.mark.parametrize("ended", [True, False])
def test_a_listener_that_is_gone_at_once(connect, one_session_sshd, service, ended, monkeypatch):
    """If ssh has ended, the forward is made on a new connection; else it is an error."""
    connection = connect(one_session_sshd)
    look, looks = listeners.ports.is_listened_on, []

    def is_listened_on(address, port):
        looks.append((address, port))
        if len(looks) > 1:
            return look(address, port)
        if ended:
            for pid in sshs(one_session_sshd):
                os.kill(pid, signal.SIGKILL)
        return False

    connection.open()
    monkeypatch.setattr(listeners.ports, "is_listened_on", is_listened_on)
    if ended:
        assert fetch(connection.forward_local(0, service.port).port) == WORD
        assert logins(one_session_sshd) == 2
        return
    with pytest.raises(ForwardError, match="reports success"):
        connection.forward_local(0, service.port)
    assert not look(*looks[0])


@BOTH
def test_cancel_while_somebody_is_connected(connect, one_session_sshd, on_host):
    """They stay connected; the port is free all the same."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        forward = make_forward(connect(one_session_sshd), 0, listener.getsockname()[1], on_host)
        with socket.create_connection(("127.0.0.1", forward.port)) as client:
            served, _ = listener.accept()
            with served:
                forward.cancel()
                assert not answers(forward.port)
                served.sendall(b"hi")
                assert client.recv(2) == b"hi"


def test_a_forward_is_a_context_manager(connect, one_session_sshd):
    """It ends with the block."""
    with connect(one_session_sshd).forward_local(0, 22) as forward:
        assert answers(forward.port)
    assert not answers(forward.port)


@BOTH
def test_close_ends_it(connect, any_host, service, on_host, caplog):
    """Without a warning; the waiting thread gets the error."""
    connection = connect(any_host)
    forward = make_forward(connection, 0, service.port, on_host)
    connection.close()
    assert forward.wait(100)
    assert not forward.is_alive()
    assert not forward.lost
    wait_until(lambda: not answers(forward.port))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    forward.cancel()


@BOTH
def test_f38_a_lost_connection_ends_it(connect, any_host, service, on_host, caplog):
    """With a warning; and it does not come again by itself."""
    connection = connect(any_host)
    forward = make_forward(connection, 0, service.port, on_host)
    exposure = PortExposure("key", forward)
    any_host.kill_connections()
    exposure.join(100)
    assert forward.lost
    assert exposure.exitcode == 1
    await_nothing_on_manager(any_host)
    wait_until(lambda: any("Forward" in r.getMessage() for r in caplog.records))
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    connection.open()
    assert not answers(forward.port)
    assert not forward.is_alive()
    forward.cancel()
    again = make_forward(connection, forward.port, service.port, on_host)
    assert fetch(again.port) == WORD
    assert logins(any_host) == 2


def test_a_forward_after_a_loss_logs_in_once(connect, any_host, service):
    """The mux client does not log in by itself; the connection does."""
    connection = connect(any_host)
    connection.open()
    for pid in sshs(any_host):
        os.kill(pid, signal.SIGKILL)
    assert fetch(connection.forward_local(0, service.port).port) == WORD
    assert logins(any_host) == 2


def test_a_forked_child_cannot_cancel_it(connect, one_session_sshd, service):
    """It gets an error, and the forward lives."""
    forward = connect(one_session_sshd).forward_local(0, service.port)
    pid = os.fork()
    if pid == 0:
        try:
            forward.cancel()
        except LazyclusterError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert fetch(forward.port) == WORD


# --- in its way ---


def test_f38_a_port_that_is_taken_here(connect, one_session_sshd, service):
    """PortInUseError with the port and the side, before ssh is asked."""
    with pytest.raises(PortInUseError) as caught:
        connect(one_session_sshd).forward_local(service.port, 22)
    assert (caught.value.port, caught.value.side) == (service.port, "manager")


def test_f38_a_port_that_is_taken_on_the_host(connect, one_session_sshd, service):
    """PortInUseError with the port and the host."""
    with pytest.raises(PortInUseError) as caught:
        connect(one_session_sshd).forward_remote(service.port, 22)
    assert (caught.value.port, caught.value.side) == (service.port, one_session_sshd.alias)
    assert one_session_sshd.alias in str(caught.value)


def test_f38_a_port_that_is_taken_on_a_host_without_python(connect, bare_sshd, service):
    """There sshd says no more than no."""
    with pytest.raises(ForwardError, match="in use"):
        connect(bare_sshd).forward_remote(service.port, 22)


@BOTH
def test_f38_the_same_port_twice(connect, one_session_sshd, service, on_host):
    """The second is refused, though ssh would say yes; the first works on."""
    connection = connect(one_session_sshd)
    forward = make_forward(connection, 0, service.port, on_host)
    with pytest.raises(PortInUseError):
        make_forward(connection, forward.port, service.port, on_host)
    assert fetch(forward.port) == WORD


def test_the_same_port_by_many_threads(connect, one_session_sshd, service):
    """One of them gets it."""
    connection = connect(one_session_sshd)
    port, made, refused = free_port(), [], []

    def forward():
        try:
            made.append(connection.forward_local(port, service.port))
        except PortInUseError as error:
            refused.append(error)

    threads = [threading.Thread(target=forward) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (1, 4)
    assert fetch(port) == WORD


@BOTH
def test_f38_forwarding_is_forbidden(connect, make_sshd, service, on_host):
    """ForwardError that names AllowTcpForwarding; ssh alone would listen and drop everybody."""
    sshd = make_sshd(sshd_config=["AllowTcpForwarding no"])
    port = free_port()
    for asked in (port, 0):
        with pytest.raises(ForwardError, match="AllowTcpForwarding"):
            make_forward(connect(sshd), asked, service.port, on_host)
    assert not answers(port)


def test_a_host_that_permits_some_ports(connect, make_sshd, service):
    """PermitOpen: the port that it permits works, another is a ForwardError."""
    sshd = make_sshd(sshd_config=[f"PermitOpen localhost:{service.port}"])
    connection = connect(sshd)
    assert fetch(connection.forward_local(0, service.port).port) == WORD
    with pytest.raises(ForwardError, match="PermitOpen"):
        connection.forward_local(0, free_port())


@needs_privileged_ports
def test_f38_a_privileged_port_here(connect, one_session_sshd):
    """ForwardError with the system's reason."""
    with pytest.raises(ForwardError, match="Permission denied"):
        connect(one_session_sshd).forward_local(LOW_PORT, 22)


@needs_privileged_ports
def test_f38_a_privileged_port_on_the_host(connect, any_host):
    """ForwardError that names the possible reasons."""
    with pytest.raises(ForwardError, match="1024"):
        connect(any_host).forward_remote(LOW_PORT, 22)


def test_f38_gateway_ports_yes_is_a_warning(connect, make_sshd, service, caplog):
    """sshd listens on all addresses then, and everybody can connect."""
    sshd = make_sshd(sshd_config=["GatewayPorts yes"])
    connection = connect(sshd)
    forward = connection.forward_remote(0, service.port)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "GatewayPorts" in record.getMessage()
    assert str(forward.port) in record.getMessage()
    caplog.clear()
    connection.forward_local(0, service.port)
    assert not caplog.records


def test_gateway_ports_of_the_default_is_none(connect, one_session_sshd, service, caplog):
    """No warning where the listener is on loopback."""
    connect(one_session_sshd).forward_remote(0, service.port)
    assert not caplog.records


@BOTH
def test_f46_hostile_ssh_config_has_no_say_in_a_forward(connect, make_sshd, service, on_host):
    """Forwards, ClearAllForwardings and the like are for the user's own sessions."""
    busy = Service()
    lines = [f"LocalForward {busy.port} localhost:22", f"RemoteForward {busy.port} localhost:22"]
    lines += ["ExitOnForwardFailure yes", "GatewayPorts yes", "ClearAllForwardings yes"]
    sshd = make_sshd(ssh_config=lines)
    try:
        forward = make_forward(connect(sshd), 0, service.port, on_host)
        assert fetch(forward.port) == WORD
        with socket.socket() as other:
            other.bind(("127.0.0.2", forward.port))
        forward.cancel()
    finally:
        busy.close()


@pytest.mark.parametrize("ports", [(-1, 1), (65536, 1), (1, 0), (1, 65536), (True, 1), ("1", 1)])
def test_a_port_that_cannot_be(connect, one_session_sshd, ports, no_process):
    """A ValueError before any process is started."""
    with pytest.raises(ValueError, match="port"):
        connect(one_session_sshd).forward_local(*ports)


# --- the handle of a Runtime ---


def test_an_exposure_is_like_a_process(connect, one_session_sshd, service):
    """Alive without an exit code, then stopped like one that got SIGTERM."""
    forward = connect(one_session_sshd).forward_local(0, service.port)
    exposure = PortExposure("loopback::-L::1::2", forward)
    assert (exposure.name, exposure.pid, exposure.exitcode) == ("loopback::-L::1::2", None, None)
    assert exposure.is_alive()
    exposure.join(0.01)
    assert exposure.is_alive()
    exposure.terminate()
    assert not answers(forward.port)
    exposure.join()
    exposure.kill()
    assert (exposure.is_alive(), exposure.exitcode) == (False, -signal.SIGTERM)


def test_an_exposure_that_is_closed_with_its_connection(connect, one_session_sshd, service):
    """Exit code 0."""
    connection = connect(one_session_sshd)
    exposure = PortExposure("key", connection.forward_local(0, service.port))
    connection.close()
    exposure.join(100)
    assert exposure.exitcode == 0


def test_tasks_and_forwards_on_a_host_without_python(connect, bare_sshd, service):
    """The former say why not, and the latter live on."""
    connection = connect(bare_sshd)
    forward = connection.forward_local(0, service.port)
    with pytest.raises(TaskExecutionError) as caught:
        commands("echo hi").execute(connection)
    assert isinstance(caught.value.__cause__, PythonNotFoundError)
    assert fetch(forward.port) == WORD
