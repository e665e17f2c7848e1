"""Sockets of forwards in the file system."""

from __future__ import annotations

import os
import socket

import pytest

from lazycluster._shared import ports, sockets


@pytest.fixture
def bind(tmp_path, monkeypatch):
    """Bind a socket at a name, which is left when it is closed."""
    monkeypatch.chdir(tmp_path)

    def bind(name):
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(name)
        return name

    return bind


def test_a_socket_is_removed_once(bind):
    path = bind("a")
    identity = sockets.socket_identity(path)
    assert sockets.remove_socket(path, identity)
    assert not os.path.lexists(path)
    assert not sockets.remove_socket(path, identity)


def test_another_socket_at_its_path_stays(bind):
    """On some file systems it has the same inode number."""
    identity = sockets.socket_identity(bind("a"))
    os.unlink("a")
    while sockets.socket_identity("a") in (None, identity):  # until the clock of files goes on
        bind("b")
        os.replace("b", "a")
    assert not sockets.remove_socket("a", identity)
    assert os.path.exists("a")


@pytest.mark.parametrize("kind", ["file", "folder", "link", "nothing"])
def test_what_is_no_socket_has_no_identity_and_stays(bind, kind):
    if kind == "file":
        open("a", "w").close()
    elif kind == "folder":
        os.mkdir("a")
    elif kind == "link":
        os.symlink(bind("b"), "a")
    assert sockets.socket_identity("a") is None
    assert not sockets.remove_socket("a", [0, 0, 0])
    assert os.path.lexists("a") == sockets.path_is_taken("a") == (kind != "nothing")


def test_a_server_accepts_and_what_it_left_does_not(bind):
    assert not ports.socket_accepts(bind("dead"))
    assert not ports.socket_accepts("missing")
    assert not ports.socket_accepts("x" * 200)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("a")
        server.listen()
        assert ports.socket_accepts("a")


def test_an_expected_socket_is_any_that_came_where_nothing_was(bind):
    """A side that is killed before it knows the socket leaves none."""
    assert sockets.expect_socket("a")
    assert not sockets.remove_socket("a", sockets.EXPECTED)
    bind("a")
    assert not sockets.expect_socket("a")
    assert sockets.remove_socket("a", sockets.EXPECTED)
    open("a", "w").close()
    assert not sockets.remove_socket("a", sockets.EXPECTED)
    assert os.path.exists("a")
