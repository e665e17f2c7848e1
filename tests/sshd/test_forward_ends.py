"""Where a forward listens and what it leads to: third hosts, addresses, the names of loopback."""

from __future__ import annotations

import contextlib
import logging
import socket

import pytest

from lazycluster.exceptions import ForwardError, PortInUseError
from support.machine import needs_ipv6
from support.services import WORD, Service, answers, fetch, free_port

BOTH = pytest.mark.parametrize("on_host", [False, True], ids=["-L", "-R"])


def make_forward(connection, port, to_port, on_host, **ends):
    """Forward in the given direction."""
    make = connection.forward_remote if on_host else connection.forward_local
    return make(port, to_port, **ends)


@pytest.fixture
def service():
    with contextlib.closing(Service()) as service:
        yield service


@pytest.fixture
def third():
    """A service that only those reach who connect to another address than loopback's."""
    with contextlib.closing(Service("127.0.0.2")) as service:
        yield service


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


# --- to_host ---


@BOTH
@pytest.mark.parametrize("any_host", ["sshd", "bare_sshd"])
def test_a_third_host_is_reached(connect, third, on_host, any_host, request):
    connection = connect(request.getfixturevalue(any_host))
    forward = make_forward(connection, 0, third.port, on_host, to_host="127.0.0.2")
    assert (forward.to_host, forward.to_port) == ("127.0.0.2", third.port)
    assert fetch(forward.port) == WORD
    with pytest.raises(PortInUseError):
        make_forward(connection, forward.port, third.port, on_host, to_host="127.0.0.2")


@BOTH
def test_a_third_host_is_not_connected_to_before_a_client_comes(connect, sshd, third, on_host):
    """Not on another port either, which a firewall may drop or report."""
    forward = make_forward(connect(sshd), 0, third.port, on_host, to_host="127.0.0.2")
    assert third.count == 0
    assert "127.0.0.2" in str(forward)


@BOTH
@pytest.mark.parametrize("ports", [(0, "port"), ("port", 0)])
def test_each_third_host_has_a_forward_of_its_own(connect, sshd, third, service, on_host, ports):
    connection = connect(sshd)
    forwards = [
        make_forward(connection, 0, service.port, on_host, to_host="127.0.0.1"),
        make_forward(connection, 0, third.port, on_host, to_host="127.0.0.2"),
    ]
    forwards[0].cancel()
    assert not answers(forwards[0].port)
    assert fetch(forwards[1].port) == WORD


# --- the names of loopback ---


@needs_ipv6
@BOTH
def test_a_service_on_an_address_that_localhost_does_not_lead_to(
    make_sshd, connect, on_host, tmp_path, monkeypatch
):
    """As where the hosts file has localhost for IPv4 alone."""
    monkeypatch.setattr(socket, "getaddrinfo", _only_ipv4(socket.getaddrinfo))
    with contextlib.closing(Service("::1")) as service:
        forward = make_forward(connect(make_sshd()), 0, service.port, on_host)
        known = {family for family, *_ in socket.getaddrinfo("localhost", 1)}
        assert known == {socket.AF_INET}
        assert fetch(forward.port) == WORD


def _only_ipv4(original):
    def getaddrinfo(host, port, family=0, *arguments, **keywords):
        return original(host, port, family or socket.AF_INET, *arguments, **keywords)

    return getaddrinfo


@needs_ipv6
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_f38_permit_open_of_any_spelling_of_loopback(connect, make_sshd, name):
    """It is tried with the others; only the service itself is permitted, so it is connected to."""
    with contextlib.closing(Service("::1" if name == "::1" else "127.0.0.1")) as service:
        spelled = f"[{name}]" if ":" in name else name
        sshd = make_sshd(sshd_config=[f"PermitOpen {spelled}:{service.port}"])
        connection = connect(sshd)
        forward = connection.forward_local(0, service.port)
        assert fetch(forward.port) == WORD
        with pytest.raises(ForwardError, match=r"refuses .*PermitOpen must allow localhost:1234\."):
            connection.forward_local(0, 1234)


@needs_ipv6
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_f38_permit_listen_of_any_spelling_of_loopback(connect, make_sshd, service, name):
    port = free_port()
    spelled = f"[{name}]" if ":" in name else name
    sshd = make_sshd(sshd_config=[f"PermitListen {spelled}:{port}"])
    connection = connect(sshd)
    forward = connection.forward_remote(port, service.port)
    assert fetch(port, "::1" if name == "::1" else "127.0.0.1") == WORD
    forward.cancel()
    other = free_port()
    with pytest.raises(ForwardError, match=rf"refuses .*PermitListen must allow localhost:{other}"):
        connection.forward_remote(other, service.port)


def test_f38_permit_open_of_a_third_host(connect, make_sshd, third):
    """Nothing else is permitted."""
    sshd = make_sshd(sshd_config=[f"PermitOpen 127.0.0.2:{third.port}"])
    connection = connect(sshd)
    forward = connection.forward_local(0, third.port, to_host="127.0.0.2")
    assert fetch(forward.port) == WORD
    with pytest.raises(ForwardError, match=r"PermitOpen must allow 127\.0\.0\.3:9\."):
        connection.forward_local(0, 9, to_host="127.0.0.3")


# --- the listening side ---


@needs_ipv6
@BOTH
def test_ipv4_and_ipv6_are_listened_on(connect, sshd, service, on_host):
    """As `ssh -L` does; programs try either first for localhost."""
    forward = make_forward(connect(sshd), 0, service.port, on_host)
    for address in ("127.0.0.1", "::1"):
        assert fetch(forward.port, address) == WORD
    forward.cancel()
    for address in ("127.0.0.1", "::1"):
        assert not answers(forward.port, address)


@BOTH
def test_another_address_may_have_the_port(connect, sshd, service, third, on_host):
    """It is not in use where the forward listens."""
    forward = make_forward(connect(sshd), third.port, service.port, on_host)
    assert fetch(forward.port) == fetch(third.port, "127.0.0.2") == WORD
    forward.cancel()
    assert not answers(forward.port)
    assert fetch(third.port, "127.0.0.2") == WORD


@needs_ipv6
@BOTH
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_f38_a_port_that_is_taken_on_an_address_to_listen_on(
    connect, sshd, service, on_host, address
):
    """One of the two is enough: a client of localhost would reach another service."""
    with contextlib.closing(Service(address)) as taken:
        with pytest.raises(PortInUseError) as caught:
            make_forward(connect(sshd), taken.port, service.port, on_host)
        assert caught.value.port == taken.port
        assert fetch(taken.port, {"::": "::1"}.get(address, address)) == WORD


@pytest.mark.parametrize("bind_address", ["127.0.0.1", "127.0.0.5", "localhost"])
def test_an_address_here_is_listened_on_alone(connect, sshd, service, bind_address):
    forward = connect(sshd).forward_local(0, service.port, bind_address=bind_address)
    assert forward.bind_address == bind_address
    address = "127.0.0.1" if bind_address == "localhost" else bind_address
    assert fetch(forward.port, address) == WORD
    assert not answers(forward.port, "127.0.0.9")
    forward.cancel()
    assert not answers(forward.port, address)


@pytest.mark.parametrize("bind_address", ["*", "0.0.0.0"])
def test_all_addresses_here(connect, sshd, service, bind_address, caplog):
    """They were asked for, so there is no warning."""
    forward = connect(sshd).forward_local(0, service.port, bind_address=bind_address)
    assert fetch(forward.port, "127.0.0.9") == WORD
    assert not warnings(caplog)
    forward.cancel()
    assert not answers(forward.port)


@pytest.mark.parametrize("port", [0, 45454])
def test_an_address_that_is_not_here(connect, sshd, service, port):
    """TEST-NET-3 belongs to nobody."""
    with pytest.raises(ForwardError, match=r"203.0.113.1.*Cannot assign requested address"):
        connect(sshd).forward_local(port, service.port, bind_address="203.0.113.1")


@pytest.mark.parametrize("gateway", ["clientspecified", "yes", "no"])
@pytest.mark.parametrize("bind_address", ["127.0.0.5", "*", "0.0.0.0", None])
def test_f38_gateway_ports(connect, make_sshd, service, gateway, bind_address, caplog):
    """sshd does not say that it listens elsewhere: it is looked at."""
    connection = connect(make_sshd(sshd_config=[f"GatewayPorts {gateway}"]))
    if gateway == "no" and bind_address:
        with pytest.raises(ForwardError, match=r"GatewayPorts no\).*`clientspecified`"):
            connection.forward_remote(0, service.port, bind_address=bind_address)
        return
    forward = connection.forward_remote(0, service.port, bind_address=bind_address)
    address = {"*": "127.0.0.9", "0.0.0.0": "127.0.0.9"}.get(bind_address, bind_address)
    assert fetch(forward.port, address or "127.0.0.1") == WORD
    wider = gateway == "yes" and bind_address in (None, "127.0.0.5")
    assert len(warnings(caplog)) == wider
    assert not wider or "GatewayPorts yes" in warnings(caplog)[0]
    forward.cancel()
    assert not answers(forward.port, address or "127.0.0.1")


def test_an_address_that_the_host_does_not_have(connect, make_sshd, service):
    connection = connect(make_sshd(sshd_config=["GatewayPorts clientspecified"]))
    with pytest.raises(ForwardError, match=r"203\.0\.113\.1 must be an address of the host"):
        connection.forward_remote(0, service.port, bind_address="203.0.113.1")


@pytest.mark.parametrize(("family", "address"), [("inet", "127.0.0.1"), ("inet6", "::1")])
@needs_ipv6
def test_ssh_config_has_one_family_alone(connect, make_sshd, service, family, address):
    """IPv4 is enough, as without IPv6; a script that connects to 127.0.0.1 is not left alone."""
    lines = [f"AddressFamily {family}"]
    if family == "inet6":
        lines += ["HostName ::ffff:127.0.0.1", "StrictHostKeyChecking no"]
    sshd = make_sshd(ssh_config=lines)
    connection = connect(sshd)
    if family == "inet6":
        with pytest.raises(ForwardError, match=r"AddressFamily inet6"):
            connection.forward_local(0, service.port)
        forward = connection.forward_local(0, service.port, bind_address="::1", to_host="127.0.0.1")
    else:
        forward = connection.forward_local(0, service.port)
    assert fetch(forward.port, address) == WORD


# --- what sshd forbids ---

REFUSALS = [
    ("AllowTcpForwarding no", "-L", r"AllowTcpForwarding must be `yes` or `local`\."),
    ("AllowTcpForwarding remote", "-L", r"AllowTcpForwarding must be `yes` or `local`\."),
    ("AllowTcpForwarding no", "-R", r"AllowTcpForwarding must be `yes` or `remote`\."),
    ("AllowTcpForwarding local", "-R", r"AllowTcpForwarding must be `yes` or `remote`\."),
    ("DisableForwarding yes", "-L", r"DisableForwarding must be `no`\."),
    ("DisableForwarding yes", "-R", r"DisableForwarding must be `no`\."),
    ("PermitOpen none", "-L", r"PermitOpen must allow localhost:\d+\."),
    ("PermitListen none", "-R", r"PermitListen must allow localhost:\d+\."),
]
QUOTES = {"-L": r"\(administratively prohibited.*\)", "-R": r"\(remote port forwarding failed.*\)"}


@pytest.mark.parametrize(("line", "flag", "sentence"), REFUSALS, ids=lambda text: text[:30])
@pytest.mark.parametrize("python", [True, False])
def test_f38_sshd_is_quoted_and_what_can_refuse_it_is_named(
    connect, make_sshd, bare_sshd, service, line, flag, sentence, python
):
    """Each option by a sentence of its own, since sshd does not say which it is."""
    if python:
        sshd = make_sshd(sshd_config=[line])
    else:
        environment = {"PATH": str(bare_sshd.folder)}
        sshd = make_sshd(sshd_config=[line], path=[], environment=environment)
    with pytest.raises(ForwardError, match=rf"{QUOTES[flag]}.*{sentence}") as caught:
        make_forward(connect(sshd), 0, service.port, flag == "-R")
    assert "\n" not in str(caught.value)
    ends = {"to_host": "127.0.0.2"} if flag == "-L" else {"bind_address": "127.0.0.2"}
    with pytest.raises(ForwardError, match=sentence.replace("localhost", "127.0.0.2")):
        make_forward(connect(sshd), 0, service.port, flag == "-R", **ends)


@BOTH
def test_f38_a_key_without_forwards(connect, make_sshd, service, on_host):
    """`restrict` in authorized_keys refuses as sshd_config does."""
    sshd = make_sshd()
    keys = sshd.folder / "authorized_keys"
    keys.write_text("restrict " + keys.read_text())
    with pytest.raises(ForwardError, match=r"authorized_keys must not have `restrict`"):
        make_forward(connect(sshd), 0, service.port, on_host)


# --- bad input ---


@BOTH
@pytest.mark.parametrize(
    "to_host",
    [
        *("", " ", "-L", "-oProxyCommand=x", "a b", "a:1", "[::1]", "a/b", "a\nb", "a\0b"),
        *("256.1.1.1", "1.2.3", "0x7f.1", "::1::", "fe80::1%", "1.2.3.4%lo", "a" * 64),
        *("a." * 127, "ä.de", "a..b", ".a", "$(x)", "a;b", "a,b", "*", "user@host", 1, b"a"),
    ],
)
def test_a_host_that_is_none(connect, sshd, on_host, to_host, no_process):
    """A ValueError with the input, before any process is started."""
    with pytest.raises(ValueError, match=r"Invalid to_host") as caught:
        make_forward(connect(sshd), 0, 1, on_host, to_host=to_host)
    assert repr(to_host) in str(caught.value)


@BOTH
@pytest.mark.parametrize(
    "address",
    ["", "-R", "host", "a.de", "[::1]", "127.1", "256.1.1.1", "1.2.3.4:5", "::1\n", 1, b"::"],
)
def test_an_address_that_is_none(connect, sshd, on_host, address, no_process):
    with pytest.raises(ValueError, match=r"Invalid bind_address") as caught:
        make_forward(connect(sshd), 0, 1, on_host, bind_address=address)
    assert repr(address) in str(caught.value)


# --- a Runtime ---


def test_a_runtime_exposes_third_hosts_and_addresses(own_runtime, third):
    """The key has what is not loopback."""
    key = own_runtime.expose_port_from_runtime(third.port, 0, to_host="127.0.0.2")
    port = own_runtime.get_process(key).port
    assert key == f"{own_runtime.host}::-L::{port}::127.0.0.2:{third.port}"
    assert fetch(port) == WORD
    key = own_runtime.expose_port_to_runtime(
        third.port, 0, to_host="127.0.0.2", bind_address="127.0.0.1"
    )
    port = own_runtime.get_process(key).port
    assert key == f"{own_runtime.host}::-R::127.0.0.1:{port}::127.0.0.2:{third.port}"
    assert fetch(port) == WORD
    assert own_runtime.is_port_exposure_process(key)
    own_runtime.stop_process(key)
    assert not answers(port)
