"""How the target of a forward on the host's loopback is spelled."""

from __future__ import annotations

import pytest

from lazycluster._ssh import forward_targets
from lazycluster._ssh.endpoints import Endpoint, Route
from lazycluster._ssh.forward_control import Probe
from lazycluster._ssh.host_side import HostSide

REACHED = Probe("", False)
UNKNOWN = Probe("", True)


class Events(list):
    """What happened, in order, on a host that does not know the `unknown` names."""

    unknown: tuple[str, ...] = ()


@pytest.fixture
def events(monkeypatch):
    events = Events()

    def probe(_transport, target):
        events.append(f"probe {target.host}")
        return UNKNOWN if target.host in events.unknown else REACHED

    monkeypatch.setattr(forward_targets, "probe", probe)
    return events


def choose(events, answer):
    """Return the host of the target; the host answers this, or has no Python."""

    def operate(operation, arguments, meanwhile):
        events.append("the host is asked")
        meanwhile()
        events.append("the host answers")
        return answer

    host = None if answer is None else HostSide(operate)
    route = Route(Endpoint("", 1), Endpoint("", 2), on_host=False)
    return forward_targets.choose_target(None, route, host).to.host


def test_the_host_looks_while_sshd_is_asked_for_localhost(events):
    """One after the other they would be two round trips."""
    assert choose(events, "localhost") == "localhost"
    assert events == ["the host is asked", "probe localhost", "the host answers"]


def test_the_only_address_of_a_service_is_preferred_to_localhost(events):
    assert choose(events, "::1") == "::1"
    assert events[1:] == ["probe localhost", "the host answers", "probe ::1"]


def test_no_name_is_probed_twice(events):
    events.unknown = ("localhost", "::1")
    assert choose(events, "::1") == "127.0.0.1"
    assert [event for event in events if event.startswith("probe")] == [
        "probe localhost",
        "probe ::1",
        "probe 127.0.0.1",
    ]


def test_without_python_names_are_probed_in_turn(events):
    events.unknown = ("localhost",)
    assert choose(events, None) == "127.0.0.1"
    assert events == ["probe localhost", "probe 127.0.0.1"]
