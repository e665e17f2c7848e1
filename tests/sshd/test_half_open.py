"""Links that go silent while something is on its way over them: nothing says that they are gone."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from lazycluster import RuntimeTask
from lazycluster.exceptions import ConnectionLostError, FileTransferError
from support.hosts import await_step, ended, open_runtime, run
from support.managers import await_nothing_on_manager
from support.waiting import wait_until

KEEPALIVE = 1.0  # seconds; the end comes after four times that


@pytest.fixture
def silent_runtime(own_sshd):
    """A Runtime whose connection goes silent when the test stops its sshd."""
    runtime = open_runtime(own_sshd, keepalive=KEEPALIVE, orphan_timeout=4 * KEEPALIVE)
    yield runtime
    own_sshd.resume()
    runtime.cleanup()
    await_nothing_on_manager(own_sshd)


@pytest.mark.parametrize("way", ["up", "down"])
def test_f8_half_open_while_a_file_is_copied(own_sshd, silent_runtime, tmp_path, way):
    """Both sides find out, half a file stays on neither, and the next use works."""
    source, target = tmp_path / "source", tmp_path / "target"
    with open(source, "wb") as file:
        file.truncate(1 << 30)
    target.mkdir()
    target.chmod(0o755)
    task = RuntimeTask()
    if way == "up":
        task.send_file(str(source), str(target))
    else:
        task.get_file(str(source), str(target))
    silent_runtime.execute_task(task)

    def arrived():
        return sum(path.stat().st_size for path in target.iterdir())

    await_step(task)  # or it would be unknown whether it has started
    wait_until(arrived, lambda: f"nothing arrives: {task.error}")
    own_sshd.pause()
    error = ended(task).error
    assert isinstance(error, FileTransferError)
    assert isinstance(error.__cause__, ConnectionLostError)
    assert error.__cause__.started is True
    wait_until(lambda: not os.listdir(target), lambda: f"left: {os.listdir(target)}")
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert run(silent_runtime, "echo hi") == ["hi\n"]


@pytest.mark.parametrize("direction", ["from", "to"])
def test_f8_half_open_while_a_port_is_in_use(own_sshd, silent_runtime, direction):
    """Its connections are closed, and its port is no longer listened on."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        expose = getattr(silent_runtime, f"expose_port_{direction}_runtime")
        port = int(expose(service.getsockname()[1], 0).split("::")[2])
        with socket.create_connection(("127.0.0.1", port), 60) as client:
            server, _ = service.accept()
            with server:
                client.sendall(b"hello")
                assert server.recv(5) == b"hello"
                here = client if direction == "from" else server
                here.settimeout(200)
                own_sshd.pause()
                assert is_closed(here)
    own_sshd.resume()  # or the host would have no time to notice
    wait_until(lambda: is_refused(port), f"port {port} is still listened on")


def is_closed(end):
    """Wait until the other end of a connection has closed it."""
    try:
        return end.recv(1) == b""
    except ConnectionResetError:
        return True


def is_refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), 60).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass  # the listener has just stopped
    return False
