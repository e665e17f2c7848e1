"""Ports of a group: free ones, one exposed to all hosts, all or none."""

from __future__ import annotations

import contextlib
import socket

import pytest

from lazycluster import (
    ForwardError,
    GroupError,
    NoPortsLeftError,
    PortInUseError,
    Runtime,
    RuntimeGroup,
)
from lazycluster._group import ports as group_ports
from lazycluster._group.parallel import _Batch
from support.services import WORD, Service, answers, fetch, free_port
from support.waiting import wait_until


def serve(port):
    """Say a word to all who connect."""
    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            with server.accept()[0] as client:
                client.sendall(b"from afar")


def serve_on(runtime, port):
    """Serve a port of a host until the end of the connection."""
    future = runtime.submit(serve, port)
    wait_until(lambda: future.done() or runtime.call(answers, port))
    assert not future.done(), future.exception()


@pytest.fixture
def port():
    """A port that nothing uses here; each of the far hosts has all ports free."""
    return free_port()


@pytest.fixture
def service():
    """A service of the manager."""
    with contextlib.closing(Service()) as service:
        yield service


def exposures(group):
    """Return the keys of the exposures that are alive."""
    keys = [key for one in group for key in one.get_processes(only_alive=True)]
    return sorted(key for key in keys if Runtime.is_port_exposure_process(key))


def test_a_port_is_free_if_it_is_on_all_hosts(far_group, port, requests):
    assert far_group.has_free_port(port)
    assert requests == [["operation"]] * 3
    serve_on(far_group.get_runtime("far2"), port)
    assert not far_group.has_free_port(port)
    assert far_group.has_free_port(port, exclude_hosts="far2")
    assert far_group.has_free_port(port, exclude_hosts=["far2", "elsewhere"])
    with pytest.raises(ValueError, match="port"):
        far_group.has_free_port(0)


def test_free_ports_take_one_request_of_each_host(far_group, service, requests):
    """In 0.2 each port took a request of each host, and each request a login."""
    ports = [service.port, *range(50000, 50050)]
    found = far_group.get_free_port(ports)
    assert found in ports[1:]
    assert requests == [["operation"]] * 3


def test_the_first_port_that_is_free_everywhere_is_found(far_group, port, monkeypatch):
    other = free_port()
    serve_on(far_group.get_runtime("far1"), port)
    assert far_group.get_free_port([port, other]) == other
    with pytest.raises(NoPortsLeftError, match=r"None of the 1 ports is free on far\[1-2\],localh"):
        far_group.get_free_port([port])
    with pytest.raises(NoPortsLeftError):
        far_group.get_free_port([])
    monkeypatch.setattr(group_ports, "MOST_PORTS", 1)
    assert far_group.get_free_port((port, port, other)) == other


def test_the_manager_counts_if_it_is_to(far_group, service):
    far_group.remove_runtime("localhost")
    assert far_group.get_free_port([service.port]) == service.port
    with pytest.raises(NoPortsLeftError):
        far_group.get_free_port([service.port], enforce_check_on_localhost=True)


def test_a_service_of_the_manager_is_exposed_to_all(far_group, service, port):
    assert far_group.expose_port_to_runtimes(service.port, port) == port
    assert [runtime.call(fetch, port) for runtime in far_group] == [WORD] * 3
    far_group.cleanup()
    wait_until(lambda: not answers(port))


def test_localhost_needs_no_exposure_under_the_number_of_the_service(far_group, service):
    """In 0.2 that port was in use, by the service itself."""
    port = service.port
    assert far_group.expose_port_to_runtimes(port) == port
    assert exposures(far_group) == [f"far1::-R::{port}::{port}", f"far2::-R::{port}::{port}"]
    assert [runtime.call(fetch, port) for runtime in far_group] == [WORD] * 3


def test_of_several_ports_the_first_is_taken_that_is_free_on_all(far_group, service, port):
    ports = [port, free_port()]
    serve_on(far_group.get_runtime("far2"), port)
    assert far_group.expose_port_to_runtimes(service.port, ports) == ports[1]
    with pytest.raises(NoPortsLeftError):
        far_group.expose_port_to_runtimes(service.port, [port])


def test_hosts_that_are_left_out_have_no_exposure(far_group, service, port):
    far_group.expose_port_to_runtimes(service.port, port, exclude_hosts="far1")
    assert [runtime.call(answers, port) for runtime in far_group] == [False, True, True]


def test_a_port_that_is_in_use_is_an_error_before_any_exposure(far_group, service, port):
    serve_on(far_group.get_runtime("far2"), port)
    with pytest.raises(PortInUseError, match=f"Port {port} is in use on far2") as caught:
        far_group.expose_port_to_runtimes(service.port, port)
    assert (caught.value.port, caught.value.side) == (port, "far2")
    assert exposures(far_group) == []


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (PortInUseError("m", port=1, side="far2"), PortInUseError),
        (ForwardError("m", host="far2"), GroupError),
    ],
)
def test_if_one_host_fails_all_exposures_are_ended(
    far_group, service, port, monkeypatch, failure, error
):
    """As when the port is taken between the look and the exposure."""
    original = Runtime.expose_port_to_runtime

    def expose(self, *arguments):
        if self.host == "far2":
            wait_until(lambda: len(exposures(far_group)) == 2)
            raise failure
        return original(self, *arguments)

    monkeypatch.setattr(Runtime, "expose_port_to_runtime", expose)
    with pytest.raises(error, match="far2"):
        far_group.expose_port_to_runtimes(service.port, port)
    assert exposures(far_group) == []
    assert [runtime.call(answers, port) for runtime in far_group] == [False] * 3


def test_an_interruption_ends_all_exposures(far_group, service, port, monkeypatch):
    """As Ctrl-C does."""
    original = _Batch.has_more

    def interrupt(self):
        if exposures(far_group):
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(_Batch, "has_more", interrupt)
    with pytest.raises(KeyboardInterrupt):
        far_group.expose_port_to_runtimes(service.port, port)
    monkeypatch.undo()
    wait_until(lambda: not exposures(far_group))


def test_a_service_of_one_host_is_exposed_to_all_others(far_group, port):
    """localhost is the manager, which the connections pass anyway."""
    serve_on(far_group.get_runtime("far1"), port)
    assert far_group.expose_port_from_runtime_to_group("far1", port) == port
    assert [runtime.call(fetch, port) for runtime in far_group] == [b"from afar"] * 3
    assert exposures(far_group) == [f"far1::-L::{port}::{port}", f"far2::-R::{port}::{port}"]


def test_a_service_of_the_host_localhost_is_exposed_to_all_others(far_group, service):
    port = service.port
    assert far_group.expose_port_from_runtime_to_group("localhost", port) == port
    assert [runtime.call(fetch, port) for runtime in far_group] == [WORD] * 3


def test_the_other_hosts_may_have_another_port(far_group, port):
    others = [free_port(), free_port()]
    serve_on(far_group.get_runtime("far1"), port)
    with contextlib.closing(Service(port=others[0])):
        found = far_group.expose_port_from_runtime_to_group("far1", port, others)
    assert found == others[1]
    assert far_group.get_runtime("far2").call(fetch, found) == b"from afar"
    assert fetch(found) == b"from afar"


def test_a_port_that_is_in_use_on_the_manager_alone_does_not_matter(far_group, service):
    """The connections pass the manager on another port then."""
    port = service.port
    far_group.remove_runtime("localhost")
    serve_on(far_group.get_runtime("far1"), port)
    assert far_group.expose_port_from_runtime_to_group("far1", port) == port
    assert far_group.get_runtime("far2").call(fetch, port) == b"from afar"
    assert fetch(port) == WORD


def test_nothing_is_left_if_a_service_of_one_host_cannot_be_exposed(far_group, port, monkeypatch):
    def fail(self, *arguments):
        raise ForwardError("no", host=self.host)

    monkeypatch.setattr(Runtime, "expose_port_to_runtime", fail)
    with pytest.raises(GroupError, match="far2"):
        far_group.expose_port_from_runtime_to_group("far1", port)
    assert exposures(far_group) == []
    wait_until(lambda: not answers(port))


def test_names_of_one_machine_count_once(group, service, port):
    assert group.expose_port_to_runtimes(service.port, port) == port
    assert exposures(group) == [f"web1::-R::{port}::{service.port}"]
    assert group.run("true").ok
    group.get_runtime("web1").stop_process(exposures(group)[0])


def test_bad_arguments_are_errors_before_anything_is_asked(group, requests):
    for call in (
        lambda: group.expose_port_to_runtimes(0),
        lambda: group.expose_port_to_runtimes(80, 70000),
        lambda: group.expose_port_to_runtimes(80, [70000]),
        lambda: group.expose_port_to_runtimes("80"),
        lambda: group.expose_port_from_runtime_to_group("web1", 0),
        lambda: group.expose_port_from_runtime_to_group("web9", 80),
        lambda: group.expose_port_from_runtime_to_group("", 80),
        lambda: group.get_free_port([0]),
    ):
        with pytest.raises(ValueError, match=r"port|host"):
            call()
    with pytest.raises(TypeError):
        group.get_free_port("80")
    with pytest.raises(TypeError):
        group.get_free_port([80], enforce_check_on_localhost="yes")
    assert requests == []


def test_a_host_that_does_not_answer_is_named(group, monkeypatch):
    def fail(self, operation, **arguments):
        if self.host == "web2":
            raise OSError(24, "Too many open files")
        return {"free": arguments["ports"], "network": None}

    monkeypatch.setattr(Runtime, "_operate", fail)
    with pytest.raises(GroupError, match="web2: OSError") as caught:
        group.has_free_port(80)
    assert list(caught.value.errors) == ["web2"]


def test_the_end_of_a_group_ends_its_exposures_on_runtimes_of_others(far_group, service, port):
    with RuntimeGroup([far_group.get_runtime("far1")]) as part:
        part.expose_port_to_runtimes(service.port, port)
        assert exposures(far_group)
    assert exposures(far_group) == []
    assert far_group.get_runtime("far1").run("true")
