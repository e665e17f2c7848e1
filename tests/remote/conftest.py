"""Supervisors over a pair of pipes, with several interpreters."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.interpreters import OWN_VERSION, find_interpreters
from support.pipe_host import PipeHost

MakeHost = Callable[..., PipeHost]


@pytest.fixture(scope="session")
def own_python() -> str:
    """Return the path of an interpreter of the tests' own minor version."""
    return find_interpreters()[OWN_VERSION]


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Return the folder in which a host of `make_host` makes its temporary directories."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


@pytest.fixture
def make_host(tmp_path: Path, temporary: Path) -> Iterator[MakeHost]:
    """Return a function that starts supervisors for one test.

    They run the interpreter at a path, `python`, or a command line, `line`.
    """
    with ExitStack() as stack:

        def make(
            python: str | None = None, *, line: str | None = None, **settings: Any
        ) -> PipeHost:
            settings.setdefault("folder", tmp_path)
            line = shlex.quote(python) if python is not None else line
            host = PipeHost(line, temporary=temporary, **settings)
            stack.callback(host.close)
            return host

        yield make


@pytest.fixture(scope="session")
def _shared_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], PipeHost]]:
    hosts: dict[str, PipeHost] = {}

    def get(python: str) -> PipeHost:
        host = hosts.get(python)
        if host is not None and not host.is_idle:  # the previous test has failed
            host.close()
            host = None
        if host is None:
            folder = tmp_path_factory.mktemp("host")
            host = hosts[python] = PipeHost(shlex.quote(python), folder=folder, temporary=folder)
        return host

    yield get
    for host in hosts.values():
        host.close()


@pytest.fixture
def host(host_python: str, _shared_hosts: Callable[[str], PipeHost]) -> PipeHost:
    """Return a supervisor for tests that leave it idle, once with each interpreter."""
    return _shared_hosts(host_python)


@pytest.fixture
def own_host(own_python: str, _shared_hosts: Callable[[str], PipeHost]) -> PipeHost:
    """Return a supervisor for tests that leave it idle, with the tests' own minor version."""
    return _shared_hosts(own_python)


@pytest.fixture
def new_host(host_python: str, make_host: MakeHost) -> PipeHost:
    """Return a supervisor of the test's own, once with each interpreter."""
    return make_host(host_python)


@pytest.fixture
def new_own_host(own_python: str, make_host: MakeHost) -> PipeHost:
    """Return a supervisor of the test's own, with the tests' own minor version."""
    return make_host(own_python)
