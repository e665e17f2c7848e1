"""The ends of a forward, as users give them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lazycluster._ssh.endpoints import (
    SOCKET_PATH_LIMIT,
    Endpoint,
    checked_bind_address,
    checked_route,
    checked_to_host,
)
from lazycluster._ssh.host_side import HostSide


def route(port, to_port, *, on_host=False, **ends):
    return checked_route(
        port, to_port, on_host=on_host, **{"to_host": None, "bind_address": None, **ends}
    )


@pytest.mark.parametrize(
    "host",
    ["db", "db.internal", "a-b.c_d.", "1a", "x" * 63, "127.0.0.1", "::1", "fe80::1%eth0", "a1.b2"],
)
def test_a_host_is_taken_as_it_is(host):
    assert checked_to_host(host) == host
    assert route(1, 2, to_host=host).to == Endpoint(host, 2)


@pytest.mark.parametrize("address", ["*", "localhost", "0.0.0.0", "::", "::1", "fe80::1%lo"])
def test_an_address_is_taken_as_it_is(address):
    assert checked_bind_address(address) == address
    assert route(1, 2, bind_address=address).listen == Endpoint(address, 1)


@pytest.mark.parametrize(
    ("end", "key", "addresses"),
    [
        (Endpoint("", 1), "1", ("127.0.0.1", "::1")),
        (Endpoint("localhost", 1), "1", ("127.0.0.1", "::1")),
        (Endpoint("*", 1), "*:1", ("0.0.0.0", "::")),
        (Endpoint("::1", 1), "[::1]:1", ("::1",)),
        (Endpoint("db", 1), "db:1", ("db",)),
        (Endpoint("", 0, "/a b"), "/a b", ("127.0.0.1", "::1")),
    ],
)
def test_a_key_has_what_is_not_loopback(end, key, addresses):
    assert (end.key, end.addresses) == (key, addresses)


def test_a_path_here_is_made_absolute_and_stays_literal(tmp_path, monkeypatch):
    """`..` leads where the system goes."""
    monkeypatch.chdir(tmp_path)
    for path in ("./a/../b", Path("a/../b"), "a/../b"):
        assert route(path, 1).listen.path == os.path.join(tmp_path, "a/../b")
    assert route(1, "/a//b", on_host=True).to.path == "/a/b"


def test_a_path_is_counted_in_bytes():
    longest = "/" + "ä" * ((SOCKET_PATH_LIMIT - 1) // 2)
    assert route(longest, 1).listen.path == longest
    with pytest.raises(ValueError, match="bytes"):
        route(longest + "ä", 1)


@pytest.mark.parametrize("answer", ["db]:1:[evil", "-oX", "", None, 7, ["::1"], "0.0.0.0"])
def test_an_address_that_a_hostile_host_reports_is_not_passed_to_ssh(answer):
    """It is one of loopback or localhost."""
    host = HostSide(lambda *_, **__: answer)
    assert host.service_address(1, meanwhile=lambda: None) == "localhost"
