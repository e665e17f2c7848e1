"""However the manager ends while it copies and its ports are in use: nothing of ours is left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from loopback_sshd import QUICK_LOGIN, LoopbackSshd
from support.managers import Manager, on_manager, sshs
from support.processes import await_gone, is_alive, parent
from support.waiting import wait_until

COPIES = ("up-file", "up-folder", "up-tree", "down-file", "down-folder", "down-tree")
SIZE = 1 << 30  # bytes of a file without any; far more than arrives before the end


class CopyingManager(Manager):
    """One that copies, and a service of the test's own that its exposed ports lead to."""

    def __init__(self, sshd, which):
        self._stack = ExitStack()
        self.service = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.sockets = []
        super().__init__(sshd, which)

    def prepare(self):
        """The sources, the targets and the service's port."""
        (self.folder / "folder").mkdir()
        (self.folder / "tree/a/b").mkdir(parents=True)
        for path in ("file", "folder/file", "tree/a/b/file"):
            with open(self.folder / path, "wb") as file:
                file.truncate(SIZE)
        for name in COPIES:
            (self.folder / name).mkdir()
            (self.folder / name).chmod(0o755)
        for way in ("up", "down"):  # a folder that is there
            (self.folder / f"{way}-tree/tree/a/b").mkdir(parents=True)
        (self.folder / "service").write_text(str(self.service.getsockname()[1]))

    def __exit__(self, *_):
        self._stack.close()
        self.go_on()
        super().__exit__()

    def await_busy(self):
        """Wait until all is under way, and use the ports."""
        self.await_ready()
        assert all(is_alive(pid) for pid in self.ready["copies"])
        for name in COPIES:
            (temporary,) = self.left()[name]
            assert temporary.name.startswith(".lazycluster-")
            assert str(temporary.parent).endswith("tree/tree/a/b") == name.endswith("tree")
        for port in self.ready["ports"]:
            client = self._stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            server = self._stack.enter_context(self.service.accept()[0])
            client.sendall(b"hello")
            assert server.recv(5) == b"hello"
            for end in (client, server):
                end.settimeout(200)
                self.sockets.append(end)

    def go_on(self):
        """Let the copies go on, so that they are at work when the end comes."""
        for pid in self.ready.get("copies", ()):
            if is_alive(pid):
                os.kill(pid, signal.SIGCONT)

    def await_nothing_left(self):
        await_gone(self.ready["copies"], "copies on the host")
        super().await_nothing_left()
        assert all(is_closed(end) for end in self.sockets)
        for port in self.ready["ports"]:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), 60)
        # The host's supervisor removes one temporary after the other, its working directory first.
        wait_until(lambda: not any(self.left().values()), lambda: f"left: {self.left()}")
        modes = {name: stat.S_IMODE((self.folder / name).stat().st_mode) for name in COPIES}
        assert set(modes.values()) == {0o755}, modes

    def left(self):
        """What is in the folders of the targets, but for the folders that were there before."""
        there = ("tree", "a", "b")
        found = {name: [] for name in COPIES}
        for name, paths in found.items():
            for folder, folders, files in os.walk(self.folder / name):
                new = [entry for entry in (*folders, *files) if entry not in there]
                paths += [Path(folder, entry) for entry in new]
                folders[:] = [entry for entry in folders if entry in there]
        return found


def is_closed(end):
    """Wait until the other end of a connection has closed it."""
    try:
        return end.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture(scope="module")
def jumped_sshd():
    """An sshd that is reached through two others."""
    with ExitStack() as stack:

        def make(*alias, **arguments):
            sshd = LoopbackSshd(*alias, sshd_config=[QUICK_LOGIN], **arguments)
            return stack.enter_context(sshd)

        jumps = [make(f"jump{number}") for number in (1, 2)]
        last = make(ssh_config=["ProxyJump jump1,jump2"])
        folder = Path(tempfile.mkdtemp(prefix="lctest-"))
        stack.callback(shutil.rmtree, folder)
        config_file = folder / "ssh_config"
        config_file.write_text("".join(sshd.config_file.read_text() for sshd in (last, *jumps)))
        yield SimpleNamespace(config_file=config_file, alias=last.alias, sshs=3)


@pytest.fixture(params=["directly", "through two jump hosts"])
def host(request, sshd):
    if request.param == "directly":
        return SimpleNamespace(config_file=sshd.config_file, alias=sshd.alias, sshs=1)
    return request.getfixturevalue("jumped_sshd")


@pytest.fixture
def start(host):
    """Starts a manager that ends with the test, and waits until it is busy."""
    with ExitStack() as stack:

        def start(which):
            manager = stack.enter_context(CopyingManager(host, which))
            manager.await_busy()
            assert len(sshs(host)) == host.sshs
            return manager

        yield start


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_f33_a_manager_that_a_signal_ends_while_it_copies_leaves_nothing(start, number):
    """Neither half a copy on either side, nor a port, nor a process."""
    manager = start("copies")
    manager.go_on()
    os.kill(manager.pid, number)
    assert manager.await_end() == -number
    manager.await_nothing_left()
    assert manager.stderr == ""


def test_f33_ctrl_c_while_it_copies_leaves_nothing(start):
    """SIGINT goes to all of the manager's process group, as a terminal sends it."""
    manager = start("copies")
    manager.go_on()
    os.killpg(manager.pid, signal.SIGINT)
    manager.await_end()
    manager.await_nothing_left()
    assert manager.stderr.endswith("\nKeyboardInterrupt\n")


@pytest.mark.parametrize(
    ("which", "status", "error"),
    [
        ("ends_copying", 0, "or cleanup() of the Runtime to stop them."),
        ("raises_copying", 1, "RuntimeError: expected 6"),
    ],
)
def test_f33_a_manager_that_exits_while_it_copies_leaves_nothing(start, which, status, error):
    """Nothing is waited for, which one WARNING says, unless the program has failed."""
    manager = start(which)
    manager.go_on()
    (manager.folder / "go").touch()
    assert manager.await_end() == status, manager.stderr
    manager.await_nothing_left()
    assert manager.stderr.strip().endswith(error)
    assert manager.stderr.count("6 tasks were still running") == (status == 0)


def test_f33_a_killed_supervisor_leaves_no_half_copy(start):
    """On either side; the manager lives on and is told."""
    manager = start("copies")
    supervisors = {parent(pid) for pid in manager.ready["copies"]}
    (supervisor,) = supervisors
    manager.go_on()
    os.kill(supervisor, signal.SIGKILL)
    await_gone(manager.ready["copies"], "copies on the host")
    wait_until(lambda: not any(manager.left().values()), lambda: f"left: {manager.left()}")
    wait_until(lambda: not on_manager(manager.sshd), "ssh lives on")
    manager.await_end()
    manager.await_nothing_left()
    assert manager.stderr.count("was lost") >= len(COPIES)
