"""Many exposures, much data, and a client that does not read: the connection still works."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading

import pytest

from support.hosts import call, run
from support.waiting import wait_until

SIZE = int(os.environ.get("LAZYCLUSTER_TEST_STREAM", 2**27))  # bytes each way


@pytest.fixture
def serve():
    """Starts a service that does something with each of its connections; its port."""
    listeners = []

    def start(action):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=action, args=[client], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return listener.getsockname()[1]

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)  # which wakes who accepts
        listener.close()


def echo(client):
    with client:
        while data := client.recv(1 << 16):
            client.sendall(data)


def test_a_hundred_exposures(own_runtime, serve):
    """Each leads to its service, and each ends by itself, also when all are stopped at once."""
    port = serve(echo)
    keys = [own_runtime.expose_port_from_runtime(port, 0) for _ in range(50)]
    keys += [own_runtime.expose_port_to_runtime(port, 0) for _ in range(50)]
    ports = [own_runtime.get_process(key).port for key in keys]
    assert len(set(keys)) == 100
    for listening in ports:
        with socket.create_connection(("127.0.0.1", listening)) as client:
            client.sendall(b"hi")
            assert client.recv(2) == b"hi"
    own_runtime.stop_process(keys[0])
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", ports[0]))
    assert run(own_runtime, "echo hi") == ["hi\n"]
    own_runtime.cleanup()
    for listening in ports:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", listening))


def test_much_through_both_ways_at_once(own_runtime, serve):
    """Whole, while commands and functions go on."""
    block = os.urandom(1 << 16)
    expected = hashlib.sha256()
    for _ in range(SIZE // len(block)):
        expected.update(block)

    def pour(client):
        with client, contextlib.suppress(OSError):
            for _ in range(SIZE // len(block)):
                client.sendall(block)

    port = serve(pour)
    ways = [own_runtime.expose_port_from_runtime(port, 0)]
    ways.append(own_runtime.expose_port_to_runtime(port, 0))
    found = {}

    def drain(key):
        seen = hashlib.sha256()
        listening = own_runtime.get_process(key).port
        with socket.create_connection(("127.0.0.1", listening)) as client:
            while data := client.recv(1 << 18):
                seen.update(data)
        found[key] = seen.digest()

    threads = [threading.Thread(target=drain, args=[key]) for key in ways]
    for thread in threads:
        thread.start()
    assert run(own_runtime, "echo hi") == ["hi\n"]
    assert call(own_runtime, os.getpid) > 0
    for thread in threads:
        thread.join()
    assert found == {key: expected.digest() for key in ways}


@pytest.mark.parametrize("way", ["from", "to"])
def test_who_does_not_read_holds_up_nobody_else(own_runtime, serve, way):
    """A full forward waits by itself: commands, functions and another forward go on."""
    begun = threading.Event()

    def flood(client):
        client.settimeout(1)
        with client, contextlib.suppress(OSError):
            while True:
                client.sendall(bytes(1 << 20))

    def flood_it(client):
        begun.set()
        flood(client)

    ports = [serve(flood_it), serve(echo)]
    make = (
        own_runtime.expose_port_from_runtime
        if way == "from"
        else own_runtime.expose_port_to_runtime
    )
    full, other = (own_runtime.get_process(make(port, 0)).port for port in ports)
    with socket.create_connection(("127.0.0.1", full)):
        wait_until(begun.is_set)
        for _ in range(20):
            assert run(own_runtime, "echo hi") == ["hi\n"]
        with socket.create_connection(("127.0.0.1", other)) as client:
            client.sendall(b"hi")
            assert client.recv(2) == b"hi"
