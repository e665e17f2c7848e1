"""Ports that would lead to themselves, because the host `localhost` is the manager."""

from __future__ import annotations

import socket

import pytest

from lazycluster import Runtime

EXPOSE = {
    "to": Runtime.expose_port_to_runtime,
    "from": Runtime.expose_port_from_runtime,
}


@pytest.fixture
def localhost(make_sshd, make_runtime):
    """A Runtime of the manager itself, under the name that says so."""
    return make_runtime(on=make_sshd(alias=Runtime.LOCALHOST))


@pytest.fixture
def port():
    """A port that nothing uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def service():
    """The port of a service."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("expose", EXPOSE.values(), ids=EXPOSE)
def test_a_port_of_localhost_needs_no_exposure_under_its_own_number(localhost, service, expose):
    """There is no process, whether a service listens or not."""
    assert expose(localhost, service) == ""
    assert expose(localhost, service, service) == ""
    assert localhost.get_processes() == {}
    for method in (localhost.get_process, localhost.stop_process):
        with pytest.raises(ValueError, match="no process ''"):
            method("")


@pytest.mark.parametrize("expose", EXPOSE.values(), ids=EXPOSE)
def test_a_port_of_localhost_is_exposed_under_another_number(localhost, service, expose):
    """As on any host."""
    key = expose(localhost, service, 0)
    assert localhost.get_process(key).is_alive()
    localhost.stop_process(key)


@pytest.mark.parametrize("expose", EXPOSE.values(), ids=EXPOSE)
@pytest.mark.parametrize("own", [["boot", "1", "2"], None])
def test_localhost_may_be_another_machine_or_a_container(localhost, port, expose, own, monkeypatch):
    """ssh_config decides what the name means. Then the exposure is made."""
    monkeypatch.setattr("lazycluster._shared.ports.network_id", lambda: own)
    key = expose(localhost, port)
    assert localhost.get_process(key).is_alive()


@pytest.mark.parametrize("expose", EXPOSE.values(), ids=EXPOSE)
def test_a_host_with_another_name_is_exposed_to(own_runtime, port, expose, monkeypatch):
    """Although it is the manager; nothing is compared."""
    monkeypatch.setattr("lazycluster._shared.ports.network_id", pytest.fail)
    key = expose(own_runtime, port)
    assert own_runtime.get_process(key).is_alive()


@pytest.mark.parametrize("port", [0, -1, 65536, True, "80", None])
@pytest.mark.parametrize("expose", EXPOSE.values(), ids=EXPOSE)
def test_bad_port_of_localhost_is_refused(localhost, port, expose, no_process):
    """A ValueError."""
    with pytest.raises(ValueError, match="port"):
        expose(localhost, port)


@pytest.mark.parametrize(
    ("method", "arguments", "name"),
    [
        ("expose_port_to_runtime", (70000,), "local_port"),
        ("expose_port_to_runtime", (80, 70000), "runtime_port"),
        ("expose_port_from_runtime", (70000,), "runtime_port"),
        ("expose_port_from_runtime", (80, 70000), "local_port"),
    ],
)
def test_an_error_names_the_parameter_as_the_method_has_it(runtime, method, arguments, name):
    with pytest.raises(ValueError, match=f"Invalid {name} 70000"):
        getattr(runtime, method)(*arguments)
