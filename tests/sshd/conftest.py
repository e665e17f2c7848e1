"""Fixtures of Runtimes and Connections on the loopback sshd."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lazycluster import Connection, Runtime
from lazycluster._conversation.conversation import Conversation
from loopback_sshd import LoopbackSshd
from support.hosts import Gate, call
from support.processes import end, recorded
from support.waiting import wait_until

PATIENT = {"connect_timeout": 150}  # seconds; a loaded computer is not a fault

# ── hosts ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def own_sshd(make_sshd: Callable[..., LoopbackSshd]) -> LoopbackSshd:
    """Return an sshd for one test, which may stop it, and whose log has only its logins."""
    return make_sshd()


@pytest.fixture
def bare_sshd(make_sshd: Callable[..., LoopbackSshd], tmp_path: Path) -> LoopbackSshd:
    """Return a host without Python: its PATH has only what the commands of tests need."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("cat", "head", "rm", "setsid", "sh", "sleep", "touch", "wc"):
        (tools / name).symlink_to(shutil.which(name) or "")
    return make_sshd(path=[], environment={"PATH": str(tools)})


@pytest.fixture(params=["python", "no python"])
def any_sshd(request: pytest.FixtureRequest) -> LoopbackSshd:
    """Return a host with Python, then one without."""
    return request.getfixturevalue("own_sshd" if request.param == "python" else "bare_sshd")


@pytest.fixture(scope="module")
def host_sshd(request: pytest.FixtureRequest) -> LoopbackSshd:
    """Return the sshd of a module's tests: `separate_sshd` if the module has that mark."""
    separate = request.node.get_closest_marker("separate_host")
    return request.getfixturevalue("separate_sshd" if separate else "sshd")


@pytest.fixture(scope="module")
def runtime(host_sshd: LoopbackSshd) -> Iterator[Runtime]:
    """Return the Runtime of all tests of a module, which leave it as it is."""
    keywords = {**PATIENT, "config_file": host_sshd.config_file}
    runtime = Runtime(host_sshd.alias, connection_kwargs=keywords)
    yield runtime
    runtime.cleanup()


@pytest.fixture
def make_runtime(host_sshd: LoopbackSshd) -> Iterator[Callable[..., Runtime]]:
    """Return a function that makes Runtimes for one test, on the common sshd or on another."""
    with ExitStack() as stack:

        def make(
            working_dir: str | None = None,
            *,
            on: LoopbackSshd = host_sshd,
            preload: Sequence[str] = (),
            **keywords: Any,
        ) -> Runtime:
            keywords = {**PATIENT, "config_file": on.config_file, **keywords}
            runtime = Runtime(
                on.alias, working_dir, connection_kwargs=keywords, preload=list(preload)
            )
            stack.callback(runtime.cleanup)
            return runtime

        yield make


@pytest.fixture
def own_runtime(make_runtime: Callable[..., Runtime]) -> Runtime:
    """Return a Runtime for one test, which may change it."""
    return make_runtime()


@pytest.fixture
def connection(sshd: LoopbackSshd) -> Iterator[Connection]:
    """Return a Connection for one test, not open yet."""
    connection = Connection(sshd.alias, config_file=sshd.config_file, **PATIENT)
    yield connection
    connection.close()


@pytest.fixture
def connect(make_sshd: Callable[..., LoopbackSshd]) -> Iterator[Callable[..., Connection]]:
    """Return a function that makes Connections to an sshd for one test, not open yet.

    They are closed before the sshds of `make_sshd` end.
    """
    with ExitStack() as stack:

        def connect(sshd: LoopbackSshd, **keywords: Any) -> Connection:
            connection = Connection(sshd.alias, config_file=sshd.config_file, **keywords)
            stack.callback(connection.close)
            return connection

        yield connect


@pytest.fixture
def user_config(
    sshd: LoopbackSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> LoopbackSshd:
    """Return the sshd, and make ssh know its alias as if from the user's own ssh_config.

    ssh looks for that file in the home folder of the account, which is the developer's, whatever
    HOME says. So a wrapper of ssh adds the option -F.
    """
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{sshd.config_file}" "$@"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(ssh.parent), prepend=os.pathsep)
    return sshd


@pytest.fixture
def gate(runtime: Runtime) -> Gate:
    """Return a gate at which commands of `runtime` wait for the test."""
    return Gate(runtime)


# ── what is looked at ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return a list that gets the kinds of the steps of each request from now on."""
    made: list[list[str]] = []
    original = Conversation.request

    def request(self: Conversation, steps: Any, **keywords: Any) -> Any:
        made.append([step["kind"] for step in steps])
        return original(self, steps, **keywords)

    monkeypatch.setattr(Conversation, "request", request)
    return made


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Return a folder whose path is short enough for sockets, if possible not in /tmp."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"
    folder = Path(tempfile.mkdtemp(prefix="lctest-", dir=place))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    """Return the folder in which steps record their pids; the processes end with the test."""
    folder = tmp_path / "pids"
    folder.mkdir()
    yield folder
    for pid in recorded(folder):
        end(pid)


@pytest.fixture
def nothing_left() -> Callable[[], None]:
    """Return a function that fails unless every process and control folder since now has gone."""
    before = _processes_and_folders()

    def check() -> None:
        wait_until(
            lambda: not _processes_and_folders() - before,
            lambda: f"something is left: {_described(_processes_and_folders() - before)}",
        )

    return check


@pytest.fixture
def stays_good(runtime: Runtime, nothing_left: Callable[[], None]) -> Iterator[None]:
    """Fail a test after which `runtime` has another connection, or that leaves something."""
    supervisor = call(runtime, os.getppid)
    yield
    assert call(runtime, os.getppid) == supervisor
    nothing_left()


def _processes_and_folders() -> set[str]:
    """Return the processes of this run, on either side, and its control folders.

    But for two that each supervisor may have forked from itself and that live as long as it does:
    the cleanup process, and a pre-forked process for the next function.
    """
    marker = f"LAZYCLUSTER_TEST_SESSION={os.environ['LAZYCLUSTER_TEST_SESSION']}".encode()
    found = set(glob.glob(f"{glob.escape(os.environ['XDG_RUNTIME_DIR'])}/lazycluster-*"))
    forked: dict[Path, list[str]] = {}
    for environ in glob.glob("/proc/[0-9]*/environ"):
        try:
            if marker not in Path(environ).read_bytes().split(b"\0"):
                continue
            process = Path(environ).parent
            parent = Path("/proc", (process / "stat").read_text().rpartition(")")[2].split()[1])
            if (process / "cmdline").read_bytes() == (parent / "cmdline").read_bytes():
                forked.setdefault(parent, []).append(environ)
            else:
                found.add(environ)
        except OSError:  # it ended, or it belongs to another user
            continue
    for children in forked.values():
        found.update(children if len(children) > 2 else ())
    return found


def _described(found: set[str]) -> list[str]:
    """Return what was found, processes with their command lines and states."""
    described = []
    for path in sorted(found):
        try:
            command = (Path(path).parent / "cmdline").read_bytes().replace(b"\0", b" ")
            status = (Path(path).parent / "stat").read_text().rpartition(")")[2].split()
            described.append(f"{path} {command!r:.300} {status[:4]}")
        except OSError:
            described.append(path)
    return described
