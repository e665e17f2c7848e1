"""Fixtures of all tests: folders of the run, an sshd, and a check that nothing is left behind."""

from __future__ import annotations

import glob
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from loopback_sshd import QUICK_LOGIN, LoopbackSshd
from support.interpreters import OWN_VERSION, find_interpreters
from support.processes import command_line, parents, words
from support.separate_host import SeparateSshd

MARKER = "LAZYCLUSTER_TEST_SESSION"
"""A variable of this process and of every process that comes from it, on either side."""

GRACE = 60.0
"""Seconds until processes and folders must have gone after the last test."""

# ── folders of the run ────────────────────────────────────────────────────────────────────────────

_world = pytest.MonkeyPatch()
_folders_before: set[str] = set()


def pytest_configure(config: pytest.Config) -> None:
    """Set HOME and the like to folders of this run, before a test module is imported."""
    _folders_before.update(_control_folders())
    # A short name, because the path of a socket may have about 90 bytes. Not lazycluster-*, because
    # nothing_left_behind looks for such folders.
    folder = Path(tempfile.mkdtemp(prefix="lctest-"))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.add_cleanup(_world.undo)
    _world.setenv(MARKER, uuid.uuid4().hex)
    for name, below in {
        "HOME": "home",
        "XDG_CACHE_HOME": "home/.cache",
        "XDG_CONFIG_HOME": "home/.config",
        "XDG_DATA_HOME": "home/.local/share",
        "XDG_STATE_HOME": "home/.local/state",
        "XDG_RUNTIME_DIR": "run",
        "TMPDIR": "tmp",
        "LAZYCLUSTER_HOME": "lazycluster",
    }.items():
        (folder / below).mkdir(mode=0o700, parents=True, exist_ok=True)
        _world.setenv(name, str(folder / below))
    tempfile.tempdir = None  # it caches the folder from before
    # Under nohup or in the background of a script these signals are ignored, and every process that
    # the tests start would inherit that.
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


# ── workers ───────────────────────────────────────────────────────────────────────────────────────


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Return how many workers `-n auto` starts: two for each core, as tests wait half the time."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist reads it
    usable = getattr(os, "sched_getaffinity", None)
    return 2 * (len(usable(0)) if usable else os.cpu_count() or 1)


# ── interpreters of hosts ─────────────────────────────────────────────────────────────────────────


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that runs the tests of the host's half with each Python."""
    parser.addoption(
        "--all-pythons",
        action="store_true",
        help="run the tests of the host's half with each Python from 3.6 on that is installed;"
        " by default with the oldest, the newest and the tests' own",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses `host_python` once for each interpreter."""
    if "host_python" in metafunc.fixturenames:
        versions = list(find_interpreters())  # the oldest comes first
        if not metafunc.config.getoption("--all-pythons"):
            chosen = {versions[0], OWN_VERSION, versions[-1]}
            versions = [version for version in versions if version in chosen]
        metafunc.parametrize("host_python", versions, indirect=True)


@pytest.fixture(scope="session")
def host_python(request: pytest.FixtureRequest) -> str:
    """Return the path of an interpreter that a host may have; see `--all-pythons`."""
    return find_interpreters()[request.param]


# ── an end ────────────────────────────────────────────────────────────────────────────────────────


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail each remaining test when the time is up, so that CI on an overloaded machine ends."""
    if time.time() > float(os.environ.get("LAZYCLUSTER_TEST_DEADLINE", "inf")):
        pytest.fail("no time is left for this test (LAZYCLUSTER_TEST_DEADLINE)", pytrace=False)


# ── an sshd ───────────────────────────────────────────────────────────────────────────────────────

MakeSshd = Callable[..., LoopbackSshd]


def _loopback_sshd(**arguments: Any) -> LoopbackSshd:
    """Make an sshd whose sessions carry the marker, and whose PATH begins with the tests' Python.

    It is the Python below the virtual environment, because a host has neither lazycluster nor
    cloudpickle installed.
    """
    return LoopbackSshd(**_with_defaults(arguments))


def _with_defaults(arguments: dict[str, Any]) -> dict[str, Any]:
    environment = {name: os.environ[name] for name in (MARKER, "TMPDIR")}
    environment.update(arguments.pop("environment", {}))
    arguments.setdefault("path", [Path(sys.base_prefix) / "bin"])
    lines = [*arguments.pop("sshd_config", ()), QUICK_LOGIN]
    return {"environment": environment, "sshd_config": lines, **arguments}


@pytest.fixture(scope="session")
def sshd() -> Iterator[LoopbackSshd]:
    """Return the sshd of all tests that leave it as it is."""
    with _loopback_sshd() as running:
        yield running


@pytest.fixture(scope="session")
def make_separate_sshd() -> Iterator[Callable[..., SeparateSshd]]:
    """Return a function that makes sshds like `separate_sshd`, for all tests."""
    with ExitStack() as stack:
        yield lambda **arguments: stack.enter_context(SeparateSshd(**_with_defaults(arguments)))


@pytest.fixture(scope="session")
def separate_sshd(make_separate_sshd: Callable[..., SeparateSshd]) -> SeparateSshd:
    """Return an sshd whose host has none of the manager's files and packages.

    Where no mount namespace can be made it is like `sshd`.
    """
    return make_separate_sshd()


@pytest.fixture
def both_sides(separate_sshd: SeparateSshd) -> Iterator[Path]:
    """Return a folder for one test that the manager and `separate_sshd` see under the same path."""
    folder = Path(tempfile.mkdtemp(dir=separate_sshd.folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def make_sshd() -> Iterator[MakeSshd]:
    """Return a function that makes sshds, with the arguments of LoopbackSshd, for one test."""
    with ExitStack() as stack:
        yield lambda **arguments: stack.enter_context(_loopback_sshd(**arguments))


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Return a function that writes local modules, named by their paths, and imports the first."""
    from support.local_modules import forgotten, write_modules  # imports lazycluster

    def make(**sources: str) -> ModuleType:
        write_modules(tmp_path, sources)
        return importlib.import_module(next(iter(sources)).replace("/", "."))

    monkeypatch.syspath_prepend(tmp_path)
    with forgotten(tmp_path):
        yield make


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if it starts a process."""

    def popen(*arguments: Any, **keywords: Any) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr("subprocess.Popen", popen)


# ── nothing is left behind ────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail the run if a process or a control folder is left after the last test.

    It is the first fixture of the session, so it ends last.
    """
    yield
    deadline = time.monotonic() + GRACE
    while left := [*_processes_of_ours(), *_new_control_folders()]:
        if time.monotonic() > deadline:
            pytest.fail("still there after the tests:\n" + "\n".join(left), pytrace=False)
        time.sleep(0.05)


def _processes_of_ours() -> list[str]:
    """Return the descendants of this process and all processes with the marker; needs /proc."""
    marker = f"{MARKER}={os.environ[MARKER]}".encode()
    parent_of = parents()
    mine = {os.getpid()}
    while older := {parent_of[pid] for pid in mine if pid in parent_of} - mine:
        mine |= older  # adds the ancestors
    found = []
    for pid in parent_of.keys() - mine:
        command = words(pid)
        # A zombie has no command. The servers of multiprocessing live as long as this process.
        if command in ([], [b""]) or any(b"multiprocessing." in word for word in command):
            continue
        if marker in words(pid, "environ") or _is_below(pid, os.getpid(), parent_of):
            found.append(f"process {pid}: {command_line(pid)}")
    return found


def _new_control_folders() -> list[str]:
    """Return the control folders that came since the start, without those of other users' runs."""
    new = _control_folders() - _folders_before
    if not new:
        return []
    marker = f"{MARKER}={os.environ[MARKER]}".encode()
    others = [command_line(pid) for pid in parents() if marker not in words(pid, "environ")]
    return [f"folder {path}" for path in sorted(new) if not any(path in line for line in others)]


def _control_folders() -> set[str]:
    places = {tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR") or "/tmp"}
    return {path for place in places for path in glob.glob(f"{glob.escape(place)}/lazycluster-*")}


def _is_below(pid: int, top: int, parent_of: dict[int, int]) -> bool:
    while pid in parent_of:
        pid = parent_of[pid]
        if pid == top:
            return True
    return False
