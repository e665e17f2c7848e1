"""Runtimes on hosts with the libraries of this environment, and on hosts without them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lazycluster import Pool, Runtime
from loopback_sshd import LoopbackSshd
from support.separate_host import SeparateSshd
from support.waiting import wait_until


@pytest.fixture(scope="session")
def equipped_sshd(make_separate_sshd: Callable[..., SeparateSshd]) -> SeparateSshd:
    """Return the sshd of a host whose Python is this environment's, without local files."""
    return make_separate_sshd(kept=[sys.prefix], path=[Path(sys.prefix) / "bin"])


@pytest.fixture(scope="session")
def runtime(equipped_sshd: SeparateSshd) -> Iterator[Runtime]:
    """Return a Runtime on a host that has the libraries."""
    with Runtime(equipped_sshd.alias, config_file=equipped_sshd.config_file) as runtime:
        yield runtime


@pytest.fixture
def pool(equipped_sshd: SeparateSshd, tmp_path: Path) -> Iterator[Pool]:
    """Return a Pool of two hosts that have the libraries."""
    text = equipped_sshd.config_file.read_text()
    config_file = tmp_path / "ssh_config"
    config_file.write_text(text.replace(f"Host {equipped_sshd.alias}\n", "Host web1 web2\n"))
    with Pool(["web1", "web2"], slots=2, connection_kwargs={"config_file": config_file}) as pool:
        wait_until(lambda: {status.state for status in pool.status().values()} == {"ready"})
        yield pool


@pytest.fixture(scope="session")
def bare_runtime(separate_sshd: LoopbackSshd) -> Iterator[Runtime]:
    """Return a Runtime on a host without any library."""
    with Runtime(separate_sshd.alias, config_file=separate_sshd.config_file) as runtime:
        yield runtime
